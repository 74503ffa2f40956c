"""Codes: their dtypes, their values, and the packing of codes of a few bits into bytes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backends, Cuda, choose
from .._check import refuse_mask, type_name
from ._block_formats import MX, NVFP4, BlockFloat, BlockFormat
from ._check import FormatLike, check_format
from ._formats import Fixed, Float, Format, Int
from ._modes import ELEMENTS
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._plan import plan_of
from ._scale import check_scale
from ._tables import holds_values, log_table

Array: TypeAlias = npt.NDArray[Any]


def is_signed(fmt: Format) -> bool:
    """Return whether codes are signed integers."""
    return (isinstance(fmt, (Fixed, Int, SumOfPowers)) and fmt.signed) or isinstance(fmt, BlockFloat)


def code_bits(fmt: Format) -> int:
    """Return the number of bits of a code."""
    return int(fmt.bits)  # type: ignore[attr-defined]


def code_dtype(fmt: Format) -> np.dtype[Any]:
    """Return the narrowest integer dtype that holds every code."""
    width = next(width for width in (8, 16, 32, 64) if width >= code_bits(fmt))
    return np.dtype(f"{'int' if is_signed(fmt) else 'uint'}{width}")


def check_codes(function: str, codes: object, fmt: Format) -> Array:
    """Check that ``codes`` are integers within the format's range of codes."""
    if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iu":
        got = f"dtype {codes.dtype}" if isinstance(codes, np.ndarray) else type_name(codes)
        raise TypeError(f"{function}: codes must be a NumPy array of integers, got {got}")
    refuse_mask(function, "codes", codes)
    bits = code_bits(fmt)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed(fmt) else (0, (1 << bits) - 1)
    if isinstance(fmt, Table):
        high = len(fmt.values) - 1
    elif isinstance(fmt, SumOfPowers):
        low, high = (-(high + 1) if fmt.signed else 0), high
    if codes.size:
        least, most = int(codes.min()), int(codes.max())
        if least < low or most > high:
            wrong = least if least < low else most
            raise ValueError(f"{function}: codes must be from {low} to {high} for {fmt}, got {wrong}")
        if isinstance(fmt, (PowerOfTwo, Logarithmic)):
            _check_steps(function, codes, fmt)
    return codes


def _check_steps(function: str, codes: Array, fmt: PowerOfTwo | Logarithmic) -> None:
    body = codes & ((1 << (fmt.bits - fmt.signed)) - 1)
    if int(body.max()) > fmt.steps:
        wrong = int(codes.flat[int(body.argmax())])
        raise ValueError(f"{function}: codes must be 0 to {fmt.steps} beside the sign for {fmt}, got {wrong}")


# ---- decoding -------------------------------------------------------------------------------------------------------


def decode_elements(
    codes: object,
    fmt: Format,
    scale: npt.ArrayLike | None,
    zero_point: npt.ArrayLike | None,
    dtype: npt.DTypeLike | None,
) -> Array:
    """Return the values of codes, times scale."""
    array = check_codes("decode", codes, fmt)
    result = _result_dtype(fmt, dtype)
    scales = check_scale("decode", array.shape, result.name, fmt, scale, zero_point)
    # Integers wider than float32's mantissa are rounded to it once, after the zero point and the scale are applied.
    doubles = isinstance(fmt, Int) and plan_of(fmt, result.name, False).in_double
    wide = np.dtype(np.float64) if doubles else result
    values = values_of(array, fmt, wide)
    if scales.scale is None:
        return values.astype(result, copy=False)
    factor, zero = scales.spread(array.shape)
    assert factor is not None
    values = values if zero is None else values - zero.astype(wide)
    scaled: Array = (values * factor.astype(wide)).astype(result, copy=False)
    return scaled


