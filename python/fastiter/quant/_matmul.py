"""Products of numbers of low precision with a chosen accumulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._backend import Backend, Backends, choose
from .._check import check_apart, empty, type_name
from ._check import FormatLike, check_format, check_out
from ._fixed.array import check_fixed
from ._fixed.growth import code_dtype
from ._fixed.kernels import as_matrices, product_shape
from ._fixed.products import matmul_cpu, matmul_reference
from ._formats.base import Format
from ._formats.fixed import Fixed
from ._formats.floating import Float
from ._formats.integer import Int
from ._formats.modes import ROUNDINGS
from ._formats.properties import Span, product
from ._formats.text import dtype_name
from ._operands import numbers, operand_codes, operand_floats, span
from ._quantize import encode

Array = npt.NDArray[Any]
Formats = tuple[Format, Format]
Multiply = Callable[[Array, Array, Array], None]
Operand = Callable[[str, Array, Format, int], Array]

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
_BETWEEN = {_F32: Float(8, 23), _F64: Float(11, 52)}
_GEMM = {_F32: _core.dense.gemm_f32, _F64: _core.dense.gemm_f64}
#: The span of products that are exact in float64 and leave room for sums
_DOUBLE = Span(53, -1000, 980)
_MAX_EVERY = 2**62
#: The longest part of K that is summed separately: kDeepestSum of csrc/dense/cpu/gemm.hpp
_LONGEST_PART = 384
_SUMS = _core.quant.float_sums


def quant_matmul(
    a: Array,
    b: Array,
    fmt_a: FormatLike,
    fmt_b: FormatLike,
    accumulator: FormatLike = "float32",
    accumulate_every: int = 1,
    *,
    out: Array | None = None,
    backend: Backend | None = None,
) -> Array:
    """c[m, n] = 0, then c[m, n] = acc(c[m, n] + a[m, k] b[k, n]) for k = 0, 1, 2, ... in this order.

    The sum is exact and is rounded once. With a format as ``accumulator``, every ``accumulate_every``-th addition and
    the last are rounded to it and the others to the nearest number of the result's dtype; a fixed-point accumulator is
    assigned after each group of ``accumulate_every`` products, whose sum is exact.

    Parameters
    ----------
    a, b : ndarray (..., M, K), (..., K, N)
        Numbers (floats), which are quantised first; blocks of block formats run along k. Or codes (integers, as
        :func:`encode` returns them), not of block formats. Shapes as for :func:`numpy.matmul`. Any strides.
    fmt_a, fmt_b : Format or str
        Their formats, of any kind but without stochastic rounding. Scales and zero points are left to the caller:
        numbers of :class:`Int` are the codes themselves. Numbers of block formats are rounded to float32, which changes
        them only at the ends of its range.
    accumulator : "float32", "float64", dtype, Fixed, Float or str
        A dtype, float32 or float64, or its name: a sum of fused multiply-adds in that dtype. K is split into
        ceil(K / 384) parts of equal length (the last may be shorter); each part is summed in order from 0, then the
        parts are, in order. A format: a signed :class:`Float` ("fp32" sums in order for any K); or a :class:`Fixed`,
        for operands that are finite and need at most 64 bits in fixed point.
    accumulate_every : int
        Number of additions per rounding to the accumulator's format.
    out : ndarray (..., M, N), optional
        Receives the result; has its dtype.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    c : ndarray (..., M, N)
        float32 or float64 where ``accumulator`` is one. With a Float, float32 if that holds the numbers of all three
        formats, else float64. With a Fixed, float32 if that holds its numbers, else float64, to which codes of more
        than 53 bits are rounded.

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for inconsistent shapes, a format that is not allowed for its argument, NaN for a format that
        has none.
    BackendError
        If the backend cannot run.

    See Also
    --------
    fixed_matmul : Products of FixedArrays.
    fastiter.torch.quant.linear : The same on tensors, with a gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import quant_matmul
    >>> a, b = np.full((1, 40), 1.0), np.full((40, 1), 1.0)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "float32")
    array([[40.]], dtype=float32)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "e4m3fn")  # 16 + 1 is a tie, and 16 is even
    array([[16.]], dtype=float32)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "e4m3fn", accumulate_every=4)
    array([[40.]], dtype=float32)
    """
    products = choose("quant_matmul", _BACKENDS, backend)()
    formats = _operand_format("fmt_a", fmt_a), _operand_format("fmt_b", fmt_b)
    every = _every(accumulate_every, accumulator)
    a, b = as_array("quant_matmul", "a", a), as_array("quant_matmul", "b", b)
    for which, x in (("a", a), ("b", b)):
        if not isinstance(x, np.ndarray):
            raise TypeError(f"quant_matmul: {which} must be a NumPy array, got {type_name(x)}")
    shape = product_shape("quant_matmul", a.shape, b.shape)
    dtype, operand, run = _accumulator(accumulator, formats, every, products)
    if out is not None:
        check_apart("quant_matmul", check_out("quant_matmul", out, shape, dtype), ("a", "b"), (a, b))
    x, y = operand("a", a, formats[0], -1), operand("b", b, formats[1], -2)
    x, y = as_matrices(x, y)
    in_place = out is not None and out.flags.c_contiguous and out.flags.aligned
    result = out if in_place and out is not None else empty(shape, dtype)
    run(x, y, result.reshape((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])))
    if out is None or in_place:
        return result
    out[...] = result
    return out


# ---- checks ---------------------------------------------------------------------------------------------------------


def _operand_format(name: str, fmt: FormatLike) -> Format:
    checked = check_format("quant_matmul", fmt, name)
    if checked.stochastic:
        raise ValueError(f"quant_matmul: {name} must round without random numbers, got {checked}")
    return checked


def _native(accumulator: object) -> np.dtype[Any] | None:
    """Return the dtype, float32 or float64, of a sum of fused multiply-adds; None for a format."""
    name = accumulator if isinstance(accumulator, str) else dtype_name(accumulator) or ""
    return next((dtype for dtype in (_F32, _F64) if name.lower().removeprefix("torch.") == dtype.name), None)


def _every(every: object, accumulator: object) -> int:
    if isinstance(every, bool) or not isinstance(every, (int, np.integer)):
        raise TypeError(f"quant_matmul: accumulate_every must be an int, got {type_name(every)}")
    if every < 1:
        raise ValueError(f"quant_matmul: accumulate_every must be at least 1, got {every}")
    native = _native(accumulator)
    if every > 1 and native is not None:
        raise ValueError(f"quant_matmul: accumulate_every must be 1 for the dtype {native} as accumulator, got {every}")
    return min(int(every), _MAX_EVERY)


class Products(NamedTuple):
    """A backend's products by kind of accumulator: float32 or float64, a Float, and a Fixed."""

    plain: Callable[[Array, Array, Array, bool], None]
    small_float: Callable[[Array, Array, Array, Float, int, int], None]
    fixed: Callable[..., Array]


