"""The warning of a plan whose scale does not suit the numbers of a layer."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ...._solution import outside
from ..arguments import Scale, facts
from ..functional import quantize
from .format_quantizers import FormatQuantizer

#: Largest loss of signal-to-noise ratio, in dB, that passes without a warning: more than 3 bits of the format
LOSS = 20.0
#: Largest signal-to-noise ratio, in dB, of numbers of which nothing is left; zeros in place of all have 0 dB
NOTHING = 1.0
#: Numbers of a parameter that are looked at
SAMPLE = 1 << 16


def warn_of_loss(layer: str, name: str, parameter: Tensor, quantizer: object) -> None:
    """Warn if the quantizer's scale costs the parameter more than ``LOSS`` dB of what "amax" would reach, or all."""
    if not isinstance(quantizer, FormatQuantizer) or isinstance(quantizer.scaling, str) or parameter.is_meta:
        return
    text = str(quantizer.fmt)
    if facts(text).targets is None:
        return
    with torch.no_grad():
        sample = parameter.detach().flatten()[:SAMPLE]
        sample = sample[torch.isfinite(sample)]
        own, fitted = (_sqnr(sample, text, scale) for scale in (quantizer.scaling, "amax"))
    if own < fitted - LOSS or own < NOTHING < fitted:
        given = "no scale" if quantizer.scaling is None else f"scale={quantizer.scaling:g}"
        warnings.warn(
            f"{layer}: {name} in {text} with {given} has {fitted - own:.0f} dB less signal-to-noise ratio than with "
            f"FormatQuantizer({text!r}, scale='amax')",
            UserWarning,
            stacklevel=outside(),
        )


def _sqnr(x: Tensor, text: str, scale: Scale) -> float:
    """Return the signal-to-noise ratio in dB; infinite without an error, also of zeros."""
    seed = 0 if facts(text).stochastic else None
    wide = x.double()
    noise = (quantize(x, text, scale=scale, rng=seed, nan="keep").double() - wide).square().sum().item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(wide.square().sum().item() / noise) if math.isfinite(noise) else -math.inf
