"""Products of fixed-point arrays whose accumulator is assigned after every addition, as hardware does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._backend import Backend, Backends, choose
from ..._check import type_name
from .._check import FormatLike
from .._formats.fixed import Fixed
from .array import FixedArray, check_fixed, from_valid_codes
from .growth import code_dtype
from .kernels import Window, as_matrices, conv2d_codes, matmul_codes, product_shape, read_window

Array = npt.NDArray[Any]


def fixed_matmul(
    a: FixedArray,
    b: FixedArray,
    accumulator: FormatLike,
    product: FormatLike | None = None,
    *,
    bias: FixedArray | None = None,
    backend: Backend | None = None,
) -> FixedArray:
    """c[m, n] = bias[m, n], then c[m, n] = acc(c[m, n] + a[m, k] b[k, n]) for k = 0, 1, 2, ... in this order.

    acc(.) is the assignment to that format: rounding, then overflow, after every addition. All arithmetic is on
    integers; shortcuts are taken only where they give the same bits (docs/quant/fixed_theory.md).

    Parameters
    ----------
    a, b : FixedArray (..., M, K), (..., K, N)
        Shapes as for :func:`numpy.matmul`, including one-dimensional ones. Any strides.
    accumulator : Fixed or str
        The accumulator's format acc, which is also the result's.
    product : Fixed or str, optional
        Each product is assigned to this format before it is added; by default it is added exactly.
    bias : FixedArray, optional
        Initial value of the accumulator, assigned to the accumulator's format; broadcasts to (M, N). Zero by default.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    c : FixedArray (..., M, N)
        In the accumulator's format.

    Raises
    ------
    TypeError, ValueError
        For a wrong type; for inconsistent shapes, a wrong format.
    BackendError
        If the backend cannot run.

    See Also
    --------
    quant_matmul : Products of any formats and accumulators, on arrays of numbers or codes.
    fixed_conv2d : The same for convolutions.

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
    formats = _formats("fixed_matmul", accumulator, product)
    shape = product_shape("fixed_matmul", a.shape, b.shape)
    x, y = as_matrices(a.codes, b.codes)
    start = _start("fixed_matmul", bias, formats[0], (x.shape[-2], y.shape[-1]), "(M, N)")
    return from_valid_codes(run(x, a.fmt, y, b.fmt, formats, start).reshape(shape), formats[0])


def fixed_conv2d(
    x: FixedArray,
    w: FixedArray,
    accumulator: FormatLike,
    product: FormatLike | None = None,
    *,
    bias: FixedArray | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: Backend | None = None,
) -> FixedArray:
    """y[n, o, p, q] = bias[o], then y = acc(y + w[o, c, r, s] x[n, c, p + r, q + s]) over (c, r, s), s the fastest.

    Padding is zero. The sums are those of :func:`fixed_matmul` with the weights as rows; ``stride``, ``padding``,
    ``dilation`` and ``groups`` are those of ``torch.nn.functional.conv2d``.

    Parameters
    ----------
    x : FixedArray (B, C, H, W)
        Images, with any strides.
    w : FixedArray (O, C / groups, R, S)
        Weights, with any strides.
    accumulator : Fixed or str
        The accumulator's format acc, which is also the result's.
    product : Fixed or str, optional
        Each product is assigned to this format before it is added; by default it is added exactly.
    bias : FixedArray (O,), optional
        Initial value of each output channel's accumulator; zero by default.
    stride, padding, dilation : int or two ints
        For rows and columns.
    groups : int
        Divides C and O.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    y : FixedArray (B, O, P, Q)
        In the accumulator's format.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`fixed_matmul`.

    See Also
    --------
    fixed_matmul : The product that this is, with the weights as rows.

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
    formats = _formats("fixed_conv2d", accumulator, product)
    for name, array, letters in (("x", x, "(B, C, H, W)"), ("w", w, "(O, C / groups, R, S)")):
        if array.ndim != 4:
            raise ValueError(f"fixed_conv2d: {name} must have shape {letters}, got {array.shape}")
    window = read_window("fixed_conv2d", stride, padding, dilation, groups, x.shape, w.shape)
    size = window.output("fixed_conv2d", x.shape, w.shape)
    start = _start("fixed_conv2d", bias, formats[0], (w.shape[0],), "(O,)")
    return from_valid_codes(run(x.codes, x.fmt, w.codes, w.fmt, formats, start, window, size), formats[0])


# ---- checks ---------------------------------------------------------------------------------------------------------


def _check_arrays(function: str, names: Sequence[str], arrays: Sequence[object]) -> None:
    for name, x in zip(names, arrays, strict=True):
        if not isinstance(x, FixedArray):
            raise TypeError(f"{function}: {name} must be a FixedArray, got {type_name(x)}")


def _formats(function: str, accumulator: FormatLike, product: FormatLike | None) -> tuple[Fixed, Fixed | None]:
    checked = check_fixed(function, "accumulator", accumulator)
    return checked, None if product is None else check_fixed(function, "product", product)


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


# ---- backends -------------------------------------------------------------------------------------------------------


def matmul_cpu(
    x: Array, fx: Fixed, y: Array, fy: Fixed, formats: tuple[Fixed, Fixed | None], start: Array | None, every: int = 1
) -> Array:
    """Codes of x (..., M, K) y (..., K, N), by the fastest path."""
    return matmul_codes(x, fx, y, fy, formats, start, every)[0]


def matmul_reference(
    x: Array, fx: Fixed, y: Array, fy: Fixed, formats: tuple[Fixed, Fixed | None], start: Array | None, every: int = 1
) -> Array:
    """The same, by the specification."""
    from ..reference import fixed as reference

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
    from ..reference import fixed as reference

    (acc, product), (stride, padding, dilation, groups) = formats, window
    out = reference.conv2d(x, fx, w, fw, acc, product, start, stride, padding, dilation, groups)
    return out.astype(code_dtype(acc.width, acc.signed))


_MATMUL: Backends[Array] = {"cpu": matmul_cpu, "reference": matmul_reference}
_CONV2D: Backends[Array] = {"cpu": conv2d_codes, "reference": _conv2d_reference}