class Accumulator(NamedTuple):
    """The result's dtype, the function that reads an operand, and the function that multiplies two operands."""

    dtype: np.dtype[Any]
    operand: Operand
    run: Multiply


def _accumulator(accumulator: FormatLike, formats: Formats, every: int, products: Products) -> Accumulator:
    native = _native(accumulator)
    if native is not None:
        return _plain(native, formats, products)
    acc = check_format("quant_matmul", accumulator, "accumulator")
    if isinstance(acc, Fixed):
        return _fixed(check_fixed("quant_matmul", "accumulator", acc), formats, every, products)
    if not isinstance(acc, Float):
        raise TypeError(
            f"quant_matmul: accumulator must be 'float32', 'float64', a Float or a Fixed, got {type_name(acc)}"
        )
    _check_float(acc)
    return _small_float(acc, formats, every, products)


def _check_float(acc: Float) -> None:
    """Check that the kernel's arithmetic, in doubles, holds sums to be rounded to the format."""
    smallest = acc.min_exponent - acc.mantissa
    if acc.stochastic:
        raise ValueError(f"quant_matmul: accumulator must round without random numbers, got {acc}")
    if not acc.signed:
        raise ValueError(f"quant_matmul: accumulator must have a sign, got {acc}")
    if acc.mantissa > 50 or smallest < -1000 or acc.max_exponent > 900 or acc.min_exponent > acc.mantissa:
        raise ValueError(
            "quant_matmul: accumulator must have at most 50 bits of mantissa and numbers from 2**-1000 to 2**900, "
            f"got {acc}"
        )


