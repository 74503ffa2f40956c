"""Products of fixed-point arrays whose accumulator is assigned after every addition, as hardware does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._backend import Backends, choose
from .._check import empty, type_name
from ._fixed_array import FixedArray, check_fixed, made
from ._formats import Fixed
from ._growth import Target, code_dtype, grown, target
from ._window import Window, read_window
from .reference import fixed as reference

Array = npt.NDArray[Any]
Index = tuple[tuple[int, int, int], tuple[int, int, int]]

#: The enumeration FixedPath of csrc/quant/cpu/matmul/fixed_kernels.hpp; only tests choose one, else the fastest runs.
PATHS = {
    name: number for number, name in enumerate(("choose", "pairs", "fused16", "fused32", "lines32", "lines64", "wide"))
}


def fixed_matmul(
    a: FixedArray,
    b: FixedArray,
    acc: Fixed | str,
    product: Fixed | str | None = None,
    *,
    bias: FixedArray | None = None,
    backend: str | None = None,
) -> FixedArray:
    """c[m, n] = bias[m, n], then c[m, n] = acc(c[m, n] + a[m, k] b[k, n]) for k = 0, 1, 2, ... in this order.

    acc(.) is the assignment to that format: rounding, then overflow, after every addition. All arithmetic is on
    integers; shortcuts are taken only where they give the same bits (docs/quant/fixed.md).

    Parameters
    ----------
    a, b : FixedArray (..., M, K), (..., K, N)
        Shapes as for :func:`numpy.matmul`, including one-dimensional ones. Any strides.
    acc : Fixed or str
        The accumulator's format, which is also the result's.
    product : Fixed or str, optional
        Each product is assigned to this format before it is added; by default it is added exactly.
    bias : FixedArray, optional
        Initial value of the accumulator, assigned to ``acc``; broadcasts to (M, N). Zero by default.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    FixedArray (..., M, N)

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for inconsistent shapes, a wrong format.
    BackendError
        If the backend cannot run.

    Examples
    --------
    >>> from fastiter.quant import Fixed, FixedArray, fixed_matmul
    >>> a = FixedArray([[1.5, 2.25, -3.0]], Fixed(8, 4))
    >>> b = FixedArray([[0.5], [1.75], [0.25]], Fixed(8, 2))
    >>> fixed_matmul(a, b, "fixed<6,4,RND,SAT>").to_float()
    array([[4.]])
    >>> fixed_matmul(a, b, "fixed<6,3,TRN,SAT>").to_float()
    array([[3.]])
    """
    run = choose("fixed_matmul", _MATMUL, backend)
    _check_arrays("fixed_matmul", ("a", "b"), (a, b))
    formats = _formats("fixed_matmul", acc, product)
    shape = product_shape("fixed_matmul", a.shape, b.shape)
    x = a.codes.reshape((1, *a.shape) if a.ndim == 1 else a.shape)
    y = b.codes.reshape((*b.shape, 1) if b.ndim == 1 else b.shape)
    start = _start("fixed_matmul", bias, formats[0], (x.shape[-2], y.shape[-1]), "(M, N)")
    return made(run(x, a.fmt, y, b.fmt, formats, start).reshape(shape), formats[0])


def fixed_conv2d(
    x: FixedArray,
    w: FixedArray,
    acc: Fixed | str,
    product: Fixed | str | None = None,
    *,
    bias: FixedArray | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str | None = None,
) -> FixedArray:
    """y[n, o, p, q] = bias[o], then y = acc(y + w[o, c, r, s] x[n, c, p + r, q + s]) over (c, r, s), s the fastest.

    Padding is zero. As :func:`fixed_matmul` with the weights as rows; ``stride``, ``padding``, ``dilation`` and
    ``groups`` are those of ``torch.nn.functional.conv2d``.

    Parameters
    ----------
    x : FixedArray (B, C, H, W)
    w : FixedArray (O, C / groups, R, S)
    acc, product : Fixed or str
        As for :func:`fixed_matmul`.
    bias : FixedArray (O,), optional
        Initial value of each output channel's accumulator; zero by default.
    stride, padding, dilation : int or two ints
        For rows and columns.
    groups : int
        Divides C and O.
    backend : {"cpu", "reference"}, optional

    Returns
    -------
    FixedArray (B, O, P, Q)

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import FixedArray, fixed_conv2d
    >>> x = FixedArray(np.arange(9.0).reshape(1, 1, 3, 3), "fixed<8,5>")
    >>> w = FixedArray(np.full((1, 1, 2, 2), 0.25), "fixed<4,1>")
    >>> fixed_conv2d(x, w, "fixed<8,5,RND,SAT>").to_float()
    array([[[[2., 3.],
             [5., 6.]]]])
    """
    run = choose("fixed_conv2d", _CONV2D, backend)
    _check_arrays("fixed_conv2d", ("x", "w"), (x, w))
    formats = _formats("fixed_conv2d", acc, product)
    for name, array, letters in (("x", x, "(B, C, H, W)"), ("w", w, "(O, C / groups, R, S)")):
        if array.ndim != 4:
            raise ValueError(f"fixed_conv2d: {name} must have shape {letters}, got {array.shape}")
    window = read_window("fixed_conv2d", stride, padding, dilation, groups, x.shape, w.shape)
    size = window.output("fixed_conv2d", x.shape, w.shape)
    start = _start("fixed_conv2d", bias, formats[0], (w.shape[0],), "(O,)")
    return made(run(x.codes, x.fmt, w.codes, w.fmt, formats, start, window, size), formats[0])


def exact_matmul(a: FixedArray, b: FixedArray) -> FixedArray:
    """Return a b in the format that holds every sum of K products."""
    product_shape("FixedArray", a.shape, b.shape)
    terms = max(1, a.shape[-1])
    shape = reference.product_format(a.fmt, b.fmt)
    more = (terms - 1).bit_length()
    return fixed_matmul(
        a, b, grown("FixedArray", "a @ b", shape._replace(width=shape.width + more, integer=shape.integer + more))
    )


# ---- checks ---------------------------------------------------------------------------------------------------------


def _check_arrays(function: str, names: Sequence[str], arrays: Sequence[object]) -> None:
    for name, x in zip(names, arrays, strict=True):
        if not isinstance(x, FixedArray):
            raise TypeError(f"{function}: {name} must be a FixedArray, got {type_name(x)}")


def _formats(function: str, acc: Fixed | str, product: Fixed | str | None) -> tuple[Fixed, Fixed | None]:
    checked = check_fixed(function, "acc", acc)
    return checked, None if product is None else check_fixed(function, "product", product)


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


def _start(function: str, bias: FixedArray | None, acc: Fixed, shape: tuple[int, ...], letters: str) -> Array | None:
    """Return the accumulator's initial codes as 64-bit integers."""
    if bias is None:
        return None
    if not isinstance(bias, FixedArray):
        raise TypeError(f"{function}: bias must be a FixedArray or None, got {type_name(bias)}")
    codes = bias.astype(acc).codes.astype(code_dtype(64, acc.signed))
    try:
        return np.broadcast_to(codes, shape)
    except ValueError:
        raise ValueError(f"{function}: bias must have shape {letters} = {shape}, got {bias.shape}") from None


