"""Solutions of systems with rows divided among one to four ranks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from tests.distributed.ranks import outcomes, results
from tests.distributed.solvers import solve_jobs


def test_solutions_have_the_same_bits_on_any_number_of_ranks() -> None:
    (one,) = results(solve_jobs.solutions, 1)
    assert len(one) == 2 * len(solve_jobs.WAYS)
    for size in (3, 4):
        found = results(solve_jobs.solutions, size)
        for at, expected in enumerate(one):
            rows, x = (np.concatenate([rank[at][i] for rank in found]) for i in range(2))
            assert np.array_equal(rows, expected[0]) and np.array_equal(x, expected[1])
            assert all(rank[at][2:] == expected[2:] for rank in found)


@pytest.mark.parametrize("size", [1, 3])
def test_gradients_are_those_of_a_dense_solution(size: int) -> None:
    results(solve_jobs.gradients, size)


def test_all_ranks_end_for_the_same_reason() -> None:
    every = results(solve_jobs.ends, 3)
    for found in every:
        reasons = {name: x.reason for name, x in found.items() if hasattr(x, "reason")}
        assert reasons == {
            "max_steps": "max_steps",
            "zero steps": "max_steps",
            "stopped": "callback",
            "indefinite": "stagnated",
            "negative": "stagnated",
            "zero": "converged",
            "from x": "converged",
            "from far": "converged",
            "columns": ("converged",) * 3,
            "disconnected": "converged",
            "one row": "converged",
            "no row": "converged",
        }
        assert found["stopped"].steps == 3 and found["zero"].steps == 0 and found["from x"].steps == 0
        assert found["columns"].steps.tolist()[1] == 0
        assert found["throw"].startswith("ConvergenceError: solve: ||b - A x|| must fall to 5e-08, got ")
        assert "try a larger max_steps or a preconditioner" in found["throw"]
        scaled = [found[name] for name in found if name.startswith("scaled")]
        assert len(scaled) == 3
        for reason, steps, difference in scaled:
            assert reason == "converged" and steps == scaled[0][1] and difference <= 100 * 2.0**-52
        for name in ("max_steps", "indefinite", "columns"):
            for one in (found, every[0]):
                assert torch.equal(torch.as_tensor(one[name].residual), torch.as_tensor(every[0][name].residual))
    assert [len(found["one row"].value) for found in every] == [1, 0, 0]
    assert every[0]["one row"].value.tolist() == [0.5]


REFUSED = {
    ("A", 0): "TypeError: solve: A must be a fastiter.torch.distributed.RowMatrix, got ",
    ("nan", 0): "ValueError: solve: rank 1 refused its arguments: solve: b must be finite, got nan at index 0",
    ("x0", 1): "ValueError: solve: x0 must be finite, got nan at index 0",
    ("shape", 2): "ValueError: solve: b must have shape (3,) or (3, k) to go with A, got (4,)",
    ("no column", 0): "ValueError: solve: b must have at least one column, got (3, 0)",
    ("columns", 1): "ValueError: solve: the shape of b must be the same on every rank, got (n_local, 1) on rank 0 and",
    ("dtype", 0): "TypeError: solve: b must have dtype torch.float64 like A, got torch.float32",
    ("rtol", 0): "ValueError: solve: rtol must be the same on every rank, got 1e-08 on rank 0 and 2e-08 on rank 2",
    ("method", 0): "ValueError: solve: method must be one of 'cg', ",
    ("preconditioner", 0): "ValueError: solve: preconditioner must be one of 'jacobi', ",
    ("both", 0): "ValueError: solve: preconditioner must be None for method 'jacobi', got 'jacobi'",
    ("omega", 0): "ValueError: solve: omega must be in (0, 2), where ssor can converge, got 2.0",
    ("no omega", 0): "ValueError: solve: omega must be 1 for method 'cg' with preconditioner 'jacobi', which has no "
    "relaxation factor, got 1.5",
    ("bounds", 0): "ValueError: solve: bounds must be None for method 'cg', got (1.0, 2.0)",
    (
        "asymmetric",
        1,
    ): "ValueError: solve: A must be symmetric for method 'cg', got one with v^T A u unequal to u^T A v",
    ("definite", 2): "ValueError: solve: bounds must be given if A is not positive definite, got None",
    ("written", 1): "ValueError: solve: A must be made from values that stay as they are, got some written to since",
    ("other call", 2): "ValueError: solve: function must be the same on every rank, got solve on rank 0 and a product",
}


def test_refused_calls() -> None:
    found = results(solve_jobs.refused, 3)
    assert {case for case, _ in REFUSED} == set(found[0])
    for (case, rank), message in REFUSED.items():
        assert found[rank][case].startswith(message), found[rank][case]


@pytest.mark.parametrize("what", ["kill", "stop", "raise"])
def test_a_fault_in_a_step_is_an_error_on_the_others(what: str) -> None:
    found = outcomes(solve_jobs.fault, 3, what, timeout=3.0, limit=30.0, stopped=1 if what == "stop" else None)
    for rank in (0, 2):
        assert found[rank].error is None and found[rank].code == 0, found[rank].trace
        assert found[rank].result.startswith(f"solve: rank {rank} of 3 got no answer from ")
    if what == "raise":
        assert isinstance(found[1].error, ArithmeticError)


def test_a_step_of_conjugate_gradients_has_two_rounds() -> None:
    """Two more steps send the border of 10 numbers twice to each neighbour, and three inner products per part."""
    found = results(solve_jobs.traffic, 3)
    for rank, neighbours in ((0, 1), (1, 2), (2, 1)):
        border = 2 * neighbours * 10 * 8
        assert found[rank] == [
            (4, border + 2 * 2 * 8),  # without a preconditioner two of them are one
            (4, border + 2 * 3 * 8),
            (4, border + 2 * 8),
            (3, border + 8),
        ]