def _check_products(formats: Formats, what: str) -> None:
    """Check that doubles hold all products exactly."""
    p = product(span(formats[0]), span(formats[1]))
    if p.bits > _DOUBLE.bits or p.low < _DOUBLE.low or p.high > _DOUBLE.high:
        raise ValueError(
            f"quant_matmul: fmt_a and fmt_b must have products of at most 53 bits from 2**-1000 to 2**980 for {what}, "
            f"got {formats[0]} and {formats[1]}"
        )


# ---- products -------------------------------------------------------------------------------------------------------


def _each(x: Array, y: Array, out: Array, one: Multiply) -> None:
    """Call ``one`` for each matrix of a batch; a batch that shares its second factor is treated as one matrix."""
    batch = out.shape[:-2]
    if out.size == 0:
        return
    if y.size == math.prod(y.shape[-2:]) and x.shape[:-2] == batch:
        rows = out.size // out.shape[-1]
        one(x.reshape(rows, x.shape[-1]), y.reshape(y.shape[-2:]), out.reshape(rows, out.shape[-1]))
        return
    x, y = (np.broadcast_to(z, (*batch, *z.shape[-2:])) for z in (x, y))
    for i in np.ndindex(batch):
        one(x[i], y[i], out[i])


def _of_batches(dtype: np.dtype[Any], one: Multiply) -> Multiply:
    """Return a function that multiplies batches of matrices in one dtype."""

    def run(x: Array, y: Array, out: Array) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            _each(x.astype(dtype, copy=False), y.astype(dtype, copy=False), out, one)

    return run


def _steps(x: Array) -> tuple[Array, int, int]:
    """Return the matrix, or a copy, and its strides in elements."""
    size = x.dtype.itemsize
    if not x.flags.aligned or any(stride % size for stride in x.strides):
        x = np.ascontiguousarray(x)
    return x, x.strides[0] // size, x.strides[1] // size


def _plain(dtype: np.dtype[Any], formats: Formats, products: Products) -> Accumulator:
    if dtype == _F64:
        _check_products(formats, "accumulator='float64'")
    for name, fmt in zip(("fmt_a", "fmt_b"), formats, strict=True):
        if span(fmt).bits > _DOUBLE.bits:
            raise ValueError(
                f"quant_matmul: {name} must have numbers of at most 53 bits for accumulator={dtype.name!r}, got {fmt}"
            )
    p = product(span(formats[0]), span(formats[1]))
    exact = dtype == _F64 or (p.bits <= 24 and p.low >= -149 and p.high <= 128)

    def one(x: Array, y: Array, out: Array) -> None:
        products.plain(x, y, out, exact)

    return Accumulator(dtype, numbers, _of_batches(dtype, one))


def _plain_kernel(x: Array, y: Array, out: Array, exact: bool) -> None:
    """Multiply by fused multiply-adds; ``exact``: products are exact, so that separate roundings give the same."""
    if not exact and not _core.fuses_multiply_add():
        return _in_parts(x, y, out)
    (M, K), N = x.shape, y.shape[1]
    _GEMM[out.dtype](M, N, K, *_steps(x), *_steps(y), 0, out)
    return None


def _in_parts(x: Array, y: Array, out: Array) -> None:
    """The same on machines without fused multiply-add, by the kernel that rounds each sum to the format."""
    out[...] = 0
    K = x.shape[1]
    length = max(1, math.ceil(K / max(1, math.ceil(K / _LONGEST_PART))))
    for first in range(0, K, length):
        part, one = slice(first, first + length), np.empty_like(out)
        _float_kernel(x[:, part], y[part], one, _BETWEEN[_F32], 1, _SUMS.any)
        if first == 0:
            out[...] = one
        else:
            out += one


