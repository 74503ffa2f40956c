"""Rounding of tensors to number formats with straight-through gradients, bitwise equal to :mod:`fastiter.quant`."""

from __future__ import annotations

from .._public import publish
from ..quant import ErrorStatistics, formats, range_of
from ..quant._torch.analysis import Calibration, calibrate, measure_error, pack, unpack
from ..quant._torch.functional import BlockCodes, Scaled, decode, encode, quantize, quantize_gradient
from ..quant._torch.hls.export import export_hls
from ..quant._torch.learned import lsq, pact, round_fixed
from ..quant._torch.linear import linear

__all__ = [
    "BlockCodes",
    "Calibration",
    "ErrorStatistics",
    "Scaled",
    "calibrate",
    "decode",
    "encode",
    "export_hls",
    "formats",
    "linear",
    "lsq",
    "measure_error",
    "pack",
    "pact",
    "quantize",
    "quantize_gradient",
    "range_of",
    "round_fixed",
    "unpack",
]

publish(globals())
