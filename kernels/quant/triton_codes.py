"""Decoding of codes, and packing of codes of a few bits into bytes. Codes are loaded as signed integers."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_elementwise import scale_at
from .triton_rounding import number_of
from .triton_wide import wide_value

#: Decoding of codes: by a table; as fixed point; as integers; as floats or posits with too many bits for a table
TABLE, FIXED, INTEGER, FLOAT, POSIT = (tl.constexpr(k) for k in range(5))
#: The scales of blocks: none, indices into a table, or floats
NO_SCALES, INDICES, FLOATS = (tl.constexpr(k) for k in range(3))


@triton.jit
def _power(e):
    """2^e as a double, including subnormal numbers"""
    one = e * 0 + 1
    subnormal = one << tl.maximum(tl.minimum(e, -1023) + 1074, 0)
    return number_of(tl.where(e < -1022, subnormal, (e + 1023) << 52))


@triton.jit
def _float(code, exponent, mantissa, bias, special, SUBNORMALS: tl.constexpr, SPECIALS: tl.constexpr):
    """(-1)^s 2^(e - bias) (1 + m 2^-mantissa); SPECIALS: 0 none, 1 as in IEEE 754, 2 NaN all ones, 3 NaN `special`"""
    FIRST: tl.constexpr = 1 if SUBNORMALS else 0
    one = code * 0 + 1
    body = code & ((one << (exponent + mantissa)) - 1)
    field = body >> mantissa
    fraction = body - (field << mantissa)
    significand = tl.where((field > 0) | (FIRST == 0), fraction + (one << mantissa), fraction)
    value = significand.to(tl.float64) * _power(tl.maximum(field, FIRST) - bias - mantissa)
    if SPECIALS == 1:
        top = (one << exponent) - 1
        value = tl.where(field == top, tl.where(fraction == 0, float("inf"), float("nan")), value)
    elif SPECIALS == 2:
        value = tl.where(body == (one << (exponent + mantissa)) - 1, float("nan"), value)
    value = tl.where(((code >> (exponent + mantissa)) & 1) != 0, -value, value)
    if SPECIALS == 3:
        value = tl.where(code == special, float("nan"), value)
    return value


@triton.jit
def _posit(code, n, es):
    """Decode the regime bit by bit, then exponent and fraction."""
    one = code * 0 + 1
    negative = ((code >> (n - 1)) & 1) != 0
    body = tl.where(negative, (one << n) - code, code) & ((one << (n - 1)) - 1)
    first = (body >> (n - 2)) & 1
    length, going = body * 0, one
    for k in range(n - 1):
        going = going * (((body >> (n - 2 - k)) & 1) == first).to(tl.int64)
        length += going
    regime = tl.where(first == 1, length - 1, -length)
    left = tl.maximum(n - 2 - length, 0)  # bits after the regime and its terminating bit
    scaled = (body & ((one << left) - 1)) << (n + es - left)
    exponent = scaled >> n
    fraction = (scaled - (exponent << n)).to(tl.float64) * _power(one * (0 - n))
    value = (1.0 + fraction) * _power((regime << es) + exponent)
    value = tl.where(negative, -value, value)
    return tl.where(code == 0, 0.0, tl.where(code == one << (n - 1), float("nan"), value))


@triton.jit(do_not_specialize=["run", "count", "n", "per_line", "size", "bits", "entries", "k0", "k1", "k2", "special"])
def decode_fwd_kernel(
    codes_ptr,
    y_ptr,
    table_ptr,
    factor_ptr,
    shared_ptr,
    shared_table_ptr,
    scale_ptr,
    zero_ptr,
    numel,
    run,
    count,
    n,
    per_line,
    size,
    bits,
    entries,
    k0,
    k1,
    k2,
    special,
    MODE: tl.constexpr,
    SIGNED: tl.constexpr,
    FLAG0: tl.constexpr,
    SPECIALS: tl.constexpr,
    SCALES: tl.constexpr,
    DOUBLES: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_ZERO_POINT: tl.constexpr,
    SHARING: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute y = the values of codes, times scales; DOUBLES: the factors are doubles."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < numel
    E: tl.constexpr = y_ptr.dtype.element_ty
    W: tl.constexpr = tl.float64 if DOUBLES else E
    code = tl.load(codes_ptr + offsets, mask=mask, other=0).to(tl.int64)
    if not SIGNED:
        code = code & ((((code * 0 + 1) << (bits - 1)) - 1) * 2 + 1)
    if MODE == TABLE:
        y = tl.load(table_ptr + tl.minimum(code, entries - 1))
    elif MODE == FIXED:
        y = wide_value(code.to(tl.uint64, bitcast=True), tl.load(factor_ptr), SIGNED, FLAG0).to(E)
    elif MODE == INTEGER:
        y = code.to(W)
    elif MODE == FLOAT:
        y = _float(code, k0, k1, k2, special, FLAG0, SPECIALS).to(W)
    else:
        y = _posit(code, k0, k1).to(E)
    at = offsets.to(INDEX)
    if SCALES != NO_SCALES:
        shared = tl.load(shared_ptr + at // n * per_line + at % n // size, mask=mask, other=0)
        if SCALES == INDICES:
            y = y * tl.load(shared_table_ptr + (shared.to(tl.int32) & 255))
        else:
            y = y * shared.to(E)
    if HAS_ZERO_POINT:
        y = (y.to(W) - scale_at(zero_ptr, at, mask, run, count, SHARING).to(W)).to(W)
    if HAS_SCALE:
        y = y.to(W) * scale_at(scale_ptr, at, mask, run, count, SHARING).to(W)
    tl.store(y_ptr + offsets, y.to(E), mask=mask)


@triton.jit(do_not_specialize=["n", "bytes_of_line"])
def pack_fwd_kernel(codes_ptr, packed_ptr, numel, n, bytes_of_line, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Byte b of a row contains bits 8 b to 8 b + 7 of the concatenated codes; SPAN: codes that overlap a byte"""
    SPAN: tl.constexpr = 7 // BITS + 2
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    line, byte = offsets // bytes_of_line, offsets % bytes_of_line
    ones = (((offsets * 0 + 1) << (BITS - 1)) - 1) * 2 + 1
    packed = offsets * 0
    for k in tl.static_range(SPAN):
        index = byte * 8 // BITS + k
        code = tl.load(codes_ptr + line * n + index, mask=(offsets < numel) & (index < n), other=0).to(tl.int64) & ones
        place = index * BITS - byte * 8  # position of the code's first bit relative to the byte; may be negative
        shifted = (code.to(tl.uint64, bitcast=True) >> tl.minimum(tl.maximum(-place, 0), 63).to(tl.uint64)).to(tl.int64)
        packed = packed | tl.where(place < 8, shifted << tl.minimum(tl.maximum(place, 0), 8), 0)
    tl.store(packed_ptr + offsets, packed.to(tl.uint8), mask=offsets < numel)


