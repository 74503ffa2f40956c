"""The rounding of an array to a format: the checks of the arguments, and the backends."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._backend import Backends, Cuda
from .._check import empty
from ._check import Rng, check_nan, check_seed, name_of
from ._formats.base import Format
from ._launch import block_scales_shape, count_from_zero_point, launch, refuse_nans
from ._scale import UNSCALED, Scale, amax_scale, check_amax, check_scale, fits_itself, refuse_axis

Array: TypeAlias = npt.NDArray[Any]
ScaleLike: TypeAlias = "npt.ArrayLike | Literal['amax'] | None"


class Counts(NamedTuple):
    """The number of elements, and how many are NaN, out of range after rounding, and nonzero but rounded to zero.

    Attributes
    ----------
    total, nan, overflow, underflow : int
        In this order.

    See Also
    --------
    quantize : Returns them with ``counts=True``.
    ErrorStatistics : Includes them with the error itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import quantize
    >>> y, counts = quantize(np.array([0.01, 1.0, 100.0, np.inf]), "fixed<8,4,RND,SAT>", counts=True)
    >>> counts
    Counts(total=4, nan=0, overflow=2, underflow=1)
    """

    total: int
    nan: int
    overflow: int
    underflow: int


class BlockCodes(NamedTuple):
    """The codes of a block format: those of the elements, and those of the blocks' scales along the last axis.

    Attributes
    ----------
    codes : ndarray of integers
        The codes of the elements, with the axis of the blocks last.
    scales : ndarray
        One for each block. A power of two is stored as k + 127 (255 for NaN), an NVFP4 scale as its e4m3fn code (127
        for NaN), the scale of a table as a float.

    See Also
    --------
    encode : The function that returns it.
    decode : Decodes it.
    pack : The same codes without unused bits.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import decode, encode
    >>> blocks = encode(np.array([1.0, 3.0, 12.0]), "mxfp4")
    >>> blocks.codes, blocks.scales
    (array([1, 3, 7], dtype=uint8), array([128], dtype=uint8))
    >>> decode(blocks, "mxfp4")
    array([ 1.,  3., 12.], dtype=float32)
    """

    codes: Array
    scales: Array


class Scaled(NamedTuple):
    """Codes, and the scale that :func:`encode` has chosen for them; :func:`decode` takes both.

    Attributes
    ----------
    codes : ndarray of integers, or BlockCodes
        The codes of x / scale.
    scale : ndarray, float64
        One number, or one for each index of the axis, with as many axes as the codes.

    See Also
    --------
    encode : Returns it with ``scale="amax"``.
    decode : Decodes it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import decode, encode
    >>> found = encode(np.array([-0.5, 0.25, 1.27]), "int8", scale="amax")
    >>> found.codes, found.scale
    (array([-50,  25, 127], dtype=int8), array(0.01))
    >>> decode(found, "int8")
    array([-0.5 ,  0.25,  1.27], dtype=float32)
    """

    codes: Array | BlockCodes
    scale: npt.NDArray[np.float64]


class Call(NamedTuple):
    """Checked arguments."""

    function: str
    x: Array
    fmt: Format
    scale: Scale
    axis: int
    seed: int
    refuse_nan: bool  #: unless the format has NaN
    nan: float


class Options(NamedTuple):
    """Arguments that quantize and encode have in common, not yet checked."""

    scale: ScaleLike
    scale_axis: int | None
    zero_point: npt.ArrayLike | None
    axis: int
    rng: Rng
    nan: str | float


def checked(function: str, x: Array, fmt: Format, options: Options, can_keep: bool = True) -> Call:
    """Check the arguments; ``can_keep``: whether a NaN may stay."""
    scale, scale_axis, zero_point, axis, rng, nan = options
    seed = 0 if rng is None and not fmt.stochastic else check_seed(function, rng, fmt.stochastic)
    refuse, stands_for = check_nan(function, nan, can_keep)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{function}: axis must be an int, got {type(axis).__name__}")
    if not -max(x.ndim, 1) <= axis < max(x.ndim, 1):
        raise ValueError(f"{function}: axis must be one of the {x.ndim} axes of x, got {axis}")
    if isinstance(scale, str) or scale_axis is not None:
        check_amax(function, scale, scale_axis, x.ndim)
        if fits_itself(fmt, x.dtype == np.float64):
            refuse_axis(function, fmt, scale_axis)
            scale = None
        else:
            scale = amax_scale(function, x, fmt, scale_axis)
    scales = UNSCALED
    if scale is not None or zero_point is not None:
        scales = check_scale(function, x.shape, name_of(x.dtype), fmt, scale, zero_point)
    return Call(function, x, fmt, scales, int(axis), seed, refuse, stands_for)


def _lines(x: Array, axis: int) -> Array:
    """Return x with the axis of the blocks moved last."""
    return x if x.ndim < 2 else np.moveaxis(x, axis, -1)


def _cpu(
    call: Call, counts: bool, codes: np.dtype[Any] | None, out: Array | None
) -> tuple[Array, Array | None, Counts]:
    """Return numbers, or codes of the dtype ``codes`` and the scales of blocks, and the counts."""
    fmt, dtype, block = call.fmt, name_of(call.x.dtype), call.fmt.block
    x = np.asarray(_lines(call.x, call.axis) if block else call.x, order="C")
    x = x if x.flags.aligned else x.copy()
    in_place = not block or x.ndim < 2 or call.axis in (-1, x.ndim - 1)
    direct = out is not None and in_place and out.flags.c_contiguous and out.flags.aligned
    y = out if direct and out is not None else empty(x.shape, codes or x.dtype)
    scales = None
    if codes is not None and block:
        floats = np.dtype("f8" if dtype == "float64" else "f4")
        scales = np.empty(block_scales_shape(x.shape, block), floats if fmt._has_float_scales else np.uint8)
    n = x.shape[-1] if block and x.ndim else x.size
    counted = launch(
        *(fmt, call.scale, (x, dtype), (y, name_of(y.dtype)), n, x.size // n if n else 0),
        codes=codes is not None,
        nan=call.nan,
        counting=counts or call.nan == call.nan,
        seed=call.seed,
        block_scales=0 if scales is None else scales,
    )
    if counted[0] and call.refuse_nan and not fmt.has_nan:
        refuse_nans(call.function, fmt)
    if codes is not None:
        count_from_zero_point(y, fmt, call.scale)
    if block and codes is None and not direct:
        y = _put_back(y, call, out)
    elif out is not None and not direct:
        out[...] = y
        y = out
    return y, scales, Counts(x.size, *counted)


def _put_back(y: Array, call: Call, out: Array | None) -> Array:
    """Return y with the axes in x's order, in out if there is one."""
    back = y if y.ndim < 2 else np.moveaxis(y, -1, call.axis)
    if out is None:
        return back if back.flags.c_contiguous else np.asarray(back, order="C")
    out[...] = back
    return out


def _reference(
    call: Call, counts: bool, codes: np.dtype[Any] | None, out: Array | None
) -> tuple[Array, Array | None, Counts]:
    """Return the same as computed by the specification."""
    from .reference import arrays as reference

    fmt, block = call.fmt, call.fmt.block
    x = _lines(call.x, call.axis) if block else call.x
    scale, zero_point = call.scale.spread(x.shape)
    y, scales, counted = reference.quantize(x, fmt, scale, zero_point, call.seed, call.nan, codes)
    if counted[0] and call.refuse_nan and not fmt.has_nan:
        refuse_nans(call.function, fmt)
    if codes is None:
        y = _put_back(y, call, out) if block else y
        if out is not None and y is not out:
            out[...] = y
            y = out
    return y, scales, Counts(x.size, *counted)


QUANTIZE: Backends[Any] = {
    "cpu": _cpu,
    "cuda": Cuda("fastiter.torch.quant", "quantize"),
    "reference": _reference,
}
ENCODE: Backends[Any] = {**QUANTIZE, "cuda": Cuda("fastiter.torch.quant", "encode")}
