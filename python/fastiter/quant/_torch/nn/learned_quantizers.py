"""Quantizers with learned parameters: fixed point with a learned binary point, LSQ, PACT."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ...._check import positive
from ... import Fixed, Int, SumOfPowers
from ..._calibration.limits import limits
from ..._formats.base import Format
from ..arguments import Ste, fixed_text
from ..learned import lsq, pact, round_fixed
from ..ops import read
from .quantizer import LearnedQuantizer, Quantizer, Rng


class FixedQuantizer(LearnedQuantizer):
    """y = overflow(round(x 2^f)) 2^-f, f = round(point): fixed point with the binary point as a parameter (QFX).

    The first input sets the point so that none of its numbers overflows (:meth:`initialize`); then it is learned.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 53.
    signed : bool
        Two's complement, or unsigned.
    learn_point : bool
        False: the point is a buffer.
    rounding, overflow : str
        As for :class:`fastiter.quant.Fixed`.
    axis : int, optional
        An axis along which every index has its own point.
    channels : int, optional
        The number of these; layers and plans set it.
    terms : int, optional
        The maximum number of one bits in a code (:class:`fastiter.quant.SumOfPowers`); no multiplier is then needed.
    method : {"GREEDY", "NEAREST"}
        With ``terms``, the choice of the bits.
    ste : {"clip", "pass"}
        As for :func:`fastiter.torch.quant.quantize`.
    gradient_scale : float or "lsq"
        A factor of the point's gradient; "lsq": 1 / sqrt(number of elements per point * highest code).
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, and for a first input that is empty or not finite.

    See Also
    --------
    LSQQuantizer : A step that need not be a power of two.
    FormatQuantizer : Any format, with nothing learned.
    fastiter.torch.quant.round_fixed : The same as a function.

    References
    ----------
    QFX, arXiv 2401.17544.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FixedQuantizer
    >>> q = FixedQuantizer(4)
    >>> q(torch.tensor([0.3, -1.2, 1.6])).tolist(), str(q.formats[0])
    ([0.25, -1.25, 1.5], 'fixed<4,2,RND_CONV,SAT>')
    """

    point: Tensor

    def __init__(
        self,
        width: int,
        signed: bool = True,
        learn_point: bool = True,
        rounding: str = "RND_CONV",
        overflow: str = "SAT",
        *,
        axis: int | None = None,
        channels: int | None = None,
        terms: int | None = None,
        method: Literal["GREEDY", "NEAREST"] = "GREEDY",
        ste: Ste = "clip",
        gradient_scale: float | Literal["lsq"] = "lsq",
        rng: Rng = None,
    ) -> None:
        code = Fixed(width, width, signed, rounding, overflow)
        if width > 53:
            raise ValueError(f"FixedQuantizer: width must be from 1 to 53, got {width}")
        if ste not in ("clip", "pass"):
            raise ValueError(f"FixedQuantizer: ste must be 'clip' or 'pass', got {ste!r}")
        if terms is not None:
            if code.overflow != "SAT":
                raise ValueError(f"FixedQuantizer: overflow must be 'SAT' with terms, got {overflow!r}")
            SumOfPowers(terms, width, width, signed, method, rounding)
        super().__init__("point", learn_point, code.stochastic, rng, axis, channels, gradient_scale)
        self.width, self.signed, self.rounding, self.overflow = width, signed, code.rounding, code.overflow
        self.terms, self.method, self.ste = terms, method, ste
        self.bits = width

    def initialize(self, x: Tensor, method: Literal["minmax", "mse"] = "minmax") -> None:
        """Set the point from a sample.

        Parameters
        ----------
        x : Tensor
            Finite numbers.
        method : {"minmax", "mse"}
            "minmax": the most bits after the point for which no rounded number is out of range (for an unsigned
            quantizer, negative numbers are ignored); "mse": of this point and the next 7 with more bits after it, the
            one with the least squared error.
        """
        if method not in ("minmax", "mse"):
            raise ValueError(f"FixedQuantizer: method must be 'minmax' or 'mse', got {method!r}")
        sample = self._checked_sample(x)
        self.place(tuple(x.shape))
        self._spread(sample)  # checks the number of channels
        others = self._others(sample)
        low, high = limits(read(self._text), "float64", 0)
        lowest, highest = (sample.amin(others), sample.amax(others)) if others else (sample, sample)
        shift = torch.maximum(_holding_shift(highest, high), _holding_shift(-lowest, -low if self.signed else 0.0))
        points = torch.where(shift == _ANY_SHIFT, self.width - int(self.signed), -shift)
        points = points.clamp(-126, 126).to(torch.float32)
        self._set(points)
        if method == "mse":
            self._set(self._best_of(sample, points, others))

    @property
    def _text(self) -> str:
        """The string of the codes' format, with integer values."""
        return fixed_text(self.width, self.signed, self.rounding, self.overflow, self.terms, self.method)

    def _best_of(self, x: Tensor, points: Tensor, others: list[int]) -> Tensor:
        best, lowest = points, torch.full_like(points, math.inf)
        seed = 0 if self.counter is not None else None
        for further in range(8):
            tried = (points + further).clamp(max=126)
            self._set(tried)
            noise = (self._rounded(x, self._spread(x).detach(), seed) - x).square()
            noise = noise.sum(others) if others else noise
            best, lowest = torch.where(noise < lowest, tried, best), torch.minimum(noise, lowest)
        return best

    def _rounded(self, x: Tensor, point: Tensor, seed: int | Tensor | None) -> Tensor:
        return round_fixed(
            x,
            self.width,
            point,
            signed=self.signed,
            rounding=self.rounding,
            overflow=self.overflow,
            terms=self.terms,
            method=self.method,
            rng=seed,
            nan="keep",
            ste=self.ste,
            gradient_scale=self._factor(x, 2 ** (self.width - int(self.signed)) - 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded.

        Parameters
        ----------
        x : Tensor
            The numbers, of any shape.

        Returns
        -------
        Tensor
            The rounded numbers, in the shape and dtype of x.
        """
        if not self._is_initialized:
            self.initialize(x)
        return self._rounded(x, self._spread(x), self._next_seed())

    @property
    def formats(self) -> tuple[Format, ...]:
        """The current format; with an axis, one for each of its indices."""
        if self.point is None:
            return ()
        points = [round(p) for p in self.point.detach().flatten().tolist()]
        if self.terms is not None:
            return tuple(
                SumOfPowers(self.terms, self.width, self.width - f, self.signed, self.method, self.rounding)
                for f in points
            )
        return tuple(Fixed(self.width, self.width - f, self.signed, self.rounding, self.overflow) for f in points)

    def extra_repr(self) -> str:
        """Return the options that differ from their defaults."""
        parts = [f"{self.width}"]
        defaults = {"signed": True, "rounding": "RND_CONV", "overflow": "SAT", "terms": None, "axis": None}
        parts += [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        if not self._learn:
            parts.append("learn_point=False")
        return ", ".join(parts)


#: Marks cases where any shift will do: no positive numbers, or a range that ends at zero
_ANY_SHIFT = -(2**20)


def _holding_shift(largest: Tensor, end: float) -> Tensor:
    """Return the smallest k for which ``largest`` is at most 2^k times the end of a range."""
    mantissa, exponent = torch.frexp(largest.to(torch.float64))
    highest, place = math.frexp(end)
    shift = exponent - place + (mantissa > highest).to(exponent.dtype)
    return torch.where((largest > 0) & (end > 0), shift, _ANY_SHIFT)


class LSQQuantizer(LearnedQuantizer):
    """y = clip(round(x / |step|)) |step|: integers with the step as a parameter (LSQ).

    The first input sets the step to 2 mean |x| / sqrt(highest code), as in the paper.

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 32.
    signed : bool
        Two's complement, or unsigned.
    learn_step : bool
        False: the step is a buffer.
    rounding, overflow : str
        As for :class:`fastiter.quant.Int`.
    axis : int, optional
        An axis along which every index has its own step.
    channels : int, optional
        The number of these; layers and plans set it.
    gradient_scale : float or "lsq"
        A factor of the step's gradient; "lsq": 1 / sqrt(number of elements per step * highest code).
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, and for a first input that is empty or not finite.

    See Also
    --------
    FixedQuantizer : A step that is a power of two.
    PACTQuantizer : For activations above 0.
    fastiter.torch.quant.lsq : The same as a function.

    References
    ----------
    Esser et al., Learned step size quantization, arXiv 1902.08153.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import LSQQuantizer
    >>> q = LSQQuantizer(8)
    >>> y = q(torch.linspace(-1, 1, 9))
    >>> y.unique().numel(), round(q.step.item(), 3)
    (9, 0.099)
    """

    step: Tensor

    def __init__(
        self,
        width: int,
        signed: bool = True,
        learn_step: bool = True,
        rounding: str = "RND_CONV",
        overflow: str = "SAT",
        *,
        axis: int | None = None,
        channels: int | None = None,
        gradient_scale: float | Literal["lsq"] = "lsq",
        rng: Rng = None,
    ) -> None:
        self._code = Int(width, signed, rounding, overflow)
        super().__init__("step", learn_step, self._code.stochastic, rng, axis, channels, gradient_scale)
        self.bits, self.width, self.signed = width, width, signed
        self.rounding, self.overflow = self._code.rounding, self._code.overflow

    def initialize(self, x: Tensor) -> None:
        """Set the step from a sample.

        Parameters
        ----------
        x : Tensor
            A sample of the numbers to be rounded.
        """
        sample = self._checked_sample(x)
        self.place(tuple(x.shape))
        self._spread(sample)  # checks the number of channels
        others = self._others(sample)
        mean = sample.abs().mean(others) if others else sample.abs()
        step = 2 * mean / math.sqrt(self._code.max_code or 1)
        self._set(torch.where(step > 0, step, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded.

        Parameters
        ----------
        x : Tensor
            The numbers, of any shape.

        Returns
        -------
        Tensor
            The rounded numbers, in the shape and dtype of x.
        """
        if not self._is_initialized:
            self.initialize(x)
        return lsq(
            x,
            self._spread(x).abs(),
            self.width,
            signed=self.signed,
            rounding=self.rounding,
            overflow=self.overflow,
            rng=self._next_seed(),
            nan="keep",
            gradient_scale=self._factor(x, self._code.max_code),
        )

    @property
    def formats(self) -> tuple[Format, ...]:
        """The integer format."""
        return (self._code,)

    def extra_repr(self) -> str:
        """Return the format and the axis."""
        return f"{self._code}" if self.axis is None else f"{self._code}, axis={self.axis}"


class PACTQuantizer(Quantizer):
    """y = x clipped to 0 .. alpha, in uniform steps of alpha / (2^width - 1): activations with a learned clip (PACT).

    Parameters
    ----------
    width : int
        Bits of a code, 1 to 32.
    alpha : float
        Initial value of the clip; :meth:`initialize` sets it to a sample's largest number.
    rounding : str
        As for :class:`fastiter.quant.Int`.
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Raises
    ------
    TypeError, ValueError
        If width or rounding is refused by :class:`fastiter.quant.Int`, or alpha not positive and finite.

    See Also
    --------
    LSQQuantizer : For numbers of both signs.
    fastiter.torch.quant.pact : The same as a function.

    References
    ----------
    Choi et al., PACT, arXiv 1805.06085.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import PACTQuantizer
    >>> PACTQuantizer(2, alpha=3.0)(torch.tensor([-1.0, 1.2, 9.0])).tolist()
    [0.0, 1.0, 3.0]
    """

    def __init__(self, width: int, alpha: float = 6.0, rounding: str = "RND_CONV", *, rng: Rng = None) -> None:
        self._code = Int(width, False, rounding)
        super().__init__(self._code.stochastic, rng)
        self.bits, self.width, self.rounding = width, width, self._code.rounding
        self.alpha = nn.Parameter(torch.tensor(positive("PACTQuantizer", "alpha", alpha, zero=False)))

    def initialize(self, x: Tensor) -> None:
        """Set alpha to the largest number of a sample, if that is positive.

        Parameters
        ----------
        x : Tensor
            A sample of the numbers to be rounded.
        """
        largest = x.detach().max() if x.numel() else x.new_zeros(())
        if bool((largest > 0) & torch.isfinite(largest)):
            with torch.no_grad():
                self.alpha.copy_(largest)

    def forward(self, x: Tensor) -> Tensor:
        """Return x clipped and rounded.

        Parameters
        ----------
        x : Tensor
            The numbers, of any shape.

        Returns
        -------
        Tensor
            The rounded numbers, in the shape and dtype of x.
        """
        return pact(x, self.alpha, self.width, rounding=self.rounding, rng=self._next_seed())

    @property
    def formats(self) -> tuple[Format, ...]:
        """The integer format."""
        return (self._code,)

    def extra_repr(self) -> str:
        """Return the format."""
        return f"{self._code}"
