"""s_t = cell(wx_t, R h_{t-1} + b, s_{t-1}): the specification of the family `rnn`, forward and backward.

Shapes: wx (B, T, G, N, D), r (G, N, D_out, D_in), b (G, N, D), every state (B, N, D), h (B, T, N, D).
Gate order: lstm i, f, g, o; gru r, z, n; slstm i, f, z, o. The arguments are trusted: `fastiter.rnn` checks them.
wx, r, b, h may be bfloat16 (of ml_dtypes): arithmetic and the other states are then float32. Only stored values are
rounded: h after each step; dwx and dy, before anything is computed from dy; dr, db and dh at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
State = tuple[Array, ...]
Output = tuple[Array, State, State]


# ---- the scalar functions, in forms that neither overflow nor cancel ------------------------------------------------


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, e) / (1 + e)
    return y


def _log_sigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x)))."""
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


# ---- one step of each cell ------------------------------------------------------------------------------------------
# Every step takes x = wx_t and y = R h' + b, both (B, G, N, D), and the previous states (primed in the equations).
# Every gradient takes the same, the new states and their cotangents, and returns the gradients of x, of y and of the
# previous states with y held fixed: the path h' -> y is common to all cells and is added in `backward`.


def _gates(a: Array) -> tuple[Array, ...]:
    return tuple(a[:, g] for g in range(a.shape[1]))


def _elman_tanh_step(x: Array, y: Array, prev: State) -> State:
    """h = tanh(a)."""
    (a,) = _gates(x + y)
    return (np.tanh(a),)


def _elman_tanh_grad(x: Array, y: Array, prev: State, new: State, dnew: State) -> tuple[Array, Array, State]:
    (h,), (dh,) = new, dnew
    da = np.stack([dh * (1 - h * h)], axis=1)
    return da, da, (np.zeros_like(dh),)


def _elman_relu_step(x: Array, y: Array, prev: State) -> State:
    """h = max(a, 0)."""
    (a,) = _gates(x + y)
    return (np.maximum(a, 0),)


def _elman_relu_grad(x: Array, y: Array, prev: State, new: State, dnew: State) -> tuple[Array, Array, State]:
    (h,), (dh,) = new, dnew
    da = np.stack([np.where(h <= 0, 0, dh)], axis=1)  # the gradient at NaN is not 0, as in torch
    return da, da, (np.zeros_like(dh),)


def _lstm_step(x: Array, y: Array, prev: State) -> State:
    """c = f c' + i g; h = o tanh(c)."""
    _, c_prev = prev
    a_i, a_f, a_g, a_o = _gates(x + y)
    c = _sigmoid(a_f) * c_prev + _sigmoid(a_i) * np.tanh(a_g)
    return _sigmoid(a_o) * np.tanh(c), c


def _lstm_grad(x: Array, y: Array, prev: State, new: State, dnew: State) -> tuple[Array, Array, State]:
    (_, c_prev), (_, c), (dh, dc) = prev, new, dnew
    a_i, a_f, a_g, a_o = _gates(x + y)
    i, f, g, o = _sigmoid(a_i), _sigmoid(a_f), np.tanh(a_g), _sigmoid(a_o)
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    da_i = dc * g * i * (1 - i)
    da_f = dc * c_prev * f * (1 - f)
    da_g = dc * i * (1 - g * g)
    da_o = dh * tanh_c * o * (1 - o)
    da = np.stack([da_i, da_f, da_g, da_o], axis=1)
    return da, da, (np.zeros_like(dh), dc * f)


def _gru_step(x: Array, y: Array, prev: State) -> State:
    """n = tanh(x_n + r y_n); h = (1 - z) n + z h'."""
    (h_prev,) = prev
    (x_r, x_z, x_n), (y_r, y_z, y_n) = _gates(x), _gates(y)
    r, z = _sigmoid(x_r + y_r), _sigmoid(x_z + y_z)
    n = np.tanh(x_n + r * y_n)
    return ((1 - z) * n + z * h_prev,)


def _gru_grad(x: Array, y: Array, prev: State, new: State, dnew: State) -> tuple[Array, Array, State]:
    (h_prev,), (dh,) = prev, dnew
    (x_r, x_z, x_n), (y_r, y_z, y_n) = _gates(x), _gates(y)
    r, z = _sigmoid(x_r + y_r), _sigmoid(x_z + y_z)
    n = np.tanh(x_n + r * y_n)
    da_n = dh * (1 - z) * (1 - n * n)
    da_z = dh * (h_prev - n) * z * (1 - z)
    da_r = da_n * y_n * r * (1 - r)
    return np.stack([da_r, da_z, da_n], axis=1), np.stack([da_r, da_z, da_n * r], axis=1), (dh * z,)


