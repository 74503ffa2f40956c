"""The pages and the gallery name only files and folders that exist."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = (".cpp", ".cu", ".cuh", ".hpp", ".json", ".md", ".py", ".pyi", ".toml", ".txt")


def paths_in(text: str) -> list[str]:
    """Return the paths in backticks: words with a slash or a known suffix, without templates such as <stem>.py."""
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    words = {word for code in inline for word in code.split() if "<" not in word and word not in SUFFIXES}
    return sorted(word for word in words if "/" in word or word.endswith(SUFFIXES))


def test_paths_are_found_in_backticks() -> None:
    text = "`a/b.cpp`, `c.md` of `.cu` in `d/`\n```\n`e/f`\n```\n`run g.py --write`, `h/<stem>.py`, `i/*.hpp`, `j.k`"
    assert paths_in(text) == ["a/b.cpp", "c.md", "d/", "g.py", "i/*.hpp"]


PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Files that an export writes, and one of Linux
ELSEWHERE = {
    "/proc/thread-self/schedstat",
    "expected.txt",
    "inputs.txt",
    "model.json",
    "parameters.hpp",
    "testbench.cpp",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_pages_exist(page: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    names = [*tracked, *{f"{parent}/" for name in tracked for parent in Path(name).parents}]

    def exists(path: str) -> bool:
        # A name without a folder may belong to several files.
        pattern = path if path in ("Makefile", "CMakeLists.txt") or "/" in path.rstrip("/") else f"*{path}"
        return any(fnmatch(name, pattern) or fnmatch(name, f"{pattern}/") for name in names)

    assert not exists("tests/core/test_nothing.py")
    assert [path for path in paths_in(page.read_text()) if path not in ELSEWHERE and not exists(path)] == []


def test_titles_in_the_gallery_belong_to_examples() -> None:
    source = (ROOT / "docs" / "gallery_sources.py").read_text()
    titles = re.findall(r'^    "(\w+)": "', source, flags=re.MULTILINE)
    assert len(titles) > 10
    assert [name for name in titles if not (ROOT / "examples" / f"{name}.py").exists()] == []
