"""Decision processes with states divided among ranks: the results of one process, bytes, refusals and faults."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import outcomes, results
from tests.distributed.solvers import mdp_jobs


@pytest.mark.parametrize(
    ("size", "dtype", "exchange"),
    [(1, "float32", "auto"), (2, "float64", "gather"), (3, "float32", "halo"), (4, "float64", "auto")],
)
def test_equal_one_process(size: int, dtype: str, exchange: str) -> None:
    assert results(mdp_jobs.equal_one_process, size, dtype, exchange) == [5] * size


@pytest.mark.parametrize(("size", "dtype"), [(1, "float64"), (2, "float32"), (3, "float64")])
def test_bounds_contain_the_exact_values(size: int, dtype: str) -> None:
    assert results(mdp_jobs.exact, size, dtype) == [9] * size


def test_all_ranks_end_together() -> None:
    found = results(mdp_jobs.ends, 3)
    assert len(set(found)) == 1
    reason, steps, warned, raised, last = found[0]
    assert (reason, steps, last) == ("callback", 3, 1)
    assert warned.startswith("solve: the bounds must come within 1e-06, got ") and "after 2 steps" in warned
    assert raised.startswith("solve: the bounds must come within 1e-06, got ")


@pytest.mark.parametrize("exchange", ["halo", "gather"])
def test_bytes_and_rounds(exchange: str) -> None:
    """A sweep is one round: one number to each neighbour, or all six to all; a check is another round of 3 numbers."""
    sent = 2 * 8 if exchange == "halo" else 6 * 8
    assert results(mdp_jobs.traffic, 3, exchange) == [(1, sent, 1, 24)] * 3


_REFUSED = {
    "dtype": "MDP: P must be the same on every rank, got float64 with 23 columns on rank 0 and float32 ",
    "gamma": "MDP: gamma must be the same on every rank, got 0.7 on rank 0 and 0.5 on rank 1",
    "one": "rank 1 refused its arguments: MDP: gamma must be below 1, got 1, which fastiter.mdp.MDP takes",
    "none": "rank 1 refused its arguments: MDP: gamma must be a number or an array, got None: averages are those of",
    "sum": "rank 1 refused its arguments: MDP: P must sum to 1 .* got 0.5 in state ",
    "overlap": "MDP: owned must have each of the 23 states on one rank, got state [0-9]+ on ranks 0 and 1",
    "columns": "MDP: P must be the same on every rank, got .* and float64 with 22 columns",
    "count": "rank 1 refused its arguments: MDP: owned must be the n = [0-9]+ states of P, got [0-9]+",
    "falls": "rank 1 refused its arguments: MDP: owned must be states that rise from 0 to at most 22, got others",
    "terminal": "rank 1 refused its arguments: MDP: terminal must be states of this rank, got [0-9]+",
    "kind": "MDP: owned must be the same on every rank, got states on rank 0 and a number or None on rank 1",
    "twins": "rank 1 refused its arguments: MDP: states and actions must be different pairs, got state [0-9]+, action",
    "label": "rank 1 refused its arguments: MDP: actions must be at least 0, got -1 at index 0",
    "value0": r"rank 1 refused its arguments: solve: value0 must have shape \(n,\) = ",
    "some": "solve: value0 must be the same on every rank, got None on rank 0 and one on rank 1",
    "method": "solve: method must be the same on every rank, got 'pi' on rank 0 and 'vi' on rank 1",
    "alpha": "rank 0 .*refused its arguments: solve: alpha must be None for 'mpi', as only 'pi' take it, got 0.5",
    "policy": "rank 1 refused its arguments: evaluate: policy must have an action of each state, got 99 in state ",
}


def test_refusals_are_errors_on_every_rank() -> None:
    first, second = results(mdp_jobs.refused, 2, 1)
    assert set(first) == set(second) == set(_REFUSED)
    for what, message in _REFUSED.items():
        own = message.partition("refused its arguments: ")[2] or message
        assert re.search(own if what == "alpha" else message, first[what]), first[what]
        assert re.search(own, second[what]), second[what]


def test_a_rank_that_dies_is_an_error_on_the_others() -> None:
    found = outcomes(mdp_jobs.dies, 3, 1, timeout=3.0, limit=30.0)
    assert found[1].code == -9
    for rank in (0, 2):
        assert found[rank].error is None and found[rank].code == 0, found[rank].trace
        assert found[rank].result.startswith(f"solve: rank {rank} of 3 got no answer from ")
