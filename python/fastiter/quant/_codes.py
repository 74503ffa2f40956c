"""Codes: their dtypes, their values, and the packing of codes of a few bits into bytes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backends, Cuda, choose
from .._check import float_dtype, refuse_mask, type_name
from ._check import FormatLike, check_format
from ._formats.base import Format
from ._formats.modes import ELEMENTS
from ._launch import block_scales_shape
from ._scale import check_scale

Array: TypeAlias = npt.NDArray[Any]


def code_dtype(fmt: Format) -> np.dtype[Any]:
    """Return the narrowest integer dtype that holds every code."""
    width = next(width for width in (8, 16, 32, 64) if width >= fmt.bits)
    return np.dtype(f"{'int' if fmt._has_signed_codes else 'uint'}{width}")


def check_codes(function: str, codes: object, fmt: Format) -> Array:
    """Check that ``codes`` are integers within the format's range of codes."""
    if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iu":
        got = f"dtype {codes.dtype}" if isinstance(codes, np.ndarray) else type_name(codes)
        raise TypeError(f"{function}: codes must be a NumPy array of integers, got {got}")
    refuse_mask(function, "codes", codes)
    low, high = fmt._code_range()
    if codes.size:
        smallest, largest = int(codes.min()), int(codes.max())
        if smallest < low or largest > high:
            wrong = smallest if smallest < low else largest
            raise ValueError(f"{function}: codes must be from {low} to {high} for {fmt}, got {wrong}")
        fmt._check_codes(function, codes)
    return codes


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
    wide = np.dtype(np.float64) if fmt._scales_in_double else result
    values = values_of(array, fmt, wide)
    if scale is None and zero_point is None:
        return values.astype(result, copy=False)
    factor, zero = check_scale("decode", array.shape, result.name, fmt, scale, zero_point).spread(array.shape)
    assert factor is not None
    values = values if zero is None else values - zero.astype(wide)
    scaled: Array = (values * factor.astype(wide)).astype(result, copy=False)
    return scaled


def decode_blocks(codes: object, fmt: Format, scale: npt.ArrayLike | None, dtype: npt.DTypeLike | None) -> Array:
    """Return the values of a block format's codes: elements times the scales of their blocks along the last axis."""
    if not isinstance(codes, tuple) or len(codes) != 2:
        raise TypeError(
            f"decode: codes must be the codes and scales that encode returns for {fmt}, got {type_name(codes)}"
        )
    elements, shared = check_codes("decode", codes[0], fmt), codes[1]
    expected = block_scales_shape(elements.shape, fmt.block)
    if not isinstance(shared, np.ndarray) or shared.shape != expected:
        got = shared.shape if isinstance(shared, np.ndarray) else type_name(shared)
        raise ValueError(f"decode: scales must have shape {expected} to go with codes, got {got}")
    refuse_mask("decode", "scales", shared)
    result = np.dtype(np.float32) if dtype is None else float_dtype("decode", dtype)
    factor = check_scale("decode", elements.shape, result.name, fmt, scale, None).uniform
    wide = np.dtype(np.float64) if fmt._scales_in_double else result
    n = elements.shape[-1] if elements.ndim else 1
    with np.errstate(over="ignore", under="ignore"):
        each = np.repeat(_scales_of(shared, fmt, wide), fmt.block, -1)[..., :n].reshape(elements.shape)
        values = values_of(elements, fmt, wide)
        scaled: Array = values * each if factor is None else values * each * wide.type(factor[0])
        return scaled.astype(result, copy=False)


def scale_kind(fmt: Format) -> str:
    """Return the kind of the blocks' scales."""
    return "floats" if fmt._has_float_scales else "integers"


def _scales_of(shared: Array, fmt: Format, dtype: np.dtype[Any]) -> Array:
    """Return the checked values of the scales of blocks."""
    if shared.dtype.kind not in ("f" if fmt._has_float_scales else "iu"):
        raise TypeError(f"decode: scales must be {scale_kind(fmt)} for {fmt}, got dtype {shared.dtype}")
    if fmt._has_float_scales:
        return shared.astype(dtype)
    wrong = shared[(shared < 0) | (shared > 255)]
    if wrong.size:
        raise ValueError(f"decode: scales must be codes from 0 to 255 for {fmt}, got {wrong.flat[0]}")
    values: Array = scale_values(fmt, dtype)[shared]
    return values


@lru_cache(maxsize=64)
def scale_values(fmt: Format, dtype: np.dtype[Any]) -> Array:
    """Return the values of all codes of a block's scale."""
    with np.errstate(under="ignore"):
        return fmt._scale_values().astype(dtype)


def _result_dtype(fmt: Format, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    if dtype is not None:
        return float_dtype("decode", dtype)
    return np.dtype(np.float32 if fmt._fits_float32 else np.float64)


def values_of(codes: Array, fmt: Format, dtype: np.dtype[Any]) -> Array:
    """Return the values of codes (of elements in blocks), from a lookup table if they have few bits."""
    return all_values(fmt, dtype)[codes] if fmt._has_table else _computed_values(codes, fmt, dtype)


@lru_cache(maxsize=64)
def all_values(fmt: Format, dtype: np.dtype[Any]) -> Array:
    """Return the values of all codes."""
    return _computed_values(np.arange(fmt._code_range()[1] + 1, dtype=np.int64), fmt, dtype)


def _computed_values(codes: Array, fmt: Format, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return fmt._values(codes, dtype).astype(dtype)


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
    bits, dtype = fmt.bits, code_dtype(fmt)
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
    bits, dtype = fmt.bits, code_dtype(fmt)
    check_packed(packed.shape, bits, n)
    packed = np.ascontiguousarray(packed)
    codes = np.empty((*packed.shape[:-1], int(n)), dtype)
    lines = math.prod(codes.shape[:-1])
    _core.quant.pack_codes(codes, ELEMENTS[dtype.name], bits, packed, lines, int(n), True, fmt._has_signed_codes)
    return codes


_PACK: Backends[npt.NDArray[np.uint8]] = {"cpu": _pack, "cuda": Cuda("fastiter.torch.quant", "pack")}
_UNPACK: Backends[Array] = {"cpu": _unpack, "cuda": Cuda("fastiter.torch.quant", "unpack")}