def _slstm_parts(x: Array, y: Array, prev: State) -> tuple[Array, ...]:
    """ell = logsigmoid(a_f) + m'; m = a_i where n' = 0, else max(a_i, ell); i = exp(a_i - m), f = exp(ell - m)."""
    _, _, n_prev, m_prev = prev
    a_i, a_f, a_z, a_o = _gates(x + y)
    ell = _log_sigmoid(a_f) + m_prev
    # Element by element: one batch may mix sequences that begin here with sequences that continue.
    m = np.where(n_prev == 0, a_i, np.maximum(a_i, ell))
    i = np.exp(np.minimum(a_i - m, 0))
    f = np.exp(np.minimum(ell - m, 0))
    return ell, m, i, f, np.tanh(a_z), _sigmoid(a_o)


def _slstm_step(x: Array, y: Array, prev: State) -> State:
    """c = f c' + i z; n = max(f n' + i, 1); h = o c / n."""
    _, c_prev, n_prev, _ = prev
    _, m, i, f, z, o = _slstm_parts(x, y, prev)
    c = f * c_prev + i * z
    n = np.maximum(f * n_prev + i, 1)
    return o * c / n, c, n, m


def _slstm_grad(x: Array, y: Array, prev: State, new: State, dnew: State) -> tuple[Array, Array, State]:
    (_, c_prev, n_prev, _), (h, c, n, _), (dh, dc, dn, dm) = prev, new, dnew
    a_i, a_f, _, _ = _gates(x + y)
    ell, m, i, f, z, o = _slstm_parts(x, y, prev)
    dc = dc + dh * o / n
    dn = dn - dh * h / n
    dn = np.where(f * n_prev + i >= 1, dn, 0)
    # u = a_i - m and v = ell - m, the arguments of the two exponentials. u <= 0 always; v > 0 only where n' = 0.
    du = (dc * z + dn) * i
    dv = np.where(ell <= m, (dc * c_prev + dn * n_prev) * f, 0)
    dm = dm - du - dv
    # m = a_i where n' = 0 or a_i is larger, ell where that is larger; at a tie each gets half.
    to_a_i = np.where((n_prev == 0) | (a_i > ell), dm, np.where(a_i == ell, dm / 2, 0))
    da_i = du + to_a_i
    d_ell = dv + (dm - to_a_i)
    da_f = d_ell * _sigmoid(-a_f)
    da_z = dc * i * (1 - z * z)
    da_o = dh * (c / n) * o * (1 - o)
    da = np.stack([da_i, da_f, da_z, da_o], axis=1)
    return da, da, (np.zeros_like(dh), dc * f, dn * f, d_ell)


class _Cell(NamedTuple):
    states: int
    step: Callable[[Array, Array, State], State]
    grad: Callable[[Array, Array, State, State, State], tuple[Array, Array, State]]


_CELLS = {
    "elman_tanh": _Cell(1, _elman_tanh_step, _elman_tanh_grad),
    "elman_relu": _Cell(1, _elman_relu_step, _elman_relu_grad),
    "lstm": _Cell(2, _lstm_step, _lstm_grad),
    "gru": _Cell(1, _gru_step, _gru_grad),
    "slstm": _Cell(4, _slstm_step, _slstm_grad),
}


# ---- the loop over time ---------------------------------------------------------------------------------------------


def _recurrent(r: Array, b: Array | None, h: Array) -> Array:
    """y[b, g, n] = r[g, n] h[b, n] + b[g, n]."""
    # One matrix-vector product per sequence, so that its rounding does not depend on the rest of the batch.
    y: Array = (_value(r) @ h[:, None, :, :, None])[..., 0]
    return y if b is None else y + _value(b)


def _initial(states: int, wx: Array, state: Sequence[Array] | None) -> list[Array]:
    """Return writable copies of the given states, or zeros."""
    B, _, _, N, D = wx.shape
    if state is None:
        return [np.zeros((B, N, D), _value(wx).dtype) for _ in range(states)]
    return [np.array(_value(s)) for s in state]


def _value(x: Array) -> Array:
    """x in the dtype of the arithmetic: bfloat16 as float32."""
    return x.astype(np.float32) if x.dtype.name == "bfloat16" else x


def _rounded(x: Array, stored: Array) -> Array:
    """Return x rounded to the dtype of ``stored``."""
    return _value(x.astype(stored.dtype))


class _Options(NamedTuple):
    """Direction, valid steps of each row, the steps that reset the state, and the bound of |h|."""

    reverse: bool
    lengths: npt.ArrayLike | None
    reset: Array | None
    clip_state: float | None


