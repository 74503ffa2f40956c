"""Newton's method on sharded steps: results, gradients, iterations and rounds, and what does not converge."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from tests.distributed import newton_jobs
from tests.distributed.ranks import results


@pytest.mark.parametrize(
    ("size", "name", "dtype"),
    [
        (1, "paragru", "float32"),
        (2, "paraslstm", "float64"),
        (3, "paralstm", "float64"),
        (4, "paragru", "float64"),
    ],
)
def test_equal_one_process(size: int, name: str, dtype: str) -> None:
    assert results(newton_jobs.equal_one_process, size, name, dtype) == [6 * 2] * size


@pytest.mark.parametrize(("size", "name"), [(2, "paralstm"), (4, "paragru")])
def test_iterations_and_rounds(size: int, name: str) -> None:
    """As many iterations as on one rank and as in one process; an iteration is 2 + ceil(log2 P) rounds."""
    found = results(newton_jobs.iterations, size, name)
    steps, alone, one, _ = found[0]
    assert steps == alone == one
    scan = math.ceil(math.log2(size))
    # The agreement, the iterations, the rounding errors of the last one, and the states at the border
    assert max(row[3] for row in found) == 1 + max(steps) * (2 + scan) + (scan + 1) + 1


@pytest.mark.parametrize("most", [None, 1])
def test_what_does_not_converge_is_the_loop(most: int | None) -> None:
    """A sequence that does not forget is given up; with few iterations any is."""
    for same, steps, fallbacks in results(newton_jobs.lost, 2, most):
        assert same and fallbacks == [1, 1]
        assert steps == [1, 1] if most else max(steps) < 100


def test_options_that_do_not_go_together_are_named() -> None:
    first, second = results(newton_jobs.refused, 2)
    expected = [
        "paragru: method must be 'auto' or 'newton' where exchange is 'scan', got 'sequential'",
        "paragru: window must be None where exchange is 'scan', got 8",
        "paragru: return_info must be False unless exchange is 'scan', got True",
        "paragru: return_info must be True or False, got 1",
        "paragru: exchange must be the same on every rank, got 'pipeline' on rank 0 and 'scan' on rank 1",
        "paragru: rtol must be finite and not negative, got -1.0",
    ]
    assert first[:-1] == second[:-1] == expected
    assert first[-1].startswith("paragru: exchange must be ")
