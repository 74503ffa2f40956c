"""Rounding of tensors to number formats with straight-through gradients, bitwise equal to :mod:`fastiter.quant`."""

from __future__ import annotations

from .._public import publish
from ..quant import ErrorStatistics, formats, range_of
from ..quant._torch.analysis import Calibration, calibrate, measure_error, pack, unpack
from ..quant._torch.functional import Blocks, Scaled, decode, encode, quantize, quantize_gradient
from ..quant._torch.hls.export import export_hls
from ..quant._torch.learned import fixed_point, lsq, pact
from ..quant._torch.linear import linear

__all__ = [
    "Blocks",
    "Calibration",
    "ErrorStatistics",
    "Scaled",
    "calibrate",
    "decode",
    "encode",
    "export_hls",
    "fixed_point",
    "formats",
    "linear",
    "lsq",
    "measure_error",
    "pack",
    "pact",
    "quantize",
    "quantize_gradient",
    "range_of",
    "unpack",
]

publish(globals())
