"""The check of the built site finds missing titles, links without a text, and tables that are too wide."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.text.check_site import faults_of

PAGE: dict[str, Any] = {"title": "Gallery", "text": "Gallery\nHome", "tables": [], "unnamed": [], "wide": []}


def test_a_sound_page_has_no_faults() -> None:
    assert list(faults_of(PAGE, "wide")) == list(faults_of(PAGE, "phone")) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"title": "<no title>"}, "a title is missing"),
        ({"title": " "}, "a title is missing"),
        ({"text": "Home\n<no title>"}, "a title is missing"),
        ({"unnamed": ["api/index.html"]}, "the link to api/index.html has no text"),
        ({"tables": ["peer ms"]}, "a table is wider than the text: peer ms"),
        ({"wide": ["pre ends at 1300: x"]}, "pre ends at 1300"),
    ],
)
def test_faults_are_found(change: dict[str, Any], fault: str) -> None:
    (found,) = faults_of({**PAGE, **change}, "wide")
    assert found.startswith(fault)


def test_tables_may_scroll_on_a_phone() -> None:
    assert list(faults_of({**PAGE, "tables": ["peer ms"]}, "phone")) == []
