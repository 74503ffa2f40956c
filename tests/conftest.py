"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastiter


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    """A test may set the number of threads: the next one starts from the default."""
    yield
    fastiter.set_num_threads(None)
