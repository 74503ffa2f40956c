"""README: its blocks print the output below them, its numbers are those of the records, its links are not broken."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from bench.harness import figure

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
SOURCES, SITE = "https://github.com/fastiter/fastiter/", "https://fastiter.readthedocs.io/en/latest/"


def test_blocks_print_the_documented_output() -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == README.count("```python") == 2
    for code, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        assert printed.getvalue() == shown


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/families.md"])
def test_gains_are_those_of_the_records(page: str) -> None:
    """Apart from the figure, a page states no other gain than that of whole models, and README states it once."""
    gain = figure.headline(figure.read())
    stated = [f"{gain['least']} to {gain['most']} times as fast", f"(median {gain['median']})"]
    text = " ".join((ROOT / page).read_text().split())
    if page == "README.md":
        assert [text.count(each) for each in stated] == [1, 1]
    for each in stated:
        text = text.replace(each, "")
    assert re.findall(r"[\d.]+(?:x| times| percent|%| ?-fold)|median [\d.]+", text) == []


def test_status_is_stated_where_it_matters() -> None:
    header = next(line for line in README.splitlines() if line.endswith("| CUDA |"))
    column = header.split("|").index(" CUDA ")
    rows = README[README.index(header) :].split("\n\n")[0].splitlines()[2:]
    assert "unreleased" in header
    assert any("untested on a card" in row.split("|")[column] for row in rows)


def test_commands_exist() -> None:
    """Commands that show a claim: a target of the Makefile, a test, a module with a command line."""
    commands = re.findall(r"`((?:make|pytest|python -m) [^`]+)`", " ".join(README.split()))
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(commands) > 4
    for command in commands:
        *program, what = command.partition(" --")[0].split()
        known = {"make": what in targets, "pytest": (ROOT / what).exists(), "python -m fastiter": what == "bench"}
        known["python -m bench"] = (ROOT / "bench" / what).exists()
        assert known[" ".join(program)], command


def test_links_are_absolute_and_lead_to_files() -> None:
    """The package index shows README without the repository around it."""
    links = re.findall(r"\]\((\S+?)\)", README)
    assert len(links) > 20
    for link in links:
        assert link.startswith("https://"), link
        found = re.match(rf"{SOURCES}(?:blob|tree)/main/(\S+)", link)
        if found:
            assert (ROOT / found[1]).exists(), link
        elif link.startswith(SITE):
            page = link.removeprefix(SITE)
            source = page + "index.md" if page.endswith("/") else page.removesuffix(".html") + ".md"
            assert (ROOT / "docs" / source).exists(), link


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 90
    assert README.index("```python") < 2000
    assert len(re.findall(r"^\| (?!I have)[^|]+ \| \[`", README, re.MULTILINE)) == 6
    assert len(re.findall(r"^pip install", README, re.MULTILINE)) == 1
