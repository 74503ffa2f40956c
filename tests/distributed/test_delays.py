"""No result depends on the timing of messages: random delays of ranks, with seeds, change no bit."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed import delay_jobs
from tests.distributed.ranks import results


def test_delays_change_no_bit() -> None:
    """Every rank is delayed before its agreement and at least one message of each of the seven calls and four seeds."""
    assert min(results(delay_jobs.no_result_depends_on_times, 4, 4)) >= 7 * 4 * 2
