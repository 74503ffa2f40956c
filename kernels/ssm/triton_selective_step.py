"""One step of selective scans, in place: state = exp(d A) state + d B x, out = (C state + D x) z s(z).

A program has BP channels of a head of a row, and BN >= N states of each. Strides count elements, for those axes among
(row, head, channel, state) that an array has. If A is the same for all states of a channel, only one exponential is
computed for them. Code is not specialised for sizes and strides, except for channel and state strides of 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.triton_functions import sigmoid
from .triton_selective import LOG2E, _softplus

_SIZES = ["heads", "channels", "heads_per_group", "places", "blocks", "N"]
_SIZES += [f"{name}_{axis}" for name in ("state", "x", "dt", "z", "B", "C") for axis in ("row", "head")]
_SIZES += [f"{name}_head" for name in ("A", "D", "bias")]
_STRIDES = [f"{name}_channel" for name in ("state", "x", "dt", "A", "D", "z", "bias")]
_STRIDES += [f"{name}_state" for name in ("state", "A", "B", "C")]


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_STRIDES)
def selective_step_kernel(
    state, x, dt, A, B, C, D, z, bias, rows, out,
    state_row: tl.int64, state_head: tl.int64, state_channel: tl.int64, state_state: tl.int64,
    x_row: tl.int64, x_head: tl.int64, x_channel: tl.int64,
    dt_row: tl.int64, dt_head: tl.int64, dt_channel: tl.int64,
    A_head: tl.int64, A_channel: tl.int64, A_state: tl.int64,
    B_row: tl.int64, B_head: tl.int64, B_state: tl.int64,
    C_row: tl.int64, C_head: tl.int64, C_state: tl.int64,
    D_head: tl.int64, D_channel: tl.int64,
    z_row: tl.int64, z_head: tl.int64, z_channel: tl.int64,
    bias_head: tl.int64, bias_channel: tl.int64,
    heads: tl.int64, channels: tl.int64, heads_per_group: tl.int64, places: tl.int64, blocks: tl.int64, N: tl.int64,
    SOFTPLUS: tl.constexpr, ONE_RATE: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """out (B, H, P) and the states (places, H, P, N); rows (B,): the place of each row; out is 0 if it does not exist

    B and C have one head for every heads_per_group heads of the other arrays.
    """
    program = tl.program_id(0).to(tl.int64)
    row, head = program // blocks // heads, program // blocks % heads
    group = head // heads_per_group
    p, n = program % blocks * BP + tl.arange(0, BP)[:, None], tl.arange(0, BN)[None, :]
    place = tl.load(rows + row) if rows is not None else row
    to = out + (row * heads + head) * channels + p
    if (place >= 0) & (place < places):
        here = p < channels
        step = tl.load(dt + row * dt_row + head * dt_head + p * dt_channel, here, 0).to(STATE)
        if bias is not None:
            step += tl.load(bias + head * bias_head + p * bias_channel, here, 0).to(STATE)
        if SOFTPLUS:
            step = _softplus(step)
        rates = A + head * A_head + p * A_channel
        if ONE_RATE:
            a = tl.load(rates, here, 0).to(STATE)
        else:
            a = tl.load(rates + n * A_state, here & (n < N), 0).to(STATE)
        u = tl.load(x + row * x_row + head * x_head + p * x_channel, here, 0).to(STATE)
        b = tl.load(B + row * B_row + group * B_head + n * B_state, n < N, 0).to(STATE)
        c = tl.load(C + row * C_row + group * C_head + n * C_state, n < N, 0).to(STATE)
        at = state + place * state_row + head * state_head + p * state_channel + n * state_state
        h = tl.load(at, here & (n < N), 0).to(STATE)
        h = tl.exp2(step * (a * LOG2E)) * h + step * u * b
        tl.store(at, h.to(state.dtype.element_ty), here & (n < N))
        y = tl.sum(h * c, 1, keep_dims=True)
        if D is not None:
            y += u * tl.load(D + head * D_head + p * D_channel, here, 0).to(STATE)
        if z is not None:
            gate = tl.load(z + row * z_row + head * z_head + p * z_channel, here, 0).to(STATE)
            y *= gate * sigmoid(gate)
        tl.store(to, y.to(out.dtype.element_ty), here)
    else:
        tl.store(to, tl.zeros((BP, 1), out.dtype.element_ty), p < channels)
