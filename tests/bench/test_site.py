"""The tables of the site: six of all results, and a page for each family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.harness import figure, site

pytest.importorskip("torch")

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"


def test_every_row_of_the_figure_is_in_one_of_six_tables() -> None:
    listed = [label for labels in site.SUMMARY.values() for label in labels]
    assert len(site.SUMMARY) == 6 and len(listed) == len(set(listed))
    assert set(listed) == {row.label for row in figure.ROWS}


def test_the_summary_has_a_line_for_each_of_the_figure() -> None:
    results = figure.read()
    rows = [line for line in site.summary(results).splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) - len(site.SUMMARY) == len(figure.lines(results))


def test_every_family_has_a_page_whose_headings_name_machines(tmp_path: Path) -> None:
    """Headings have no versions; a page includes the tables of its family, and the index has a link to it."""
    from bench.__main__ import write_site

    write_site(figure.read(), tmp_path)
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.md")}
    assert written.keys() - {"summary"} == {page.stem for page in PAGES.glob("*.md")}
    index = (PAGES.parent / "benchmarks.md").read_text()
    assert "benchmarks/tables/summary.md" in index
    for name, text in written.items():
        headings = re.findall(r"^#+ .*", text, flags=re.MULTILINE)
        assert headings and not [each for each in headings if re.search(r"\d+\.\d+\.\d|python|numpy|torch \d", each)]
        if name != "summary":
            assert f"tables/{name}.md" in (PAGES / f"{name}.md").read_text() and f"(benchmarks/{name}.md)" in index
            machines = {each.partition(": ")[2] for each in headings if each.startswith("## ")}
            assert machines <= set(figure.MACHINES.values())
