"""solve_recurrence: the result is the loop's for any cell, method, structure and windows."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import solve_recurrence  # noqa: E402
from tests.newton.solve.solve_cells import (  # noqa: E402
    CASES,
    Case,
    as_tuple,
    assert_is_loop,
    attempt,
    both_dtypes,
    eps,
    every_case,
    every_method,
    largest_difference,
    loop,
    solve,
)
from tests.support.pairs import pairs  # noqa: E402

# --- cells and methods ------------------------------------------------------------------------------------------------


@pairs
@every_method
@both_dtypes
@every_case
def test_equals_the_loop(case: Case, dtype: Any, method: str) -> None:
    for B, T, D in ((3, 40, 5), (1, 1, 1)):
        inputs = case.inputs(B, T, D, dtype)
        solution = solve(case.cell, *inputs, method=method)
        # the diagonal converges linearly: it stops at a small residual, not far below
        assert_is_loop(solution, case, inputs, (1000 if method == "quasi" else 100) * eps(dtype))
        assert isinstance(solution.value, tuple) == isinstance(inputs[2], tuple)
        assert method in (solution.method, "auto")
        if solution.method != "sequential":
            assert not solution.sequential.any()
            assert (solution.steps > 0).all()
            assert (solution.residual <= 64 * eps(dtype) * (1 + states_size(solution))).all()


def states_size(solution: Any) -> Any:
    return torch.stack([part.abs().flatten(1).amax(1) for part in as_tuple(solution.value)]).amax(0)


@every_case
def test_newton_needs_few_steps(case: Case) -> None:
    inputs = case.inputs(2, 300, 4, torch.float64)
    solution = solve(case.cell, *inputs, method="newton", window=300)
    assert solution.steps.max() <= 9
    assert (solution.lyapunov < 0).all()


@both_dtypes
def test_sequential_has_the_bits_of_the_loop(dtype: Any) -> None:
    for case in CASES.values():
        inputs = case.inputs(3, 20, 5, dtype)
        solution = solve(case.cell, *inputs, method="sequential")
        assert largest_difference(solution.value, loop(case.cell, *inputs)[0]) == 0


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 7, 32, 33, 1000])
@pytest.mark.parametrize("method", ["newton", "quasi", "elk"])
def test_windows_carry_their_last_state(method: str, window: int) -> None:
    for name in ("paragru", "paralstm", "elman"):
        case = CASES[name]
        inputs = case.inputs(3, 33, 4, torch.float64)
        solution = solve(case.cell, *inputs, method=method, window=window)
        assert_is_loop(solution, case, inputs, 1000 * eps(torch.float64))
        assert solution.window == min(window, 33)
        assert solution.sequential.shape == (3, -(-33 // window))


@every_method
def test_the_last_state_continues_the_sequence(method: str) -> None:
    for name in ("paragru", "paralstm"):
        case = CASES[name]
        x, params, h0 = case.inputs(2, 90, 4, torch.float64)
        whole = solve_recurrence(case.cell, x, *params, state=h0, method=method)
        first = solve_recurrence(case.cell, x[:, :50], *params, state=h0, method=method)
        second = solve_recurrence(case.cell, x[:, 50:], *params, state=first.last, method=method)
        pairs = zip(as_tuple(first.value), as_tuple(second.value), strict=True)
        joined = tuple(torch.cat(pair, 1) for pair in pairs)
        assert largest_difference(joined, whole.value) <= 100 * eps(torch.float64)


def logistic(h: Any, x: Any) -> Any:
    """The logistic map: h goes to a fixed point for x = 2.5, and is chaotic for x near 4."""
    return x * h * (1 - h)


@pytest.mark.parametrize("method", ["newton", "elk", "quasi"])
def test_only_chaotic_windows_are_run_as_a_loop(method: str) -> None:
    x = torch.full((4, 200, 1), 2.5, dtype=torch.float64)
    x[1, 60:120] = 3.99  # in windows 1 and 2 of row 1
    h0 = torch.full((4, 1), 0.3, dtype=torch.float64)
    solution = attempt(logistic, x, (), h0, method=method, window=50)
    expected = torch.zeros((4, 4), dtype=torch.bool)
    expected[1, 1:3] = True
    assert solution.sequential.equal(expected)
    assert solution.converged.all()
    # from its own states, since rounding differences grow large in the chaotic part
    for start in range(0, 200, 50):
        before = solution.value[:, start - 1] if start else h0
        expected = loop(logistic, x[:, start : start + 50], (), before)[0][0]
        assert largest_difference(solution.value[:, start : start + 50], expected) <= 1e-14
