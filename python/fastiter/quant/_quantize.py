"""quantize, encode and decode: arrays to number formats and back."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from .._backend import Backends, Cuda, choose, is_cuda
from .._check import empty
from ._block_formats import BlockFormat, block_of
from ._check import check_apart_or_same, check_floats, check_format, check_nan, check_out, check_seed, name_of
from ._codes import code_dtype, decode_blocks, decode_elements
from ._formats import Float, Format
from ._launch import count_from_zero_point, launch, refuse_nans, room_for_scales
from ._other_formats import Posit, Table
from ._scale import Scale, check_scale

Array: TypeAlias = npt.NDArray[Any]


class Counts(NamedTuple):
    """The number of elements, and of those NaN, out of range after rounding, and nonzero but rounded to zero."""

    total: int
    nan: int
    overflow: int
    underflow: int


class Blocks(NamedTuple):
    """The codes of a block format: those of the elements, and those of the blocks' scales along the last axis.

    A power of two is stored as k + 127 (255 for NaN), an NVFP4 scale as its e4m3fn code (127 for NaN), the scale of a
    table as a float.
    """

    codes: Array
    scales: Array


@overload
def quantize(
    x: Array,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: int | np.random.Generator | None = None,
    nan: str | float = "raise",
    out: Array | None = None,
    counts: Literal[False] = False,
    backend: str | None = None,
) -> Array: ...
@overload
def quantize(
    x: Array,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: int | np.random.Generator | None = None,
    nan: str | float = "raise",
    out: Array | None = None,
    counts: Literal[True],
    backend: str | None = None,
) -> tuple[Array, Counts]: ...
@overload
def quantize(
    x: Array,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: int | np.random.Generator | None = None,
    nan: str | float = "raise",
    out: Array | None = None,
    counts: bool,
    backend: str | None = None,
) -> Array | tuple[Array, Counts]: ...
def quantize(
    x: Array,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: int | np.random.Generator | None = None,
    nan: str | float = "raise",
    out: Array | None = None,
    counts: bool = False,
    backend: str | None = None,
) -> Array | tuple[Array, Counts]:
    """y = the number of the format that x / scale is rounded to, times scale.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        Any shape and strides. 16-bit numbers are computed in float32.
    fmt : Format or str
        A format, or the text of one: ``"fixed<8,4,RND_CONV,SAT>"``, ``"e4m3fn"``, ``"mxfp4_e2m1"``.
    scale : number or array of positive floats, optional
        One number, or an array with as many axes as x, whose lengths divide those of x: for ``x.shape`` (N, C, H, W)
        (1, C, 1, 1) gives one scale a channel; (N, D / 32) gives groups of 32 along the last axis. For formats without
        blocks; for NVFP4, the one number g.
    zero_point : integer or array of integers, optional
        The code of zero for :class:`Int`, with the shape of ``scale``.
    axis : int
        The axis along which blocks lie.
    rng : int or numpy.random.Generator, optional
        Required for stochastic rounding: a 64-bit seed, or a generator that draws one. A seed gives the same numbers on
        every machine and with any number of threads.
    nan : {"raise", "keep"} or number
        Treatment of NaN: raise an error, keep it, or replace it by this number. "raise" keeps it if the format has NaN.
    out : ndarray, optional
        Receives y, with x's shape and dtype; may be x itself. With nan="raise" it may be partly written when a NaN is
        found: looking for one first would take as long as rounding.
    counts : bool
        Also return how many elements were NaN, overflowed and underflowed.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    y : ndarray
        Has x's shape and dtype. A number of the format that the dtype does not hold is rounded to it, to nearest even.
    counts : Counts
        With ``counts``.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value, and for a NaN that the format does not have.
    BackendError
        If the backend cannot run.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import quantize
    >>> x = np.array([0.3, -1.26, 9.0], np.float32)
    >>> quantize(x, "fixed<8,4,RND,SAT>").tolist()
    [0.3125, -1.25, 7.9375]
    >>> quantize(x, "e2m1", scale=0.5, counts=True)
    (array([ 0.25, -1.5 ,  3.  ], dtype=float32), Counts(total=3, nan=0, overflow=1, underflow=0))
    """
    run = choose("quantize", _QUANTIZE, backend, x)
    if is_cuda(run):
        options = {"scale": scale, "zero_point": zero_point, "axis": axis, "rng": rng, "nan": nan}
        rounded: Array | tuple[Array, Counts] = run(x, fmt, **options, out=out, counts=counts or None)
        return rounded
    fmt = check_format("quantize", fmt)
    x = check_floats("quantize", "x", x)
    if not isinstance(counts, bool):
        raise TypeError(f"quantize: counts must be a bool, got {type(counts).__name__}")
    if out is not None:
        check_apart_or_same("quantize", check_out("quantize", out, x.shape, x.dtype), x)
    call = _checked("quantize", x, fmt, scale, zero_point, axis, rng, nan, can_keep=True)
    y, _, found = run(call, counts, None, out)
    return (y, found) if counts else y


def encode(
    x: Array,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: int | np.random.Generator | None = None,
    nan: str | float = "raise",
    backend: str | None = None,
) -> Array | Blocks:
    """codes = the codes of the numbers that :func:`quantize` rounds to.

    Arguments as for :func:`quantize`; NaN is kept if the format has it, and refused if it has none.

    Returns
    -------
    codes : ndarray
        The codes, in the narrowest integer dtype that holds them all: signed for signed fixed point and integers, else
        unsigned.
    codes, scales : Blocks
        For formats with blocks, which then lie along the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import decode, encode
    >>> codes = encode(np.array([0.3, -1.26, 9.0]), "fixed<8,4,RND,SAT>")
    >>> codes, decode(codes, "fixed<8,4>")
    (array([  5, -20, 127], dtype=int8), array([ 0.3125, -1.25  ,  7.9375], dtype=float32))
    """
    run = choose("encode", _ENCODE, backend, x)
    if is_cuda(run):
        found: Array | Blocks = run(x, fmt, scale=scale, zero_point=zero_point, axis=axis, rng=rng, nan=nan)
        return found
    fmt = check_format("encode", fmt)
    x = check_floats("encode", "x", x)
    call = _checked("encode", x, fmt, scale, zero_point, axis, rng, nan, can_keep=has_nan(fmt))
    codes, scales, _ = run(call, False, code_dtype(fmt), None)
    return codes if scales is None else Blocks(codes, scales)


def decode(
    codes: Array | Blocks,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Array:
    """y = the values of the codes, times scale: what :func:`quantize` returns, from :func:`encode`'s codes.

    Parameters
    ----------
    codes : ndarray of integers, or Blocks
        As :func:`encode` returns them; blocks lie along the last axis.
    fmt, scale, zero_point
        As for :func:`encode`.
    dtype : float32 or float64, optional
        By default float32 where it holds every number of the format, else float64.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import decode
    >>> decode(np.arange(8, dtype=np.uint8), "e2m1").tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    run = choose("decode", _DECODE, None, codes)
    return run(codes, fmt, scale=scale, zero_point=zero_point, dtype=dtype)


