"""README: its quickstart prints the output below it, and its links are not broken."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
SOURCES, SITE = "https://github.com/fastiter/fastiter/", "https://fastiter.readthedocs.io/en/latest/"


def test_quickstart_prints_the_documented_output() -> None:
    pytest.importorskip("torch")
    block = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert block is not None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block[1], {})
    assert printed.getvalue() == block[2]


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
    assert len(README.splitlines()) < 130
    assert README.index("```python") < 4500
