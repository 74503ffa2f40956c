"""s[t] = cell(wx[t] + r h[t-1] + b, s[t-1]) for heads of D <= 128, all steps in one program per head and tile of rows.

``D`` is the width rounded up to a power of two, ``ROWS`` the tile of rows; the batch, the time and the strides are
runtime arguments. With ``HELD`` the program holds r of its head for the whole loop, otherwise it reads ``TERMS`` rows
of each gate at a time. ``CELL`` is the number in fastiter._rnn: 0 and 1 Elman (tanh, relu), 2 LSTM, 3 GRU, 4 sLSTM.
Steps are dense; see fastiter.rnn._torch._gpu.kernels. docs/rnn/theory.md has the equations.
"""

import triton
import triton.language as tl

from ..common.triton_functions import log_sigmoid, sigmoid
from .triton_product import back_by_terms, leave, matrix, product, products, products_by_terms

_RUNTIME = ["batch", "time", "line_row", "line_time", "reverse"]


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    square = x * x
    return tl.where(
        square < 0.01, x * (1.0 + square * (2.0 / 15.0 * square - 1.0 / 3.0)), tl.where(x < 0, -large, large)
    )


@triton.jit
def _start(starts, row, batch, lines):
    """The first line of a packed row; the first row begins at 0, the last ends at ``lines``."""
    inner = (row > 0) & (row < batch)
    start = tl.load(starts + row, mask=inner, other=0)
    return tl.where(inner, tl.minimum(tl.maximum(start, 0), lines), tl.where(row > 0, lines, 0))


@triton.jit
def _rows(row, lengths, starts, batch, time, line_row):
    """(first line, number of steps) of rows, clamped to the range as values in GPU memory are not validated."""
    if starts is not None:
        base = _start(starts, row, batch, line_row)
        length = _start(starts, row + 1, batch, line_row) - base
    else:
        base = row * line_row
        length = tl.load(lengths + row, mask=row < batch, other=0) if lengths is not None else base * 0 + time
    return base, tl.where(row < batch, tl.minimum(tl.maximum(length, 0), time), 0).to(tl.int32)


@triton.jit
def _line(row, base, t, line_time, offsets):
    return tl.load(offsets + t) + row if offsets is not None else base + t * line_time


@triton.jit
def _reset(reset, line, valid):
    """Whether each row's state is reset."""
    return (tl.load(reset + line, mask=valid, other=0) != 0)[:, None]


@triton.jit
def _clipped(x, bound):
    return tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))


@triton.jit
def _load(x, at, mask):
    return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_optional(x, at, mask):
    return _load(x, at, mask) if x is not None else at.to(tl.float32) * 0.0


