"""s[t] = f(s[t-1], wx[t]) unit by unit: the specification of the cells with diagonal recurrent weights.

Step by step; as one system of equations for all t, solved by Newton's method; and backward. Shapes: wx (B, T, G, D),
a (G, D), p (2, D) for the lstm, every state (B, D), h (B, T, D). Order of the gates: gru z, r, q; lstm f, o, q with the
peepholes f, o; slstm i, f, z, o. The arguments are trusted: `fastiter.newton` checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..rnn.reference import _sigmoid, _slstm_grad, _slstm_parts, _slstm_step

Array = npt.NDArray[Any]
State = tuple[Array, ...]
Output = tuple[Array, State, State]


# ---- one step of each cell ------------------------------------------------------------------------------------------
# n rows or steps at once: x (n, G, D), every state (n, D). A tangent function returns the Jacobian with respect to the
# states times a change d of them; a gradient function returns the gradients of x (n, G, D), a (n, G, D), p (n, 2, D)
# and the previous states.


def _gru_parts(x: Array, a: Array, h: Array) -> tuple[Array, Array, Array]:
    z = _sigmoid(a[0] * h + x[:, 0])
    r = _sigmoid(a[1] * h + x[:, 1])
    return z, r, np.tanh(a[2] * h * r + x[:, 2])


def _gru_step(x: Array, a: Array, p: Array, s: State) -> State:
    """z = s(a_z h + x_z); r = s(a_r h + x_r); q = tanh(a_q h r + x_q); h+ = z q + (1 - z) h."""
    (h,) = s
    z, _, q = _gru_parts(x, a, h)
    return (z * q + (1 - z) * h,)


def _gru_tangent(x: Array, a: Array, p: Array, s: State, d: State) -> State:
    """dh+/dh = (1 - z) + (q - h) z' a_z + z q' a_q (r + h r' a_r)."""
    (h,) = s
    z, r, q = _gru_parts(x, a, h)
    dz, dr, dq = z * (1 - z), r * (1 - r), 1 - q * q
    return (((1 - z) + (q - h) * dz * a[0] + z * dq * a[2] * (r + h * dr * a[1])) * d[0],)


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


def _lstm_tangent(x: Array, a: Array, p: Array, s: State, d: State) -> State:
    """The 2 x 2 Jacobian of (h+, c+) with respect to (h, c), times d."""
    f, o, q, _, tanh_c = _lstm_parts(x, a, p, s)
    df, do, dq, dtanh = f * (1 - f), o * (1 - o), 1 - q * q, 1 - tanh_c * tanh_c
    cc = f + (s[1] - q) * df * p[0]
    ch = (s[1] - q) * df * a[0] + (1 - f) * dq * a[2]
    hh = tanh_c * do * (a[1] + p[1] * ch) + o * dtanh * ch
    hc = (tanh_c * do * p[1] + o * dtanh) * cc
    return hh * d[0] + hc * d[1], ch * d[0] + cc * d[1]


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
    """The step of slstm in the family rnn, with the gates x + a h."""
    return _slstm_step(x, a * s[0][:, None], s)


def _slstm_tangent(x: Array, a: Array, p: Array, s: State, d: State) -> State:
    """Differentiates the choice of m, but not the clamps, which are active only at a row's first step."""
    h, c, n, _ = s
    y = a * h[:, None]
    ell, _, i, f, z, o = _slstm_parts(x, y, s)
    h_new, c_new, n_new, _ = _slstm_step(x, y, s)
    da_i, da_f, da_z, da_o = (a[g] * d[0] for g in range(4))
    d_ell = _sigmoid(-(x + y)[:, 1]) * da_f + d[3]
    dm = np.where((n == 0) | (ell <= (x + y)[:, 0]), da_i, d_ell)
    di, df = i * (da_i - dm), f * (d_ell - dm)
    dc = f * d[1] + c * df + i * (1 - z * z) * da_z + z * di
    dn = f * d[2] + n * df + di
    return (o * (1 - o) * da_o * c_new + o * dc - h_new * dn) / n_new, dc, dn, dm


def _slstm_cell_grad(x: Array, a: Array, p: Array, s: State, ds: State) -> tuple[Array, Array, Array, State]:
    y = a * s[0][:, None]
    dx, _, (_, *rest) = _slstm_grad(x, y, s, _slstm_step(x, y, s), ds)
    return dx, dx * s[0][:, None], dx[:, :0], ((dx * a).sum(axis=1), *rest)


class _Cell(NamedTuple):
    """Newton's method solves for the first ``unknowns`` states; the others follow from the previous ones."""

    states: int
    unknowns: int
    step: Callable[[Array, Array, Array, State], State]
    tangent: Callable[[Array, Array, Array, State, State], State]
    grad: Callable[[Array, Array, Array, State, State], tuple[Array, Array, Array, State]]


_CELLS = {
    "paragru": _Cell(1, 1, _gru_step, _gru_tangent, _gru_grad),
    "paralstm": _Cell(2, 2, _lstm_step, _lstm_tangent, _lstm_grad),
    "paraslstm": _Cell(4, 1, _slstm, _slstm_tangent, _slstm_cell_grad),
}


# ---- the loop over time ---------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """The direction, and the division of the steps of rows into sequences."""

    reverse: bool = False
    reset: Array | None = None
    lengths: npt.ArrayLike | None = None
    cu_seqlens: npt.ArrayLike | None = None

    def rows(self, wx: Array) -> Iterator[tuple[int, int, Array]]:
        """Yield (state, row of the arrays, valid steps in the order of computation) for every sequence."""
        order = slice(None, None, -1 if self.reverse else 1)
        if self.cu_seqlens is not None:
            bounds = np.asarray(self.cu_seqlens)
            yield from ((s, 0, np.arange(bounds[s], bounds[s + 1])[order]) for s in range(len(bounds) - 1))
            return
        for b in range(wx.shape[0]):
            yield b, b, np.arange(wx.shape[1] if self.lengths is None else np.asarray(self.lengths)[b])[order]

    def restarts(self, line: int, t: int) -> bool:
        """Return whether the state before a step counts as zero."""
        if self.reset is None:
            return False
        return bool(self.reset[t] if self.reset.ndim == 1 else self.reset[line, t])

    def initial(self, cell: _Cell, wx: Array, state: Sequence[Array] | None) -> list[Array]:
        """Return writable copies of the given states, or zeros."""
        if state is not None:
            return [np.array(s) for s in state]
        count = wx.shape[0] if self.cu_seqlens is None else len(np.asarray(self.cu_seqlens)) - 1
        return [np.zeros((count, wx.shape[3]), wx.dtype) for _ in range(cell.states)]


def sequential(
    name: str,
    wx: Array,
    a: Array,
    p: Array,
    state: Sequence[Array] | None = None,
    *,
    reverse: bool = False,
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> Output:
    """(h, final state, states of every step); h is states[0].

    With `reverse` the state enters at a row's last valid step. Steps t >= lengths[b] are not computed: all states there
    are 0, and the final state is that of the last computed step. The state before a step counts as zero where `reset`
    is true. With cu_seqlens, sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1] of the only row.
    """
    cell, cut = _CELLS[name], Cut(reverse, reset, lengths, cu_seqlens)
    now = cut.initial(cell, wx, state)
    states = tuple(np.zeros((*wx.shape[:2], wx.shape[3]), wx.dtype) for _ in now)
    for row, line, order in cut.rows(wx):
        for t in order:
            keeps = not cut.restarts(line, t)
            before = tuple(s[row, None] if keeps else np.zeros_like(s[row, None]) for s in now)
            for s, s_t, new in zip(now, states, cell.step(wx[line, t, None], a, p, before), strict=True):
                s[row] = s_t[line, t] = new[0]
    return states[0], tuple(now), states


# ---- all steps at once: F[t] = s[t] - f(s[t-1], x[t]) = 0 -----------------------------------------------------------
# The states of one row are y (T, S, D), the state before its first step is first (S, D).


class Newton(NamedTuple):
    """For each row, the maximum number of passes over a window, and the number of windows run step by step."""

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
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Array, State, State, Newton]:
    """Newton's method, window by window, with the results of `sequential`; options are (window, max_steps, rtol, atol).

    In a window the leading steps whose residual and change are at most atol + rtol |y| are final; the first step is
    always final, as the state before it is exact. The steps that remain after max_steps, or when the changes grow or
    are not finite, are run step by step. A row in which an error may grow by a factor of more than 256 is run step by
    step as a whole, as the tolerance would not bound the error of its states.
    """
    cut = Cut(reverse, reset, lengths, cu_seqlens)
    h, last, states = sequential(name, wx, a, p, state, **cut._asdict())
    first = cut.initial(_CELLS[name], wx, state)
    info = Newton(*np.zeros((2, len(first[0])), np.int64))
    for row, line, order in cut.rows(wx):
        starts = [k for k, t in enumerate(order) if cut.restarts(line, t)]
        for part, run in enumerate(np.split(order, starts)):
            before = np.stack([s[row] if part == 0 else np.zeros_like(s[row]) for s in first])
            solved = _Row(name, wx[line, run], a, p, before, *options)
            info.steps[row] = max(info.steps[row], solved.passes)
            info.fallbacks[row] += len(range(0, len(run), options[0])) if solved.is_sensitive else solved.fallbacks
            if len(run) and not solved.is_sensitive:
                for k in range(len(states)):
                    states[k][line, run], last[k][row] = solved.y[:, k], solved.y[-1, k]
    return h, last, states, info


class _Row:
    """The solution of one row: states y, the maximum number of passes over a window, the windows run step by step."""

    def __init__(
        self,
        name: str,
        x: Array,
        a: Array,
        p: Array,
        first: Array,
        window: int,
        max_steps: int,
        rtol: float,
        atol: float,
    ) -> None:
        self.name, self.a, self.p, self.first = name, a, p, first
        self.max_steps, self.rtol, self.atol = max_steps, rtol, atol
        self.error, self.is_sensitive, self.passes, self.fallbacks = np.zeros_like(first), False, 0, 0
        windows = [self._solve(x[begin : begin + window]) for begin in range(0, len(x), window)]
        self.y = np.concatenate(windows) if windows else np.empty((0, *first.shape), x.dtype)

    def _step(self, x: Array, s: Array) -> Array:
        return np.concatenate(_CELLS[self.name].step(x[None], self.a, self.p, tuple(s[:, None])))

    def _tangent(self, x: Array, s: Array, d: Array) -> Array:
        return np.concatenate(_CELLS[self.name].tangent(x[None], self.a, self.p, tuple(s[:, None]), tuple(d[:, None])))

    def _solve(self, x: Array) -> Array:
        """Solve one window."""
        done: list[Array] = []
        y, before, passes = np.stack([self._step(x_t, np.zeros_like(self.first)) for x_t in x]), np.inf, 0
        while len(done) < len(x) and passes < self.max_steps:
            y, good, total = self.newton_pass(x[len(done) :], y)
            count, passes = len(y) if good.all() else max(int(good.argmin()), 1), passes + 1
            for y_t in y[:count]:
                self._is_final(x[len(done)], y_t)
                done.append(y_t)
            y = y[count:]
            if not total < 4 * before:
                break
            before = total
        self.passes, self.fallbacks = max(self.passes, passes), self.fallbacks + (len(done) < len(x))
        for x_t in x[len(done) :]:
            done.append(self._step(x_t, self.first))
            self._is_final(x_t, done[-1])
        return np.stack(done)

    def newton_pass(self, x: Array, y: Array) -> tuple[Array, Array, float]:
        """y+[t] = f(y[t-1]) + J(y[t-1]) (y+[t-1] - y[t-1]): y+ = y + delta with delta[t] - J[t] delta[t-1] = -F[t].

        Returns y+, whether each step is within the tolerance, and the sum of all changes. For states that are not
        unknowns, the propagated value replaces the one in y, and delta is their tangent with respect to the unknowns.
        """
        unknowns, limit, new = _CELLS[self.name].unknowns, self._limit(), np.empty_like(y)
        old, delta, good, total = self.first.copy(), np.zeros_like(self.first), np.empty(len(y), bool), 0.0
        with np.errstate(all="ignore"):
            for t in range(len(y)):
                old, delta = self._step(x[t], old), self._tangent(x[t], old, delta)
                new[t] = np.clip(old + delta, -limit, limit)
                if self.name == "paraslstm":
                    new[t, 2] = np.maximum(new[t, 2], 1)
                residual = abs(old - y[t])
                residual[unknowns:] = 0
                old[:unknowns], delta[:unknowns] = y[t, :unknowns], (new[t] - y[t])[:unknowns]
                good[t] = (np.maximum(residual, abs(delta)) <= self.atol + self.rtol * abs(new[t])).all()
                total += float(abs(delta).sum())
        return new, good, total

    def _limit(self) -> Array:
        """Return bounds of all states after the first, enlarged by a quarter for rounding."""
        limit = np.full_like(self.first, np.inf)
        with np.errstate(all="ignore"):
            if self.name == "paraslstm":
                limit[0] = np.fmax(1, abs(self.first[1]) / self.first[2]) * 1.25
            else:
                limit = np.maximum(1, abs(self.first)) * 1.25
        if self.name == "paralstm":
            limit[0] = 1
        return limit

    def _is_final(self, x: Array, y: Array) -> None:
        """Propagate an error of the states to later steps; an unknown may be off by 1 + |y| from any step on."""
        with np.errstate(all="ignore"):
            error, unit = self._tangent(x, self.first, self.error), 1 + abs(y)
            begun = np.where(abs(error) < unit, np.copysign(unit, error), error)
            self.error = np.where(np.arange(len(y))[:, None] < _CELLS[self.name].unknowns, begun, error)
            if not (abs(self.error) <= 256 * unit).all() and (self.rtol > 0 or self.atol > 0):
                self.is_sensitive = True
        self.first = y


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
    reset: Array | None = None,
    lengths: npt.ArrayLike | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array, State]:
    """(dwx, da, dp, dstate0): the gradient of <dh, h> + <dstate, final state>; a cotangent of None is zero.

    lam[t] = g[t] + J[t+1]^T lam[t+1], and at each step the local gradient of lam[t].
    """
    cell, cut = _CELLS[name], Cut(reverse, reset, lengths, cu_seqlens)
    _, _, states = sequential(name, wx, a, p, state, **cut._asdict())
    first, carry = cut.initial(cell, wx, state), cut.initial(cell, wx, dstate)
    dwx, da, dp = np.zeros_like(wx), np.zeros_like(a), np.zeros_like(p)
    for row, line, order in cut.rows(wx):
        for k, t in reversed(list(enumerate(order))):
            keeps = not cut.restarts(line, t)
            entering = (
                s[line, order[k - 1], None] if k else s0[row, None] for s, s0 in zip(states, first, strict=True)
            )
            before = tuple(s if keeps else np.zeros_like(s) for s in entering)
            lam = [d[row, None] for d in carry]
            if dh is not None:
                lam[0] = lam[0] + dh[line, t, None]
            dx, da_t, dp_t, dbefore = cell.grad(wx[line, t, None], a, p, before, tuple(lam))
            dwx[line, t] = dx[0]
            da += da_t[0]
            dp += dp_t[0]
            for d, d_before in zip(carry, dbefore, strict=True):
                d[row] = d_before[0] if keeps else 0
    return dwx, da, dp, tuple(carry)