def _steps(
    cell: _Cell, wx: Array, r: Array, b: Array | None, now: list[Array], options: _Options
) -> Iterator[tuple[int, Array, State, State]]:
    """Yield (t, the sequences that compute step t, their states before and after it); updates the states in `now`."""
    B, T = wx.shape[:2]
    length = np.full(B, T) if options.lengths is None else np.asarray(options.lengths)
    for t in reversed(range(T)) if options.reverse else range(T):
        valid = t < length
        prev = tuple(s[valid] for s in now)
        if options.reset is not None:
            dropped = np.broadcast_to(options.reset, (B, T))[valid, t, None, None]
            prev = tuple(np.where(dropped, s.dtype.type(0), s) for s in prev)
        h, *others = cell.step(_value(wx[valid, t]), _recurrent(r, b, prev[0]), prev)
        if options.clip_state is not None:
            h = np.clip(h, -options.clip_state, options.clip_state)
        new = (_rounded(h, wx), *others)
        for s, s_new in zip(now, new, strict=True):
            s[valid] = s_new
        yield t, valid, prev, new


def _forward(
    name: str,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    options: _Options,
    cu_seqlens: npt.ArrayLike | None,
) -> Output:
    """Return (h, final state, states of every step); h is states[0]."""
    if cu_seqlens is not None:
        bounds = np.asarray(cu_seqlens)
        lengths, padded = _padded(bounds, wx, options.reset)
        options = options._replace(lengths=lengths, reset=None if options.reset is None else padded[1])
        _, last, states = _forward(name, padded[0], r, b, state, options, None)
        states = tuple(_packed(bounds, s) for s in states)
        return states[0], last, states
    if options.clip_state is not None:
        options = options._replace(clip_state=float(np.array(options.clip_state, wx.dtype)))
    cell = _CELLS[name]
    B, T, _, N, D = wx.shape
    now = _initial(cell.states, wx, state)
    states = tuple(np.zeros((B, T, N, D), s.dtype if k else wx.dtype) for k, s in enumerate(now))
    for t, valid, _, new in _steps(cell, wx, r, b, now, options):
        for s, s_new in zip(states, new, strict=True):
            s[valid, t] = s_new
    return states[0], (now[0].astype(wx.dtype), *now[1:]), states


def _padded(bounds: Array, *packed: Array | None) -> tuple[Array, list[Array]]:
    """Return the lengths of sequences packed in (1, T, ...), and the arrays padded to (S, longest, ...)."""
    lengths = np.diff(bounds)
    rows = []
    for x in packed:
        if x is None:
            continue
        steps = x.reshape(-1) if x.ndim <= 2 else x[0]
        row = np.zeros((len(lengths), max(lengths, default=0), *steps.shape[1:]), x.dtype)
        for s, length in enumerate(lengths):
            row[s, :length] = steps[bounds[s] : bounds[s + 1]]
        rows.append(row)
    return lengths, rows


def _packed(bounds: Array, rows: Array) -> Array:
    """Return sequences (S, longest, ...) packed as (1, T, ...)."""
    packed = np.zeros((1, bounds[-1], *rows.shape[2:]), rows.dtype)
    for s, length in enumerate(np.diff(bounds)):
        packed[0, bounds[s] : bounds[s + 1]] = rows[s, :length]
    return packed


def _function(cell: str, equations: str = "") -> Callable[..., Output]:
    """Return the public function of a cell.

    With `reverse` the state enters at the last step and the final state is that after step 0. Steps t >= lengths[b]
    are not computed: all states there are 0, and the final state is that of the last computed step. With
    `cu_seqlens` B is 1 and steps cu_seqlens[s] to cu_seqlens[s + 1] are sequence s, with the states of row s. Where
    `reset` (B, T) or (T,) is true, the state before the step is replaced by 0. With `clip_state` = v, h is clipped to
    [-v, v] after each step.
    """

    def run(
        wx: Array,
        r: Array,
        b: Array | None = None,
        state: Sequence[Array] | None = None,
        *,
        reverse: bool = False,
        lengths: npt.ArrayLike | None = None,
        reset: Array | None = None,
        cu_seqlens: npt.ArrayLike | None = None,
        clip_state: float | None = None,
    ) -> Output:
        return _forward(cell, wx, r, b, state, _Options(reverse, lengths, reset, clip_state), cu_seqlens)

    run.__name__ = run.__qualname__ = cell
    run.__doc__ = equations
    return run


_ELMAN = {activation: _function(f"elman_{activation}") for activation in ("tanh", "relu")}


