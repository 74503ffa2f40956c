"""QuantPlan: the formats of a layer; and the quantizers and products that layers make from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F

from ...._check import type_name
from ..._check import check_format, is_format
from ..._formats.base import Format
from ..arguments import FormatLike, checked_accumulator, facts, text_of
from ..matmul import accumulated
from .format_quantizers import FormatQuantizer, GradientQuantizer
from .quantizer import Quantizer

Choice: TypeAlias = "FormatLike | Quantizer | None"


@dataclass(frozen=True, repr=False)
class QuantPlan:
    """The formats of a layer's numbers: each is None (not rounded), a format, its text or a dtype, or a quantizer.

    Integers alone are scaled by the largest magnitude of the numbers, other formats alone have the scale 1;
    ``FormatQuantizer(fmt, scale=...)`` takes any. A quantizer is a template: each layer gets a copy with its own seed
    and number of channels. A layer warns where a plan without "amax" costs its weights more than 20 dB of the
    signal-to-noise ratio that the same format has with it.

    Parameters
    ----------
    weight, bias : Format, str, dtype or Quantizer, optional
        Formats of the parameters; in batch normalisation, of the factor and the shift.
    input, output : Format, str, dtype or Quantizer, optional
        Formats of the layer's input and output.
    gradient : Format, str, dtype or GradientQuantizer, optional
        Format of the gradient of the output, before it is multiplied with weights and inputs.
    state : Format, str, dtype or Quantizer, optional
        Format of the internal cell state of QuantLSTM.
    accumulator : Fixed, Float, str or dtype, optional
        Format of the sums of products in QuantLinear, QuantConv2d, QuantLSTM and QuantGRU, as in
        :func:`fastiter.torch.quant.linear`. By default sums are torch's. Weights and inputs must be rounded, too.
    accumulate_every : int
        Number of additions between two roundings to the accumulator.
    optimizer : Format, str or dtype, optional
        Format of the optimizer's states: see :func:`quantize_optimizer`.

    Raises
    ------
    TypeError, ValueError
        For anything but formats and quantizers; for an accumulator that is neither a Fixed nor a Float.

    See Also
    --------
    quantize_model : Gives the layers of a model a plan.

    Examples
    --------
    >>> from fastiter.torch.nn import FixedQuantizer, QuantPlan
    >>> QuantPlan(weight=FixedQuantizer(4), input="fp8", gradient="e5m2<STOCHASTIC>")
    QuantPlan(weight=FixedQuantizer(4), input='e4m3fn', gradient='e5m2<STOCHASTIC>')
    """

    weight: Choice = None
    bias: Choice = None
    input: Choice = None
    output: Choice = None
    gradient: Choice = None
    state: Choice = None
    accumulator: FormatLike | None = None
    accumulate_every: int = 1
    optimizer: FormatLike | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "accumulate_every":
                continue
            if is_format(value):
                object.__setattr__(self, field.name, check_format("QuantPlan", value, field.name))
                continue
            wanted: type[Quantizer] | None = Quantizer
            if field.name == "gradient":
                wanted = GradientQuantizer
            elif field.name in ("optimizer", "accumulator"):
                wanted = None
            fits = wanted is not None and isinstance(value, wanted)
            if fits and field.name != "gradient" and isinstance(value, GradientQuantizer):
                fits = False
            if value is not None and not fits:
                allowed = "a format, its text or a dtype" + ("" if wanted is None else f", a {wanted.__name__}")
                raise TypeError(f"QuantPlan: {field.name} must be {allowed} or None, got {type(value).__name__}")
        if self.accumulator is not None:
            checked_accumulator("QuantPlan", self.accumulator, self.accumulate_every)
        elif isinstance(self.accumulate_every, bool) or self.accumulate_every != 1:
            raise ValueError(
                f"QuantPlan: accumulate_every must be 1 without an accumulator, got {self.accumulate_every}"
            )

    def __repr__(self) -> str:
        """Show the constructor's call with the fields that are set, formats as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        words = {name: str(value) if isinstance(value, Format) else value for name, value in values.items()}
        usual = {field.name: field.default for field in fields(self)}
        return f"QuantPlan({', '.join(f'{name}={word!r}' for name, word in words.items() if word != usual[name])})"


def new_quantizer(choice: Choice, shape: tuple[int, ...] | None = None) -> Quantizer | None:
    """Return a layer's own quantizer; ``shape``: shape of the parameter that it rounds."""
    if choice is None:
        return None
    quantizer = choice.fresh() if isinstance(choice, Quantizer) else FormatQuantizer(choice)
    if shape is not None:
        quantizer.place(shape)
    return quantizer


def new_gradient_quantizer(choice: Choice) -> GradientQuantizer | None:
    """Return a layer's own quantizer of gradients."""
    if choice is None:
        return None
    quantizer = choice.fresh() if isinstance(choice, Quantizer) else GradientQuantizer(choice)
    assert isinstance(quantizer, GradientQuantizer)
    return quantizer


def plan_of_weights(function: str, fmt: FormatLike, name: str) -> QuantPlan:
    """Return the plan whose weights alone have a format, scaled by their largest magnitude if it takes such a scale."""
    form = check_format(function, fmt, name)
    scales = facts(str(form)).targets is not None
    return QuantPlan(weight=FormatQuantizer(form, scale="amax") if scales else form)


def check_plan(name: str, plan: object) -> QuantPlan:
    """Check that ``plan`` is a QuantPlan."""
    if not isinstance(plan, QuantPlan):
        raise TypeError(f"{name}: plan must be a QuantPlan, got {type_name(plan)}")
    return plan


def plan_linear(plan: QuantPlan, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x weight^T + bias with the accumulator of a plan."""
    if plan.accumulator is None:
        return F.linear(x, weight, bias)
    return accumulated(x, weight, bias, text_of("QuantPlan", plan.accumulator), plan.accumulate_every)
