"""State-space models along time: the specification of the family `ssm`, the equations in plain NumPy loops.

Shapes: u, delta, z (B, D, T), A (D, N), B and C (B, G, N, T) or fixed (D, N), D and delta_bias (D,), the state
(B, D, N). Channel d belongs to group d // (D / G). The arguments are trusted: `fastiter.ssm` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def softplus(x: Array) -> Array:
    """log(1 + e^x), and x itself above 20."""
    y: Array = np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))
    return y


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return y


def paired(x: Array) -> Array:
    """Return the complex numbers whose real and imaginary parts alternate along the last axis."""
    y: Array = x[..., ::2] + 1j * x[..., 1::2]
    return y.astype(np.result_type(x, np.complex64), copy=False)


class Cut(NamedTuple):
    """The division of the steps into sequences."""

    reset: Array | None = None
    lengths: Array | None = None
    cu_seqlens: Array | None = None

    def sequences(self, batch: int, time: int) -> Iterator[tuple[int, int, range]]:
        """Yield (state, row of the arrays, steps) for every sequence."""
        if self.cu_seqlens is not None:
            bounds = self.cu_seqlens
            yield from ((s, 0, range(bounds[s], bounds[s + 1])) for s in range(len(bounds) - 1))
            return
        length = np.full(batch, time) if self.lengths is None else self.lengths
        yield from ((b, b, range(length[b])) for b in range(batch))

    def count(self, batch: int) -> int:
        """The number of sequences."""
        return batch if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    def is_valid(self, batch: int, time: int) -> Array:
        """Return whether each step of each row belongs to a sequence, (B, T)."""
        valid = np.zeros((batch, time), bool)
        for _, row, steps in self.sequences(batch, time):
            valid[row, steps.start : steps.stop] = True
        return valid

    def restarts(self, row: int, t: int) -> bool:
        """Return whether the state before step t counts as zero."""
        return self.reset is not None and bool(self.reset[t] if self.reset.ndim == 1 else self.reset[row, t])


class _Steps:
    """The quantities of the steps of a selective scan: d, and B and C of every channel."""

    def __init__(self, delta: Array, A: Array, B: Array, C: Array, delta_bias: Array | None, delta_softplus: bool):
        self.A, self.fixed = A, (B.ndim == 2, C.ndim == 2)
        self.raw = delta if delta_bias is None else delta + delta_bias[:, None]
        self.d = softplus(self.raw) if delta_softplus else self.raw
        self.slope = np.where(self.raw > 20, 1, sigmoid(self.raw)) if delta_softplus else np.ones_like(self.raw)
        self.B, self.C = (x if x.ndim == 2 else np.repeat(x, A.shape[0] // x.shape[1], axis=1) for x in (B, C))

    def projections(self, row: int, t: int) -> tuple[Array, Array]:
        """B and C, (D, N)."""
        fixed_B, fixed_C = self.fixed
        return (self.B if fixed_B else self.B[row, :, :, t]), (self.C if fixed_C else self.C[row, :, :, t])

    def decay(self, row: int, t: int) -> Array:
        """exp(d A), (D, N)."""
        y: Array = np.exp(self.d[row, :, t, None] * self.A)
        return y


def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    state: Array | None = None,
    cut: Cut | None = None,
) -> tuple[Array, Array]:
    """(out, last): h = exp(d A) h + d B u, y = C h + D u, out = y z sigmoid(z), with d = softplus(delta + delta_bias).

    With a complex A the state, B and C are complex, and y is twice the real part of C h.
    """
    batch, _, time = u.shape
    cut = Cut() if cut is None else cut
    steps = _Steps(delta, A, B, C, delta_bias, delta_softplus)
    first = np.zeros((cut.count(batch), *A.shape), A.dtype) if state is None else state.astype(A.dtype)
    y, last = np.zeros(u.shape, A.real.dtype), first.copy()
    for s, row, ts in cut.sequences(batch, time):
        h = first[s]
        for t in ts:
            if cut.restarts(row, t):
                h = np.zeros_like(h)
            Bt, Ct = steps.projections(row, t)
            h = steps.decay(row, t) * h + (steps.d[row, :, t] * u[row, :, t])[:, None] * Bt
            products = (Ct * h).sum(1)
            y[row, :, t] = 2 * products.real if np.iscomplexobj(A) else products
            if D is not None:
                y[row, :, t] += D * u[row, :, t]
        last[s] = h
    return (y if z is None else y * z * sigmoid(z)), last


class Gradients(NamedTuple):
    """The gradients of a selective scan, in the order of its arguments and with their shapes."""

    u: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array
    z: Array
    delta_bias: Array
    state: Array


def backward(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    state: Array | None = None,
    cut: Cut | None = None,
    dout: Array | None = None,
    dlast: Array | None = None,
) -> Gradients:
    """The gradient of <dout, out> + <dlast, last>; a cotangent of None is zero.

    Gradients of optional arguments are returned even if these are None, at the values that make their terms vanish.
    Gradients of complex arguments follow torch's convention, the conjugate of the derivative. Gradients of steps beyond
    the lengths are zero.
    """
    cut = Cut() if cut is None else cut
    steps = _Steps(delta, A, B, C, delta_bias, delta_softplus)
    y, _ = selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, state=state, cut=cut)
    dout = np.zeros_like(y) if dout is None else dout
    gate = np.ones_like(y) if z is None else z * sigmoid(z)
    s = np.ones_like(y) if z is None else sigmoid(z)
    batch, channels, time = u.shape
    valid = cut.is_valid(batch, time)[:, None]
    dz = np.where(valid, dout * y * s * (1 + (0 if z is None else z) * (1 - s)), 0)
    dy = np.where(valid, dout * gate, 0)
    shape = (cut.count(batch), *A.shape)
    first = np.zeros(shape, A.dtype) if state is None else state.astype(A.dtype)
    dfirst = np.zeros(shape, A.dtype) if dlast is None else dlast.astype(A.dtype)
    du, dd = dy * (0 if D is None else D[:, None]), np.zeros_like(y)
    dA, dD = np.zeros_like(A), np.zeros(channels, y.dtype)
    dB, dC = (np.zeros_like(x if x.ndim == 2 else np.repeat(x, channels // x.shape[1], 1)) for x in (B, C))
    factor = 2 if np.iscomplexobj(A) else 1
    for i, row, ts in cut.sequences(batch, time):
        tape, h = [], first[i]
        for t in ts:
            before = np.zeros_like(h) if cut.restarts(row, t) else h
            h = (
                steps.decay(row, t) * before
                + (steps.d[row, :, t] * u[row, :, t])[:, None] * steps.projections(row, t)[0]
            )
            tape.append((t, before, h))
        dh = dfirst[i]
        for t, before, h in reversed(tape):
            Bt, Ct = steps.projections(row, t)
            d, x, g = steps.d[row, :, t], u[row, :, t], dy[row, :, t]
            a = steps.decay(row, t)
            dh = dh + np.conj(Ct) * (factor * g)[:, None]
            dB[... if B.ndim == 2 else (row, ..., t)] += dh * (d * x)[:, None]
            dC[... if C.ndim == 2 else (row, ..., t)] += factor * np.conj(h) * g[:, None]
            dx = (dh * np.conj(Bt)).real.sum(1)
            w = dh * np.conj(a * before)
            dA += w * d[:, None]
            du[row, :, t] += d * dx
            dd[row, :, t] = x * dx + (w * np.conj(A)).real.sum(1)
            dD += g * x
            dh = np.zeros_like(dh) if cut.restarts(row, t) else dh * np.conj(a)
        dfirst[i] = dh
    dB, dC = (_of_groups(g, x) for g, x in ((dB, B), (dC, C)))
    ddelta = np.where(valid, dd * steps.slope, 0)
    return Gradients(du, ddelta, dA, dB, dC, dD, dz, ddelta.sum((0, 2)), dfirst)


def _of_groups(gradient: Array, x: Array) -> Array:
    """Sum over the channels of each group, in the shape of x."""
    if x.ndim == 2:
        return gradient
    batch, groups, states, time = x.shape
    total: Array = gradient.reshape(batch, groups, gradient.shape[1] // groups, states, time).sum(2)
    return total


def selective_state_update(
    state: Array,
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    dt_softplus: bool = False,
) -> tuple[Array, Array]:
    """(out, new state): one step of a selective scan of H heads of P channels.

    state (B, H, P, N), x, dt and z (B, H, P), A (H, P, N), B and C (B, G, N), D and dt_bias (H, P).
    """
    d = dt if dt_bias is None else dt + dt_bias
    d = softplus(d) if dt_softplus else d
    heads = x.shape[1] // B.shape[1]
    Bh, Ch = (np.repeat(y, heads, 1)[:, :, None] for y in (B, C))
    new = np.exp(d[..., None] * A) * state + (d * x)[..., None] * Bh
    out = (new * Ch).sum(-1)
    if D is not None:
        out = out + D * x
    return (out if z is None else out * z * sigmoid(z)), new