def _decode(
    codes: Array | Blocks,
    fmt: Format | str,
    *,
    scale: npt.ArrayLike | None,
    zero_point: npt.ArrayLike | None,
    dtype: npt.DTypeLike | None,
) -> Array:
    fmt = check_format("decode", fmt)
    if isinstance(fmt, BlockFormat) and fmt.block:
        return decode_blocks(codes, fmt, scale, dtype)
    return decode_elements(codes, fmt, scale, zero_point, dtype)


def has_nan(fmt: Format) -> bool:
    """Say whether the format has a code for NaN, or a NaN scale."""
    if isinstance(fmt, Float):
        return fmt.has_nan
    return isinstance(fmt, Posit) or block_of(fmt) > 0


class Call(NamedTuple):
    """Checked arguments."""

    function: str
    x: Array
    fmt: Format
    scale: Scale
    axis: int
    seed: int
    refuse_nan: bool
    nan: float


def _checked(
    function: str,
    x: Array,
    fmt: Format,
    scale: npt.ArrayLike | None,
    zero_point: npt.ArrayLike | None,
    axis: int,
    rng: int | np.random.Generator | None,
    nan: str | float,
    can_keep: bool,
) -> Call:
    seed = check_seed(function, rng, fmt.stochastic)
    refuse, stands_for = check_nan(function, nan, can_keep)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{function}: axis must be an int, got {type(axis).__name__}")
    if not -max(x.ndim, 1) <= axis < max(x.ndim, 1):
        raise ValueError(f"{function}: axis must be one of the {x.ndim} axes of x, got {axis}")
    scales = Scale()
    if scale is not None or zero_point is not None:
        scales = check_scale(function, x.shape, name_of(x.dtype), fmt, scale, zero_point)
    return Call(function, x, fmt, scales, int(axis), seed, refuse and not has_nan(fmt), stands_for)


