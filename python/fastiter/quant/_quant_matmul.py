"""Products of numbers of low precision with a chosen accumulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import choose
from .._check import empty
from .._rnn import kind
from ..reference import quant_matmul as reference
from ._arithmetic import FixedArray, check_fixed
from ._check import check_format
from ._formats import Fixed, Float, Format, Int
from ._matmul import matmul_codes, matmul_reference, product_shape
from ._plan import ROUNDINGS

Array = npt.NDArray[Any]
_BACKENDS = {"cpu": None, "reference": None}
_BETWEEN = {np.dtype(np.float32): Float(8, 23), np.dtype(np.float64): Float(11, 52)}
_GEMM = {np.dtype(np.float32): _core.gemm_f32, np.dtype(np.float64): _core.gemm_f64}


def quant_matmul(
    a: Array,
    b: Array,
    fmt_a: Format | str,
    fmt_b: Format | str,
    accumulate: Format | str = "float32",
    every: int = 1,
    *,
    backend: str | None = None,
) -> Array:
    """c[m, n] = 0, then c[m, n] = acc(c[m, n] + a[m, k] b[k, n]) for k = 0, 1, 2, ... in this order.

    The sum is exact and is rounded once. With a format as ``accumulate``, every ``every``-th addition and the last are
    rounded to it and the others to the nearest number of the result's dtype; a fixed-point accumulator is assigned
    after each group of ``every`` products, which are added up exactly.

    Parameters
    ----------
    a, b : ndarray (..., M, K), (..., K, N)
        Codes (integers, as :func:`encode` returns them) or numbers (floats), which are quantised first; with block
        formats numbers, whose blocks run along k. Shapes as for :func:`numpy.matmul`.
    fmt_a, fmt_b : Format or str
        Their formats. The codes of :class:`Int` stand for themselves: scales and zero points are left to the caller.
    accumulate : "float32", "float64", Float, Fixed or str
        "float32" and "float64" are an ordinary product in that dtype: sums of at most 384 terms in order, then those
        sums in order. Else a :class:`Float` with a sign and subnormals, or a :class:`Fixed`, for formats whose numbers
        are numbers of fixed point.
    every : int
        How many additions go between two roundings to the format ``accumulate``.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic; not for "float32" and "float64".

    Returns
    -------
    ndarray (..., M, N)
        float32 where the three formats are parts of it, else float64.

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for shapes that do not go together, a format that cannot be what it is given as.
    BackendError
        If the backend cannot run.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import quant_matmul
    >>> a, b = np.full((1, 40), 1.0), np.full((40, 1), 1.0)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "float32")
    array([[40.]], dtype=float32)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "e4m3fn")  # 16 + 1 is a tie, and 16 is even
    array([[16.]], dtype=float32)
    >>> quant_matmul(a, b, "e4m3fn", "e4m3fn", "e4m3fn", every=4)
    array([[40.]], dtype=float32)
    """
    name = choose("quant_matmul", _BACKENDS, backend)
    formats = check_format("quant_matmul", fmt_a, "fmt_a"), check_format("quant_matmul", fmt_b, "fmt_b")
    every = _every(every, accumulate)
    for which, x in (("a", a), ("b", b)):
        if not isinstance(x, np.ndarray):
            raise TypeError(f"quant_matmul: {which} must be a NumPy array, got {kind(x)}")
    shape = product_shape("quant_matmul", a.shape, b.shape)
    run = _accumulator(accumulate, formats, every, name)
    x = a.reshape((1, *a.shape) if a.ndim == 1 else a.shape)
    y = b.reshape((*b.shape, 1) if b.ndim == 1 else b.shape)
    return run(x, y).reshape(shape)


# ---- checks ---------------------------------------------------------------------------------------------------------


def _every(every: object, accumulate: object) -> int:
    if isinstance(every, bool) or not isinstance(every, (int, np.integer)):
        raise TypeError(f"quant_matmul: every must be an int, got {kind(every)}")
    if every < 1:
        raise ValueError(f"quant_matmul: every must be at least 1, got {every}")
    if every > 1 and isinstance(accumulate, str) and accumulate in ("float32", "float64"):
        raise ValueError(f"quant_matmul: every must be 1 for accumulate={accumulate!r}, got {every}")
    return min(int(every), 2**62)


def _accumulator(
    accumulate: Format | str, formats: tuple[Format, Format], every: int, backend: str
) -> Callable[[Array, Array], Array]:
    """Return what multiplies arrays of numbers."""
    if isinstance(accumulate, str) and accumulate in ("float32", "float64"):
        if backend == "reference":
            raise ValueError(f"quant_matmul: accumulate must be a format for backend='reference', got {accumulate!r}")
        return lambda x, y: _gemm(*_numbers(x, y, formats), np.dtype(accumulate))
    acc = check_format("quant_matmul", accumulate, "accumulate")
    if isinstance(acc, Fixed):
        acc = check_fixed("quant_matmul", "accumulate", acc)
        sources = _as_fixed("fmt_a", formats[0]), _as_fixed("fmt_b", formats[1])
        bits = sum(f.width for f in sources) + (every - 1).bit_length()
        if every > 1 and bits > 126:
            raise ValueError(f"quant_matmul: every must leave sums of at most 126 bits, got {every}")
        return lambda x, y: _fixed(x, y, formats, sources, acc, every, backend)
    if not isinstance(acc, Float):
        raise TypeError(f"quant_matmul: accumulate must be 'float32', 'float64', a Float or a Fixed, got {kind(acc)}")
    _check_float(acc)
    return lambda x, y: _small_float(*_numbers(x, y, formats), formats, acc, every, backend)


def _check_float(acc: Float) -> None:
    """Check that the kernel's numbers, doubles, hold sums to be rounded to the format."""
    least = acc.min_exponent - acc.mantissa
    if acc.stochastic:
        raise ValueError(f"quant_matmul: accumulate must round without random numbers, got {acc}")
    if not (acc.signed and acc.subnormals):
        raise ValueError(f"quant_matmul: accumulate must have a sign and subnormals, got {acc}")
    if acc.mantissa > 50 or least < -1000 or acc.max_exponent > 900 or acc.min_exponent > acc.mantissa:
        raise ValueError(
            f"quant_matmul: accumulate must have at most 50 bits of mantissa and numbers from 2**-1000 to 2**900, got {acc}"
        )


