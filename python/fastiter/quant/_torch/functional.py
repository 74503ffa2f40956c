"""Rounding of tensors to number formats with straight-through gradients, bitwise equal to :mod:`fastiter.quant`.

Rounding has no useful derivative; each function documents the one it uses instead. None can be differentiated twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import CPU_AND_CUDA, check_tensors, refuse_transforms
from .._formats import Format
from .arguments import (
    Rng,
    Scale,
    check_positive,
    checked_accumulator,
    checked_amax,
    checked_scale,
    checked_seed,
    checked_with_parameter,
    facts,
    fixed_text,
    made,
    number_or_tensor,
    text_of,
)
from .autograd import Pact, RoundedGradient, apply, how_to
from .matmul import accumulated
from .ops import FLOATS, Decode, Encode, decode_op, encode_op


class Blocks(NamedTuple):
    """The codes of a format with blocks, like :class:`fastiter.quant.Blocks`."""

    codes: Tensor
    scales: Tensor


def quantize(
    x: Tensor,
    fmt: Format | str,
    *,
    scale: Scale = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: str | float = "raise",
    ste: str = "clip",
) -> Tensor:
    """y = Q(x / scale) scale, where Q rounds to the format: :func:`fastiter.quant.quantize` on tensors.

    dy/dx = 1 if the rounded number is in the format's range, 0 if it overflowed (saturated, wrapped, infinite).
    dy/dscale = (y - x) / scale in range and y / scale out of range, which for integers is LSQ's gradient: the code
    minus x / scale in range, the lowest or the highest code out of range. With stochastic rounding x itself decides
    whether it is in range, not the rounded number. In formats with blocks, the range follows x: dy/dx = 1.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        Any shape and strides.
    fmt, axis, nan
        As for :func:`fastiter.quant.quantize`.
    scale : number, Tensor or "amax", optional
        As for :func:`fastiter.quant.quantize`; a tensor of floats may require a gradient, except for formats with
        blocks. "amax": the scale that maps the largest magnitude of x to the format's, a constant for the gradient.
    zero_point : int or Tensor of integers, optional
        As for :func:`fastiter.quant.quantize`.
    rng : int, Tensor or torch.Generator, optional
        For stochastic rounding: a 64-bit seed, as an int or an int64 tensor of one element, or a generator that draws
        one.
    ste : {"clip", "pass"}
        "pass": dy/dx = 1 everywhere. dy/dscale stays the same, except that wrapped numbers count as in range.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`fastiter.quant.quantize`; BackendError for a tensor on a device other than the CPU or CUDA. On a
        CUDA device, nan="raise" synchronizes if the format has no NaN, and values of a scale are not checked.

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
    check_tensors("quantize", ("x",), (x,), FLOATS, CPU_AND_CUDA)
    factor = checked_scale("quantize", x, text, scale, axis)
    how = how_to("quantize", x, text, zero_point, axis, rng, nan, ste)
    return apply(x, factor, how)


def encode(
    x: Tensor,
    fmt: Format | str,
    *,
    scale: Scale = None,
    zero_point: int | Tensor | None = None,
    axis: int = -1,
    rng: Rng = None,
    nan: str | float = "raise",
) -> Tensor | Blocks:
    """Return the codes of the numbers that :func:`quantize` rounds to: :func:`fastiter.quant.encode` on tensors.

    There is no gradient. Arguments as for :func:`quantize`.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import decode, encode
    >>> codes = encode(torch.tensor([0.3, -1.26, 9.0]), "fixed<8,4,RND,SAT>")
    >>> codes, decode(codes, "fixed<8,4>")
    (tensor([  5, -20, 127], dtype=torch.int8), tensor([ 0.3125, -1.2500,  7.9375]))
    """
    text = text_of("encode", fmt)
    check_tensors("encode", ("x",), (x,), FLOATS, CPU_AND_CUDA)
    factor = checked_scale("encode", x, text, scale, axis)
    how = how_to("encode", x, text, zero_point, axis, rng, nan, "clip", can_keep=facts(text).has_nan)
    with torch.no_grad():
        own = (how.zero_point, axis, how.seed, how.refuse_nan, how.nan)
        codes = encode_op(Encode(x.detach(), text, factor, *own))
    return codes[0] if len(codes) == 1 else Blocks(*codes)


