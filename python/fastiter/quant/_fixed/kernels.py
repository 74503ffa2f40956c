"""Fixed-point products of NumPy arrays by the kernel: windows, and operands as strided indices into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._check import empty, type_name
from .._formats.fixed import Fixed
from .growth import code_dtype, target

Array = npt.NDArray[Any]

#: Algorithms by name; only tests choose one, otherwise the fastest exact one runs.
PATHS: dict[str, int] = vars(_core.quant.fixed_path)


class Window(NamedTuple):
    """The part of x that contributes to an output of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def output(self, function: str, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, int]:
        """Return the rows and columns of the output."""
        sizes = []
        for axis in range(2):
            extent = self.dilation[axis] * (w[2 + axis] - 1) + 1
            room = x[2 + axis] + 2 * self.padding[axis] - extent
            if w[2 + axis] < 1 or room < 0:
                raise ValueError(f"{function}: w must fit into x {x} with its padding {self.padding}, got shape {w}")
            sizes.append(room // self.stride[axis] + 1)
        padded = x[0] * x[1] * (x[2] + 2 * self.padding[0]) * (x[3] + 2 * self.padding[1])
        if max(padded, x[0] * w[0] * sizes[0] * sizes[1]) >= 2**60:  # in elements of 8 bytes
            raise ValueError(f"{function}: padding must leave arrays that can be addressed, got {self.padding}")
        return sizes[0], sizes[1]


def read_window(
    function: str,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    x: tuple[int, ...],
    w: tuple[int, ...],
) -> Window:
    """Check the arguments against the shapes of x and w."""
    return Window(
        _pair(function, "stride", stride, 1),
        _pair(function, "padding", padding, 0),
        _pair(function, "dilation", dilation, 1),
        _groups(function, groups, x, w),
    )


def _pair(function: str, name: str, value: int | Sequence[int], lowest: int) -> tuple[int, int]:
    values = (value, value) if isinstance(value, (int, np.integer)) else value
    if isinstance(value, bool) or not isinstance(values, (tuple, list)):
        raise TypeError(f"{function}: {name} must be an int or two, got {type_name(value)}")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, np.integer)):
            raise TypeError(f"{function}: {name} must be an int or two, got {type_name(v)}")
    if len(values) != 2:
        raise ValueError(f"{function}: {name} must be an int or two, got {len(values)}")
    if min(values) < lowest:
        raise ValueError(f"{function}: {name} must be at least {lowest}, got {min(values)}")
    if max(values) >= 2**31:
        raise ValueError(f"{function}: {name} must be below 2**31, got {max(values)}")
    return int(values[0]), int(values[1])


def _groups(function: str, groups: object, x: tuple[int, ...], w: tuple[int, ...]) -> int:
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)):
        raise TypeError(f"{function}: groups must be an int, got {type_name(groups)}")
    if groups < 1 or w[0] % groups:
        raise ValueError(f"{function}: groups must be at least 1 and divide O = {w[0]}, got {groups}")
    if x[1] != w[1] * groups:
        raise ValueError(f"{function}: w must have C / groups = {x[1]} / {groups} channels, got shape {w}")
    return int(groups)


