"""Packed weights: matrices in the formats of fastiter.quant, laid out for products with a few vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._check import (
    check_array,
    check_choice,
    check_entries,
    check_finite,
    count,
    empty,
    positive,
    type_name,
    unit_stride,
)
from ..quant import Table, encode, parse
from ..quant._check import check_floats
from ..quant._codes import check_codes

Array: TypeAlias = npt.NDArray[Any]
#: Returns rows first to last - 1 of a matrix, in any dtype of floats
Rows: TypeAlias = Callable[[int, int], Array]
#: Numbers that are encoded at once, so that packing takes little memory beside the matrix itself
_BLOCK = 1 << 18
#: The smallest scale, of a group of zeros
_SMALLEST = np.float16(2.0**-24)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
#: The largest weight of formats that do not hold all float32 numbers, or hold more
_LARGEST = {"f64": float(np.finfo(np.float64).max), "bf16": float(parse("bf16").max_value)}


class Kind(NamedTuple):
    """A format of packed weights.

    Attributes
    ----------
    element : str
        The format of a code in fastiter.quant; empty for floats that are stored as they are.
    largest : float
        With a scale in float16 for each group: the number to which the group's largest magnitude is scaled, else 0.
    group : int
        Inputs that share a scale, by default if the format does not fix it; 0 for none.
    step : int
        The number of which a group is a multiple.
    codes, scales : dtype
        Those of the arrays that are packed.
    """

    element: str
    largest: float
    group: int
    step: int
    codes: Any
    scales: Any

    @property
    def is_scaled(self) -> bool:
        """Whether all numbers of a matrix have a scale, which depends on the largest."""
        return self.largest > 0 or self.element == "nvfp4"


KINDS = {
    "f32": Kind("", 0, 0, 1, np.float32, None),
    "f64": Kind("", 0, 0, 1, np.float64, None),
    "bf16": Kind("bf16", 0, 0, 1, np.uint16, None),
    "int8": Kind("int8", 127, 32, 4, np.int8, np.float16),
    "int4": Kind("int4", 7, 32, 8, np.int8, np.float16),
    "nf4": Kind("nf4", 1, 32, 8, np.uint8, np.float16),
    "mxfp4": Kind("mxfp4", 0, 32, 32, np.uint8, np.uint8),
    "mxfp8": Kind("mxfp8", 0, 32, 32, np.uint8, np.uint8),
    "nvfp4": Kind("nvfp4", 0, 16, 16, np.uint8, np.uint8),
}


class PackedMatrix(_core.decode.PackedMatrix):
    """A matrix W (N, K) of packed weights."""

    def unpack(self, first: int = 0, rows: int | None = None) -> Array:
        """Return rows of W, by default all from ``first`` on: what fastiter.quant.decode returns for their codes."""
        first = count("unpack", "first", first, 0, self.N)
        rows = count("unpack", "rows", self.N - first if rows is None else rows, 0, self.N - first)
        out = empty((rows, self.K), self._dtype)
        self.unpack_rows(first, rows, out)
        return out

    def product(self, x: Array) -> Array:
        """Return x W^T for x (..., K): float32, float64 for weights in float64."""
        check_array("product", "x", x, (self._dtype.name,))
        if x.ndim == 0 or x.shape[-1] != self.K:
            raise ValueError(f"product: x must have shape (..., {self.K}), got {x.shape}")
        lines = unit_stride(x.reshape(-1, self.K))
        y = empty((*x.shape[:-1], self.N), self._dtype)
        self.multiply(lines.shape[0], lines, lines.strides[0] // lines.itemsize, y)
        return y

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.format == "f64" else np.float32)


def pack(weight: Array, fmt: str, group: int | None = None) -> PackedMatrix:
    """Encode a matrix (N, K) of floats and pack it.

    Parameters
    ----------
    weight : ndarray, float32, float64, float16 or bfloat16
        The matrix; any strides.
    fmt : str
        One of KINDS.
    group : int, optional
        Inputs that share a scale, for int8, int4 and nf4; the last group of a row may be shorter.
    """
    weight = check_floats("pack", "weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"pack: weight must have shape (N, K), got {weight.shape}")
    N, K = weight.shape
    return pack_rows(lambda first, last: weight[first:last], N, K, fmt, group)


def pack_rows(rows: Rows, N: int, K: int, fmt: str, group: int | None = None) -> PackedMatrix:
    """Encode a matrix (N, K) block by block, and pack it: ``rows(first, last)`` returns a block, once or twice."""
    kind, size = _kind_of("pack", fmt, group)
    blocks = _blocks(N, K)
    tops = [_largest(rows(*block), fmt, block) for block in blocks] if kind.is_scaled else []
    scale = _scale_of_matrix(kind, max(tops, default=np.float32(0)))
    packed = PackedMatrix(fmt, N, K, size, scale)
    for block in blocks:
        x = np.ascontiguousarray(rows(*block))
        if not kind.is_scaled:
            _largest(x, fmt, block)
        _put(packed, block[0], *_encode(x, kind, size, scale))
    return packed


def pack_codes(
    codes: Array, scales: Array | None, fmt: str, group: int | None = None, scale: float = 1.0
) -> PackedMatrix:
    """Pack codes (N, K) and scales (N, ceil(K / group)) that are already encoded, without rounding.

    Parameters
    ----------
    codes : ndarray of integers
        As fastiter.quant.encode returns them; for bf16 the bits.
    scales : ndarray
        float16 for int8, int4 and nf4, codes in e8m0 for mxfp4 and mxfp8, in e4m3fn for nvfp4, else None.
    fmt : str
        One of KINDS.
    group : int, optional
        As for :func:`pack`.
    scale : float
        A float32 number by which all weights are multiplied: nvfp4's scale of the tensor.
    """
    kind, size = _kind_of("pack_codes", fmt, group)
    for name, array, dtype in (("codes", codes, kind.codes), ("scales", scales, kind.scales)):
        expected = "None" if dtype is None else f"an array of {np.dtype(dtype)}"
        got = "None" if array is None else str(getattr(array, "dtype", type_name(array)))
        if got != expected.removeprefix("an array of "):
            raise TypeError(f"pack_codes: {name} must be {expected} for {fmt}, got {got}")
    if codes.ndim != 2:
        raise ValueError(f"pack_codes: codes must have shape (N, K), got {codes.shape}")
    if kind.element:
        check_codes("pack_codes", codes, parse(kind.element))
    _check_scales(codes, scales, fmt, size)
    if positive("pack_codes", "scale", scale, zero=False) > _FLOAT32_MAX:
        raise ValueError(f"pack_codes: scale must be a float32 number, got {scale}")
    N, K = codes.shape
    packed = PackedMatrix(fmt, N, K, size, scale)
    for first, last in _blocks(N, K):
        _put(packed, first, codes[first:last], None if scales is None else scales[first:last])
    return packed


def _kind_of(function: str, fmt: str, group: int | None) -> tuple[Kind, int]:
    """Return the kind of a format, and the checked size of its groups."""
    check_choice(function, "fmt", fmt, tuple(KINDS))
    kind = KINDS[fmt]
    if group is None:
        return kind, kind.group
    count(function, "group", group, 1)
    if kind.scales is not np.float16 and group != kind.group:
        raise ValueError(f"{function}: group must be {kind.group or None} for {fmt}, got {group}")
    if group % kind.step:
        raise ValueError(f"{function}: group must be a multiple of {kind.step} for {fmt}, got {group}")
    return kind, group


def _check_scales(codes: Array, scales: Array | None, fmt: str, group: int) -> None:
    """Check the shape of scales, and that they and the codes are finite numbers."""
    nans = (0x7F, 0xFF)  # in e4m3fn
    if fmt == "mxfp8" and np.isin(codes, nans).any():
        raise ValueError("pack_codes: codes must be finite, got the code of NaN")
    if scales is None:
        return
    expected = (codes.shape[0], -(-codes.shape[1] // group))
    if scales.shape != expected:
        raise ValueError(f"pack_codes: scales must have shape {expected} to go with codes, got {scales.shape}")
    if scales.dtype == np.float16:
        check_finite("pack_codes", "scales", scales)
    elif fmt == "nvfp4":
        check_entries("pack_codes", "scales", scales, ~np.isin(scales, nans), "be codes of finite numbers")
    else:
        # Beyond, the largest weights are no float32 numbers.
        limit = 246 if fmt == "mxfp8" else 252
        check_entries("pack_codes", "scales", scales, scales <= limit, f"be at most {limit}")


def _blocks(N: int, K: int) -> list[tuple[int, int]]:
    """Return the first and the last row, exclusive, of blocks of about _BLOCK numbers."""
    rows = max(_BLOCK // max(K, 1), 1)
    return [(first, min(first + rows, N)) for first in range(0, N, rows)] if K else []


def _largest(x: Array, fmt: str, block: tuple[int, int]) -> Any:
    """Return the largest magnitude in rows, which the format has to hold, as a number of their dtype."""
    largest = np.abs(x).max(initial=0)
    if not float(largest) <= _LARGEST.get(fmt, _FLOAT32_MAX):
        where = f"in rows {block[0]} to {block[1] - 1}"
        raise ValueError(f"pack: weight must have finite numbers of {fmt}, got {largest} {where}")
    return largest


def _scale_of_matrix(kind: Kind, largest: Any) -> float:
    """Return the number by which all weights are multiplied.

    For scales in float16 it is a power of two with which the largest scale is from 2^14 to 2^15: matrices of large
    numbers then have scales, and those of small numbers no subnormal ones, whose precision is lower.
    """
    if kind.element == "nvfp4":
        return float(encode(np.array([[largest]]), "nvfp4", scale="amax").scale)
    if kind.largest and largest > 0:
        return float(2.0 ** max(np.frexp(float(largest) / kind.largest)[1] - 15, -100))
    return 1.0


def _encode(x: Array, kind: Kind, group: int, scale: float) -> tuple[Array, Array | None]:
    """Return the codes and the scales of rows."""
    if not kind.element:
        with np.errstate(over="ignore"):
            return x.astype(kind.codes, copy=False), None
    if kind.scales is None:
        return encode(x, kind.element), None
    if not kind.largest:
        codes, scales = encode(x, kind.element, scale=scale if kind.element == "nvfp4" else None)
        return codes, scales
    K = x.shape[1]
    x = np.pad(x, ((0, 0), (0, -K % group)))
    largest = np.abs(x).reshape(len(x), -1, group).max(-1).astype(np.float64)
    scales = np.maximum((largest / (kind.largest * scale)).astype(np.float16), _SMALLEST)
    fmt = Table(parse("nf4").values) if kind.element == "nf4" else parse(kind.element)
    codes = encode(x, fmt, scale=scales.astype(np.float64) * scale)
    return codes[:, :K], scales


def _put(packed: PackedMatrix, first: int, codes: Array, scales: Array | None) -> None:
    """Pack the codes and scales of rows."""
    scales = None if scales is None else np.ascontiguousarray(scales)
    packed.pack_rows(first, len(codes), np.ascontiguousarray(codes), scales)