def decode(
    codes: Tensor | Blocks,
    fmt: Format | str,
    *,
    scale: float | Tensor | None = None,
    zero_point: int | Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the numbers of codes, times scale: :func:`fastiter.quant.decode` on tensors, without a gradient.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import decode
    >>> decode(torch.arange(8, dtype=torch.uint8), "e2m1").tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    text = text_of("decode", fmt)
    known = facts(text)
    elements, shared = codes, None
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


def fixed_point(
    x: Tensor,
    width: int,
    point: Tensor,
    *,
    signed: bool = True,
    rounding: str = "RND_CONV",
    overflow: str = "SAT",
    terms: int | None = None,
    method: str = "GREEDY",
    rng: Rng = None,
    nan: str | float = "raise",
    ste: str = "clip",
    gradient_scale: float = 1.0,
) -> Tensor:
    """y = overflow(round(x 2^f)) 2^-f with f = round(point): fixed point with a learned binary point (QFX).

    dy/dpoint = gradient_scale ln2 (x - y) if the rounded number is in range, -gradient_scale ln2 y if it is not;
    dy/dx as for :func:`quantize`. The rounding of the point has the derivative 1.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
    width : int
        Bits of a code, 1 to 53.
    point : Tensor of floats
        Bits after the binary point, -126 to 126 after rounding: one number, or as many axes as x, with sizes that
        divide those of x.
    signed, rounding, overflow
        As for :class:`fastiter.quant.Fixed`.
    terms, method
        With ``terms``, codes have at most so many one bits: :class:`fastiter.quant.SumOfPowers`, which saturates.
    rng, nan, ste
        As for :func:`quantize`. With "pass", wrapped numbers count as in range for dy/dpoint, too.
    gradient_scale : float
        A factor of the point's gradient only.

    References
    ----------
    QFX, arXiv 2401.17544; the gradient is derived in docs/quant/training.md.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import fixed_point
    >>> point = torch.tensor(4.2, requires_grad=True)
    >>> y = fixed_point(torch.tensor([0.3, 9.0]), 8, point)
    >>> y.tolist(), torch.autograd.grad(y.sum(), point)[0].item()  # ln2 (0.3 - 0.3125 - 7.9375)
    ([0.3125, 7.9375], -5.5105)
    """
    text = fixed_text(width, signed, rounding, overflow, terms, method)
    checked_with_parameter("fixed_point", x, "point", point, gradient_scale)
    how = how_to("fixed_point", x, text, None, -1, rng, nan, ste)
    return apply(x, point, how._replace(is_point=True, factor=float(gradient_scale)))


def lsq(
    x: Tensor,
    step: Tensor,
    width: int,
    *,
    signed: bool = True,
    rounding: str = "RND_CONV",
    overflow: str = "SAT",
    zero_point: int | Tensor | None = None,
    rng: Rng = None,
    nan: str | float = "raise",
    gradient_scale: float = 1.0,
) -> Tensor:
    """y = clip(round(x / step)) step: integers with a learned step (LSQ).

    If the rounded code is in range, dy/dstep = gradient_scale (code - x / step) and dy/dx = 1; otherwise dy/dstep =
    gradient_scale times the lowest or highest code, and dy/dx = 0. Codes are counted from the zero point.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
    step : Tensor of positive floats
        One number, or as many axes as x, with sizes that divide those of x: (C, 1, 1, 1) for one step per channel.
    width, signed, rounding, overflow
        As for :class:`fastiter.quant.Int`; "SAT_SYM" leaves out the lowest code.
    zero_point, rng, nan
        As for :func:`quantize`.
    gradient_scale : float
        A factor of the step's gradient only; the paper's is 1 / sqrt(numel * highest code).

    References
    ----------
    Esser et al., Learned step size quantization, arXiv 1902.08153.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import lsq
    >>> step = torch.tensor(1 / 16, requires_grad=True)
    >>> y = lsq(torch.tensor([0.3, 9.0, -9.0]), step, 8)
    >>> torch.autograd.grad(y.sum(), step)[0].item()  # 5 - 4.8 + 127 - 128
    -0.8000
    """
    text = made(width, signed, rounding, overflow)
    checked_with_parameter("lsq", x, "step", step, gradient_scale)
    how = how_to("lsq", x, text, zero_point, -1, rng, nan, "clip")
    return apply(x, step, how._replace(factor=float(gradient_scale)))


def pact(x: Tensor, alpha: Tensor, width: int, *, rounding: str = "RND_CONV", rng: Rng = None) -> Tensor:
    """y = round(clip(x, 0, alpha) (2^width - 1) / alpha) alpha / (2^width - 1): activations with a learned clip (PACT).

    dy/dx = 1 for 0 <= x < alpha, else 0; dy/dalpha = 1 for x >= alpha, else 0. NaN stays NaN.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
    alpha : Tensor, one positive float
    width : int
        Bits of a code, 1 to 32.
    rounding, rng
        As for :class:`fastiter.quant.Int` and :func:`quantize`.

    References
    ----------
    Choi et al., PACT, arXiv 1805.06085.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import pact
    >>> pact(torch.tensor([-1.0, 1.1, 5.0]), torch.tensor(3.0), 2).tolist()
    [0.0, 1.0, 3.0]
    """
    refuse_transforms("pact")
    text = made(width, False, rounding, "SAT")
    checked_with_parameter("pact", x, "alpha", alpha, 1.0)
    if alpha.numel() != 1:
        raise ValueError(f"pact: alpha must be one number, got shape {tuple(alpha.shape)}")
    check_positive("pact", "alpha", alpha)
    result: Tensor = Pact.apply(x, alpha, text, 2**width - 1, checked_seed("pact", rng, x))
    return result


def quantize_gradient(
    x: Tensor,
    fmt: Format | str,
    *,
    scale: float | str | None = None,
    axis: int = -1,
    rng: Rng = None,
) -> Tensor:
    """y = x, but the incoming gradient is rounded to the format: dx = quantize(dy, fmt). NaN is kept.

    Arguments as for :func:`quantize`; with stochastic rounding the seed is drawn from ``rng`` in the forward pass.

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
    check_tensors("quantize_gradient", ("x",), (x,), FLOATS, CPU_AND_CUDA)
    given = checked_scale("quantize_gradient", x, text, None if isinstance(scale, str) else scale, axis)
    if isinstance(scale, str):
        checked_amax("quantize_gradient", scale)
    seed = checked_seed("quantize_gradient", rng, x)
    if seed is None and facts(text).stochastic:
        raise ValueError("quantize_gradient: rng must be a seed or a generator for stochastic rounding, got None")
    result: Tensor = RoundedGradient.apply(x, text, given, isinstance(scale, str), axis, seed)
    return result


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, accumulate: Format | str, every: int = 1
) -> Tensor:
    """y[m, n] = bias[n], then y[m, n] = acc(y[m, n] + x[m, k] weight[n, k]) for k = 0, 1, 2, ... in this order.

    :func:`fastiter.quant.quant_matmul` on tensors that are already rounded: each sum is exact and is rounded once. The
    gradient is that of x weight^T + bias, as if the accumulator were exact.

    Parameters
    ----------
    x : Tensor (..., K)
    weight : Tensor (N, K)
    bias : Tensor (N,), optional
        Initial value of the accumulator, rounded to its format as a first sum.
    accumulate : Fixed, Float or str
        With a :class:`Fixed`, x and weight must be finite, and integers times a power of two, of at most 64 bits
        together, as :func:`quantize` returns them; with a :class:`Float` they must be exact in float32.
    every : int
        Number of products that are added between two roundings.

    Raises
    ------
    TypeError, ValueError
        For a wrong type, dtype or shape, and for numbers that the accumulator does not support.
    BackendError
        For a tensor on a device other than the CPU or CUDA; on a CUDA device for a :class:`Fixed` of more than 62 bits,
        and for sums of ``every`` products that need more than 64. With a :class:`Fixed` the call synchronizes, to find
        the bits that x and weight need.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import linear
    >>> x, weight = torch.ones(1, 40), torch.ones(1, 40)
    >>> linear(x, weight, accumulate="e4m3fn").item()  # 16 + 1 is a tie, and 16 is even
    16.0
    >>> linear(x, weight, accumulate="fixed<6,6,RND,SAT>").item()
    31.0
    """
    text = checked_accumulator("linear", accumulate, every)
    given = [("x", x), ("weight", weight)] + ([] if bias is None else [("bias", bias)])
    check_tensors("linear", [name for name, _ in given], [tensor for _, tensor in given], FLOATS, CPU_AND_CUDA)
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        got = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"linear: x and weight must have shapes (..., K) and (N, K), got {got}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias must have shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    result = accumulated(x if x.dim() > 1 else x.unsqueeze(0), weight, bias, text, every)
    return result if x.dim() > 1 else result.squeeze(0)
