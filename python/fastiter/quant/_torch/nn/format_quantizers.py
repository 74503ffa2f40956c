"""Quantizers to a given format: of forward values, and of gradients."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ...._check import type_name
from ..._check import check_format
from ..._formats.base import Format
from ..._scale import refuse_axis
from ..arguments import FormatLike, Ste, facts, largest_scale
from ..functional import quantize, quantize_gradient
from .quantizer import Quantizer, Rng


class FormatQuantizer(Quantizer):
    """y = quantize(x, fmt): any format of :mod:`fastiter.quant`.

    Parameters
    ----------
    fmt : Format, str or dtype
        As for :func:`fastiter.torch.quant.quantize`.
    scale : float, "amax" or "first", optional
        As for :func:`fastiter.torch.quant.quantize`, but by default "amax" for integers, and 1 for other formats.
        "amax" uses the largest magnitude of each input; "first" that of the first input, or of the sample of
        :meth:`initialize`, with the scale in the buffer ``scale``. With 1, integers are whole numbers.
    scale_axis : int, optional
        With "amax", an axis along which every index has its own scale.
    axis : int
        The axis of the blocks.
    ste : {"clip", "pass"}
        As for :func:`fastiter.torch.quant.quantize`.
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments; for a scale that the format does not take.

    See Also
    --------
    FixedQuantizer, LSQQuantizer : Learn their scale.
    QuantPlan : Gives quantizers to layers.
    fastiter.torch.quant.quantize : The same as a function.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import FormatQuantizer
    >>> FormatQuantizer("int4")(torch.tensor([0.5, -1.2, 3.5])).tolist()
    [0.5, -1.0, 3.5]
    """

    scale: Tensor | None

    def __init__(
        self,
        fmt: FormatLike,
        scale: float | Literal["amax", "first"] | None = None,
        *,
        scale_axis: int | None = None,
        axis: int = -1,
        ste: Ste = "clip",
        rng: Rng = None,
    ) -> None:
        form = check_format("FormatQuantizer", fmt)
        super().__init__(form.stochastic, rng)
        scale = _checked_scale("FormatQuantizer", form, scale, ("amax", "first"))
        for name, value in (("axis", axis), ("scale_axis", 0 if scale_axis is None else scale_axis)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"FormatQuantizer: {name} must be an int, got {type_name(value)}")
        if scale_axis is not None and scale != "amax":
            if facts(str(form)).fits_itself:
                refuse_axis("FormatQuantizer", form, scale_axis)
            raise ValueError(f"FormatQuantizer: scale_axis must go with scale='amax', got scale={scale!r}")
        if ste not in ("clip", "pass"):
            raise ValueError(f"FormatQuantizer: ste must be 'clip' or 'pass', got {ste!r}")
        self.fmt, self.scaling, self.scale_axis, self.axis, self.ste = form, scale, scale_axis, axis, ste
        self._text = str(form)
        self.bits = form.bits
        # Zero means not yet initialized, also in checkpoints.
        self.register_buffer("scale", torch.zeros(()) if scale == "first" else None)
        self._is_initialized = scale != "first"

    def initialize(self, x: Tensor) -> None:
        """With scale="first", set the scale from a sample of finite numbers; otherwise do nothing.

        Parameters
        ----------
        x : Tensor
            A sample of the numbers to be rounded.

        Raises
        ------
        TypeError, ValueError
            If x is no tensor of finite floating-point numbers.
        """
        if self.scale is not None:
            with torch.no_grad():
                self.scale.copy_(largest_scale("FormatQuantizer", self._checked_sample(x), self._text))
            self._is_initialized = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._is_initialized = self.scale is None or bool(self.scale > 0)

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
        factor: Any = self.scale if self.scaling == "first" else self.scaling
        if self.scale_axis is not None:
            factor = largest_scale("FormatQuantizer", x, self._text, self.scale_axis)
        seed = self._next_seed()
        return quantize(x, self._text, scale=factor, axis=self.axis, rng=seed, nan="keep", ste=self.ste)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The format."""
        return (self.fmt,)

    def extra_repr(self) -> str:
        """Return the format, and the scale if there is one."""
        return self._text if self.scaling is None else f"{self._text}, scale={self.scaling!r}"


class GradientQuantizer(Quantizer):
    """y = x, and dx = quantize(dy, fmt): the incoming gradient is rounded. NaN and infinities are kept.

    Parameters
    ----------
    fmt : Format, str or dtype
        As for :func:`fastiter.torch.quant.quantize`.
    scale : float or "amax", optional
        As for :func:`fastiter.torch.quant.quantize`, but by default "amax" for integers, and 1 for other formats.
        "amax" uses the gradient's largest magnitude.
    axis : int
        The axis of the blocks.
    rng : int or torch.Generator, optional
        For stochastic rounding: a seed of 31 bits, or a generator that draws one; by default torch's own.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments; for a scale that the format does not take.

    See Also
    --------
    FormatQuantizer : Rounds the numbers instead.
    fastiter.torch.quant.quantize_gradient : The same as a function.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import GradientQuantizer
    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> (GradientQuantizer("e5m2")(x) * torch.tensor([0.3, 5.1])).sum().backward()
    >>> x.grad.tolist()
    [0.3125, 5.0]
    """

    def __init__(
        self, fmt: FormatLike, scale: float | Literal["amax"] | None = None, *, axis: int = -1, rng: Rng = None
    ) -> None:
        form = check_format("GradientQuantizer", fmt)
        super().__init__(form.stochastic, rng)
        scale = _checked_scale("GradientQuantizer", form, scale, ("amax",))
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"GradientQuantizer: axis must be an int, got {type_name(axis)}")
        self.fmt, self.scaling, self.axis = form, scale, axis
        self._text = str(form)
        self.bits = form.bits

    def forward(self, x: Tensor) -> Tensor:
        """Return x; its gradient will be rounded.

        Parameters
        ----------
        x : Tensor
            The numbers, of any shape.

        Returns
        -------
        Tensor
            The same numbers.
        """
        return quantize_gradient(x, self._text, scale=self.scaling, axis=self.axis, rng=self._next_seed())

    @property
    def formats(self) -> tuple[Format, ...]:
        """The format."""
        return (self.fmt,)

    def extra_repr(self) -> str:
        """Return the format, and the scale if there is one."""
        return self._text if self.scaling is None else f"{self._text}, scale={self.scaling!r}"


def scale_by_default(fmt: Format) -> Literal["amax"] | None:
    """Return the scale in a layer of a format alone: integers without one would round most numbers to zero."""
    return "amax" if fmt._is_affine else None


def _checked_scale(name: str, fmt: Format, scale: Any, words: tuple[str, ...]) -> Any:
    """Return the scale, "amax" for integers without one, None for formats that fit their blocks' scales."""
    if scale is None:
        return scale_by_default(fmt)
    if isinstance(scale, str):
        if scale not in words:
            raise ValueError(f"{name}: scale must be a number or one of {', '.join(map(repr, words))}, got {scale!r}")
        if scale == "amax" and facts(str(fmt)).fits_itself:
            return None
        if facts(str(fmt)).targets is None:
            raise ValueError(f"{name}: scale must be None or a number for {fmt}, got {scale!r}")
        return scale
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"{name}: scale must be a number, a str or None, got {type_name(scale)}")
    if not 0 < scale < math.inf:
        raise ValueError(f"{name}: scale must be positive and finite, got {scale}")
    return scale