def decode_blocks(codes: object, fmt: BlockFormat, scale: npt.ArrayLike | None, dtype: npt.DTypeLike | None) -> Array:
    """Return the values of a block format's codes: elements times the scales of their blocks along the last axis."""
    if not isinstance(codes, tuple) or len(codes) != 2:
        raise TypeError(
            f"decode: codes must be the codes and scales that encode returns for {fmt}, got {type_name(codes)}"
        )
    elements, shared = check_codes("decode", codes[0], fmt), codes[1]
    n = elements.shape[-1] if elements.ndim else 1
    expected = (*elements.shape[:-1], -(-n // fmt.block))
    if not isinstance(shared, np.ndarray) or shared.shape != expected:
        got = shared.shape if isinstance(shared, np.ndarray) else type_name(shared)
        raise ValueError(f"decode: scales must have shape {expected} to go with codes, got {got}")
    refuse_mask("decode", "scales", shared)
    result = np.dtype(np.float32) if dtype is None else _float_dtype(dtype)
    factor = check_scale("decode", elements.shape, result.name, fmt, scale, None).uniform
    wide = np.dtype(np.float64) if multiplies_doubles(fmt) else result
    with np.errstate(over="ignore", under="ignore"):
        each = np.repeat(_scales_of(shared, fmt, wide), fmt.block, -1)[..., :n].reshape(elements.shape)
        if isinstance(fmt, (MX, NVFP4)):
            values = values_of(elements, fmt.element, wide)
        elif isinstance(fmt, BlockFloat):
            values = elements.astype(wide) * wide.type(2.0 ** (2 - fmt.width))
        else:
            values = values_of(elements, fmt, wide)
        scaled: Array = values * each if factor is None else values * each * wide.type(factor[0])
        return scaled.astype(result, copy=False)


def multiplies_doubles(fmt: Format) -> bool:
    """Return whether elements are multiplied by their block's scale in float64, because float32 cannot hold them."""
    return isinstance(fmt, MX) and not _fits_float32(fmt.element)


def scale_kind(fmt: Format) -> str:
    """Return the kind of the blocks' scales."""
    return "floats" if isinstance(fmt, Table) else "integers"


def _scales_of(shared: Array, fmt: BlockFormat, dtype: np.dtype[Any]) -> Array:
    """Return the checked values of the scales of blocks."""
    if shared.dtype.kind not in ("f" if isinstance(fmt, Table) else "iu"):
        raise TypeError(f"decode: scales must be {scale_kind(fmt)} for {fmt}, got dtype {shared.dtype}")
    if isinstance(fmt, Table):
        return shared.astype(dtype)
    wrong = shared[(shared < 0) | (shared > 255)]
    if wrong.size:
        raise ValueError(f"decode: scales must be codes from 0 to 255 for {fmt}, got {wrong.flat[0]}")
    if isinstance(fmt, NVFP4):
        return values_of(shared, Float(4, 3, "fn"), dtype)
    powers: Array = np.where(shared == 255, np.nan, np.ldexp(1.0, shared.astype(np.int32) - 127))
    return powers.astype(dtype)


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"decode: dtype must be float32 or float64, got {dtype!r}") from None
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"decode: dtype must be float32 or float64, got {result}")
    return result


