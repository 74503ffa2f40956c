"""Rounding with a learned parameter: the binary point (QFX), the step (LSQ), the clip (PACT)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..._torch.ops import refuse_transforms
from .arguments import (
    Nan,
    Rng,
    Ste,
    check_positive,
    checked_seed,
    checked_with_parameter,
    facts,
    fixed_text,
    integer_text,
)
from .autograd import Pact, apply, checked_options


def round_fixed(
    x: Tensor,
    width: int,
    point: Tensor,
    *,
    signed: bool = True,
    rounding: str = "RND_CONV",
    overflow: str = "SAT",
    terms: int | None = None,
    method: Literal["GREEDY", "NEAREST"] = "GREEDY",
    rng: Rng = None,
    nan: Nan = "raise",
    ste: Ste = "clip",
    gradient_scale: float = 1.0,
) -> Tensor:
    """y = overflow(round(x 2^f)) 2^-f with f = round(point): fixed point with a learned binary point (QFX).

    dy/dpoint = gradient_scale ln2 (x - y) if the rounded number is in range, -gradient_scale ln2 y if it is not;
    dy/dx as for :func:`quantize`. The rounding of the point has the derivative 1.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        The numbers to round, of any shape.
    width : int
        Bits of a code, 1 to 53.
    point : Tensor of floats
        Bits after the binary point, -126 to 126 after rounding: one number, or as many axes as x, with sizes that
        divide those of x.
    signed : bool
        Two's complement, or unsigned.
    rounding, overflow : str
        As for :class:`fastiter.quant.Fixed`.
    terms : int, optional
        The maximum number of one bits in a code: :class:`fastiter.quant.SumOfPowers`, which saturates.
    method : {"GREEDY", "NEAREST"}
        With ``terms``, the choice of the bits.
    rng : int, Tensor or torch.Generator, optional
        As for :func:`quantize`.
    nan : {"raise", "keep"} or number
        As for :func:`quantize`.
    ste : {"clip", "pass"}
        As for :func:`quantize`. With "pass", wrapped numbers count as in range for dy/dpoint, too.
    gradient_scale : float
        A factor of the point's gradient only.

    Returns
    -------
    y : Tensor
        Has x's shape and dtype.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`; ValueError for a point on the CPU that is beyond -126 to 126.

    See Also
    --------
    fastiter.torch.nn.FixedQuantizer : The same as a module with the point as its parameter.

    References
    ----------
    QFX, arXiv 2401.17544; the gradient is derived in docs/quant/training_theory.md.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.quant import round_fixed
    >>> point = torch.tensor(4.2, requires_grad=True)
    >>> y = round_fixed(torch.tensor([0.3, 9.0]), 8, point)
    >>> y.tolist(), torch.autograd.grad(y.sum(), point)[0].item()  # ln2 (0.3 - 0.3125 - 7.9375)
    ([0.3125, 7.9375], -5.5105)
    """
    text = fixed_text(width, signed, rounding, overflow, terms, method)
    checked_with_parameter("round_fixed", x, "point", point, gradient_scale)
    options = checked_options("round_fixed", x, text, None, -1, rng, nan, ste)
    return apply(x, point, options._replace(is_point=True, factor=float(gradient_scale)))


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
    nan: Nan = "raise",
    gradient_scale: float = 1.0,
) -> Tensor:
    """y = clip(round(x / step)) step: integers with a learned step (LSQ).

    If the rounded code is in range, dy/dstep = gradient_scale (code - x / step) and dy/dx = 1; otherwise dy/dstep =
    gradient_scale times the lowest or highest code, and dy/dx = 0. Codes are counted from the zero point.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        The numbers to round, of any shape.
    step : Tensor of positive floats
        One number, or as many axes as x, with sizes that divide those of x: (C, 1, 1, 1) for one step per channel.
    width : int
        Bits of a code, 1 to 32.
    signed : bool
        Two's complement, or unsigned.
    rounding, overflow : str
        As for :class:`fastiter.quant.Int`; "SAT_SYM" leaves out the lowest code.
    zero_point : int or Tensor of integers, optional
        As for :func:`quantize`.
    rng : int, Tensor or torch.Generator, optional
        As for :func:`quantize`.
    nan : {"raise", "keep"} or number
        As for :func:`quantize`.
    gradient_scale : float
        A factor of the step's gradient only; the paper's is 1 / sqrt(numel * highest code).

    Returns
    -------
    y : Tensor
        Has x's shape and dtype.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`.

    See Also
    --------
    fastiter.torch.nn.LSQQuantizer : The same as a module with the step as its parameter.

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
    text = integer_text(width, signed, rounding, overflow)
    checked_with_parameter("lsq", x, "step", step, gradient_scale)
    options = checked_options("lsq", x, text, zero_point, -1, rng, nan, "clip")
    return apply(x, step, options._replace(factor=float(gradient_scale)))


def pact(x: Tensor, alpha: Tensor, width: int, *, rounding: str = "RND_CONV", rng: Rng = None) -> Tensor:
    """y = round(clip(x, 0, alpha) (2^width - 1) / alpha) alpha / (2^width - 1): activations with a learned clip (PACT).

    dy/dx = 1 for 0 <= x < alpha, else 0; dy/dalpha = 1 for x >= alpha, else 0. NaN stays NaN.

    Parameters
    ----------
    x : Tensor, float32, float64, float16 or bfloat16
        The numbers to round, of any shape.
    alpha : Tensor of one positive float
        The clip; may require a gradient.
    width : int
        Bits of a code, 1 to 32.
    rounding : str
        As for :class:`fastiter.quant.Int`.
    rng : int, Tensor or torch.Generator, optional
        As for :func:`quantize`.

    Returns
    -------
    y : Tensor
        Has x's shape and dtype.

    Raises
    ------
    TypeError, ValueError, BackendError
        As for :func:`quantize`.

    See Also
    --------
    fastiter.torch.nn.PACTQuantizer : The same as a module with alpha as its parameter.

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
    text = integer_text(width, False, rounding, "SAT")
    checked_with_parameter("pact", x, "alpha", alpha, 1.0)
    if alpha.numel() != 1:
        raise ValueError(f"pact: alpha must be one number, got shape {tuple(alpha.shape)}")
    check_positive("pact", "alpha", alpha)
    result: Tensor = Pact.apply(x, alpha, text, 2**width - 1, checked_seed("pact", rng, x, facts(text).stochastic))
    return result
