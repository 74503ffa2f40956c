"""quantize, encode and decode: arrays to number formats and back."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy.typing as npt

from .._backend import Backend, Backends, Cuda, choose, is_cuda
from ._check import FormatLike, Rng, check_apart_or_same, check_floats, check_format, check_out
from ._codes import code_dtype, decode_blocks, decode_elements
from ._formats.base import BlockFormat, ElementFormat
from ._rounding import ENCODE, QUANTIZE, BlockCodes, Counts, Options, Scaled, ScaleLike, checked

Array: TypeAlias = npt.NDArray[Any]


@overload
def quantize(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise", "keep"] | float = "raise",
    out: Array | None = None,
    counts: Literal[False] = False,
    backend: Backend | None = None,
) -> Array: ...
@overload
def quantize(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise", "keep"] | float = "raise",
    out: Array | None = None,
    counts: Literal[True],
    backend: Backend | None = None,
) -> tuple[Array, Counts]: ...
@overload
def quantize(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise", "keep"] | float = "raise",
    out: Array | None = None,
    counts: bool,
    backend: Backend | None = None,
) -> Array | tuple[Array, Counts]: ...
def quantize(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise", "keep"] | float = "raise",
    out: Array | None = None,
    counts: bool = False,
    backend: Backend | None = None,
) -> Array | tuple[Array, Counts]:
    """y = the number of the format that x / scale is rounded to, times scale.

    The scale is 1 unless it is given: ``"int8"`` alone rounds to the whole numbers from -128 to 127. ``scale="amax"``
    fits it to x.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        Any shape and strides. 16-bit numbers are computed in float32.
    fmt : Format, str or dtype
        A format, the text of one (``"fixed<8,4,RND_CONV,SAT>"``, ``"e4m3fn"``, ``"mxfp4"``), or a dtype
        (``np.float16``, ``ml_dtypes.float8_e5m2``); :func:`formats` lists all.
    scale : number, array of positive floats, or "amax", optional
        1 by default. One number, or an array with as many axes as x, whose lengths divide those of x: for ``x.shape``
        (N, C, H, W) (1, C, 1, 1) gives one scale a channel; (N, D / 32) gives groups of 32 along the last axis.
        "amax": the scale that maps the largest magnitude of x to the format's largest number. Formats with blocks take
        no number, except that NVFP4 takes the one number g; with "amax" they keep to the scales of their blocks.
        Formats with a range of their own (fixed point, powers of two, logarithms, tables) have no "amax".
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : integer or array of integers, optional
        The code of zero for :class:`Int`, with the shape of ``scale``; 0 by default.
    axis : int
        The axis along which blocks run.
    rng : int, numpy.random.Generator, SeedSequence or BitGenerator, optional
        For stochastic rounding: a 64-bit seed, or a generator from which one is drawn; by default a seed from the
        system. A seed gives the same numbers on every machine and with any number of threads.
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

    See Also
    --------
    encode : The codes instead of the numbers.
    calibrate : Other ways to fit a scale or a binary point.
    measure_error : The error of the rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import quantize
    >>> x = np.array([0.3, -1.26, 9.0], np.float32)
    >>> quantize(x, "fixed<8,4,RND,SAT>").tolist()
    [0.3125, -1.25, 7.9375]
    >>> quantize(x, "e2m1", scale=0.5, counts=True)
    (array([ 0.25, -1.5 ,  3.  ], dtype=float32), Counts(total=3, nan=0, overflow=1, underflow=0))
    >>> quantize(x, "int8", scale="amax").round(3).tolist()
    [0.283, -1.276, 9.0]
    """
    run = choose("quantize", QUANTIZE, backend, x)
    options = Options(scale, scale_axis, zero_point, axis, rng, nan)
    if is_cuda(run):
        rounded: Array | tuple[Array, Counts] = run(x, fmt, **options._asdict(), out=out, counts=counts or None)
        return rounded
    fmt = check_format("quantize", fmt)
    x = check_floats("quantize", "x", x)
    if not isinstance(counts, bool):
        raise TypeError(f"quantize: counts must be a bool, got {type(counts).__name__}")
    if out is not None:
        check_apart_or_same("quantize", check_out("quantize", out, x.shape, x.dtype), x)
    y, _, encoded = run(checked("quantize", x, fmt, options), counts, None, out)
    return (y, encoded) if counts else y


@overload
def encode(
    x: Array,
    fmt: FormatLike,
    *,
    scale: Literal["amax"],
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise"] | float = "raise",
    backend: Backend | None = None,
) -> Scaled: ...
@overload
def encode(
    x: Array,
    fmt: BlockFormat,
    *,
    scale: float | Array | None = None,
    scale_axis: None = None,
    zero_point: None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise"] | float = "raise",
    backend: Backend | None = None,
) -> BlockCodes: ...
@overload
def encode(
    x: Array,
    fmt: ElementFormat,
    *,
    scale: float | Array | None = None,
    scale_axis: None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise"] | float = "raise",
    backend: Backend | None = None,
) -> Array: ...
@overload
def encode(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise"] | float = "raise",
    backend: Backend | None = None,
) -> Array | Any: ...  # for text, the type checker cannot know whether the format has blocks
def encode(
    x: Array,
    fmt: FormatLike,
    *,
    scale: ScaleLike = None,
    scale_axis: int | None = None,
    zero_point: npt.ArrayLike | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Literal["raise"] | float = "raise",
    backend: Backend | None = None,
) -> Array | BlockCodes | Scaled:
    """codes = the codes of the numbers to which :func:`quantize` rounds.

    The scale is 1 unless it is given.

    Parameters
    ----------
    x : ndarray, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt : Format, str or dtype
        As for :func:`quantize`.
    scale : number, array of positive floats, or "amax", optional
        As for :func:`quantize`; "amax" returns the scale, too.
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : integer or array of integers, optional
        The code of zero for :class:`Int`, with the shape of ``scale``; 0 by default.
    axis : int
        The axis along which blocks run.
    rng : int, numpy.random.Generator, SeedSequence or BitGenerator, optional
        For stochastic rounding, as for :func:`quantize`.
    nan : "raise" or number
        Treatment of NaN if the format has none: raise an error, or replace it by this number.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in rational arithmetic.

    Returns
    -------
    codes : ndarray
        The codes, in the narrowest integer dtype that holds them all: signed for signed fixed point and integers, else
        unsigned.
    codes, scales : BlockCodes
        For formats with blocks, which then run along the last axis.
    codes, scale : Scaled
        With ``scale="amax"``, unless the format keeps to the scales of its blocks.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`.

    See Also
    --------
    decode : Decodes codes.
    pack : Packs codes into bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.quant import decode, encode
    >>> codes = encode(np.array([0.3, -1.26, 9.0]), "fixed<8,4,RND,SAT>")
    >>> codes, decode(codes, "fixed<8,4>")
    (array([  5, -20, 127], dtype=int8), array([ 0.3125, -1.25  ,  7.9375], dtype=float32))
    >>> fitted = encode(np.array([0.3, -1.26, 9.0]), "int4", scale="amax")
    >>> fitted.codes.tolist(), decode(fitted, "int4").round(3).tolist()
    ([0, -1, 7], [0.0, -1.286, 9.0])
    """
    run = choose("encode", ENCODE, backend, x)
    options = Options(scale, scale_axis, zero_point, axis, rng, nan)
    if is_cuda(run):
        on_card: Array | BlockCodes | Scaled = run(x, fmt, **options._asdict())
        return on_card
    fmt = check_format("encode", fmt)
    x = check_floats("encode", "x", x)
    call = checked("encode", x, fmt, options, can_keep=fmt.has_nan)
    codes, scales, _ = run(call, False, code_dtype(fmt), None)
    encoded = codes if scales is None else BlockCodes(codes, scales)
    fitted = call.scale.scale
    if not isinstance(scale, str) or fitted is None:
        return encoded
    return Scaled(encoded, fitted.reshape(()) if scale_axis is None else fitted)


def decode(
    codes: Array | BlockCodes | Scaled,
    fmt: FormatLike,
    *,
    scale: npt.ArrayLike | None = None,
    zero_point: npt.ArrayLike | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Array:
    """y = the values of the codes, times scale: what :func:`quantize` returns, from :func:`encode`'s codes.

    Parameters
    ----------
    codes : ndarray of integers, BlockCodes or Scaled
        As :func:`encode` returns them; blocks run along the last axis.
    fmt : Format, str or dtype
        As for :func:`encode`; rounding and overflow have no effect.
    scale : number or array of positive floats, optional
        As for :func:`encode`; 1 by default, or the scale of ``codes`` if they are Scaled.
    zero_point : integer or array of integers, optional
        As for :func:`encode`.
    dtype : float32 or float64, optional
        By default float32 where it holds every number of the format, else float64.

    Returns
    -------
    y : ndarray
        Has the shape of the codes.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for codes that the format does not have, and scales that do not match them.

    See Also
    --------
    encode : Encodes numbers.
    unpack : Codes from packed bytes.

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
    codes: Array | BlockCodes | Scaled,
    fmt: FormatLike,
    *,
    scale: npt.ArrayLike | None,
    zero_point: npt.ArrayLike | None,
    dtype: npt.DTypeLike | None,
) -> Array:
    fmt = check_format("decode", fmt)
    if isinstance(codes, Scaled):
        if scale is not None:
            raise ValueError("decode: scale must be None for codes that have theirs, got another")
        codes, scale = codes
    if fmt.block:
        return decode_blocks(codes, fmt, scale, dtype)
    return decode_elements(codes, fmt, scale, zero_point, dtype)


_DECODE: Backends[Array] = {"cpu": _decode, "cuda": Cuda("fastiter.torch.quant", "decode")}