@triton.jit(do_not_specialize=["n", "bytes_of_line"])
def unpack_fwd_kernel(
    packed_ptr,
    codes_ptr,
    numel,
    n,
    bytes_of_line,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Code i of a row is the BITS bits from bit BITS i of its bytes; SPAN: bytes that overlap a code"""
    SPAN: tl.constexpr = (BITS + 6) // 8 + 1
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    line, index = offsets // n, offsets % n
    first = index * BITS
    code = offsets * 0
    for k in tl.static_range(SPAN):
        byte = first // 8 + k
        inside = (offsets < numel) & (byte < bytes_of_line)
        value = tl.load(packed_ptr + line * bytes_of_line + byte, mask=inside, other=0).to(tl.int64) & 255
        place = byte * 8 - first
        moved = tl.where(place < 0, value >> tl.maximum(-place, 0), value << tl.minimum(tl.maximum(place, 0), 63))
        code = code | tl.where(place < BITS, moved, 0)
    UNUSED: tl.constexpr = 64 - BITS
    code = code << UNUSED
    if SIGNED:
        code = code >> UNUSED
    else:
        code = (code.to(tl.uint64, bitcast=True) >> UNUSED).to(tl.int64)
    tl.store(codes_ptr + offsets, code.to(codes_ptr.dtype.element_ty), mask=offsets < numel)
