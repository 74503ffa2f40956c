"""The CPU seconds that the compiler takes for each object file: the ten heaviest, and the total.

    python tests/core/tools/compile_times.py                    every object of the build folder, one at a time: minutes
    python tests/core/tools/compile_times.py hopfield v4.dir    only objects whose path has one of the words, all listed

Not a test module, as it takes minutes: run it when a file has grown. The commands are those of the last build, without
a compiler cache, and the objects are thrown away.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HEAVIEST = 10
#: No object may take more, on a Zen 4 of 2.6 GHz: another family's build would wait for it on the last core.
LIMIT = 15


def commands(build: Path) -> dict[str, tuple[str, str]]:
    """Return the command and its folder by object file, without the compiler's launcher."""
    entries = json.loads((build / "compile_commands.json").read_text())
    without_launcher = re.compile(r"^\S*\b(ccache|sccache)\s+")
    return {entry["output"]: (without_launcher.sub("", entry["command"]), entry["directory"]) for entry in entries}


def seconds(command: str, folder: str) -> float:
    """Return the CPU time of a compilation, processes of the compiler included, and throw the object away."""
    with tempfile.TemporaryDirectory() as place:
        moved = re.sub(r" -o \S+", f" -o {place}/object.o", command)
        process = subprocess.Popen(["sh", "-c", moved], cwd=folder)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"compile_times: this command failed:\n{moved}")
    return used.ru_utime + used.ru_stime


def main(words: list[str]) -> None:
    builds = sorted(ROOT.glob("build/cp*/compile_commands.json"), key=lambda path: path.stat().st_mtime)
    if not builds:
        raise SystemExit("compile_times: there is no build to repeat: run pip install -e . first")
    found = commands(builds[-1].parent)
    chosen = [name for name in found if not words or any(word in name for word in words)]
    times = {name: seconds(*found[name]) for name in chosen}
    heaviest = sorted(times, key=lambda name: -times[name])
    for name in heaviest if words else heaviest[:HEAVIEST]:
        print(f"{times[name]:6.1f}  {name.replace('CMakeFiles/', '')}{'  too heavy' if times[name] > LIMIT else ''}")
    print(f"{sum(times.values()):6.1f}  all {len(times)} objects")


if __name__ == "__main__":
    main(sys.argv[1:])
