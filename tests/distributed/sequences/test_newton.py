"""Newton's method on sharded steps: results, gradients, iterations and rounds, and failures to converge."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import results
from tests.distributed.sequences import newton_jobs


@pytest.mark.parametrize(
    ("size", "name", "dtype", "exchange"),
    [
        (1, "paragru", "float32", "scan"),
        (2, "paraslstm", "float64", "scan"),
        (3, "paralstm", "float64", "scan"),
        (4, "paragru", "float64", "scan"),
        (1, "paralstm", "float64", "shooting"),
        (3, "paraslstm", "float64", "shooting"),
        (4, "paragru", "float32", "shooting"),
    ],
)
def test_equal_one_process(size: int, name: str, dtype: str, exchange: str) -> None:
    assert results(newton_jobs.equal_one_process, size, name, dtype, exchange) == [6 * 2] * size


def test_borders_of_long_shards_take_two_iterations() -> None:
    """400 steps forget their past: one iteration finds the states at the borders, another one confirms them.

    A map has B = 2 rows of D = 4 states, as many factors, and B flags, each padded to 16 bytes.
    """
    found = results(newton_jobs.borders, 4)
    message = 2 * 4 * 8 + 2 * 4 * 8 + 16
    for rank, (steps, rounds, sent) in enumerate(found):
        messages = (rank < 3) + (rank < 2)
        assert steps == [2, 2] and rounds <= 1 + 2 * (2 + 1)
        assert sent == 48 + 2 * (messages * message + 4)


@pytest.mark.parametrize(("size", "name"), [(2, "paralstm"), (4, "paragru")])
def test_iterations_and_rounds(size: int, name: str) -> None:
    """The number of iterations is that of one rank and of one process; an iteration takes 2 + ceil(log2 P) rounds."""
    found = results(newton_jobs.iterations, size, name)
    steps, alone, one, _ = found[0]
    assert steps == alone == one
    scan = math.ceil(math.log2(size))
    # The agreement, the iterations, the rounding errors of the last one, and the states at the border
    assert max(row[3] for row in found) == 1 + max(steps) * (2 + scan) + (scan + 1) + 1


@pytest.mark.parametrize(("exchange", "most"), [("scan", None), ("scan", 1), ("shooting", 1)])
def test_without_convergence_the_result_is_that_of_the_loop(exchange: str, most: int | None) -> None:
    """A sequence that does not forget is abandoned; with few iterations, every sequence is."""
    for same, steps, fallbacks in results(newton_jobs.lost, 2, exchange, most):
        assert same and fallbacks == [1, 1]
        assert steps == [1, 1] if most else max(steps) < 100


def test_inconsistent_options_are_named() -> None:
    first, second = results(newton_jobs.refused, 2)
    expected = [
        "paragru: method must be 'auto' or 'newton' if exchange is 'scan', got 'sequential'",
        "paragru: window must be None if exchange is 'scan', got 8",
        "paragru: return_info must be False unless exchange is 'scan' or 'shooting', got True",
        "paragru: return_info must be True or False, got 1",
        "paragru: exchange must be the same on every rank, got 'pipeline' on rank 0 and 'scan' on rank 1",
        "paragru: rtol must be finite and not negative, got -1.0",
    ]
    assert first[:-1] == second[:-1] == expected
    assert first[-1].startswith("paragru: exchange must be ")
