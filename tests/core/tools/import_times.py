"""python tests/core/tools/import_times.py: what importing fastiter adds to importing NumPy and torch.

Not a test module: it runs in the environment of an installed wheel. Each time is the smallest of several new
interpreters, in milliseconds of processor time; then it prints the modules of fastiter that take longest by themselves.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec

PROGRAM = """
import time
import {base}
began = time.process_time()
import {module}
print(1e3 * (time.process_time() - began))
"""
#: The module, what it is compared with, and the goal in milliseconds
IMPORTS = [("fastiter", "numpy", 60), ("fastiter.torch", "torch", 150)]
REPEATS, HEAVIEST = 5, 8


def milliseconds(module: str, base: str) -> float:
    program = [sys.executable, "-c", PROGRAM.format(module=module, base=base)]
    return min(float(subprocess.run(program, check=True, capture_output=True).stdout) for _ in range(REPEATS))


def heaviest(module: str, base: str) -> list[tuple[float, str]]:
    """Return the milliseconds and names of the slowest modules of fastiter, without those that they import."""
    program = [sys.executable, "-X", "importtime", "-c", f"import {base}, {module}"]
    lines = subprocess.run(program, check=True, capture_output=True, text=True).stderr
    own = re.findall(r"import time:\s*(\d+) \|\s*\d+ \|\s*(fastiter\S*)", lines)
    return sorted(((int(micro) / 1e3, name) for micro, name in own), reverse=True)[:HEAVIEST]


def main() -> None:
    for module, base, goal in IMPORTS:
        if find_spec(base) is None:
            continue
        print(f"import {module}: {milliseconds(module, base):.0f} ms beyond {base}'s, goal {goal}")
        print("    " + ", ".join(f"{name} {time:.1f}" for time, name in heaviest(module, base)))


if __name__ == "__main__":
    main()