def _lines(x: Array, axis: int) -> Array:
    """Return x with the axis of the blocks moved last."""
    return x if x.ndim < 2 else np.moveaxis(x, axis, -1)


def _cpu(
    call: Call, counts: bool, codes: np.dtype[Any] | None, out: Array | None
) -> tuple[Array, Array | None, Counts]:
    fmt, dtype, block = call.fmt, name_of(call.x.dtype), block_of(call.fmt)
    x = np.asarray(_lines(call.x, call.axis) if block else call.x, order="C")
    x = x if x.flags.aligned else x.copy()
    in_place = not block or x.ndim < 2 or call.axis in (-1, x.ndim - 1)
    direct = out is not None and in_place and out.flags.c_contiguous and out.flags.aligned
    y = out if direct and out is not None else empty(x.shape, codes or x.dtype)
    scales = None
    if codes is not None and block:
        kind = np.dtype(np.uint8) if not isinstance(fmt, Table) else np.dtype("f8" if dtype == "float64" else "f4")
        scales = np.empty(room_for_scales(x.shape, block), kind)
    n = x.shape[-1] if block and x.ndim else x.size
    found = launch(
        *(fmt, call.scale, (x, dtype), (y, name_of(y.dtype)), n, x.size // n if n else 0),
        codes=codes is not None,
        nan=call.nan,
        counting=counts or call.nan == call.nan,
        seed=call.seed,
        shared=0 if scales is None else scales,
    )
    if call.refuse_nan and found[0]:
        refuse_nans(call.function, fmt)
    if codes is not None:
        count_from_zero_point(y, fmt, call.scale)
    if block and codes is None and not direct:
        y = _put_back(y, call, out)
    elif out is not None and not direct:
        out[...] = y
        y = out
    return y, scales, Counts(x.size, *found)


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
    from .reference import arrays as reference

    fmt, block = call.fmt, block_of(call.fmt)
    x = _lines(call.x, call.axis) if block else call.x
    scale, zero_point = call.scale.spread(x.shape)
    y, scales, found = reference.quantize(x, fmt, scale, zero_point, call.seed, call.nan, codes)
    if call.refuse_nan and found[0]:
        refuse_nans(call.function, fmt)
    if codes is None:
        y = _put_back(y, call, out) if block else y
        if out is not None and y is not out:
            out[...] = y
            y = out
    return y, scales, Counts(x.size, *found)


_QUANTIZE: Backends[Any] = {"cpu": _cpu, "cuda": Cuda("fastiter.torch.quant", "quantize"), "reference": _reference}
_ENCODE: Backends[Any] = {"cpu": _cpu, "cuda": Cuda("fastiter.torch.quant", "encode"), "reference": _reference}
_DECODE: Backends[Array] = {"cpu": _decode, "cuda": Cuda("fastiter.torch.quant", "decode")}
