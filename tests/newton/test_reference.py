"""The specification `fastiter.reference.newton` against torch, against autograd of an independent loop, and itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.reference import newton as reference
from tests.newton.calls import PARA_CELLS, STATES, ParaInputs, every_cell, para_inputs
from tests.rnn.calls import both_ways, full_and_ragged
from tests.support.cases import Array, assert_close, assert_same_bits, normal_like

torch = pytest.importorskip("torch")

from tests.support.pairs import pairs  # noqa: E402
from tests.support.torch_bounds import held  # noqa: E402

LENGTHS = [3, 0, 5]


# --- an independent loop, one unit at a time, differentiated by torch ------------------------------------------------


def scalar_step(cell: str, x: Any, a: Any, p: Any, s: tuple[Any, ...]) -> tuple[Any, ...]:
    """One step of one unit: x, a (G,), p (2,), scalar states."""
    if cell == "paragru":
        z, r = torch.sigmoid(a[0] * s[0] + x[0]), torch.sigmoid(a[1] * s[0] + x[1])
        return (torch.lerp(s[0], torch.tanh(a[2] * (s[0] * r) + x[2]), z),)
    g = [x[k] + a[k] * s[0] for k in range(len(a))]
    if cell == "paralstm":
        c = torch.lerp(torch.tanh(g[2]), s[1], torch.sigmoid(g[0] + p[0] * s[1]))
        return torch.sigmoid(g[1] + p[1] * c) * torch.tanh(c), c
    log_f = torch.nn.functional.logsigmoid(g[1]) + s[3]
    m = torch.where(s[2] == 0, g[0], torch.maximum(g[0], log_f))
    i, f = torch.exp(held(g[0] - m, high=0)), torch.exp(held(log_f - m, high=0))
    c, n = f * s[1] + i * torch.tanh(g[2]), held(f * s[2] + i, low=1)
    return torch.sigmoid(g[3]) * c / n, c, n, m


def scalar_loop(cell: str, wx: Any, a: Any, p: Any, state: Any, reverse: bool, lengths: Any) -> tuple[Any, Any]:
    B, T, _, D = wx.shape
    h = [[[torch.zeros((), dtype=wx.dtype)] * D for _ in range(T)] for _ in range(B)]
    last = [[[x[row, d] for d in range(D)] for row in range(B)] for x in state]
    for row in range(B):
        for d in range(D):
            s = tuple(x[row, d] for x in state)
            for t in range(T if lengths is None else lengths[row])[:: -1 if reverse else 1]:
                s = scalar_step(cell, wx[row, t, :, d], a[:, d], p[:, d], s)
                h[row][t][d] = s[0]
            for k, x in enumerate(s):
                last[k][row][d] = x
    stacked = tuple(torch.stack([torch.stack(row) for row in part]) for part in last)
    return torch.stack([torch.stack([torch.stack(x) for x in row]) for row in h]), stacked


@full_and_ragged
@both_ways
@every_cell
def test_the_loop_and_its_gradients_are_those_of_torch(cell: str, reverse: bool, ragged: bool) -> None:
    B, T, D = 3, 5, 2
    inputs, lengths = para_inputs(cell, B, T, D, np.float64), LENGTHS if ragged else None
    wx, a, p, *state = (torch.tensor(x, requires_grad=True) for x in (*inputs[:3], *inputs.state))
    h, last = scalar_loop(cell, wx, a, p, state, reverse, lengths)
    actual = reference.sequential(cell, *inputs, reverse=reverse, lengths=lengths)
    assert_close(actual[:2], (h.detach().numpy(), tuple(x.detach().numpy() for x in last)), T)
    dh, *dlast = normal_like((actual[0], *actual[1]))
    loss = (h * torch.tensor(dh)).sum() + sum((x * torch.tensor(d)).sum() for x, d in zip(last, dlast, strict=True))
    expected = torch.autograd.grad(loss, (wx, a, p, *state), allow_unused=True, materialize_grads=True)
    dwx, da, dp, dstate = reference.backward(cell, *inputs, dh, dlast, reverse=reverse, lengths=lengths)
    assert_close((dwx, da, dp, *dstate), tuple(g.numpy() for g in expected), B * T)


@every_cell
def test_states_of_all_steps(cell: str) -> None:
    inputs = para_inputs(cell, 3, 5, 4, np.float64)
    h, last, states = reference.sequential(cell, *inputs, lengths=LENGTHS)
    assert h is states[0]
    for row, length in enumerate(LENGTHS):
        for k, s in enumerate(states):
            assert_same_bits(s[row, length - 1] if length else inputs.state[k][row], last[k][row])
            assert not s[row, length:].any()


@every_cell
def test_a_missing_state_equals_zeros(cell: str) -> None:
    wx, a, p, state = para_inputs(cell, 2, 4, 3, np.float64)
    zeros = reference.sequential(cell, wx, a, p, tuple(np.zeros_like(s) for s in state))
    assert_same_bits(reference.sequential(cell, wx, a, p), zeros)


# --- Newton's method -------------------------------------------------------------------------------------------------


def row_of(cell: str, T: int = 12, D: int = 4, seed: int = 0) -> tuple[reference._Row, ParaInputs, Array]:
    """Return a solved row, its inputs, and the loop's states."""
    inputs = para_inputs(cell, 1, T, D, np.float64, seed)
    _, _, states = reference.sequential(cell, *inputs)
    first = np.stack([s[0] for s in inputs.state])
    row = reference._Row(cell, inputs.wx[0], inputs.a, inputs.p, first, T, 50, 1e-14, 1e-14)
    return row, inputs, np.stack([s[0] for s in states], axis=1)


