"""solve_recurrence and the structure of the Jacobians: detected, declared, given; right or wrong."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import solve_recurrence  # noqa: E402
from tests.newton.solve.solve_cells import (  # noqa: E402
    CASES,
    Case,
    assert_is_loop,
    attempt,
    elman,
    eps,
    every_case,
    largest_difference,
    loop,
    numbers,
    paralstm,
    paralstm_inputs,
    solve,
)


def couple(h: Any, x: Any, w: Any) -> Any:
    """Cell with a two-part state whose units are coupled in pairs."""
    a, b = h
    both = torch.cat([a.unflatten(1, (-1, 2)), b.unflatten(1, (-1, 2))], 2)  # (M, N, 4)
    mixed = torch.tanh(both @ w + x.unsqueeze(2))
    return mixed[..., :2].flatten(1), mixed[..., 2:].flatten(1)


def couple_inputs() -> tuple[Any, tuple[Any, ...], Any]:
    randn = numbers(0, torch.float64)
    return randn(3, 50, 3), (0.4 * randn(4, 4),), (randn(3, 6), randn(3, 6))


@every_case
def test_structures_are_found(case: Case) -> None:
    solution = solve(case.cell, *case.inputs(2, 10, 6, torch.float32), method="newton")
    assert solution.jacobian == case.structure


def test_structures_depend_on_the_numbers() -> None:
    x, (w,), h0 = CASES["elman"].inputs(2, 40, 6, torch.float64)
    for matrix, structure in (
        (w, "dense"),
        (torch.zeros_like(w), "diagonal"),
        (w.diag().diag(), "diagonal"),
        (torch.block_diag(*[w[:2, :2]] * 3), "block 2"),
        (torch.block_diag(w[:3, :3], w[3:, 3:]), "block 3"),
        (w.diag().diag() + 1e-6 * w, "dense"),
    ):
        solution = solve_recurrence(elman, x, matrix, state=h0, method="newton")
        assert solution.jacobian == structure
        assert largest_difference(solution.value, loop(elman, x, [matrix], h0)[0][0]) <= 100 * eps(torch.float64)


def test_blocks_of_several_units_of_several_parts() -> None:
    inputs = couple_inputs()
    for jacobian in ("auto", ("block", 4), ("block", 12), "dense"):
        solution = solve(couple, *inputs, method="newton", jacobian=jacobian)
        assert solution.jacobian == {"auto": "block 4", "dense": "dense"}.get(str(jacobian), f"block {jacobian[1]}")
        assert largest_difference(solution.value, loop(couple, *inputs)[0]) <= 100 * eps(torch.float64)
        assert solution.steps.max() <= 9


@pytest.mark.parametrize("method", ["newton", "elk", "quasi"])
@pytest.mark.parametrize("jacobian", ["diagonal", "block", ("block", 2), ("block", 4), "dense", "quasi"])
def test_a_wrong_structure_costs_steps_only(jacobian: Any, method: str) -> None:
    for name in ("elman", "paralstm", "lstm_cell"):
        case = CASES[name]
        inputs = case.inputs(2, 40, 4, torch.float64)
        if isinstance(inputs[2], tuple) or jacobian != "block":
            solution = attempt(case.cell, *inputs, jacobian=jacobian, method=method)
            assert_is_loop(solution, case, inputs, 1000 * eps(torch.float64))


def test_parts_of_different_sizes() -> None:
    def cell(state: Any, x: Any) -> Any:
        a, b = state
        return torch.tanh(a + b.sum(1, keepdim=True) + x), torch.tanh(0.5 * b + 0.1 * a.flatten(1).sum(1, keepdim=True))

    randn = numbers(0, torch.float64)
    x, h0 = randn(2, 40, 3), (randn(2, 3), randn(2, 5))
    for jacobian in ("auto", "diagonal", "quasi"):
        solution = solve_recurrence(cell, x, state=h0, method="newton", jacobian=jacobian)
        assert largest_difference(solution.value, loop(cell, x, (), h0)[0]) <= 100 * eps(torch.float64)
    assert solve_recurrence(cell, x, state=h0, method="newton").jacobian == "dense"


def test_states_of_any_shape() -> None:
    def cell(h: Any, x: Any, a: Any) -> Any:
        return torch.tanh(a * h + x.unsqueeze(2))

    randn = numbers(0, torch.float64)
    x, a = randn(2, 40, 3), randn(3, 4)
    for h0 in (randn(2, 3, 4), randn(2, 3, 4).transpose(0, 1).contiguous().transpose(0, 1)):
        solution = solve_recurrence(cell, x, a, state=h0, method="newton")
        assert solution.value.shape == (2, 40, 3, 4)
        assert solution.last.shape == (2, 3, 4)
        assert solution.jacobian == "diagonal"
        assert largest_difference(solution.value, loop(cell, x, [a], h0)[0][0]) <= 100 * eps(torch.float64)


# --- Jacobians in closed form -----------------------------------------------------------------------------------------


def elman_jacobian(h: Any, x: Any, w: Any) -> Any:
    return (1 - elman(h, x, w) ** 2).unsqueeze(2) * w.mT


def test_given_jacobians() -> None:
    x, params, h0 = CASES["elman"].inputs(2, 40, 4, torch.float64)
    expected = loop(elman, x, params, h0)[0][0]
    forms = {
        "dense": elman_jacobian,
        "diagonal": lambda *given: elman_jacobian(*given).diagonal(dim1=1, dim2=2),
        "block 2": lambda *given: torch.stack([elman_jacobian(*given)[:, i : i + 2, i : i + 2] for i in (0, 2)], 1),
    }
    for name, jacobian in forms.items():
        for method in ("newton", "elk"):
            solution = solve_recurrence(elman, x, *params, state=h0, method=method, jacobian=jacobian)
            assert solution.jacobian == name
            assert largest_difference(solution.value, expected) <= 100 * eps(torch.float64)
        quasi = solve_recurrence(elman, x, *params, state=h0, method="quasi", jacobian=jacobian)
        assert largest_difference(quasi.value, expected) <= 100 * eps(torch.float64)
        assert not quasi.sequential.any()
        assert quasi.jacobian == {"dense": "quasi"}.get(name, name)
    exact = solve_recurrence(elman, x, *params, state=h0, method="newton", jacobian=elman_jacobian)
    assert exact.steps.equal(solve_recurrence(elman, x, *params, state=h0, method="newton").steps)


def test_given_diagonals_of_several_parts() -> None:
    x, params, h0 = paralstm_inputs(2, 40, 4, torch.float64)
    solution = solve_recurrence(
        paralstm, x, *params, state=h0, method="newton", jacobian=lambda h, x, a, p: (0 * h[0], 0.5 + 0 * h[1])
    )
    assert solution.jacobian == "diagonal"
    assert largest_difference(solution.value, loop(paralstm, x, params, h0)[0]) <= 100 * eps(torch.float64)