def _result_dtype(fmt: Format, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    if dtype is not None:
        return _float_dtype(dtype)
    return np.dtype(np.float32 if _fits_float32(fmt) else np.float64)


def _fits_float32(fmt: Format) -> bool:
    if isinstance(fmt, SumOfPowers):
        fmt = fmt.fixed
    if isinstance(fmt, Fixed):
        return fmt.width - fmt.signed <= 24 and fmt.fraction <= 149 and fmt.integer <= 127
    if isinstance(fmt, Int):
        return fmt.width - fmt.signed <= 24
    if isinstance(fmt, Float):
        return fmt.mantissa <= 23 and fmt.min_exponent - fmt.mantissa >= -149 and fmt.max_exponent <= 127
    if isinstance(fmt, Posit):
        return fmt.n - 3 - fmt.es <= 23 and fmt.max_exponent <= 126
    if isinstance(fmt, Table):
        return holds_values(fmt, np.float32)
    assert isinstance(fmt, (PowerOfTwo, Logarithmic))
    return fmt.lowest >= -126 and fmt.highest <= 127


def values_of(codes: Array, fmt: Format, dtype: np.dtype[Any]) -> Array:
    """Return the values of codes, from a lookup table if they have few bits."""
    bits = code_bits(fmt)
    if isinstance(fmt, (Fixed, Int, SumOfPowers)) or bits > 16:
        return _values(codes, fmt, dtype)
    return _all_values(fmt, dtype)[codes]


@lru_cache(maxsize=64)
def _all_values(fmt: Format, dtype: np.dtype[Any]) -> Array:
    count = len(fmt.values) if isinstance(fmt, Table) else 1 << code_bits(fmt)
    return _values(np.arange(count, dtype=np.int64), fmt, dtype)


def _values(codes: Array, fmt: Format, dtype: np.dtype[Any]) -> Array:
    if isinstance(fmt, SumOfPowers):
        fmt = fmt.fixed
    with np.errstate(over="ignore", under="ignore"):
        if isinstance(fmt, Fixed):
            return np.ldexp(_nearest(codes, dtype, fmt.width), -fmt.fraction).astype(dtype)
        if isinstance(fmt, Int):
            return codes.astype(dtype)
        decoder = {Float: _floats, Posit: _posits, PowerOfTwo: _powers, Table: _looked_up}
        if isinstance(fmt, Logarithmic):
            return _logarithms(codes, fmt, dtype)
        values: Array = decoder[type(fmt)](codes, fmt)  # type: ignore[operator]
        return values.astype(dtype)


def _nearest(codes: Array, dtype: np.dtype[Any], width: int) -> Array:
    """Return the codes as the nearest doubles, or rounded to odd if they will be rounded again."""
    if width <= 53 or dtype == np.float64:
        return codes.astype(np.float64)
    kept = codes >> 11
    odd = (kept | (codes != kept << 11)).astype(np.float64) * 2048.0
    few = (codes < 1 << 53) & (codes > -(1 << 53) if codes.dtype.kind == "i" else True)
    exact: Array = np.where(few, codes.astype(np.float64), odd)
    return exact


def _floats(codes: Array, fmt: Float) -> Array:
    codes = codes.astype(np.uint64)
    body, mantissa = (codes & np.uint64((1 << (fmt.exponent + fmt.mantissa)) - 1)).astype(np.int64), fmt.mantissa
    field, fraction = body >> mantissa, body & ((1 << mantissa) - 1)
    normal = (field > 0) | (not fmt.subnormals)
    exponent = np.maximum(field, int(fmt.subnormals)) - int(fmt.bias or 0)
    values = np.ldexp((fraction + (normal.astype(np.int64) << mantissa)).astype(np.float64), exponent - mantissa)
    if fmt.specials == "ieee":
        top = (1 << fmt.exponent) - 1
        values = np.where(field == top, np.where(fraction == 0, np.inf, np.nan), values)
    elif fmt.specials == "fn":
        values = np.where(body == (1 << (fmt.exponent + mantissa)) - 1, np.nan, values)
    sign = codes >> np.uint64(fmt.exponent + mantissa)
    values = np.where((sign > 0) & ~np.isnan(values), -values, values)
    return np.where(codes == 1 << (fmt.bits - 1), np.nan, values) if fmt.specials == "fnuz" else values


def _posits(codes: Array, fmt: Posit) -> Array:
    n, codes = fmt.n, codes.astype(np.int64)
    negative = codes >> (n - 1) == 1
    body = np.where(negative, (1 << n) - codes, codes) & ((1 << (n - 1)) - 1)
    first = (body >> (n - 2)) & 1
    run, going = np.zeros_like(body), np.ones(body.shape, bool)
    for place in range(n - 2, -1, -1):
        going &= ((body >> place) & 1) == first
        run += going
    regime = np.where(first == 1, run - 1, -run)
    left = np.maximum(n - 2 - run, 0)  # bits after the regime and its terminating bit
    rest = body & ((1 << left) - 1)
    scaled = rest << (n + fmt.es - left)  # n + es bits: the exponent, then a fraction of n bits
    exponent, fraction = scaled >> n, scaled & ((1 << n) - 1)
    values = np.ldexp(1.0 + fraction * 2.0**-n, (regime << fmt.es) + exponent)
    values = np.where(negative, -values, values)
    return np.where(codes == 0, 0.0, np.where(codes == 1 << (n - 1), np.nan, values))


def _powers(codes: Array, fmt: PowerOfTwo) -> Array:
    top = fmt.bits - fmt.signed
    body = codes & ((1 << top) - 1)
    values = np.where(body == 0, 0.0, np.ldexp(1.0, body.astype(np.int64) + (fmt.lowest - 1)))
    return np.where((codes >> top == 1) & (body > 0), -values, values)


def _looked_up(codes: Array, fmt: Table) -> Array:
    values: Array = np.array(fmt.values)[codes]
    return values


def _logarithms(codes: Array, fmt: Logarithmic, dtype: np.dtype[Any]) -> Array:
    top = fmt.bits - fmt.signed
    body = (codes & ((1 << top) - 1)).astype(np.int64)
    step = body - 1 + (fmt.lowest << fmt.fraction)
    _, values = log_table(fmt.fraction, dtype.type)
    powers = np.ldexp(values[step & ((1 << fmt.fraction) - 1)], step >> fmt.fraction)
    powers = np.where(codes >> top == 1, -powers, powers)
    return np.where(body == 0, 0.0, powers)


# ---- packing --------------------------------------------------------------------------------------------------------


def pack(codes: Array, fmt: FormatLike) -> npt.NDArray[np.uint8]:
    """Pack the codes along the last axis into bytes, with only as many bits per code as the format has.

    Code i starts at bit i * bits, counted from the lowest bit of the first byte. Each row of the last axis starts at
    a byte boundary, and its last byte is padded with zeros.

    Parameters
    ----------
    codes : ndarray of integers
        As returned by :func:`encode`; any shape and strides.
    fmt : Format, str or dtype
        Their format, which determines the number of bits per code.

    Returns
    -------
    packed : ndarray of uint8
        The shape of the codes, with ceil(n bits / 8) bytes along the last axis.

    Raises
    ------
    TypeError, ValueError
        For anything but an array of integers; for codes that the format does not have.

    See Also
    --------
    unpack : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import pack, unpack
    >>> packed = pack(np.array([1, 2, 3], np.uint8), "e2m1")
    >>> packed.tolist(), unpack(packed, "e2m1", 3).tolist()
    ([33, 3], [1, 2, 3])
    """
    return choose("pack", _PACK, None, codes)(codes, fmt)


def _pack(codes: Array, fmt: FormatLike) -> npt.NDArray[np.uint8]:
    fmt = check_format("pack", fmt)
    array = check_codes("pack", codes, fmt)
    bits, dtype = code_bits(fmt), code_dtype(fmt)
    array = np.ascontiguousarray(array, dtype)
    n = array.shape[-1] if array.ndim else 1
    packed = np.empty((*array.shape[:-1], -(-n * bits // 8)), np.uint8)
    lines = array.size // n if n else 0
    _core.quant.pack_codes(array, ELEMENTS[dtype.name], bits, packed, lines, n, False, False)
    return packed


def check_packed(shape: tuple[int, ...], bits: int, n: object) -> None:
    """Check that bytes of this shape hold rows of n codes."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"unpack: n must be an int, got {type_name(n)}")
    if n < 0:
        raise ValueError(f"unpack: n must be 0 or more, got {n}")
    length = -(-int(n) * bits // 8)
    if not shape or shape[-1] != length:
        raise ValueError(f"unpack: packed must have {length} bytes along the last axis for {n} codes, got {shape}")


def unpack(packed: npt.NDArray[np.uint8], fmt: FormatLike, n: int) -> Array:
    """Return the n codes of each row that :func:`pack` packed, in the dtype of :func:`encode`.

    Parameters
    ----------
    packed : ndarray of uint8
        As returned by :func:`pack`.
    fmt : Format, str or dtype
        The format of the codes.
    n : int
        Number of codes in a row.

    Returns
    -------
    codes : ndarray
        (..., n).

    Raises
    ------
    TypeError, ValueError
        For anything but bytes; for a last axis whose length does not match n codes.

    See Also
    --------
    pack : The inverse.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import unpack
    >>> unpack(np.array([33, 3], np.uint8), "e2m1", 3).tolist()
    [1, 2, 3]
    """
    return choose("unpack", _UNPACK, None, packed)(packed, fmt, n)


def _unpack(packed: npt.NDArray[np.uint8], fmt: FormatLike, n: int) -> Array:
    fmt = check_format("unpack", fmt)
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8:
        got = f"dtype {packed.dtype}" if isinstance(packed, np.ndarray) else type_name(packed)
        raise TypeError(f"unpack: packed must be a NumPy array of uint8, got {got}")
    refuse_mask("unpack", "packed", packed)
    bits, dtype = code_bits(fmt), code_dtype(fmt)
    check_packed(packed.shape, bits, n)
    packed = np.ascontiguousarray(packed)
    codes = np.empty((*packed.shape[:-1], int(n)), dtype)
    lines = math.prod(codes.shape[:-1])
    _core.quant.pack_codes(codes, ELEMENTS[dtype.name], bits, packed, lines, int(n), True, is_signed(fmt))
    return codes


_PACK: Backends[npt.NDArray[np.uint8]] = {"cpu": _pack, "cuda": Cuda("fastiter.torch.quant", "pack")}
_UNPACK: Backends[Array] = {"cpu": _unpack, "cuda": Cuda("fastiter.torch.quant", "unpack")}
