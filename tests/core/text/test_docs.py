"""The pages and the gallery name only files and folders that exist; comments begin as CONTRIBUTING.md says."""

from __future__ import annotations

import functools
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
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


@functools.cache
def known_names() -> list[str]:
    """Return the paths of all files and folders; those of folders end in a slash."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [*tracked, *{f"{parent}/" for name in tracked for parent in Path(name).parents}]


@functools.cache
def exists(path: str) -> bool:
    # A name without a folder may belong to several files.
    pattern = path if path in ("Makefile", "CMakeLists.txt") or "/" in path.rstrip("/") else f"*{path}"
    return any(fnmatch(name, pattern) or fnmatch(name, f"{pattern}/") for name in known_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_pages_exist(page: Path) -> None:
    assert not exists("tests/core/test_nothing.py")
    assert [path for path in paths_in(page.read_text()) if path not in ELSEWHERE and not exists(path)] == []


def options_in(text: str) -> set[str]:
    """Return the words in double quotes in tables, and those given to arguments by name; formats with <> are not."""
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    named = re.findall(r'\b\w+="([^"\n]+)"', text)
    return {word for word in (*re.findall(r'"([^"|\n]+)"', rows), *named) if "<" not in word}


def test_options_are_found_in_tables_and_calls() -> None:
    text = 'a "b" c\n| "d", "e-f" | `g="h"` | "i<5>"\n\nj(k="l m", n=2)\n'
    assert options_in(text) == {"d", "e-f", "h", "l m"}


def test_options_in_pages_exist() -> None:
    """Pages for users of other packages, and those for developers of this one, also name options of other tools."""
    sources = "\n".join(path.read_text() for path in (ROOT / "python" / "fastiter").rglob("*.py"))
    known = set(re.findall(r'"([^"\n]*)"', sources))
    pages = [page for page in PAGES if page.parent.name != "coming_from" and page.name != "CONTRIBUTING.md"]
    named = {word for page in pages for word in options_in(page.read_text())}
    assert {"speculative", "gsd", "newton"} <= named and "speculation" not in known
    assert sorted(named - known) == []


def test_titles_in_the_gallery_belong_to_examples() -> None:
    source = (ROOT / "docs" / "gallery_sources.py").read_text()
    titles = re.findall(r'^    "(\w+)": "', source, flags=re.MULTILINE)
    assert len(titles) > 10
    assert set(titles) - {path.stem for path in (ROOT / "examples").rglob("*.py")} == set()


def clipped_comments(source: str, sign: str) -> list[str]:
    """Return the lines whose comment begins with "of" or "what" and does not continue the comment before it."""
    clipped = re.compile(rf"^([^\"`]*?)(?:{sign}[:/]?) (?:those )?(?:of|what)\b", re.IGNORECASE)
    lines = source.splitlines()
    return [
        line.strip()
        for previous, line in zip(["", *lines], lines, strict=False)
        if (match := clipped.match(line)) and (match[1].strip() or not previous.lstrip().startswith(sign))
    ]


def test_clipped_comments_are_found() -> None:
    for sign in ("#", "//"):
        wrong = [f"x = 2  {sign} of a row", f"{sign} What follows", f"x = 3 {sign} those of b"]
        right = [
            f"{sign} the sum",
            f"{sign} of all rows",
            f'print("{sign} of")',
            f"{sign} Official",
            f"a = 1  {sign} rows",
        ]
        assert clipped_comments("\n\n".join(wrong), sign) == wrong
        assert clipped_comments("\n".join(right), sign) == []
    assert clipped_comments("x = a // of", "#") == []


def test_comments_and_docstrings_begin_with_their_subject() -> None:
    """Neither begins with "Of" or "What"."""
    patterns = ("*.py", "*.pyi", "*.cpp", "*.hpp", "*.cu", "*.cuh", "*.yml", "Makefile", "*CMakeLists.txt", ".ci/run")
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = {name: (ROOT / name).read_text() for name in listed.stdout.split() if "third_party" not in name}
    assert len(sources) > 1000
    sources.pop("tests/core/text/test_docs.py")  # has examples
    found = {}
    for name, source in sources.items():
        sign = "//" if Path(name).suffix in (".cpp", ".hpp", ".cu", ".cuh") else "#"
        if comments := clipped_comments(source, sign):
            found[name] = comments
    assert found == {}
    docstrings = re.compile(r'^\s*r?"""(?:Those )?(?:Of|What)\b.*', re.MULTILINE)
    assert {name: clipped for name, source in sources.items() if (clipped := docstrings.findall(source))} == {}
