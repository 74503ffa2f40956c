"""s[t] = f(s[t-1], wx[t]) unit by unit: the specification of the cells with diagonal recurrent weights.

Step by step; as one system of equations for all t, solved by Newton's method; and backward. Shapes: wx (B, T, G, D),
a (G, D), p (2, D) for the lstm, every state (B, D), h (B, T, D). Order of the gates: gru z, r, q; lstm f, o, q with the
peepholes f, o; slstm i, f, z, o. The arguments are trusted: `fastiter.newton` checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .rnn import _sigmoid, _slstm_grad, _slstm_parts, _slstm_step

Array = npt.NDArray[Any]
State = tuple[Array, ...]
Output = tuple[Array, State, State]


# ---- one step of each cell ------------------------------------------------------------------------------------------
# n lines at once, which are rows of a batch or steps in time: x (n, G, D), every state (n, D). A jacobian is
# (n, S, S, D), [after, before]; a gradient is those of x (n, G, D), of a (n, G, D), of p (n, 2, D) and of the states
# before.


def _gru_parts(x: Array, a: Array, h: Array) -> tuple[Array, Array, Array]:
    z = _sigmoid(a[0] * h + x[:, 0])
    r = _sigmoid(a[1] * h + x[:, 1])
    return z, r, np.tanh(a[2] * h * r + x[:, 2])


def _gru_step(x: Array, a: Array, p: Array, s: State) -> State:
    """z = s(a_z h + x_z); r = s(a_r h + x_r); q = tanh(a_q h r + x_q); h+ = z q + (1 - z) h."""
    (h,) = s
    z, _, q = _gru_parts(x, a, h)
    return (z * q + (1 - z) * h,)


def _gru_jacobian(x: Array, a: Array, p: Array, s: State) -> Array:
    """dh+/dh = (1 - z) + (q - h) z' a_z + z q' a_q (r + h r' a_r)."""
    (h,) = s
    z, r, q = _gru_parts(x, a, h)
    dz, dr, dq = z * (1 - z), r * (1 - r), 1 - q * q
    j: Array = (1 - z) + (q - h) * dz * a[0] + z * dq * a[2] * (r + h * dr * a[1])
    return j[:, None, None]


def _gru_grad(x: Array, a: Array, p: Array, s: State, ds: State) -> tuple[Array, Array, Array, State]:
    (h,), (dh,) = s, ds
    z, r, q = _gru_parts(x, a, h)
    dx_z = dh * (q - h) * z * (1 - z)
    dx_q = dh * z * (1 - q * q)
    dx_r = dx_q * a[2] * h * r * (1 - r)
    dx = np.stack([dx_z, dx_r, dx_q], axis=1)
    da = np.stack([dx_z * h, dx_r * h, dx_q * h * r], axis=1)
    return dx, da, dx[:, :0], (dh * (1 - z) + dx_z * a[0] + dx_r * a[1] + dx_q * a[2] * r,)


def _lstm_parts(x: Array, a: Array, p: Array, s: State) -> tuple[Array, ...]:
    h, c = s
    f = _sigmoid(a[0] * h + x[:, 0] + p[0] * c)
    q = np.tanh(a[2] * h + x[:, 2])
    c_new = f * c + (1 - f) * q
    o = _sigmoid(a[1] * h + x[:, 1] + p[1] * c_new)
    return f, o, q, c_new, np.tanh(c_new)


def _lstm_step(x: Array, a: Array, p: Array, s: State) -> State:
    """f = s(a_f h + x_f + p_f c); q = tanh(a_q h + x_q); c+ = f c + (1 - f) q; o = s(a_o h + x_o + p_o c+);
    h+ = o tanh(c+).
    """
    _, o, _, c, tanh_c = _lstm_parts(x, a, p, s)
    return o * tanh_c, c


def _lstm_jacobian(x: Array, a: Array, p: Array, s: State) -> Array:
    """The 2 x 2 blocks of (h+, c+) by (h, c)."""
    f, o, q, _, tanh_c = _lstm_parts(x, a, p, s)
    df, do, dq, dtanh = f * (1 - f), o * (1 - o), 1 - q * q, 1 - tanh_c * tanh_c
    cc = f + (s[1] - q) * df * p[0]
    ch = (s[1] - q) * df * a[0] + (1 - f) * dq * a[2]
    by_c = tanh_c * do * p[1] + o * dtanh  # dh+/dc+, the step before held
    return np.stack([np.stack([tanh_c * do * a[1] + by_c * ch, by_c * cc], 1), np.stack([ch, cc], 1)], 1)


def _lstm_grad(x: Array, a: Array, p: Array, s: State, ds: State) -> tuple[Array, Array, Array, State]:
    (h, c), (dh, dc) = s, ds
    f, o, q, c_new, tanh_c = _lstm_parts(x, a, p, s)
    dx_o = dh * tanh_c * o * (1 - o)
    dc = dc + dh * o * (1 - tanh_c * tanh_c) + dx_o * p[1]
    dx_f = dc * (c - q) * f * (1 - f)
    dx_q = dc * (1 - f) * (1 - q * q)
    dx = np.stack([dx_f, dx_o, dx_q], axis=1)
    dp = np.stack([dx_f * c, dx_o * c_new], axis=1)
    return dx, dx * h[:, None], dp, ((dx * a).sum(axis=1), dc * f + dx_f * p[0])


def _slstm(x: Array, a: Array, p: Array, s: State) -> State:
    """rnn's slstm with the gates x + a h."""
    return _slstm_step(x, a * s[0][:, None], s)


def _slstm_cell_grad(x: Array, a: Array, p: Array, s: State, ds: State) -> tuple[Array, Array, Array, State]:
    y = a * s[0][:, None]
    dx, _, (_, *rest) = _slstm_grad(x, y, s, _slstm_step(x, y, s), ds)
    return dx, dx * s[0][:, None], dx[:, :0], ((dx * a).sum(axis=1), *rest)


class _Cell(NamedTuple):
    states: int
    step: Callable[[Array, Array, Array, State], State]
    grad: Callable[[Array, Array, Array, State, State], tuple[Array, Array, Array, State]]


_CELLS = {
    "paragru": _Cell(1, _gru_step, _gru_grad),
    "paralstm": _Cell(2, _lstm_step, _lstm_grad),
    "paraslstm": _Cell(4, _slstm, _slstm_cell_grad),
}
_JACOBIANS = {"paragru": _gru_jacobian, "paralstm": _lstm_jacobian}


# ---- the loop over time ---------------------------------------------------------------------------------------------


def _initial(cell: _Cell, wx: Array, state: Sequence[Array] | None) -> list[Array]:
    """Writable copies of the given states, or zeros."""
    if state is None:
        return [np.zeros((wx.shape[0], wx.shape[3]), wx.dtype) for _ in range(cell.states)]
    return [np.array(s) for s in state]


def _order(wx: Array, row: int, reverse: bool, lengths: npt.ArrayLike | None) -> Array:
    """The valid steps of a row in the order in which they are taken."""
    steps = np.arange(wx.shape[1] if lengths is None else np.asarray(lengths)[row])
    return steps[::-1] if reverse else steps


def sequential(
    name: str,
    wx: Array,
    a: Array,
    p: Array,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
) -> Output:
    """(h, final state, states of every step); h is states[0].

    With `reverse` the state enters at a row's last valid step. Steps t >= lengths[b] are not computed: all states there
    are 0, and the final state is that of the last step that was computed.
    """
    cell = _CELLS[name]
    now = _initial(cell, wx, state)
    states = tuple(np.zeros((*wx.shape[:2], wx.shape[3]), wx.dtype) for _ in now)
    for row in range(wx.shape[0]):
        for t in _order(wx, row, reverse, lengths):
            before = tuple(s[row, None] for s in now)
            for s, s_t, new in zip(now, states, cell.step(wx[row, t, None], a, p, before), strict=True):
                s[row] = s_t[row, t] = new[0]
    return states[0], tuple(now), states


# ---- all steps at once: F[t] = s[t] - f(s[t-1], x[t]) = 0 -----------------------------------------------------------
# The states of one row are y (T, S, D), the state before its first step is first (S, D).


class _Pass(NamedTuple):
    """The new y; how far the old one is from solving the equations; how far the new one is from the old one."""

    y: Array
    residual: Array
    change: Array


def newton_pass(name: str, x: Array, a: Array, p: Array, first: Array, y: Array) -> _Pass:
    """y+[t] = f(y[t-1]) + J(y[t-1]) (y+[t-1] - y[t-1]): y+ = y + delta with delta[t] - J[t] delta[t-1] = -F[t].

    No solution of gru and lstm leaves [-1, 1], or the interval of the first state where that is larger: y+ is put back.
    """
    if name == "paraslstm":
        return _slstm_pass(x, a, first, y)
    before = np.concatenate([first[None], y[:-1]])
    states = tuple(before.swapaxes(0, 1))
    value, jacobian = np.stack(_CELLS[name].step(x, a, p, states), axis=1), _JACOBIANS[name](x, a, p, states)
    limit, new, y_before = np.maximum(abs(first), 1), np.empty_like(y), first
    if name == "paralstm":
        limit[0] = 1
    for t in range(len(y)):
        new[t] = value[t] + np.einsum("ijd,jd->id", jacobian[t], y_before - before[t])
        y_before = new[t] = np.clip(new[t], -limit, limit)
    return _Pass(new, y - value, new - y)


def _slstm_pass(x: Array, a: Array, first: Array, y: Array) -> _Pass:
    """Newton's method on the equations of h alone: given the gates, the recurrences of c, n and m are solved exactly.

    Hence y is read for h only, and c, n and m have no residual. The changes of c and n are their derivatives by h times
    the change of h, at the scale exp(m) of the old gates: h does not depend on it.
    """
    new, residual, change = np.empty_like(y), np.zeros_like(y), np.zeros_like(y)
    _, c, n, m = first
    with np.errstate(all="ignore"):
        limit = np.fmax(1, abs(c) / n)
    h, dh, dc, dn = first[0], *np.zeros((3, y.shape[2]), y.dtype)
    for t in range(len(y)):
        gates = x[t] + a * h
        _, m_new, i, f, z, o = (part[0] for part in _slstm_parts(x[t, None], (a * h)[None], (h, c, n[None], m)))
        da = a * dh
        di, df, dz, do = i * da[0], f * _sigmoid(-gates[1]) * da[1], (1 - z * z) * da[2], o * (1 - o) * da[3]
        dc, dn = f * dc + c * df + i * dz + z * di, f * dn + n * df + di
        c, n, m = f * c + i * z, np.maximum(f * n + i, 1), m_new
        value = o * c / n
        new[t] = np.clip(value + (do * c + o * dc - value * dn) / n, -limit, limit), c + dc, np.maximum(n + dn, 1), m
        h, dh = y[t, 0], new[t, 0] - y[t, 0]
        residual[t, 0], change[t, :3] = h - value, (dh, dc, dn)
    return _Pass(new, residual, change)


class Newton(NamedTuple):
    """What Newton's method did: for each row the most passes of a window, and the windows run step by step."""

    steps: Array
    fallbacks: Array


def newton(
    name: str,
    wx: Array,
    a: Array,
    p: Array,
    state: Sequence[Array] | None,
    options: tuple[int, int, float, float],
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
) -> tuple[Array, State, State, Newton]:
    """The same as `sequential`, window by window; options are (window, max_steps, rtol, atol).

    In a window the leading steps whose residual and change are at most atol + rtol |y| are final, and the first one in
    any case: nothing before it is in doubt. What is left after max_steps, or when the changes grow or are not finite,
    is done step by step.
    """
    window, max_steps, rtol, atol = options
    now = _initial(_CELLS[name], wx, state)
    states = tuple(np.zeros((*wx.shape[:2], wx.shape[3]), wx.dtype) for _ in now)
    info = Newton(np.zeros(wx.shape[0], np.int64), np.zeros(wx.shape[0], np.int64))
    for row in range(wx.shape[0]):
        order, first = _order(wx, row, reverse, lengths), np.stack([s[row] for s in now])
        for begin in range(0, len(order), window):
            some = order[begin : begin + window]
            y, passes, gave_up = _window(name, wx[row, some], a, p, first, max_steps, rtol, atol)
            info.steps[row], info.fallbacks[row] = max(info.steps[row], passes), info.fallbacks[row] + gave_up
            first = y[-1]
            for k, s in enumerate(states):
                s[row, some] = y[:, k]
        for s, s_first in zip(now, first, strict=True):
            s[row] = s_first
    return states[0], tuple(now), states, info


def _window(
    name: str, x: Array, a: Array, p: Array, first: Array, max_steps: int, rtol: float, atol: float
) -> tuple[Array, int, bool]:
    """(states (T, S, D), passes, whether the end was done step by step); the first guess is f(0, x[t])."""
    step, done, passes, before = _CELLS[name].step, [], 0, np.inf
    y = np.stack(step(x, a, p, tuple(np.zeros((len(first), len(x), x.shape[2]), x.dtype))), axis=1)
    while len(x) > 0 and passes < max_steps:
        with np.errstate(all="ignore"):
            new, residual, change = newton_pass(name, x, a, p, first, y)
            good = (np.maximum(abs(change), abs(residual)) <= atol + rtol * abs(new)).all(axis=(1, 2))
            total = abs(change).sum()
        count = len(x) if good.all() else max(int(good.argmin()), 1)
        done += list(new[:count])
        x, y, first = x[count:], new[count:], new[count - 1]
        passes += 1
        if not total < 4 * before:
            break
        before = total
    for x_t in x:
        first = np.concatenate(step(x_t[None], a, p, tuple(first[:, None])))
        done.append(first)
    return np.stack(done), passes, len(x) > 0


# ---- backward -------------------------------------------------------------------------------------------------------


def backward(
    name: str,
    wx: Array,
    a: Array,
    p: Array,
    state: Sequence[Array] | None,
    dh: Array | None = None,
    dstate: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, State]:
    """(dwx, da, dp, dstate0): the gradient of <dh, h> + <dstate, final state>; what is None is zero.

    lam[t] = g[t] + J[t+1]^T lam[t+1], and at each step the local gradient of lam[t].
    """
    cell = _CELLS[name]
    _, _, states = sequential(name, wx, a, p, state, reverse=reverse, lengths=lengths)
    first, carry = _initial(cell, wx, state), _initial(cell, wx, dstate)
    dwx, da, dp = np.zeros_like(wx), np.zeros_like(a), np.zeros_like(p)
    for row in range(wx.shape[0]):
        order = _order(wx, row, reverse, lengths)
        for k, t in reversed(list(enumerate(order))):
            before = tuple(
                s[row, order[k - 1], None] if k else s0[row, None] for s, s0 in zip(states, first, strict=True)
            )
            lam = [d[row, None] for d in carry]
            if dh is not None:
                lam[0] = lam[0] + dh[row, t, None]
            dx, da_t, dp_t, dbefore = cell.grad(wx[row, t, None], a, p, before, tuple(lam))
            dwx[row, t] = dx[0]
            da += da_t[0]
            dp += dp_t[0]
            for d, d_before in zip(carry, dbefore, strict=True):
                d[row] = d_before[0]
    return dwx, da, dp, tuple(carry)
