"""Schwarz methods and coloured SOR on one to four ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scipy")

from fastiter.torch.distributed import AdditiveSchwarz, ColouredSSOR
from tests.distributed.ranks import results
from tests.distributed.solvers import schwarz_jobs


@pytest.mark.parametrize(
    ("job", "size"), [(schwarz_jobs.schwarz, 4), (schwarz_jobs.coloured, 4), (schwarz_jobs.solutions, 3)]
)
def test_results_are_the_specification_with_the_same_bits_on_several_ranks(job: Callable[[], Any], size: int) -> None:
    (one,), found = results(job, 1), results(job, size)
    for at, expected in enumerate(one):
        rows, z = (np.concatenate([rank[at][i] for rank in found]) for i in range(2))
        assert np.array_equal(rows, expected[0]) and np.array_equal(z, expected[1])
        assert all(rank[at][2:] == expected[2:] for rank in found)  # steps


def test_messages_of_a_correction() -> None:
    """12 lines of 10 points on three ranks, two columns of 8 bytes: additive Schwarz sends three lines each way."""
    line, total = 10 * 2 * 8, 2 * 8
    edge = [(2, 2 * 3 * line), (1, 3 * line), (0, 0), (1, total), (2, line)]
    middle = [(2, 4 * 3 * line), (1, 2 * 3 * line), (0, 0), (1, total), (2, 2 * line)]
    assert results(schwarz_jobs.traffic, 3) == [edge, middle, edge]


def test_gradients() -> None:
    results(schwarz_jobs.gradients, 2)


def test_refusals_of_a_solver() -> None:
    first, second = results(schwarz_jobs.refused, 2)
    for at, message in enumerate(
        [
            "solve: rank 1 refused its arguments: solve: A must have no singular part with its overlap, got one",
            "solve: preconditioner must be symmetric for method 'cg' (method 'flexible_cg' takes others), got Additive",
            "solve: preconditioner must be symmetric for bounds None, got AdditiveSchwarz(",
            "solve: preconditioner must be None for method 'sor', got AdditiveSchwarz(",
            "solve: preconditioner must be the same on every rank, got AdditiveSchwarz(overlap=1, ",
            "solve: omega must be in (0, 2), where ssor can converge, got 2.0",
            "solve: preconditioner must be None for method 'jacobi', got AdditiveSchwarz(",
        ]
    ):
        assert first[at].startswith(message)
        assert second[at].startswith(message.replace("rank 1 refused its arguments: solve: ", ""))


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: AdditiveSchwarz(-1), ValueError, "AdditiveSchwarz: overlap must be at least 0, got -1"),
    (lambda: AdditiveSchwarz(1.5), TypeError, "AdditiveSchwarz: overlap must be an int, got float"),  # type: ignore[arg-type]
    (lambda: AdditiveSchwarz(restricted=1), TypeError, "AdditiveSchwarz: restricted must be"),  # type: ignore[arg-type]
    (lambda: AdditiveSchwarz(coarse="yes"), TypeError, "AdditiveSchwarz: coarse must be"),  # type: ignore[arg-type]
    (lambda: AdditiveSchwarz(local="lu"), ValueError, "AdditiveSchwarz: local must be"),  # type: ignore[arg-type]
    (lambda: AdditiveSchwarz(omega=2.0), ValueError, r"AdditiveSchwarz: omega must be in \(0, 2\)"),
    (
        lambda: AdditiveSchwarz(omega=1.0, local="exact"),
        ValueError,
        "AdditiveSchwarz: omega must be 'auto' if local is 'exact', got 1.0",
    ),
    (lambda: ColouredSSOR(0.0), ValueError, "ColouredSSOR: omega must be"),
    (lambda: ColouredSSOR("auto"), TypeError, "ColouredSSOR: omega must be a number, got str"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_options_raise_one_sentence(number: int) -> None:
    call, error, message = WRONG[number]
    with pytest.raises(error, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)
