"""The formats of exact results, as in HLS's ``ap_fixed``, and codes assigned to a format by the kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._check import type_name
from .._formats.fixed import Fixed
from .._formats.modes import ROUNDINGS

Array = npt.NDArray[Any]


class Shape(Protocol):
    """The fields of a format that define its codes and their values."""

    @property
    def width(self) -> int: ...
    @property
    def integer(self) -> int: ...
    @property
    def signed(self) -> bool: ...


class Grown(NamedTuple):
    """The shape of an operator's result, which may have more bits than a format."""

    width: int
    integer: int
    signed: bool


# ---- rules of growth ------------------------------------------------------------------------------------------------


def _fraction(a: Shape) -> int:
    return a.width - a.integer


def bits_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a & b, a | b and a ^ b: it holds either operand, with a sign if one has it."""
    integer = max(a.integer + (b.signed and not a.signed), b.integer + (a.signed and not b.signed))
    return Grown(integer + max(_fraction(a), _fraction(b)), integer, a.signed or b.signed)


def sum_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a + b."""
    width, integer, signed = bits_format(a, b)
    return Grown(width + 1, integer + 1, signed)


def difference_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a - b."""
    return sum_format(a, b)._replace(signed=True)


def product_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a b."""
    return Grown(a.width + b.width, a.integer + b.integer, a.signed or b.signed)


def quotient_format(a: Shape, b: Shape) -> Grown:
    """Return the format of a / b; a signed divisor requires one more bit, for the lowest code divided by -1."""
    width = a.width + max(_fraction(b), 0) + b.signed
    return Grown(width, a.integer + _fraction(b) + b.signed, a.signed or b.signed)


def negative_format(a: Shape) -> Grown:
    """Return the format of -a."""
    return Grown(a.width + 1, a.integer + 1, True)


def dot_format(a: Shape, b: Shape, terms: int) -> Grown:
    """Return the format of a sum of products a b."""
    width, integer, signed = product_format(a, b)
    more = max(terms - 1, 0).bit_length()
    return Grown(width + more, integer + more, signed)


def grown(function: str, what: str, shape: Grown) -> Fixed:
    """Return the format of an operator's result, which must not need more than 64 bits."""
    if shape.width > 64:
        raise ValueError(
            f"{function}: {what} must have a result of at most 64 bits (assign an operand to a narrower format first), "
            f"got {shape.width} bits"
        )
    return Fixed(*shape)


# ---- codes ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def code_dtype(width: int, signed: bool) -> np.dtype[Any]:
    """Return the narrowest integer type that holds codes of this width."""
    size = next(size for size in (1, 2, 4, 8) if width <= 8 * size)
    return np.dtype(f"{'i' if signed else 'u'}{size}")


@lru_cache(maxsize=256)
def target(fmt: Fixed, fraction: int) -> _core.quant.FixedTarget:
    """Return a kernel's arguments for assigning numbers with ``fraction`` bits after the point to ``fmt``."""
    modes = ROUNDINGS[fmt.rounding], fmt._overflow_mode, fmt._is_symmetric
    return _core.quant.FixedTarget(fmt.width, fmt.signed, *modes, fmt.saturated_bits, fraction - fmt.fraction)


def convert(codes: Array, source: Fixed, fmt: Fixed) -> Array:
    """Return codes of ``source`` assigned to ``fmt``."""
    contiguous = np.ascontiguousarray(codes, codes.dtype.newbyteorder("=")).reshape(codes.shape)
    out = np.empty(codes.shape, code_dtype(fmt.width, fmt.signed))
    _core.quant.fixed_convert(
        _core.quant.FixedCodes(contiguous, codes.dtype.itemsize, source.signed, source.width),
        out,
        out.itemsize,
        out.size,
        target(fmt, source.fraction),
    )
    return out


def wrapped(codes: Array, fmt: Fixed) -> Array:
    """Return the codes of ``fmt`` with the same low bits."""
    unused = codes.dtype.type(8 * codes.dtype.itemsize - fmt.width)
    return np.asarray(codes << unused >> unused)


def magnitude(codes: Array) -> Array:
    """Return the magnitudes as uint64."""
    wide = codes.astype(np.int64).view(np.uint64) if codes.dtype.kind == "i" else codes.astype(np.uint64)
    return np.asarray(np.where(codes < 0, -wide, wide))


def places_of(what: str, n: object) -> int:
    """Check the number of places of a shift."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"FixedArray: n in {what} must be an int, got {type_name(n)}")
    return int(n)


def shifted(codes: Array, fmt: Fixed, places: int) -> Array:
    """Return codes shifted to the left, or to the right by ``-places``, in the same format."""
    width = 8 * codes.dtype.itemsize
    n = codes.dtype.type(min(abs(places), width - 1))
    if places < 0:
        moved = np.asarray(codes >> n) if fmt.signed or -places < width else np.zeros_like(codes)
    else:
        moved = np.asarray(codes << n) if places < width else np.zeros_like(codes)
    return wrapped(moved, fmt)