# ---- the kernels' view of the arrays --------------------------------------------------------------------------------


def _index(sizes: Sequence[int], strides: Sequence[int]) -> Index | None:
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
    return (s0, s1, s2), (t0, t1, t2)


def _needed(index: Index | None) -> Index:
    assert index is not None
    return index


def _steps(codes: Array) -> tuple[Array, tuple[int, ...]]:
    """Return the codes, or a copy, in native byte order, and their strides in elements."""
    size = codes.dtype.itemsize
    if not codes.flags.aligned or not codes.dtype.isnative or any(stride % size for stride in codes.strides):
        codes = np.ascontiguousarray(codes, codes.dtype.newbyteorder("="))
    return codes, tuple(stride // size for stride in codes.strides)


def _offsets(sizes: tuple[int, ...], strides: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the offset of each matrix of a batch."""
    total = np.zeros(sizes, np.int64)
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        total += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(sizes) - 1 - axis))
    return total.ravel()


def _targets(x: Fixed, y: Fixed, formats: tuple[Fixed, Fixed | None]) -> tuple[Target, Target | tuple[()]]:
    acc, product = formats
    exact = x.fraction + y.fraction
    if product is None:
        return target(acc, exact), ()
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
    paths = _core.fixed_matmul(
        (x, x.itemsize, fx.signed, fx.width, rows, _needed(_index((K,), x_steps[-1:]))),
        (
            y,
            y.itemsize,
            fy.signed,
            fy.width,
            _needed(_index((N,), y_steps[-1:])),
            _needed(_index((K,), y_steps[-2:-1])),
        ),
        acc,
        product,
        every,
        () if start is None else (start, start.strides[0] // 8, start.strides[1] // 8),
        (out, out.itemsize, out_rows, _needed(_index((N,), (1,)))),
        (count, x_at, y_at, out_at),
        PATHS[path],
    )
    return out, paths


def matmul_cpu(
    x: Array, fx: Fixed, y: Array, fy: Fixed, formats: tuple[Fixed, Fixed | None], start: Array | None, every: int = 1
) -> Array:
    """Codes of x (..., M, K) y (..., K, N), by the fastest path."""
    return matmul_codes(x, fx, y, fy, formats, start, every)[0]


def _conv2d_cpu(
    x: Array,
    fx: Fixed,
    w: Array,
    fw: Fixed,
    formats: tuple[Fixed, Fixed | None],
    start: Array | None,
    window: Window,
    size: tuple[int, int],
) -> Array:
    """Rows are the output's channels, columns its pixels, one group at a time."""
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
    for g in range(groups):
        _core.fixed_matmul(
            (
                w,
                w.itemsize,
                fw.signed,
                fw.width,
                _needed(_index((each,), w_steps[:1])),
                _needed(_index((C * R * S,), (1,))),
            ),
            (
                *(x, x.itemsize, fx.signed, fx.width),
                _needed(_index((B, P, Q), (x_b, down * x_h, across * x_w))),
                _needed(_index((C, R, S), (x_c, row * x_h, column * x_w))),
            ),
            acc,
            product,
            1,
            () if start is None else (start[g * each :], start.strides[0] // 8, 0),
            (out, out.itemsize, _needed(_index((each,), (P * Q,))), _needed(_index((B, P * Q), (O * P * Q, 1)))),
            (1, group[g:] * (each * C * R * S), group[g:] * (C * x_c), group[g:] * (each * P * Q)),
            PATHS["choose"],
        )
    return out


def matmul_reference(
    x: Array, fx: Fixed, y: Array, fy: Fixed, formats: tuple[Fixed, Fixed | None], start: Array | None, every: int = 1
) -> Array:
    """The same, by the specification."""
    from .reference import fixed as reference

    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    acc, product = formats
    out = np.empty((*batch, x.shape[-2], y.shape[-1]), object)
    x, y = (np.broadcast_to(z, (*batch, *z.shape[-2:])) for z in (x, y))
    for i in np.ndindex(batch):
        out[i] = reference.matmul(x[i], fx, y[i], fy, acc, product, start, every)
    return out.astype(code_dtype(acc.width, acc.signed))


def _conv2d_reference(
    x: Array,
    fx: Fixed,
    w: Array,
    fw: Fixed,
    formats: tuple[Fixed, Fixed | None],
    start: Array | None,
    window: Window,
    size: tuple[int, int],
) -> Array:
    from .reference import fixed as reference

    (acc, product), (stride, padding, dilation, groups) = formats, window
    out = reference.conv2d(x, fx, w, fw, acc, product, start, stride, padding, dilation, groups)
    return out.astype(code_dtype(acc.width, acc.signed))


_MATMUL: Backends[Array] = {"cpu": matmul_cpu, "reference": matmul_reference}
_CONV2D: Backends[Array] = {"cpu": _conv2d_cpu, "reference": _conv2d_reference}
