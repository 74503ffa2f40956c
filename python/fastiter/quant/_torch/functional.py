"""Rounding of tensors to number formats with straight-through gradients, bitwise equal to :mod:`fastiter.quant`.

Rounding has no useful derivative; each function documents the one it uses instead. None can be differentiated twice.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import CPU_AND_CUDA, refuse_transforms
from .._formats.base import BlockFormat, ElementFormat
from .._rounding import Scaled as ArrayScaled
from .arguments import (
    FormatLike,
    Nan,
    Rng,
    Scale,
    Ste,
    check_floats,
    checked_amax,
    checked_scale,
    checked_seed,
    facts,
    number_or_tensor,
    text_of,
)
from .autograd import RoundedGradient, apply, checked_options
from .ops import Decode, Encode, decode_op, encode_op


class BlockCodes(NamedTuple):
    """The codes of a format with blocks, like :class:`fastiter.quant.BlockCodes`.

    Attributes
    ----------
    codes : Tensor of integers
        The codes of the elements, with the axis of the blocks last.
    scales : Tensor
        One for each block: the code of a power of two or of an e4m3fn number, or a float for tables.

    See Also
    --------
    encode, decode : The functions that return and take it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import decode, encode
    >>> blocks = encode(torch.tensor([1.0, 3.0, 12.0]), "mxfp4")
    >>> blocks.codes, blocks.scales, decode(blocks, "mxfp4")
    (tensor([1, 3, 7], dtype=torch.uint8), tensor([128], dtype=torch.uint8), tensor([ 1.,  3., 12.]))
    """

    codes: Tensor
    scales: Tensor


class Scaled(NamedTuple):
    """Codes, and the scale that :func:`encode` has chosen for them, like :class:`fastiter.quant.Scaled`.

    Attributes
    ----------
    codes : Tensor of integers, or BlockCodes
        The codes of x / scale.
    scale : Tensor, float64
        One number, or one for each index of the axis.

    See Also
    --------
    encode : Returns it with ``scale="amax"``.
    decode : Decodes it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import decode, encode
    >>> found = encode(torch.tensor([-0.5, 0.25, 1.27]), "int8", scale="amax")
    >>> found.codes, decode(found, "int8")
    (tensor([-50,  25, 127], dtype=torch.int8), tensor([-0.5000,  0.2500,  1.2700]))
    """

    codes: Tensor | BlockCodes
    scale: Tensor


def quantize(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: Scale = None,
    scale_axis: int | None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
    ste: Ste = "clip",
) -> Tensor:
    """y = Q(x / scale) scale, where Q rounds to the format: :func:`fastiter.quant.quantize` on tensors.

    The scale is 1 unless it is given: ``"int8"`` alone rounds to the whole numbers from -128 to 127.

    dy/dx = 1 if the rounded number is in the format's range, 0 if it overflowed (saturated, wrapped, infinite).
    dy/dscale = (y - x) / scale in range and y / scale out of range, which for integers is LSQ's gradient: the code
    minus x / scale in range, the lowest or the highest code out of range. With stochastic rounding, x itself is
    compared with the range, not the rounded number. In formats with blocks, the range follows x: dy/dx = 1.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt : Format, str or dtype
        A format, the text of one (``"fixed<8,4,RND_CONV,SAT>"``, ``"e4m3fn"``, ``"mxfp4"``), or a dtype
        (``torch.float8_e4m3fn``, ``np.float16``); :func:`fastiter.quant.formats` lists all.
    scale : number, Tensor of positive floats, or "amax", optional
        1 by default. One number, or a tensor with as many axes as x, whose sizes divide those of x, for formats without
        blocks; for NVFP4, the one number g. A tensor may require a gradient, except for formats with blocks. "amax"
        maps the largest magnitude of x to the format's, a constant for the gradient; scales of blocks are kept.
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : int or Tensor of integers, optional
        The code of zero for :class:`fastiter.quant.Int`, with the shape of ``scale``; 0 by default.
    axis : int
        The axis along which blocks run.
    rng : int, Tensor or torch.Generator, optional
        For stochastic rounding: a 64-bit seed, as an int or an int64 tensor of one element, or a generator from which
        one is drawn, by default torch's own.
    nan : {"raise", "keep"} or number
        Treatment of NaN: raise an error, keep it, or replace it by this number. "raise" keeps it if the format has NaN.
    ste : {"clip", "pass"}
        "pass": dy/dx = 1 everywhere. dy/dscale stays the same, except that wrapped numbers count as in range.

    Returns
    -------
    y : Tensor
        Has x's shape, dtype and device, contiguous.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`fastiter.quant.quantize`; BackendError for a tensor on a device other than the CPU or CUDA. On a
        CUDA device, nan="raise" synchronizes if the format has no NaN, and values of a scale are not checked.

    See Also
    --------
    encode : The codes instead of the numbers.
    lsq, round_fixed : Rounding with a learned scale or binary point.
    quantize_gradient : Rounding of the gradient alone.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import quantize
    >>> x = torch.tensor([0.3, -1.26, 9.0], requires_grad=True)
    >>> y = quantize(x, "fixed<8,4,RND,SAT>")
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([0.3125, -1.25, 7.9375], [1.0, 1.0, 0.0])
    """
    text = text_of("quantize", fmt)
    check_floats("quantize", x)
    factor = checked_scale("quantize", x, text, scale, axis, scale_axis)
    options = checked_options("quantize", x, text, zero_point, axis, rng, nan, ste)
    return apply(x, factor, options)


@overload
def encode(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: Literal["amax"],
    scale_axis: int | None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
) -> Scaled: ...
@overload
def encode(
    x: Tensor,
    fmt: BlockFormat,
    *,
    scale: float | Tensor | None = None,
    scale_axis: None = None,
    zero_point: None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
) -> BlockCodes: ...
@overload
def encode(
    x: Tensor,
    fmt: ElementFormat,
    *,
    scale: float | Tensor | None = None,
    scale_axis: None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
) -> Tensor: ...
@overload
def encode(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: Scale = None,
    scale_axis: int | None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
) -> Tensor | Any: ...  # for text, the type checker cannot know whether the format has blocks
def encode(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: Scale = None,
    scale_axis: int | None = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: Nan = "raise",
) -> Tensor | BlockCodes | Scaled:
    """Return the codes of the numbers to which :func:`quantize` rounds: :func:`fastiter.quant.encode` on tensors.

    There is no gradient. The scale is 1 unless it is given.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt : Format, str or dtype
        As for :func:`quantize`.
    scale : number, Tensor of positive floats, or "amax", optional
        As for :func:`quantize`; "amax" returns the scale, too.
    scale_axis : int, optional
        With ``scale="amax"``, an axis along which every index has its own scale.
    zero_point : int or Tensor of integers, optional
        As for :func:`quantize`.
    axis : int
        The axis along which blocks run.
    rng : int, Tensor or torch.Generator, optional
        For stochastic rounding, as for :func:`quantize`.
    nan : "raise" or number
        Treatment of NaN if the format has none: raise an error, or replace it by this number.

    Returns
    -------
    codes : Tensor
        The codes, in the narrowest integer dtype that holds them all.
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
    >>> import torch
    >>> from fastiter.torch.quant import decode, encode
    >>> codes = encode(torch.tensor([0.3, -1.26, 9.0]), "fixed<8,4,RND,SAT>")
    >>> codes, decode(codes, "fixed<8,4>")
    (tensor([  5, -20, 127], dtype=torch.int8), tensor([ 0.3125, -1.2500,  7.9375]))
    """
    text = text_of("encode", fmt)
    check_floats("encode", x)
    factor = checked_scale("encode", x, text, scale, axis, scale_axis)
    options = checked_options("encode", x, text, zero_point, axis, rng, nan, "clip", can_keep=facts(text).has_nan)
    with torch.no_grad():
        own = (options.zero_point, axis, options.seed, options.refuse_nan, options.nan)
        codes = encode_op(Encode(x.detach(), text, factor, *own))
    encoded = codes[0] if len(codes) == 1 else BlockCodes(*codes)
    return Scaled(encoded, factor) if isinstance(scale, str) and factor is not None else encoded


def decode(
    codes: Tensor | BlockCodes | Scaled,
    fmt: FormatLike,
    *,
    scale: float | Tensor | None = None,
    zero_point: int | Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the numbers of codes, times scale: :func:`fastiter.quant.decode` on tensors, without a gradient.

    Parameters
    ----------
    codes : Tensor of integers, BlockCodes or Scaled
        As :func:`encode` returns them; blocks run along the last axis.
    fmt : Format, str or dtype
        As for :func:`encode`; rounding and overflow have no effect.
    scale : number or Tensor of positive floats, optional
        As for :func:`encode`; 1 by default, or the scale of ``codes`` if they are Scaled.
    zero_point : int or Tensor of integers, optional
        As for :func:`encode`.
    dtype : torch.float32 or torch.float64, optional
        By default float32 where it holds every number of the format, else float64.

    Returns
    -------
    y : Tensor
        Has the shape of the codes.

    Raises
    ------
    TypeError, ValueError, BackendError
        For a wrong type or dtype; for codes that the format does not have and scales that do not match them; for
        tensors on a device other than the CPU or CUDA, or on different ones.

    See Also
    --------
    encode : Encodes numbers.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import decode
    >>> decode(torch.arange(8, dtype=torch.uint8), "e2m1").tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    text = text_of("decode", fmt)
    known = facts(text)
    if isinstance(codes, (Scaled, ArrayScaled)):  # the latter around CuPy arrays
        if scale is not None:
            raise ValueError("decode: scale must be None for codes that have theirs, got another")
        codes, scale = codes
    elements: Any = codes
    shared = None
    if known.block:
        if not isinstance(codes, tuple) or len(codes) != 2 or not isinstance(codes[1], Tensor):
            got = type_name(codes)
            raise TypeError(f"decode: codes must be the codes and scales that encode returns for {text}, got {got}")
        elements, shared = codes
    if not isinstance(elements, Tensor):
        raise TypeError(f"decode: codes must be a torch.Tensor of integers, got {type_name(elements)}")
    if elements.is_floating_point() or elements.is_complex() or elements.dtype == torch.bool:
        raise TypeError(f"decode: codes must be a torch.Tensor of integers, got dtype {elements.dtype}")
    if elements.device.type not in CPU_AND_CUDA:
        raise BackendError(f"decode: codes must be on the CPU or a CUDA device, got device {elements.device}")
    if shared is not None and shared.device != elements.device:
        raise BackendError(f"decode: scales must be on {elements.device} like codes, got device {shared.device}")
    if dtype not in (None, torch.float32, torch.float64):
        raise TypeError(f"decode: dtype must be torch.float32 or torch.float64, got {dtype}")
    wide = dtype or (torch.float32 if known.block or known.fits_float32 else torch.float64)
    factor = None if scale is None else number_or_tensor("decode", "scale", scale, elements, floats=True)
    zero = None if zero_point is None else number_or_tensor("decode", "zero_point", zero_point, elements, floats=False)
    with torch.no_grad():
        return decode_op(Decode(elements, shared, text, factor, zero, wide))


def quantize_gradient(
    x: Tensor,
    fmt: FormatLike,
    *,
    scale: float | Literal["amax"] | None = None,
    axis: int = -1,
    rng: Rng = None,
) -> Tensor:
    """y = x, but the incoming gradient is rounded to the format: dx = quantize(dy, fmt). NaN is kept.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt : Format, str or dtype
        As for :func:`quantize`.
    scale : number or "amax", optional
        As for :func:`quantize`; "amax" uses the gradient's largest magnitude.
    axis : int
        The axis along which blocks run.
    rng : int, Tensor or torch.Generator, optional
        As for :func:`quantize`; the seed is drawn in the forward pass.

    Returns
    -------
    y : Tensor
        A view of x.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`.

    See Also
    --------
    quantize : Rounding of x itself.
    fastiter.torch.nn.GradientQuantizer : The same as a module.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import quantize_gradient
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (quantize_gradient(x, "e2m1") * torch.tensor([0.3, 5.1])).sum().backward()
    >>> x.grad.tolist()
    [0.5, 6.0]
    """
    refuse_transforms("quantize_gradient")
    text = text_of("quantize_gradient", fmt)
    check_floats("quantize_gradient", x)
    checked = checked_scale("quantize_gradient", x, text, None if isinstance(scale, str) else scale, axis)
    if isinstance(scale, str):
        checked_amax("quantize_gradient", scale)
    seed = checked_seed("quantize_gradient", rng, x, facts(text).stochastic)
    by_largest = isinstance(scale, str) and not facts(text).fits_itself
    return RoundedGradient.apply(x, text, checked, by_largest, axis, seed)  # type: ignore[no-any-return]