def product_shape(function: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the product by NumPy's rules."""
    for name, shape in (("a", a), ("b", b)):
        if not shape:
            raise ValueError(f"{function}: {name} must have one axis or more, got shape ()")
    depth = b[-2] if len(b) > 1 else b[0]
    if a[-1] != depth:
        raise ValueError(f"{function}: b must have K = {a[-1]} rows to go with a {a}, got shape {b}")
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise ValueError(f"{function}: b must have a batch that goes with that of a {a}, got shape {b}") from None
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def as_matrices(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the operands of a product with at least two axes each."""
    return a.reshape((1, *a.shape)) if a.ndim == 1 else a, b.reshape((*b.shape, 1)) if b.ndim == 1 else b


@lru_cache(maxsize=1024)
def _index(sizes: tuple[int, ...], strides: tuple[int, ...]) -> _core.quant.Index3 | None:
    """Return a three-level index that visits the same elements, or None if that takes more levels."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    if len(merged) > 3:
        return None
    whole = [(1, 0)] * (3 - len(merged)) + merged
    if not merged:  # one element: its rows count as contiguous
        whole[-1] = (1, 1)
    (s0, t0), (s1, t1), (s2, t2) = whole
    return _core.quant.Index3((s0, s1, s2), (t0, t1, t2))


def _needed(index: _core.quant.Index3 | None) -> _core.quant.Index3:
    assert index is not None
    return index


def _steps(codes: Array) -> tuple[Array, tuple[int, ...]]:
    """Return the codes, or a copy, in native byte order, and their strides in elements."""
    size = codes.dtype.itemsize
    if not codes.flags.aligned or not codes.dtype.isnative or any(stride % size for stride in codes.strides):
        codes = np.ascontiguousarray(codes, codes.dtype.newbyteorder("="))
    return codes, tuple(stride // size for stride in codes.strides)


def _codes(x: Array, fmt: Fixed, item: _core.quant.Index3, k: _core.quant.Index3) -> _core.quant.FixedCodes:
    return _core.quant.FixedCodes(x, x.itemsize, fmt.signed, fmt.width, item, k)


def _offsets(sizes: tuple[int, ...], strides: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the offset of each matrix of a batch."""
    total = np.zeros(sizes, np.int64)
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        total += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(sizes) - 1 - axis))
    return total.ravel()


def _targets(
    x: Fixed, y: Fixed, formats: tuple[Fixed, Fixed | None]
) -> tuple[_core.quant.FixedTarget, _core.quant.FixedTarget | None]:
    acc, product = formats
    exact = x.fraction + y.fraction
    if product is None:
        return target(acc, exact), None
    return target(acc, product.fraction), target(product, exact)


def matmul_codes(
    x: Array,
    fx: Fixed,
    y: Array,
    fy: Fixed,
    formats: tuple[Fixed, Fixed | None],
    start: Array | None,
    every: int = 1,
    path: str = "choose",
) -> tuple[Array, int]:
    """Codes of x (..., M, K) y (..., K, N), and a bit mask of the paths that were taken."""
    (M, K), N = x.shape[-2:], y.shape[-1]
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    out = empty((*batch, M, N), code_dtype(formats[0].width, formats[0].signed))
    if out.size == 0:
        return out, 0
    x, x_steps = _steps(np.broadcast_to(x, (*batch, M, K)))
    # A batch that shares b and the initial value is one long matrix.
    rows = None
    if math.prod(y.shape[:-2]) == 1 and (start is None or start.strides[0] == 0):
        rows = _index((*batch, M), x_steps[:-1])
    if rows is not None:
        y = y.reshape(y.shape[-2:])
        batch, out_rows = (), _needed(_index((math.prod(batch) * M,), (N,)))
    else:
        rows, out_rows = _needed(_index((M,), x_steps[-2:-1])), _needed(_index((M,), (N,)))
        y = np.broadcast_to(y, (*batch, K, N))
    y, y_steps = _steps(y)
    count = math.prod(batch)
    acc, product = _targets(fx, fy, formats)
    x_at = _offsets(batch, x_steps[: len(batch)])
    y_at = _offsets(batch, y_steps[: len(batch)])
    out_at = np.arange(count, dtype=np.int64) * (M * N)
    paths = _core.quant.fixed_matmul(
        _codes(x, fx, rows, _needed(_index((K,), x_steps[-1:]))),
        _codes(y, fy, _needed(_index((N,), y_steps[-1:])), _needed(_index((K,), y_steps[-2:-1]))),
        acc,
        product,
        every,
        None if start is None else _core.quant.FixedStart(start, start.strides[0] // 8, start.strides[1] // 8),
        _core.quant.FixedOutput(out, out.itemsize, out_rows, _needed(_index((N,), (1,)))),
        _core.quant.FixedBatch(count, x_at, y_at, out_at),
        PATHS[path],
    )
    return out, paths


def conv2d_codes(
    x: Array,
    fx: Fixed,
    w: Array,
    fw: Fixed,
    formats: tuple[Fixed, Fixed | None],
    start: Array | None,
    window: Window,
    size: tuple[int, int],
) -> Array:
    """Codes of the convolution of x with w: rows are the output's channels, columns its pixels, one group at a time."""
    B, (O, C, R, S), (P, Q), groups = x.shape[0], w.shape, size, window.groups
    out = empty((B, O, P, Q), code_dtype(formats[0].width, formats[0].signed))
    if out.size == 0:
        return out
    if any(window.padding):
        x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in window.padding)))
    x, (x_b, x_c, x_h, x_w) = _steps(x)
    w, w_steps = _steps(np.ascontiguousarray(w))
    (down, across), (row, column) = window.stride, window.dilation
    acc, product = _targets(fw, fx, formats)
    group = np.arange(groups, dtype=np.int64)
    each = O // groups
    filters = _codes(w, fw, _needed(_index((each,), w_steps[:1])), _needed(_index((C * R * S,), (1,))))
    windows = _codes(
        x,
        fx,
        _needed(_index((B, P, Q), (x_b, down * x_h, across * x_w))),
        _needed(_index((C, R, S), (x_c, row * x_h, column * x_w))),
    )
    pixels = _needed(_index((B, P * Q), (O * P * Q, 1)))
    to = _core.quant.FixedOutput(out, out.itemsize, _needed(_index((each,), (P * Q,))), pixels)
    for g in range(groups):
        offsets = group[g:] * (each * C * R * S), group[g:] * (C * x_c), group[g:] * (each * P * Q)
        _core.quant.fixed_matmul(
            filters,
            windows,
            acc,
            product,
            1,
            None if start is None else _core.quant.FixedStart(start[g * each :], start.strides[0] // 8, 0),
            to,
            _core.quant.FixedBatch(1, *offsets),
            PATHS["choose"],
        )
    return out


def assigned_fraction(x: Fraction, fmt: Fixed) -> Array:
    """Return the code of a rational number assigned to ``fmt``, as a sum of two products that is assigned once.

    Rounding and overflow depend on v = x 2^F only through an integer of at most W + 6 bits: the last W + 1 bits of
    floor(v), its sign and whether it is out of range, the bits for a half and a quarter of the last place, and a sticky
    bit.
    """
    quarters = x * Fraction(2) ** (fmt.fraction + 2)
    floor = math.floor(quarters)
    more = quarters != floor
    beyond = 1 << fmt.width + 3  # in quarters: at least twice the largest code
    if not -beyond <= floor < beyond:
        floor = floor % beyond + (beyond if x > 0 else -2 * beyond)
    high, low = divmod(2 * floor + more, 1 << 40)
    parts, weights = np.array([[high, low]], np.int64), np.array([[1 << 40], [1]], np.int64)
    eighths, whole = Fixed(42, 42 - fmt.fraction - 3), Fixed(42, 42)
    return matmul_codes(parts, eighths, weights, whole, (fmt, None), None, every=2)[0].reshape(())
