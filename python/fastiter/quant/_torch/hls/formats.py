"""The parts of an exported network: steps between arrays, and the arrays' fixed-point formats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import Fixed, PowerOfTwo, SumOfPowers
from ..._fixed.growth import Shape
from ..._formats.base import Format
from ..nn.format_quantizers import FormatQuantizer
from ..nn.learned_quantizers import FixedQuantizer, LSQQuantizer, PACTQuantizer
from ..nn.quantizer import LearnedQuantizer, Quantizer

#: Maximum width of a number in the exported network, which computes with 64-bit integers
MAX_BITS = 60


@dataclass(frozen=True)
class Value:
    """An array of numbers of one format, in C order; the shape is that of one sample."""

    name: str
    fmt: Fixed
    shape: tuple[int, ...]

    @property
    def largest(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.fmt.min_code, self.fmt.max_code)


@dataclass(frozen=True)
class Constant:
    """Parameters of the network, as codes."""

    name: str
    fmt: Fixed
    codes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One function of the exported network: from the inputs and constants to the output."""

    kind: str
    layer: str
    inputs: tuple[Value, ...]
    output: Value
    constants: dict[str, Constant] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    #: Format of the sum of products; with ``every`` above 1, the format between two roundings
    total: Fixed | None = None
    every: int = 1

    @property
    def name(self) -> str:
        """The name of the function and of its output."""
        return self.output.name


def refuse(name: str, wanted: str, got: object) -> NoReturn:
    """Raise the error for a module that cannot be exported."""
    raise ValueError(f"export_hls: {name!r} must {wanted}, got {got}")


def formats_of(name: str, quantizer: Quantizer) -> tuple[Fixed, ...]:
    """Return the fixed-point formats that a quantizer rounds to: one for all channels, or one for each."""
    if isinstance(quantizer, LearnedQuantizer) and not bool(quantizer.initialized):
        refuse(name, "be called with a sample first, which sets what it learns", f"{quantizer} without a value")
    if isinstance(quantizer, FixedQuantizer):
        return tuple(_fixed(name, fmt, 1.0) for fmt in quantizer.formats)
    if isinstance(quantizer, LSQQuantizer):
        return tuple(_fixed(name, quantizer.formats[0], abs(s)) for s in quantizer.step.detach().flatten().tolist())
    if isinstance(quantizer, PACTQuantizer):
        return (_fixed(name, quantizer.formats[0], quantizer.alpha.item() / (2**quantizer.width - 1)),)
    if not isinstance(quantizer, FormatQuantizer):
        refuse(name, "have quantizers of this package", type(quantizer).__name__)
    if quantizer.scaling == "amax":
        refuse(name, "have a scale that is a constant", "scale='amax', which follows each input")
    scale = quantizer.scaling if quantizer.scale is None else quantizer.scale.item()
    if scale == 0:
        refuse(name, "be called with a sample first, which sets the scale", "scale='first' without a value")
    return (_fixed(name, quantizer.fmt, 1.0 if scale is None else float(scale)),)


def _fixed(name: str, fmt: Format, scale: float) -> Fixed:
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        refuse(name, "have scales that are powers of two", f"{scale!r} for {fmt}")
    power = exponent - 1
    fixed = fmt._as_fixed()
    if fixed is None:
        refuse(name, "round to fixed point", str(fmt))
    if fixed.width > MAX_BITS:
        refuse(name, f"round to at most {MAX_BITS} bits", str(fmt))
    return replace(fixed, integer=fixed.integer + power)


def activation_format(name: str, quantizer: Quantizer) -> Fixed:
    """Return the one format that a quantizer of inputs or outputs rounds to."""
    own = quantizer.formats[0] if quantizer.formats else None
    if isinstance(own, (SumOfPowers, PowerOfTwo)):
        refuse(name, "round inputs and outputs to fixed point (powers of two are for weights)", str(own))
    fixed = formats_of(name, quantizer)
    if len(set(fixed)) != 1:
        refuse(name, "round inputs and outputs to one format", f"{len(fixed)} formats, one for each channel")
    if fixed[0].stochastic:
        refuse(name, "round without random numbers", str(fixed[0]))
    return fixed[0]


def constant(name: str, what: str, layer: str, quantizer: Quantizer, rounded: Tensor) -> Constant:
    """Return rounded parameters as codes, in their common format or in one that can hold all channels' numbers."""
    formats = formats_of(layer, quantizer)
    fraction = max(fmt.fraction for fmt in formats)
    whole = np.ldexp(rounded.detach().to(torch.float64).numpy(), fraction)
    if not np.isfinite(whole).all():
        refuse(layer, f"have a finite {what}", "NaN or infinity")
    largest = int(np.abs(whole).max(initial=0.0))
    signed = any(fmt.signed for fmt in formats)
    width = largest.bit_length() + int(signed)
    if len(set(formats)) == 1:
        width = max(width, formats[0].width)
    width = max(width, 1)
    if width > MAX_BITS:
        refuse(layer, f"have a {what} of at most {MAX_BITS} bits in all channels together", f"{width} bits")
    return Constant(f"{name}_{what}", Fixed(width, width - fraction, signed), whole.astype(np.int64))


def holding(name: str, largest: int, fraction: int) -> Fixed:
    """Return the signed format that holds all codes up to this magnitude."""
    width = max(largest.bit_length() + 1, 2)
    check_bits(name, width)
    return Fixed(width, width - fraction)


def check_bits(name: str, width: int) -> None:
    """Check that the exported network can hold numbers of this width."""
    if width > MAX_BITS:
        refuse(name, f"need at most {MAX_BITS} bits for its products and sums", f"{width} bits")


def grown(name: str, shape: Shape) -> Fixed:
    """Return the format of an exact result."""
    check_bits(name, shape.width)
    return Fixed(shape.width, shape.integer, shape.signed)


def check_exact(name: str, largest: int, fraction: int, dtype: torch.dtype) -> None:
    """Check that all integers up to this magnitude, times 2^-fraction, are exact in the network's dtype.

    Then sums of them are exact in any order, so the network's float arithmetic equals integer arithmetic.
    """
    info: Any = torch.finfo(dtype)
    digits = 1 - round(math.log2(info.eps))
    if largest > 1 << digits:
        more = " (model.double() has 53)" if dtype == torch.float32 else ""
        wanted = f"have sums and numbers that {dtype} holds exactly, in {digits} bits{more}"
        refuse(name, wanted, f"up to {largest.bit_length()} bits")
    lowest, highest = round(math.log2(info.smallest_normal)), math.log2(info.max)
    if -fraction < lowest or largest.bit_length() - fraction > highest:
        refuse(name, f"have numbers in the range of {dtype}", f"a last place of 2^{-fraction}")