def _float_kernel(x: Array, y: Array, out: Array, acc: Float, every: int, sums: int) -> None:
    (M, K), N = x.shape, y.shape[1]
    a, b = _steps(x), _steps(y)
    c = _core.quant.Strided(out, out.strides[0] // out.itemsize, 1)
    matrices = _core.quant.Strided(*a), _core.quant.Strided(*b), c
    _core.quant.matmul(M, N, K, out.dtype == _F64, *matrices, _rounding_to(acc), every, sums)


@lru_cache(maxsize=256)
def _rounding_to(acc: Float) -> _core.quant.FloatAccumulator:
    over, under = acc._beyond_rounded
    ends = float(acc.max_value), over, -under, acc._beyond
    mode = ROUNDINGS[acc.rounding]
    return _core.quant.FloatAccumulator(mode, acc.mantissa, acc.min_exponent, *ends, acc.specials != "fnuz")


def _sums(p: Span, acc: Float, every: int) -> int:
    """Classify the sums of the accumulator and products; docs/quant/fixed_theory.md has the reasons."""
    c = span(acc)
    is_nearest = every == 1 and acc.rounding in ("RNE", "RNA") and p.low >= -149 and p.high <= 127
    if is_nearest and p.bits <= c.bits <= 11 and c.bits + p.bits <= 23:
        return _SUMS.nearest_in_float
    fit = max(p.high + (every - 1).bit_length(), c.high) + 1 - min(p.low, c.low) <= 53
    return _SUMS.exact_in_double if fit else _SUMS.any


def _small_float(acc: Float, formats: Formats, every: int, products: Products) -> Accumulator:
    a, b, c = span(formats[0]), span(formats[1]), span(acc)
    dtype = _F32 if a.in_float32 and b.in_float32 and c.in_float32 else _F64
    _check_products(formats, "a Float accumulator")
    sums = _sums(product(a, b), acc, every)

    def one(x: Array, y: Array, out: Array) -> None:
        products.small_float(x, y, out, acc, every, sums)

    return Accumulator(dtype, numbers, _of_batches(dtype, one))


# ---- fixed-point accumulators ---------------------------------------------------------------------------------------


def _as_fixed(name: str, fmt: Format) -> Fixed:
    """Return the fixed-point format that holds all finite numbers of ``fmt``."""
    if isinstance(fmt, (Fixed, Int)):
        fixed = fmt._as_fixed()
        return Fixed(fixed.width, fixed.integer, fixed.signed)
    every_number = span(fmt)
    width = every_number.high - every_number.low + 1
    if width > 64:
        raise ValueError(
            f"quant_matmul: {name} must have numbers of at most 64 fixed-point bits for a Fixed accumulator, "
            f"got {fmt} with {width}"
        )
    return Fixed(width, every_number.high + 1)


def _fixed(acc: Fixed, formats: Formats, every: int, products: Products) -> Accumulator:
    sources = _as_fixed("fmt_a", formats[0]), _as_fixed("fmt_b", formats[1])
    bits = sum(f.width for f in sources) + (every - 1).bit_length()
    if every > 1 and bits > 126:
        raise ValueError(f"quant_matmul: accumulate_every must leave sums of at most 126 bits, got {every}")

    def operand(name: str, x: Array, fmt: Format, along: int) -> Array:
        return _codes(name, x, fmt, along, sources[name == "b"])

    def run(x: Array, y: Array, out: Array) -> None:
        codes = products.fixed(x, sources[0], y, sources[1], (acc, None), None, every)
        np.ldexp(codes.astype(out.dtype), -acc.fraction, out=out)

    return Accumulator(_F32 if span(acc).in_float32 else _F64, operand, run)


def _codes(name: str, x: Array, fmt: Format, along: int, source: Fixed) -> Array:
    """Return codes of ``source`` for the values of codes, or for floats rounded to ``fmt``."""
    dtype = code_dtype(source.width, source.signed)
    if isinstance(fmt, (Fixed, Int)):
        if x.dtype.kind in "iu":
            return operand_codes(name, x, fmt).astype(dtype, copy=False)
        codes = encode(operand_floats(name, x, fmt), fmt)
        assert isinstance(codes, np.ndarray)  # for the type checker: only formats with blocks return more
        return codes
    values = numbers(name, x, fmt, along)
    if not np.isfinite(values).all():
        raise ValueError(f"quant_matmul: {name} must be finite for a Fixed accumulator, got NaN or an infinity")
    return np.ldexp(values.astype(np.float64), source.fraction).astype(dtype)


# ---- backends -------------------------------------------------------------------------------------------------------


def _cpu() -> Products:
    return Products(_plain_kernel, _float_kernel, matmul_cpu)


def _reference() -> Products:
    from .reference import matmul as reference

    def plain(x: Array, y: Array, out: Array, exact: bool) -> None:
        out[...] = reference.plain_matmul(x, y, _BETWEEN[out.dtype])

    def small_float(x: Array, y: Array, out: Array, acc: Float, every: int, sums: int) -> None:
        out[...] = reference.matmul(x, y, acc, _BETWEEN[out.dtype], every)

    return Products(plain, small_float, matmul_reference)


_BACKENDS: Backends[Products] = {"cpu": _cpu, "reference": _reference}
