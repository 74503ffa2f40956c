"""solve_recurrence where plain Newton's method fails: diverged values are never returned."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import solve_recurrence  # noqa: E402
from tests.newton.solve.solve_cells import (  # noqa: E402
    CASES,
    as_tuple,
    assert_is_loop,
    attempt,
    both_dtypes,
    elman,
    eps,
    every_method,
    largest_difference,
    loop,
    paragru,
    paragru_inputs,
    paralstm,
    paralstm_inputs,
)
from tests.support.pairs import pairs  # noqa: E402


@pairs
@pytest.mark.parametrize("method", ["auto", "newton", "elk"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
@both_dtypes
def test_strong_recurrence(scale: float, method: str, dtype: Any) -> None:
    """Weights from U(-scale, scale), where three steps of Newton's method without safeguards are off by up to 1e19."""
    for cell, make, T in ((paragru, paragru_inputs, 1024), (paralstm, paralstm_inputs, 64)):
        x, _, _ = make(2, T, 32, dtype)
        weights = scale * (2 * torch.rand((5, 32), generator=torch.Generator().manual_seed(0), dtype=dtype) - 1)
        params = (weights[:3],) if cell is paragru else (weights[:3], weights[3:])
        h0 = torch.zeros((2, 32), dtype=dtype) if cell is paragru else (torch.zeros((2, 32), dtype=dtype),) * 2
        solution = attempt(cell, x, params, h0, method=method)
        expected, last = loop(cell, x, params, h0)
        limit = 4 * eps(dtype) ** 0.5
        assert largest_difference(solution.value, expected) <= limit
        assert largest_difference(solution.last, last) <= limit
        assert solution.converged.all()
        if scale == 1:
            assert not solution.sequential.any() or solution.method == "sequential"


@pytest.mark.parametrize("method", ["newton", "quasi", "elk", "auto"])
@both_dtypes
def test_weights_a_hundred_times_too_large(method: str, dtype: Any) -> None:
    for name in ("elman", "gru_cell", "lstm_cell"):
        case = CASES[name]
        inputs = case.inputs(2, 40, 4, dtype, scale=50.0)
        solution = attempt(case.cell, *inputs, method=method)
        assert_is_loop(solution, case, inputs, 4 * eps(dtype) ** 0.5)


def test_products_of_jacobians_that_overflow() -> None:
    """The first guess is far off, where the map expands, though the solution stays at its fixed point 0."""
    x = torch.zeros((2, 400, 3))
    x[:, 0] = 1e-3

    def cell(h: Any, x: Any) -> Any:
        return x + torch.where(h.abs() < 1e-2, 0.5 * h, 3 * h.clamp(-5, 5) ** 3)

    solution = solve_recurrence(cell, x, state=torch.full((2, 3), 1e-3), method="newton")
    assert solution.converged.all()
    assert largest_difference(solution.value, loop(cell, x, (), torch.full((2, 3), 1e-3))[0][0]) <= 1e-6


def test_any_jacobian_converges_within_as_many_iterations_as_steps() -> None:
    """After k iterations the first k states are the loop's, whatever the Jacobians."""
    x, params, h0 = CASES["elman"].inputs(3, 6, 4, torch.float64)

    def jacobian(h: Any, x: Any, w: Any) -> Any:
        return 3 * torch.cos(1e3 * h)

    solution = solve_recurrence(elman, x, *params, state=h0, jacobian=jacobian, method="newton", damping=0.0)
    assert not solution.sequential.any()
    assert (solution.steps <= 8).all()
    assert largest_difference(solution.value, loop(elman, x, params, h0)[0][0]) <= 100 * eps(torch.float64)


@every_method
def test_nan_and_infinity_stay_in_their_row(method: str) -> None:
    for name in ("paragru", "paralstm", "elman"):
        case = CASES[name]
        x, params, h0 = case.inputs(4, 70, 4, torch.float64)
        x = x.clone()
        x[1, 40] = float("nan")
        x[2, 65, ..., 0] = float("inf")
        solution = attempt(case.cell, x, params, h0, method=method, window=20)
        states, _ = loop(case.cell, x, params, h0)
        for actual, expected in zip(as_tuple(solution.value), states, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
        finite = torch.stack([part.isfinite().flatten(1).all(1) for part in states]).all(0)
        assert finite[0] and finite[3] and not finite[1]
        assert solution.converged.equal(finite)
        if solution.method != "sequential":
            assert not solution.sequential[0].any() and not solution.sequential[3].any()


@every_method
def test_an_overflow_of_the_cell_is_returned(method: str) -> None:
    x = torch.ones((2, 150, 3))
    x[1] = 0
    solution = attempt(lambda h, x: 3 * h + x, x, (), torch.zeros((2, 3)), method=method, throw=False)
    expected = loop(lambda h, x: 3 * h + x, x, (), torch.zeros((2, 3)))[0][0]
    torch.testing.assert_close(solution.value, expected, rtol=1e-4, atol=0)
    assert solution.converged.tolist() == [False, True]


@every_method
def test_infinities_are_diverged_and_a_nan_is_nan(method: str) -> None:
    """Infinities of one sign, of both signs, none, infinity minus infinity, and a NaN of the input."""
    factor = torch.tensor([4.0, -4.0, 0.5, 4.0, 0.5])
    x = torch.stack([factor[:, None].expand(5, 100), torch.ones((5, 100))], 2)
    x[3, 90, 1], x[4, 7, 1] = -torch.inf, torch.nan
    solution = attempt(lambda h, x: x[:, :1] * h + x[:, 1:], x, (), torch.ones((5, 1)), method=method, window=30)
    assert solution.reason == ("diverged", "diverged", "converged", "nan", "nan")
    assert solution.value[1].amin() == -torch.inf and solution.value[1].amax() == torch.inf