@triton.jit
def _put(x, at, value, mask):
    if x is not None:
        tl.store(x + at, value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def _gates(wx, at, gate, valid, GATES: tl.constexpr):
    """wx of all gates."""
    x0 = _load(wx, at, valid)
    x1, x2, x3 = x0, x0, x0
    if GATES > 1:
        x1, x2 = _load(wx, at + gate, valid), _load(wx, at + 2 * gate, valid)
    if GATES > 3:
        x3 = _load(wx, at + 3 * gate, valid)
    return x0, x1, x2, x3


@triton.jit
def _with_bias(p, bias, gate, n, heads, width, unit):
    return p + _load(bias, (gate * heads + n) * width + unit, unit < width)[None, :] if bias is not None else p


@triton.jit(do_not_specialize=_RUNTIME)
def rnn_fwd_kernel(
    wx, r, b, h0, c0, n0, m0, h_last, c_last, n_last, m_last, h_all, c_all, n_all, m_all, saved,
    room, lengths, starts, offsets, reset, clip_state, batch, time, heads, width, line_row, line_time, reverse,
    CELL: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, HELD: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write h, the final states, and, if their arrays are given, all states and the saved values for backward."""
    GATES: tl.constexpr = 1 if CELL < 2 else 3 if CELL == 3 else 4
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unit = tl.arange(0, D)
    is_row, is_unit = row < batch, (unit < width)[None, :]
    base, length = _rows(row, lengths, starts, batch, time, line_row)
    steps = tl.max(length)
    inside = is_row[:, None] & is_unit
    of_state = (row[:, None] * heads + head) * width + unit[None, :]

    w0, w1, w2, w3 = None, None, None, None
    if room is not None:
        room += (tl.program_id(0).to(tl.int64) * heads + head) * (ROWS * D)
    if HELD:
        w0 = matrix(r, 0, head, heads, D)
        if CELL >= 2:
            w1, w2 = matrix(r, 1, head, heads, D), matrix(r, 2, head, heads, D)
        if GATES == 4:
            w3 = matrix(r, 3, head, heads, D)
    h = _load_optional(h0, of_state, inside).to(wx.dtype.element_ty)
    if CELL == 2 or CELL == 4:
        c = _load_optional(c0, of_state, inside)
    if CELL == 4:
        n, m = _load_optional(n0, of_state, inside), _load_optional(m0, of_state, inside)

    for step in tl.range(steps, disable_licm=not HELD):
        t = steps - 1 - step if reverse else step
        line = _line(row, base, t, line_time, offsets)
        valid = (t < length)[:, None] & is_unit
        written = valid if offsets is not None or starts is not None else inside
        at = (line[:, None] * heads + head) * width + unit[None, :]
        gate = heads * width
        of_gates = (line[:, None] * GATES * heads + head) * width + unit[None, :]
        if reset is not None:
            is_new = _reset(reset, line, t < length)
            h = tl.where(is_new, tl.zeros_like(h), h)
            if CELL == 2 or CELL == 4:
                c = tl.where(is_new, 0.0, c)
            if CELL == 4:
                n, m = tl.where(is_new, 0.0, n), tl.where(is_new, 0.0, m)
        zero = tl.zeros((ROWS, D), tl.float32)
        x0, x1, x2, x3 = _gates(wx, of_gates, gate, valid, GATES)
        if HELD:
            p0, p1, p2, p3 = products(h, w0, w1, w2, w3, zero, GATES)
        else:
            leave(room, h, 0, ROWS, D)
            tl.debug_barrier()
            p0, p1, p2, p3 = products_by_terms(room, r, head, heads, width, zero, GATES, ROWS, TERMS, D)
            tl.debug_barrier()
        p0 = _with_bias(p0, b, 0, head, heads, width, unit)
        if CELL >= 2:
            p1 = _with_bias(p1, b, 1, head, heads, width, unit)
            p2 = _with_bias(p2, b, 2, head, heads, width, unit)
        if GATES == 4:
            p3 = _with_bias(p3, b, 3, head, heads, width, unit)
        if CELL < 2:
            h_new = _tanh(x0 + p0) if CELL == 0 else tl.where(x0 + p0 < 0, 0.0, x0 + p0)
        if CELL == 2:
            k0, k1, k2, k3 = sigmoid(x0 + p0), sigmoid(x1 + p1), _tanh(x2 + p2), sigmoid(x3 + p3)
            c_new = k1 * c + k0 * k2
            h_new = k3 * _tanh(c_new)
        if CELL == 3:
            k0, k1, k3 = sigmoid(x0 + p0), sigmoid(x1 + p1), p2
            k2 = _tanh(x2 + k0 * p2)
            h_new = k2 + k1 * (h.to(tl.float32) - k2)
        if CELL == 4:
            k0, k1, k2, k3 = x0 + p0, x1 + p1, _tanh(x2 + p2), sigmoid(x3 + p3)
            l = log_sigmoid(k1) + m
            m_new = tl.where((n == 0) | (l <= k0) | (k0 != k0), k0, l)
            i, f = tl.exp(k0 - m_new), tl.exp(tl.where(l - m_new > 0, 0.0, l - m_new))
            c_new, n_new = f * c + i * k2, f * n + i
            n_new = tl.where(n_new < 1, 1.0, n_new)
            h_new = k3 * c_new / n_new
            n, m = tl.where(valid, n_new, n), tl.where(valid, m_new, m)
            _put(n_all, at, tl.where(valid, n, 0.0), written)
            _put(m_all, at, tl.where(valid, m, 0.0), written)
        if CELL == 2 or CELL == 4:
            c = tl.where(valid, c_new, c)
            _put(c_all, at, tl.where(valid, c, 0.0), written)
        if CELL >= 2 and saved is not None:
            of_saved = (line[:, None] * 4 * heads + head) * width + unit[None, :]
            _put(saved, of_saved, k0, valid)
            _put(saved, of_saved + gate, k1, valid)
            _put(saved, of_saved + 2 * gate, k2, valid)
            _put(saved, of_saved + 3 * gate, k3, valid)
        if clip_state is not None:
            h_new = _clipped(h_new, clip_state)
        h = tl.where(valid, h_new.to(wx.dtype.element_ty), h)
        _put(h_all, at, tl.where(valid, h, 0.0), written)

    if lengths is not None and offsets is None and starts is None:
        nothing = of_state.to(tl.float32) * 0.0
        for t in range(steps, time):
            at = (_line(row, base, t, line_time, offsets)[:, None] * heads + head) * width + unit[None, :]
            _put(h_all, at, nothing, inside)
            if CELL == 2 or CELL == 4:
                _put(c_all, at, nothing, inside)
            if CELL == 4:
                _put(n_all, at, nothing, inside)
                _put(m_all, at, nothing, inside)
    _put(h_last, of_state, h, inside)
    if CELL == 2 or CELL == 4:
        _put(c_last, of_state, c, inside)
    if CELL == 4:
        _put(n_last, of_state, n, inside)
        _put(m_last, of_state, m, inside)


@triton.jit
def _before(states, first, at, of_state, is_first, is_new, valid, inside):
    """The state before a step: the state of the previous step, or the initial one, or 0."""
    earlier = _load(states, at, valid & ~is_first)
    before = tl.where(is_first, _load_optional(first, of_state, inside), earlier)
    return tl.where(is_new, 0.0, before) if is_new is not None else before


@triton.jit(do_not_specialize=_RUNTIME)
def rnn_bwd_kernel(
    r, h0, c0, n0, m0, h_all, c_all, n_all, m_all, saved, dh_all, dc_all, dn_all, dm_all,
    dh_last, dc_last, dn_last, dm_last, dwx, dq, dh0, dc0, dn0, dm0,
    room, lengths, starts, offsets, reset, clip_state, clip_grad,
    batch, time, heads, width, line_row, line_time, reverse,
    CELL: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, HELD: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write dwx, for the GRU dq, and, if their arrays are given, the gradients of the initial states."""
    GATES: tl.constexpr = 1 if CELL < 2 else 3 if CELL == 3 else 4
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unit = tl.arange(0, D)
    is_row, is_unit = row < batch, (unit < width)[None, :]
    base, length = _rows(row, lengths, starts, batch, time, line_row)
    steps = tl.max(length)
    inside = is_row[:, None] & is_unit
    of_state = (row[:, None] * heads + head) * width + unit[None, :]
    begin = tl.where(reverse != 0, length - 1, 0)

    w0, w1, w2, w3 = None, None, None, None
    if room is not None:
        room += (tl.program_id(0).to(tl.int64) * heads + head) * (GATES * ROWS * D)
    if HELD:
        w0 = matrix(r, 0, head, heads, D)
        if CELL >= 2:
            w1, w2 = matrix(r, 1, head, heads, D), matrix(r, 2, head, heads, D)
        if GATES == 4:
            w3 = matrix(r, 3, head, heads, D)
    dh = _load_optional(dh_last, of_state, inside)
    if CELL == 2 or CELL == 4:
        dc = _load_optional(dc_last, of_state, inside)
    if CELL == 4:
        dn, dm = _load_optional(dn_last, of_state, inside), _load_optional(dm_last, of_state, inside)

    for visit in tl.range(steps, disable_licm=not HELD):
        t = visit if reverse else steps - 1 - visit
        t_before = t + 1 if reverse else t - 1
        is_first = (t == begin)[:, None] & inside
        line = _line(row, base, t, line_time, offsets)
        valid = (t < length)[:, None] & is_unit
        written = valid if offsets is not None or starts is not None else inside
        at = (line[:, None] * heads + head) * width + unit[None, :]
        if offsets is not None:
            line_before = tl.load(offsets + t_before, mask=(t_before >= 0) & (t_before < time), other=0) + row
        else:
            line_before = _line(row, base, t_before, line_time, offsets)
        at_before = (line_before[:, None] * heads + head) * width + unit[None, :]
        gate = heads * width
        of_gates = (line[:, None] * GATES * heads + head) * width + unit[None, :]
        dh_new = tl.zeros((ROWS, D), tl.float32)  # the gradient of h that bypasses the products
        through = tl.where(valid, dh, 0.0) + _load_optional(dh_all, at, valid)
        if clip_state is not None:
            through = tl.where(tl.abs(_load(h_all, at, valid)) < clip_state, through, 0.0)
        is_new = _reset(reset, line, t < length) if reset is not None else None
        if CELL >= 2:
            of_saved = (line[:, None] * 4 * heads + head) * width + unit[None, :]
        if CELL == 4:  # to save registers, the part that needs k3 is computed before the rest is loaded
            k3 = _load(saved, of_saved + 3 * gate, valid)
            c, n = _load(c_all, at, valid), tl.where(valid, _load(n_all, at, valid), 1.0)
            dc_now = tl.where(valid, dc, 0.0) + _load_optional(dc_all, at, valid) + through * k3 / n
            dn_now = tl.where(valid, dn, 0.0) + _load_optional(dn_all, at, valid) - through * k3 * (c / n) / n
            a3 = tl.where(valid, through * (c / n) * (k3 * (1.0 - k3)), 0.0)
            _put(dwx, of_gates + 3 * gate, a3, written)
            if not HELD:
                leave(room, a3, 3, ROWS, D)
        if CELL >= 2:
            k0, k1 = _load(saved, of_saved, valid), _load(saved, of_saved + gate, valid)
            k2 = _load(saved, of_saved + 2 * gate, valid)
        if CELL == 2 or CELL == 3:
            k3 = _load(saved, of_saved + 3 * gate, valid)
        if CELL < 2:
            h = _load(h_all, at, valid)
            a0 = through * (1.0 - h * h) if CELL == 0 else tl.where(h <= 0, 0.0, through)
        if CELL == 2:
            c_before = _before(c_all, c0, at_before, of_state, is_first, is_new, valid, inside)
            tanh_c = _tanh(_load(c_all, at, valid))
            dc_now = tl.where(valid, dc, 0.0) + _load_optional(dc_all, at, valid)
            dc_now += through * k3 * (1.0 - tanh_c * tanh_c)
            a0, a1 = dc_now * k2 * (k0 * (1.0 - k0)), dc_now * c_before * (k1 * (1.0 - k1))
            a2, a3 = dc_now * k0 * (1.0 - k2 * k2), through * tanh_c * (k3 * (1.0 - k3))
            dc = tl.where(valid, dc_now * k1, dc)
        if CELL == 3:
            h_before = _before(h_all, h0, at_before, of_state, is_first, is_new, valid, inside)
            a2 = through * (1.0 - k1) * (1.0 - k2 * k2)
            a0, a1 = a2 * k3 * (k0 * (1.0 - k0)), through * (h_before - k2) * (k1 * (1.0 - k1))
            dh_new = through * k1
        if CELL == 4:
            c_before = _before(c_all, c0, at_before, of_state, is_first, is_new, valid, inside)
            n_before = _before(n_all, n0, at_before, of_state, is_first, is_new, valid, inside)
            m_before = _before(m_all, m0, at_before, of_state, is_first, is_new, valid, inside)
            m, l = _load(m_all, at, valid), log_sigmoid(k1) + m_before
            begins = n_before == 0
            is_a_i = begins | (k0 >= m)  # exact, as m and a_i were rounded alike; then i is 1, otherwise f is 1
            i = tl.where(is_a_i, 1.0, tl.exp(k0 - m))
            f = tl.where(is_a_i, tl.exp(tl.where(l - m > 0, 0.0, l - m)), 1.0)
            dn_now = tl.where(f * n_before + i < 1, 0.0, dn_now)
            d_log_i = (dc_now * k2 + dn_now) * i
            d_log_f = tl.where(begins & (l > m), 0.0, (dc_now * c_before + dn_now * n_before) * f)
            dm_now = tl.where(valid, dm, 0.0) + _load_optional(dm_all, at, valid) - d_log_i - d_log_f
            to_i = tl.where(is_a_i, tl.where((l == m) & ~begins, dm_now / 2, dm_now), 0.0)
            dl = d_log_f + (dm_now - to_i)
            a0, a1 = d_log_i + to_i, dl * sigmoid(-k1)
            a2 = dc_now * i * (1.0 - k2 * k2)
            dc, dn = tl.where(valid, dc_now * f, dc), tl.where(valid, dn_now * f, dn)
            dm = tl.where(valid, dl, dm)

        a0 = tl.where(valid, a0, 0.0)
        back = tl.zeros((ROWS, D), tl.float32)
        _put(dwx, of_gates, a0, written)
        if CELL >= 2:
            a1, a2 = tl.where(valid, a1, 0.0), tl.where(valid, a2, 0.0)
            _put(dwx, of_gates + gate, a1, written)
            _put(dwx, of_gates + 2 * gate, a2, written)
            if CELL == 3:
                a2 = tl.where(valid, a2 * k0, 0.0)
                _put(dq, at, a2, written)
        if CELL == 2:
            a3 = tl.where(valid, a3, 0.0)
            _put(dwx, of_gates + 3 * gate, a3, written)
        if HELD:
            back = product(a0, w0, back)
            if CELL >= 2:
                back = product(a2, w2, product(a1, w1, back))
            if GATES == 4:
                back = product(a3, w3, back)
        else:
            leave(room, a0, 0, ROWS, D)
            if CELL >= 2:
                leave(room, a1, 1, ROWS, D)
                leave(room, a2, 2, ROWS, D)
            if CELL == 2:
                leave(room, a3, 3, ROWS, D)
            tl.debug_barrier()
            back = back_by_terms(room, r, head, heads, width, back, GATES, ROWS, TERMS, D)
            tl.debug_barrier()
        if CELL == 3 or HELD:  # unconditional, it aborts Triton 3.9 for an LSTM of 64 units on sm_90, in LLVM
            back += dh_new
        if clip_grad is not None:
            back = tl.where(clip_grad > 0, _clipped(back, clip_grad), 0.0)  # a bound of 0 passes no NaN
        if is_new is not None:
            back = tl.where(is_new, 0.0, back)
            if CELL == 2 or CELL == 4:
                dc = tl.where(is_new & valid, 0.0, dc)
            if CELL == 4:
                dn, dm = tl.where(is_new & valid, 0.0, dn), tl.where(is_new & valid, 0.0, dm)
        dh = tl.where(valid, back, dh)

    if lengths is not None and offsets is None and starts is None:
        nothing = of_state.to(tl.float32) * 0.0
        for t in range(steps, time):
            line = _line(row, base, t, line_time, offsets)[:, None]
            for g in tl.static_range(GATES):
                _put(dwx, ((line * GATES + g) * heads + head) * width + unit[None, :], nothing, inside)
            if CELL == 3:
                _put(dq, (line * heads + head) * width + unit[None, :], nothing, inside)
    if not HELD:  # recomputed: otherwise it would take two registers in the loop
        row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        of_state = (row[:, None] * heads + head) * width + unit[None, :]
    _put(dh0, of_state, dh, inside)
    if CELL == 2 or CELL == 4:
        _put(dc0, of_state, dc, inside)
    if CELL == 4:
        _put(dn0, of_state, dn, inside)
        _put(dm0, of_state, dm, inside)
