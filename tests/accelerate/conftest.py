"""Fixtures of the tests of whole models."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    pytest.importorskip("torch").set_num_threads(1)