def _as_fixed(name: str, fmt: Format) -> Fixed:
    """Return the fixed-point format that has all numbers of ``fmt``."""
    if isinstance(fmt, Fixed):
        return Fixed(fmt.width, fmt.integer, fmt.signed)
    if isinstance(fmt, Int):
        return Fixed(fmt.width, fmt.width, fmt.signed)
    if not isinstance(fmt, Float) or not fmt.subnormals:
        raise TypeError(f"quant_matmul: {name} must be a Fixed, Int or Float for a Fixed accumulator, got {fmt}")
    fraction = fmt.mantissa - fmt.min_exponent
    width = int(fmt.max_value * 2**fraction if fraction >= 0 else fmt.max_value / 2**-fraction).bit_length() + fmt.signed
    if width > 64:
        raise ValueError(
            f"quant_matmul: {name} must have numbers of at most 64 fixed-point bits for a Fixed accumulator, got {fmt} "
            f"with {width}"
        )
    return Fixed(width, width - fraction, fmt.signed)


def _numbers(x: Array, y: Array, formats: tuple[Format, Format]) -> tuple[Array, Array]:
    return _values("a", x, formats[0], -1), _values("b", y, formats[1], -2)


def _values(name: str, x: Array, fmt: Format, along: int) -> Array:
    """Return the numbers that codes are, or that floats become."""
    from . import decode, quantize

    if x.dtype.kind in "iu":
        if hasattr(fmt, "block"):
            raise TypeError(f"quant_matmul: {name} must be floats for a block format, got dtype {x.dtype}")
        if isinstance(fmt, Int):
            FixedArray.from_codes(x, _as_fixed(name, fmt))
            return x.astype(np.float64 if fmt.width > 24 else np.float32)
        return decode(x, fmt, dtype=np.float32 if _fits(fmt) else np.float64)
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise TypeError(f"quant_matmul: {name} must be codes (integers) or floats, got dtype {x.dtype}")
    if along == -2 and hasattr(fmt, "block"):  # blocks lie along the last axis
        return quantize(np.ascontiguousarray(x.swapaxes(-1, -2)), fmt).swapaxes(-1, -2)
    return quantize(x if _fits(fmt) else x.astype(np.float64), fmt)


# ---- what formats are made of ---------------------------------------------------------------------------------------


def _range(fmt: Format) -> tuple[int, int] | None:
    """Return (e, f): every number is a multiple of 2^e and at most 2^f; None where that is not known."""
    if isinstance(fmt, Fixed):
        return -fmt.fraction, fmt.integer - fmt.signed
    if isinstance(fmt, Int):
        return 0, fmt.width - fmt.signed
    if isinstance(fmt, Float):
        return fmt.min_exponent - fmt.mantissa, fmt.max_exponent + 1
    return None


def _fits(fmt: Format) -> bool:
    """Whether all numbers of the format are numbers of float32; formats that are not numbers by themselves are."""
    span = _range(fmt)
    if span is None:
        return True
    bits = fmt.mantissa + 1 if isinstance(fmt, Float) else span[1] - span[0]
    return bits <= 24 and span[0] >= -149 and span[1] <= 128


def _sums_fit(a: Format, b: Format, acc: Float, every: int) -> bool:
    """Whether no sum of the accumulator and a product needs more bits than a double has."""
    spans = _range(a), _range(b), _range(acc)
    if spans[0] is None or spans[1] is None or spans[2] is None:
        return False
    (a0, a1), (b0, b1), (c0, c1) = spans[0], spans[1], spans[2]
    return max(a1 + b1 + (every - 1).bit_length(), c1) + 1 - min(a0 + b0, c0) <= 53


