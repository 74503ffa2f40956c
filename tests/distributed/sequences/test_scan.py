"""linear_scan and block_scan on sharded steps: the results and gradients of one process."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import refusals, results
from tests.distributed.sequences import scan_jobs


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_equal_one_process(size: int) -> None:
    """The pipeline has the same bits; with two ranks, so has the scan of maps."""
    done = results(scan_jobs.equal_one_process, size)
    assert done[0] == (2 * 2 * (6 * 4 + 5 * 3) if size == 2 else 2 * 2 * 11 * 2) and len(set(done)) == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_speculation(size: int) -> None:
    """Whatever is recomputed, the bits are those of one process. Forgotten states cost one segment."""
    for rank, counts in enumerate(results(scan_jobs.speculation, size)):
        steps = 4500 + 7 * ((rank < size - 1) - (rank > 0))
        first, last = 256 * (rank > 0), 256 * (rank < size - 1)
        (forgets, auto, endless, other) = counts
        assert forgets == auto == [steps + first, steps + last]
        assert endless == [steps * (2 if rank > 0 else 1), steps * (2 if rank < size - 1 else 1)]
        if size == 1:
            assert other == [steps, steps]
            continue
        # A pipeline of two rows, which "auto" takes: the first rank of a pass begins with the first row's final state
        assert other == [steps * (2 + (rank == 0)), steps * (2 + (rank == size - 1))]


@pytest.mark.parametrize("size", [2, 3])
def test_dtypes_and_broadcast_factors(size: int) -> None:
    results(scan_jobs.dtypes_and_broadcasts, size)


@pytest.mark.parametrize("exchange", ["pipeline", "scan"])
def test_gradients_by_differences(exchange: str) -> None:
    assert max(results(scan_jobs.gradients_by_differences, 3, exchange)) < 1e-5


@pytest.mark.parametrize("exchange", ["pipeline", "scan"])
def test_bytes_do_not_depend_on_the_length(exchange: str) -> None:
    assert results(scan_jobs.traffic, 3, 6, exchange) == results(scan_jobs.traffic, 3, 600, exchange)


@pytest.mark.parametrize("exchange", ["auto", "pipeline", "scan", "speculative"])
@pytest.mark.parametrize("batch", [1, 8])
def test_empty_shards_take_three_rounds(exchange: str, batch: int) -> None:
    """One round is for the agreement, and at most one for each pass."""
    assert max(results(scan_jobs.rounds_without_steps, 2, batch, exchange)) <= 3


BOTH = "must be the same on every rank, got"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dtype", rf"x {BOTH} torch.float32 \(1, T, 64\) on rank 0 and torch.float64 \(1, T, 64\) on rank 1"),
        ("width", rf"x {BOTH} torch.float32 \(1, T, 64\) on rank 0 and torch.float32 \(1, T, 63\) on rank 1"),
        ("state", rf"state {BOTH} None on rank 0 and torch.float32 \(1, 64\) on rank 1"),
        ("exchange", rf"exchange {BOTH} 'pipeline' on rank 0 and 'scan' on rank 1"),
        ("function", rf"function {BOTH} linear_scan on rank 0 and block_scan on rank 1"),
        ("packed", rf"cu_seqlens {BOTH} \[0, 2, 8\] on rank 0 and \[0, 3, 8\] on rank 1"),
        ("grad", rf"grad mode {BOTH} False on rank 0 and True on rank 1"),
        ("total", r"cu_seqlens must rise from 0 to T = 8, got 0 to 4"),
        ("lengths", r"lengths must be from 0 to T = 8, got 9"),
        ("rows", r"state must have shape \(S, D\) = \(2, 64\), got \(1, 64\)"),
        ("word", r"exchange must be one of 'auto', 'pipeline', 'scan', 'speculative', got 'ring'"),
        ("lengths beside", r"exchange must be 'auto', 'pipeline' or 'scan' with lengths, got 'speculative'"),
        ("blocks", r"exchange must be 'auto', 'pipeline' or 'scan', got 'speculative'"),
        ("chunks", r"chunks must be at least 1, got 0"),
        ("reset", r"reset must have shape \(B, T\) = \(1, 4\) or \(T,\), got \(5,\)"),
    ],
)
def test_differing_and_wrong_arguments_are_named_on_every_rank(name: str, message: str) -> None:
    for one in refusals(scan_jobs.refused, 2, name):
        with pytest.raises(ValueError, match=f"^(linear|block)_scan: {message}$"):
            raise one


@pytest.mark.parametrize(
    ("name", "error", "own"),
    [
        ("one rank", ValueError, r"linear_scan: x must have shape \(B, T, D\), got \(4, 64\)"),
        ("one list", TypeError, r"linear_scan: reset must be a torch.Tensor of bool, got list"),
    ],
)
def test_a_rank_reports_the_error_of_another_one(name: str, error: type[Exception], own: str) -> None:
    first, second = refusals(scan_jobs.refused, 2, name)
    with pytest.raises(ValueError, match=f"^linear_scan: rank 1 refused its arguments: {own}$"):
        raise first
    with pytest.raises(error, match=f"^{own}$"):
        raise second


def test_no_sequences() -> None:
    results(scan_jobs.no_sequences, 3)


def test_contracts() -> None:
    results(scan_jobs.contracts, 3)


def test_no_cycle_keeps_memory() -> None:
    assert results(scan_jobs.tensors_left, 2) == [0, 0]
