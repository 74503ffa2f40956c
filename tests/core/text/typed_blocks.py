"""python tests/core/text/typed_blocks.py: mypy --strict on the Python blocks of README and the documentation.

Not a test module: `make lint` runs it, where mypy is installed. Packages that are not installed there have no types.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: torch and transformers have functions without annotations.
OPTIONS = ("--strict", "--allow-untyped-calls", "--ignore-missing-imports")


def blocks(page: Path) -> str:
    """Return the Python code of a page; from a block with prompts, only the lines that have one."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    typed = ("".join(re.findall(r"^(?:>>>|\.\.\.) ?(.*\n)", block, flags=re.MULTILINE)) for block in found)
    return "\n".join(with_prompts or block for with_prompts, block in zip(typed, found, strict=True))


def main() -> int:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for page in pages:
            if found := blocks(page):
                name = re.sub(r"\W", "_", str(page.relative_to(ROOT)))
                files.append(Path(folder) / f"{name}.py")
                files[-1].write_text(found)
        assert len(files) > 10
        return subprocess.run(
            [sys.executable, "-m", "mypy", *OPTIONS, *map(str, files)], cwd=ROOT, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