# ---- products -------------------------------------------------------------------------------------------------------


def _each(x: Array, y: Array, dtype: np.dtype[Any], one: Callable[[Array, Array, Array], None]) -> Array:
    """Call ``one`` for the matrices of a batch; a batch that shares its second factor is one long matrix."""
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = empty((*batch, x.shape[-2], y.shape[-1]), dtype)
    if y.size == math.prod(y.shape[-2:]) and x.shape[:-2] == batch:
        one(x.reshape(-1, x.shape[-1]), y.reshape(y.shape[-2:]), out.reshape(-1, y.shape[-1]))
        return out
    x, y = (np.broadcast_to(z, (*batch, *z.shape[-2:])) for z in (x, y))
    for i in np.ndindex(batch):
        one(x[i], y[i], out[i])
    return out


def _steps(x: Array) -> tuple[Array, int, int]:
    size = x.dtype.itemsize
    if not x.flags.aligned or any(stride % size for stride in x.strides):
        x = np.ascontiguousarray(x)
    return x, x.strides[0] // size, x.strides[1] // size


def _gemm(x: Array, y: Array, dtype: np.dtype[Any]) -> Array:
    def one(x: Array, y: Array, out: Array) -> None:
        (x, *x_steps), (y, *y_steps) = _steps(x), _steps(y)
        _GEMM[dtype](*out.shape, x.shape[1], x, *x_steps, y, *y_steps, 0, out)

    return _each(x.astype(dtype, copy=False), y.astype(dtype, copy=False), dtype, one)


def _small_float(
    x: Array, y: Array, formats: tuple[Format, Format], acc: Float, every: int, backend: str
) -> Array:
    narrow = all(map(_fits, (*formats, acc)))
    dtype = np.dtype(np.float32 if narrow else np.float64)
    if not narrow:
        _check_products(formats)
    most = float(acc.max_value)
    target = (
        *(ROUNDINGS[acc.rounding], acc.mantissa, acc.min_exponent, most),
        *({"SAT": most, "INF": math.inf, "NAN": math.nan}[acc.overflow], acc.specials != "fnuz"),
    )
    fit = _sums_fit(*formats, acc, every)

    def one(x: Array, y: Array, out: Array) -> None:
        if backend == "reference":
            out[...] = reference.matmul(x, y, acc, _BETWEEN[dtype], every)
            return
        (x, *x_steps), (y, *y_steps) = _steps(x), _steps(y)
        c = (out, out.strides[0] // out.itemsize)
        _core.quant_matmul(*out.shape, x.shape[1], not narrow, (x, *x_steps), (y, *y_steps), c, target, every, fit)

    return _each(x.astype(dtype, copy=False), y.astype(dtype, copy=False), dtype, one)


def _check_products(formats: tuple[Format, Format]) -> None:
    """Check that doubles hold all products."""
    spans = [_range(fmt) or (-149, 128) for fmt in formats]
    bits = [
        fmt.mantissa + 1 if isinstance(fmt, Float) else min(24, span[1] - span[0]) if _range(fmt) is None else span[1] - span[0]
        for fmt, span in zip(formats, spans, strict=True)
    ]
    if sum(bits) > 53 or min(s[0] for s in spans) < -500 or max(s[1] for s in spans) > 500:
        raise ValueError(
            f"quant_matmul: fmt_a and fmt_b must have products of at most 53 bits and numbers from 2**-500 to 2**500 for a "
            f"Float accumulator, got {formats[0]} and {formats[1]}"
        )


def _fixed(
    x: Array,
    y: Array,
    formats: tuple[Format, Format],
    sources: tuple[Fixed, Fixed],
    acc: Fixed,
    every: int,
    backend: str,
) -> Array:
    one = _codes("a", x, formats[0], sources[0], -1), sources[0], _codes("b", y, formats[1], sources[1], -2), sources[1]
    if backend == "reference":
        out = matmul_reference(*one, (acc, None), None, every)
    else:
        out = matmul_codes(*one, (acc, None), None, every)[0]
    return np.ldexp(out.astype(np.float32 if _fits(acc) else np.float64), -acc.fraction)


def _codes(name: str, x: Array, fmt: Format, source: Fixed, along: int) -> Array:
    """Return fixed-point codes of the numbers."""
    if x.dtype.kind in "iu" and isinstance(fmt, (Fixed, Int)):
        return FixedArray.from_codes(x, source).codes
    values = _values(name, x, fmt, along)
    if not np.isfinite(values).all():
        raise ValueError(f"quant_matmul: {name} must be finite for a Fixed accumulator, got NaN or an infinity")
    scaled = np.ldexp(values.astype(np.float64), source.fraction)
    return scaled.astype(np.int64 if source.signed else np.uint64)