@every_cell
def test_the_tangent_is_the_derivative_of_the_step(cell: str) -> None:
    inputs = para_inputs(cell, 1, 1, 50, np.float64, bound=2)
    row = reference._Row(cell, inputs.wx[0], inputs.a, inputs.p, np.stack([s[0] for s in inputs.state]), 1, 1, 0, 0)
    s = row.first if cell != "paraslstm" else row._step(inputs.wx[0, 0], row.first)  # no clamp acts there
    d = np.random.default_rng(1).standard_normal(s.shape)
    after, before = (row._step(inputs.wx[0, 0], s + step * d) for step in (1e-6, -1e-6))
    np.testing.assert_allclose((after - before) / 2e-6, row._tangent(inputs.wx[0, 0], s, d), rtol=1e-7, atol=1e-8)


@every_cell
def test_after_k_passes_the_first_k_steps_are_exact(cell: str) -> None:
    row, inputs, expected = row_of(cell)
    row.first = np.stack([s[0] for s in inputs.state])
    y = np.random.default_rng(0).uniform(-0.5, 0.5, expected.shape)
    unknowns = reference._CELLS[cell].unknowns
    for k in range(1, len(y) + 1):
        y, _, _ = row.newton_pass(inputs.wx[0], y)
        assert_same_bits(y[:k, :unknowns], expected[:k, :unknowns])


@every_cell
def test_convergence_is_quadratic(cell: str) -> None:
    row, inputs, expected = row_of(cell, T=100)
    row.first, errors = np.stack([s[0] for s in inputs.state]), []
    y = expected + 1e-2 * np.random.default_rng(0).uniform(-1, 1, expected.shape)
    for _ in range(3):
        y, _, _ = row.newton_pass(inputs.wx[0], y)
        errors.append(abs(y - expected)[:, 0].max())
    assert errors[0] < 1e-2
    assert errors[1] < 30 * errors[0] ** 2
    assert errors[2] < max(30 * errors[1] ** 2, 1e-14)


@pairs
@full_and_ragged
@both_ways
@every_cell
def test_newton_equals_the_loop(cell: str, reverse: bool, ragged: bool) -> None:
    T, lengths = 9, [9, 0, 4] if ragged else None
    inputs = para_inputs(cell, 3, T, 4, np.float64)
    h, last, states = reference.sequential(cell, *inputs, reverse=reverse, lengths=lengths)
    for window, max_steps in ((1, 1), (4, 50), (50, 50), (50, 2)):
        options = (window, max_steps, 1e-14, 1e-14)
        *actual, info = reference.newton(cell, *inputs, options, reverse=reverse, lengths=lengths)
        assert_close(tuple(actual), (h, last, states), T)
        assert (info.steps <= min(window, max_steps)).all()
        assert info.fallbacks.any() == (max_steps == 2)


@pytest.mark.parametrize("bound", [8.0, 100.0])
@every_cell
def test_rows_in_which_errors_grow_are_run_by_the_loop(cell: str, bound: float) -> None:
    inputs = para_inputs(cell, 2, 100, 16, np.float64, bound=bound)
    expected, *_ = reference.sequential(cell, *inputs)
    h, *_, info = reference.newton(cell, *inputs, (32, 32, 1e-14, 1e-14))
    assert (np.abs(h - expected) <= 256 * 1e-14 * (1 + np.abs(expected))).all()  # no unit in which errors grow
    if bound < 100:  # with 100 the gates of paragru saturate, and no error grows
        assert (info.fallbacks > 0).all()


def test_every_cell_is_specified() -> None:
    assert set(reference._CELLS) == set(PARA_CELLS) == set(STATES)
