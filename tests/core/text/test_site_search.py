"""Each question to the search is a title, or a main entry of the index, of one page that the site reaches."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.core.text.site_search import QUESTIONS, search

DOCS = Path(__file__).parents[3] / "docs"


def links_of(page: str) -> list[str]:
    """Return the pages in the tables of contents of a page, by their names from docs/."""
    source = (DOCS / f"{page}.md").read_text()
    lines = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```", source, re.DOTALL | re.MULTILINE)).splitlines()
    names = [(DOCS / page).parent / line for line in lines if line and not line.startswith(":")]
    return [str(name.resolve().relative_to(DOCS.resolve())) for name in names]


def reached(page: str = "index") -> list[str]:
    """Return the pages of docs/ that one reaches from a page; those that Sphinx's extensions write are left out."""
    below = [name for name in links_of(page) if (DOCS / f"{name}.md").exists()]
    return [page, *(each for name in below for each in reached(name))]


def subjects(page: str) -> set[str]:
    """Return a page's title and the main entries that it has in the index."""
    source = (DOCS / f"{page}.md").read_text()
    title = re.search(r"^# (.*)", source, re.MULTILINE)
    entries = re.findall(r"^```\{index\} (.*)$", source, re.MULTILINE)
    assert title is not None, page
    return {title[1], *(entry.lstrip("! ") for line in entries for entry in line.split(", "))}


def test_every_page_is_reached_once() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=DOCS, capture_output=True, text=True, check=True).stdout
    assert sorted(reached()) == sorted(name.removesuffix(".md") for name in listed.split())


@pytest.mark.parametrize(("question", "page"), QUESTIONS.items())
def test_each_question_is_the_subject_of_one_page(question: str, page: str) -> None:
    asked = question.lower()
    assert [name for name in reached() if asked in {subject.lower() for subject in subjects(name)}] == [page]


def test_titles_are_those_of_one_page() -> None:
    titles = [re.findall(r"^# (.*)", (DOCS / f"{name}.md").read_text(), re.MULTILINE)[0] for name in reached()]
    assert len(set(titles)) == len(titles) > 40


INDEX: dict[str, Any] = {
    "docnames": ["chains", "memory", "api", "other"],
    "titles": ["Chains", "Memory cells", "lib.cells", "Other"],
    "alltitles": {"Chains": [[0, None]], "Memory cells": [[1, None]], "lib.cells": [[2, None]], "Other": [[3, None]]},
    "indexentries": {"gates": [[1, "index-0", True]], "cells": [[3, "index-1", False]]},
    "objects": {"lib": [[2, 0, 1, "", "cells"], [2, 0, 1, "", "many_cells"]]},
    "objnames": {"0": ["py", "function", "Python function"]},
    "terms": {"gate": [2, 3], "long": 0, "cell": [1, 2]},
    "titleterms": {"chain": 0, "memori": 1, "cell": [1, 2], "lib": 2},
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Gates", [(100, "memory"), (5, "api"), (5, "other")]),  # a main entry, then the text
        ("chains", [(16, "chains"), (15, "chains")]),  # a whole title, then its words
        ("memory cells", [(16, "memory"), (15, "memory")]),  # no object has both words
        (
            "cells",
            [(16, "api"), (15, "api"), (15, "memory"), (11, "api"), (9, "api"), (100, "other")],
        ),  # not main: last
        ("long memory", []),  # no page has both words
        ("gat", [(60, "memory"), (2, "api"), (2, "other")]),  # parts of an entry, and of words
        ("ga", []),  # parts of words have three letters
    ],
)
def test_the_search_scores_as_that_of_sphinx(query: str, expected: list[tuple[int, str]]) -> None:
    def stem(word: str) -> str:
        return {"gates": "gate", "cells": "cell", "chains": "chain", "memory": "memori"}.get(word, word)

    assert [(score, page) for score, _, page in search(INDEX, query, stem)] == expected
