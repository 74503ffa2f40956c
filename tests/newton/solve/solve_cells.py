"""Cells as users could write them, their inputs, and the loop that every solution must match."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import solve_recurrence  # noqa: E402


class Case(NamedTuple):
    """A cell, the structure of its Jacobian, and how to make x, params (a tuple) and h0 of sizes B, T, D."""

    cell: Callable[..., Any]
    structure: str
    inputs: Callable[..., tuple[Any, tuple[Any, ...], Any]]


def paragru(h: Any, x: Any, a: Any) -> Any:
    z, r = torch.sigmoid(x[:, 0] + a[0] * h), torch.sigmoid(x[:, 1] + a[1] * h)
    s = torch.tanh(x[:, 2] + a[2] * h * r)
    return z * s + (1 - z) * h


def paralstm(state: Any, x: Any, a: Any, p: Any) -> Any:
    h, c = state
    f, q = torch.sigmoid(x[:, 0] + a[0] * h + p[0] * c), torch.tanh(x[:, 2] + a[2] * h)
    c = f * c + (1 - f) * q
    o = torch.sigmoid(x[:, 1] + a[1] * h + p[1] * c)
    return o * torch.tanh(c), c


def elman(h: Any, x: Any, w: Any) -> Any:
    return torch.tanh(x + h @ w)


def rotation(h: Any, x: Any, turns: Any) -> Any:
    """A slightly nonlinear rotation in blocks of three neighbours."""
    return torch.tanh(torch.einsum("nij,bnj->bni", turns, h.unflatten(1, (-1, 3))).flatten(1) + x)


def gru_cell(h: Any, x: Any, *weights: Any) -> Any:
    return torch.gru_cell(x, h, *weights)


def lstm_cell(state: Any, x: Any, *weights: Any) -> Any:
    return torch.lstm_cell(x, state, *weights)


def numbers(seed: int, dtype: Any) -> Callable[..., Any]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def paragru_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    randn = numbers(B + T + D, dtype)
    return randn(B, T, 3, D), (scale * randn(3, D),), randn(B, D)


def paralstm_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    randn = numbers(B + T + D, dtype)
    params = (scale * randn(3, D), scale * randn(2, D))
    return randn(B, T, 3, D), params, (randn(B, D), randn(B, D))


def elman_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    randn = numbers(B + T + D, dtype)
    return randn(B, T, D), (scale / D**0.5 * randn(D, D),), randn(B, D)


def rotation_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    randn = numbers(B + T + D, dtype)
    return randn(B, T, 3 * D), (scale * randn(D, 3, 3),), randn(B, 3 * D)


def torch_inputs(B: int, T: int, D: int, dtype: Any, gates: int, scale: float) -> Any:
    randn = numbers(B + T + D, dtype)
    weights = [scale / D**0.5 * randn(gates * D, size) for size in (3, D)]
    return randn(B, T, 3), (*weights, randn(gates * D), randn(gates * D)), randn(B, D)


def gru_cell_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    return torch_inputs(B, T, D, dtype, 3, scale)


def lstm_cell_inputs(B: int, T: int, D: int, dtype: Any, scale: float = 0.5) -> Any:
    x, params, h = torch_inputs(B, T, D, dtype, 4, scale)
    return x, params, (h, h.flip(1))


CASES = {
    "paragru": Case(paragru, "diagonal", paragru_inputs),
    "paralstm": Case(paralstm, "block 2", paralstm_inputs),
    "elman": Case(elman, "dense", elman_inputs),
    "rotation": Case(rotation, "block 3", rotation_inputs),
    "gru_cell": Case(gru_cell, "dense", gru_cell_inputs),
    "lstm_cell": Case(lstm_cell, "dense", lstm_cell_inputs),
}
METHODS = ("auto", "sequential", "newton", "quasi", "elk")
every_method = pytest.mark.parametrize("method", METHODS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def loop(cell: Callable[..., Any], x: Any, params: Sequence[Any], h: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the states of all steps, and the last."""
    states = []
    for t in range(as_tuple(x)[0].shape[1]):
        h = cell(h, tuple(part[:, t] for part in x) if isinstance(x, tuple) else x[:, t], *params)
        states.append(as_tuple(h))
    return tuple(torch.stack(parts, 1) for parts in zip(*states, strict=True)), as_tuple(h)


def largest_difference(actual: Any, expected: Any) -> float:
    pairs = zip(as_tuple(actual), as_tuple(expected), strict=True)
    return max((a - e).abs().max().item() for a, e in pairs)


def eps(dtype: Any) -> float:
    return torch.finfo(dtype).eps


def assert_is_loop(solution: Any, case: Case, inputs: Any, tolerance: float) -> None:
    states, last = loop(case.cell, *inputs)
    assert largest_difference(solution.value, states) <= tolerance
    assert largest_difference(solution.last, last) <= tolerance
    assert solution.converged.all()


def solve(cell: Callable[..., Any], x: Any, params: Sequence[Any], h: Any, **how: Any) -> Any:
    """Call solve_recurrence with the arguments of :func:`loop`."""
    return solve_recurrence(cell, x, *params, state=h, **how)


def attempt(*args: Any, method: str = "auto", **how: Any) -> Any:
    """Solve where a method may fail, and check the warning: one if a loop replaced it, or if a state is not finite."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        solution = solve(*args, method=method, **how)
    replaced = method not in ("auto", "sequential") and bool(solution.sequential.any())
    expected = [fastiter.ConvergenceWarning] if replaced or not solution.converged.all() else []
    assert [warning.category for warning in told] == expected, list(map(str, told))
    return solution
