"""value = code * 2**(integer - width): the specification of fixed-point arithmetic, in rational numbers.

Codes are Python integers, values are Fractions. The rules are those of HLS's ``ap_fixed``: every operator returns a
format that holds its result exactly (division truncates), and only an assignment rounds, then handles overflow:
:func:`.quant.fixed_code`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .formats import Fixed, fixed_code

Array = npt.NDArray[Any]


class Shape(Protocol):
    """The fields that define the codes and their values."""

    @property
    def width(self) -> int: ...
    @property
    def integer(self) -> int: ...
    @property
    def signed(self) -> bool: ...


class Grown(NamedTuple):
    """The shape of an operator's result."""

    width: int
    integer: int
    signed: bool


def fraction_bits(fmt: Shape) -> int:
    """Return the bits after the point."""
    return fmt.width - fmt.integer


def limits(fmt: Shape) -> tuple[int, int]:
    """Return the lowest and the highest code."""
    if fmt.signed:
        return -(1 << fmt.width - 1), (1 << fmt.width - 1) - 1
    return 0, (1 << fmt.width) - 1


def power(exponent: int) -> Fraction:
    """Return 2^exponent."""
    return Fraction(2) ** exponent


def value_of(code: int, fmt: Shape) -> Fraction:
    """Return the value of a code."""
    return code * power(-fraction_bits(fmt))


def _with_sign(u: int, width: int) -> int:
    """Read the low ``width`` bits of ``u`` as two's complement."""
    u %= 1 << width
    return u - (1 << width) if u >> width - 1 else u


# ---- operators ------------------------------------------------------------------------------------------------------


# The rules below use the places of a number: from 2^last_place, the value of its last bit, to 2^magnitude_end, which no
# magnitude exceeds. A sign takes one more bit.


def last_place(fmt: Shape) -> int:
    """Return the exponent of the lowest bit."""
    return fmt.integer - fmt.width


def magnitude_end(fmt: Shape) -> int:
    """Return the exponent of the upper bound of the magnitudes: numbers are below 2^n, and a signed one may be -2^n."""
    return fmt.integer - 1 if fmt.signed else fmt.integer


def _places(last: int, end: int, signed: bool) -> Grown:
    """The format of multiples of 2^last with magnitudes up to 2^end, with or without a sign."""
    integer = end + 1 if signed else end
    return Grown(integer - last, integer, signed)


def bits_format(a: Shape, b: Shape) -> Grown:
    """The format of a & b, a | b and a ^ b: all places of both, and a sign if one has it."""
    end = max(magnitude_end(a), magnitude_end(b))
    return _places(min(last_place(a), last_place(b)), end, a.signed or b.signed)


def sum_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a + b: at most twice the larger magnitude."""
    end = max(magnitude_end(a), magnitude_end(b)) + 1
    return _places(min(last_place(a), last_place(b)), end, a.signed or b.signed)


def difference_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a - b: that of a + b, but signed.

    The difference of two unsigned numbers has no carry, and the sign takes the place of the carry bit.
    """
    width, integer, _ = sum_format(a, b)
    return Grown(width, integer, True)


def product_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a b: as many bits as both have together, and a sign if one has it."""
    last, above = last_place(a) + last_place(b), a.integer + b.integer
    return Grown(above - last, above, a.signed or b.signed)


def quotient_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a / b.

    The smallest divisor is b's last bit, which bounds the quotient. A signed b adds a bit, for the lowest a divided by
    -1. The last place is that of a, or a lower one if b is a multiple of a power of two above 1.
    """
    above = a.integer - last_place(b) + (1 if b.signed else 0)
    last = last_place(a) - max(last_place(b), 0)
    return Grown(above - last, above, a.signed or b.signed)


def negative_format(a: Shape) -> Grown:
    """Return the format of -a, with one more bit for the sign of an unsigned number or for -(-2^n) = 2^n."""
    return _places(last_place(a), a.integer, True)


def dot_format(a: Shape, b: Shape, terms: int) -> Grown:
    """Return the format of a sum of products, with n more places for up to 2^n terms."""
    width, integer, signed = product_format(a, b)
    more = next(n for n in range(64) if terms <= 1 << n)
    return Grown(width + more, integer + more, signed)


def exact_code(x: Fraction, fmt: Shape) -> int:
    """The code of a value that the format represents exactly."""
    v = x * power(fraction_bits(fmt))
    lowest, highest = limits(fmt)
    assert v.denominator == 1 and lowest <= v <= highest, f"{fmt} does not hold {x}"
    return int(v)