def elman(*arguments: Any, activation: str = "tanh", **options: Any) -> Output:
    """h = tanh(wx + R h' + b), or max(., 0) with activation="relu"; state (h,)."""
    return _ELMAN[activation](*arguments, **options)


lstm = _function(
    "lstm", "c = f c' + i g; h = o tanh(c), with i, f, o = sigmoid(a), g = tanh(a), a = wx + R h' + b; state (h, c)."
)
gru = _function(
    "gru", "h = (1 - z) n + z h', with r, z = sigmoid(wx + R h' + b), n = tanh(wx_n + r (R_n h' + b_n)); state (h,)."
)
slstm = _function(
    "slstm",
    """c = f c' + i z; n = max(f n' + i, 1); h = o c / n, with i = exp(a_i - m), f = exp(ell - m).

    ell = logsigmoid(a_f) + m'; m = a_i where n' = 0 (element by element), else max(a_i, ell); both exponents are
    clamped to <= 0; z = tanh(a_z), o = sigmoid(a_o), a = wx + R h' + b; state (h, c, n, m).
    """,
)


def backward(
    cell: str,
    wx: Array,
    r: Array,
    b: Array | None,
    state: Sequence[Array] | None,
    dh: Array | None = None,
    dstate: Sequence[Array] | None = None,
    dstates: Sequence[Array] | None = None,
    *,
    activation: str = "tanh",
    reverse: bool = False,
    lengths: npt.ArrayLike | None = None,
    reset: Array | None = None,
    cu_seqlens: npt.ArrayLike | None = None,
    clip_state: float | None = None,
    clip_grad: float | None = None,
) -> tuple[Array, Array, Array, State]:
    """(dwx, dr, db, dstate0): the gradient of <dh, h> + <dstate, final state> + <dstates, states>.

    `cell` is the name of the forward function. Any cotangent may be None, meaning zero. db and the gradient of
    the initial state are returned even if b and state are None. At a kink the derivative is one-sided or, for
    max(a_i, ell), the mean of both sides; the choice "n' = 0" has no gradient. `clip_state` passes the gradient
    where |h| < v. With `clip_grad` = v, the gradient that a step passes back to h' is clipped to [-v, v], element by
    element; with v = 0 nothing is passed, not even a NaN.
    """
    if cu_seqlens is not None:
        bounds = np.asarray(cu_seqlens)
        lengths, padded = _padded(bounds, wx, dh, *(dstates or ()), reset)
        wx, *others = padded
        dh = None if dh is None else others.pop(0)
        dstates = None if dstates is None else [others.pop(0) for _ in dstates]
        reset = None if reset is None else others.pop(0)
    if clip_state is not None:
        clip_state = float(np.array(clip_state, wx.dtype))
    options = _Options(reverse, lengths, reset, clip_state)
    c = _CELLS[f"elman_{activation}" if cell == "elman" else cell]
    tape = list(_steps(c, wx, r, b, _initial(c.states, wx, state), options))
    carry = _initial(c.states, wx, dstate)
    dwx, dr, db = np.zeros_like(wx), np.zeros_like(_value(r)), np.zeros(r.shape[:3], _value(r).dtype)
    for t, valid, prev, new in reversed(tape):
        dnew = [d[valid] for d in carry]
        if dh is not None:
            dnew[0] += _value(dh[valid, t])
        if dstates is not None:
            dnew = [d + _value(d_t[valid, t]) for d, d_t in zip(dnew, dstates, strict=True)]
        if clip_state is not None:
            dnew[0] = np.where(np.abs(new[0]) < clip_state, dnew[0], 0)
        dx, dy, dprev = c.grad(_value(wx[valid, t]), _recurrent(r, b, prev[0]), prev, new, tuple(dnew))
        dy = _rounded(dy, wx)
        dwx[valid, t] = dx
        dr += np.einsum("bgni,bnj->gnij", dy, prev[0])
        db += dy.sum(axis=0)
        back = [dprev[0] + np.einsum("gnij,bgni->bnj", _value(r), dy), *dprev[1:]]
        if clip_grad is not None:
            back[0] = np.clip(back[0], -clip_grad, clip_grad) if clip_grad > 0 else np.zeros_like(back[0])
        if reset is not None:
            dropped = np.broadcast_to(reset, wx.shape[:2])[valid, t, None, None]
            back = [np.where(dropped, 0, d) for d in back]
        for d, d_prev in zip(carry, back, strict=True):
            d[valid] = d_prev
    if cu_seqlens is not None:
        dwx = _packed(bounds, dwx)
    return dwx, dr.astype(r.dtype), db.astype(r.dtype), (carry[0].astype(wx.dtype), *carry[1:])
