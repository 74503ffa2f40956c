"""A fault of one rank becomes one error on each of the others, within the timeout of the group."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed import fault_jobs
from tests.distributed.ranks import outcomes, results


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize("what", ["kill", "stop", "raise"])
def test_a_fault_of_one_rank_is_an_error_on_the_others(what: str, when: str) -> None:
    """All others raise within the timeout of 3 s for each of the at most two exchanges for which they wait."""
    stopped = 1 if what == "stop" else None
    found = outcomes(fault_jobs.fault, 3, what, when, 1, timeout=3.0, limit=30.0, stopped=stopped)
    for rank in (0, 2):
        assert found[rank].error is None and found[rank].code == 0, found[rank].trace
        message, seconds = found[rank].result
        assert message.startswith(f"linear_scan: rank {rank} of 3 got no answer from ") and "\n" not in message
        assert seconds < 2 * 3.0 + 10.0
    if what == "raise":
        assert isinstance(found[1].error, ArithmeticError)
    else:
        assert found[1].code == (-9 if what == "kill" else None)


def test_ranks_wait_for_a_late_rank() -> None:
    for message, seconds in results(fault_jobs.fault, 3, "delay", "between", 2):
        assert message == "" and seconds >= 3 * 0.3