def add(a: int, fa: Shape, b: int, fb: Shape) -> int:
    """Return the code of a + b."""
    return exact_code(value_of(a, fa) + value_of(b, fb), sum_format(fa, fb))


def subtract(a: int, fa: Shape, b: int, fb: Shape) -> int:
    """Return the code of a - b."""
    return exact_code(value_of(a, fa) - value_of(b, fb), difference_format(fa, fb))


def multiply(a: int, fa: Shape, b: int, fb: Shape) -> int:
    """Return the code of a b."""
    return exact_code(value_of(a, fa) * value_of(b, fb), product_format(fa, fb))


def divide(a: int, fa: Shape, b: int, fb: Shape) -> int:
    """Divide the codes, the first extended by the divisor's fraction bits, and truncate toward zero."""
    quotient = Fraction(a << max(fraction_bits(fb), 0), b)
    return int(quotient)


def negative(a: int, fa: Shape) -> int:
    """Return the code of -a."""
    return exact_code(-value_of(a, fa), negative_format(fa))


def shift(a: int, fa: Shape, n: int) -> int:
    """a << n, or a >> -n, in the same format: bits beyond the top are lost, and >> rounds down."""
    moved = a << n if n >= 0 else a >> -n
    return _with_sign(moved, fa.width) if fa.signed else moved % (1 << fa.width)


def bitwise(op: Callable[[int, int], int], a: int, fa: Shape, b: int, fb: Shape) -> int:
    """&, | or ^ of the codes, aligned at the binary point."""
    fmt = bits_format(fa, fb)
    moved = [code << fraction_bits(fmt) - fraction_bits(f) for code, f in ((a, fa), (b, fb))]
    u = op(*moved)
    return _with_sign(u, fmt.width) if fmt.signed else u % (1 << fmt.width)


# ---- products -------------------------------------------------------------------------------------------------------


def dot(
    a: Sequence[int],
    fa: Shape,
    b: Sequence[int],
    fb: Shape,
    acc: Fixed,
    product: Fixed | None = None,
    start: int = 0,
    every: int = 1,
) -> int:
    """acc = acc + a[k] * b[k], assigned after every addition, or after ``every`` exact additions and the last.

    With ``product`` each product is assigned to that format first.
    """
    total = value_of(start, acc)
    for k, (ak, bk) in enumerate(zip(a, b, strict=True)):
        p = value_of(ak, fa) * value_of(bk, fb)
        if product is not None:
            p = value_of(fixed_code(p, product), product)
        total += p
        if (k + 1) % every == 0 or k + 1 == len(a):
            total = value_of(fixed_code(total, acc), acc)
    return exact_code(total, acc)


def matmul(
    a: Array,
    fa: Shape,
    b: Array,
    fb: Shape,
    acc: Fixed,
    product: Fixed | None = None,
    start: Array | None = None,
    every: int = 1,
) -> Array:
    """Codes of c (M, N) = a (M, K) b (K, N), each element a :func:`dot` over k in order from ``start`` (M, N)."""
    M, N = a.shape[0], b.shape[1]
    out = np.empty((M, N), object)
    for m in range(M):
        for n in range(N):
            first = 0 if start is None else int(start[m, n])
            out[m, n] = dot(a[m].tolist(), fa, b[:, n].tolist(), fb, acc, product, first, every)
    return out


def conv2d(
    x: Array,
    fx: Shape,
    w: Array,
    fw: Shape,
    acc: Fixed,
    product: Fixed | None = None,
    start: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Codes of x (B, C, H, W) with w (O, C / groups, R, S), each output a :func:`dot` over (c, r, s) in order.

    The terms are w times x, from ``start`` (O,); padding is zero.
    """
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    B, _, H, W = padded.shape
    O, C, R, S = w.shape
    P = (H - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W - dilation[1] * (S - 1) - 1) // stride[1] + 1
    out = np.empty((B, O, P, Q), object)
    for o in range(O):
        c = o // (O // groups) * C
        first = 0 if start is None else int(start[o])
        for n, p, q in np.ndindex(B, P, Q):
            i, j = p * stride[0], q * stride[1]
            window = padded[
                n,
                c : c + C,
                i : i + dilation[0] * (R - 1) + 1 : dilation[0],
                j : j + dilation[1] * (S - 1) + 1 : dilation[1],
            ]
            out[n, o, p, q] = dot(w[o].ravel().tolist(), fw, window.ravel().tolist(), fx, acc, product, first)
    return out
