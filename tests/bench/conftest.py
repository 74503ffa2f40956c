"""Settings of the tests of benchmarks."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_call_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time single calls: the tests look at which calls are timed and reported, not at the times."""
    pytest.importorskip("torch")
    from bench.harness import timing

    monkeypatch.setattr(timing, "BATCH_SECONDS", 0.0)
