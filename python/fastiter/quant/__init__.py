"""Numbers coarser than float: fixed point as HLS computes it, small floats, block formats, posits, tables."""

from __future__ import annotations

from .._public import publish
from ._calibration.calibrate import Calibration, calibrate
from ._calibration.error import ErrorStatistics, measure_error
from ._codes import pack, unpack
from ._fixed.array import FixedArray
from ._fixed.products import fixed_conv2d, fixed_matmul
from ._formats.base import Format
from ._formats.block_float import BlockFloat
from ._formats.catalog import FormatRow, FormatTable, formats
from ._formats.fixed import Fixed
from ._formats.floating import Float
from ._formats.integer import Int
from ._formats.logarithmic import Logarithmic
from ._formats.mx import MX
from ._formats.nvfp4 import NVFP4
from ._formats.posit import Posit
from ._formats.power_of_two import PowerOfTwo
from ._formats.properties import Range
from ._formats.sum_of_powers import SumOfPowers
from ._formats.table import Table
from ._formats.text import parse
from ._matmul import quant_matmul
from ._quantize import decode, encode, quantize
from ._range import range_of
from ._rounding import BlockCodes, Counts, Scaled

__all__ = [
    "MX",
    "NVFP4",
    "BlockCodes",
    "BlockFloat",
    "Calibration",
    "Counts",
    "ErrorStatistics",
    "Fixed",
    "FixedArray",
    "Float",
    "Format",
    "FormatRow",
    "FormatTable",
    "Int",
    "Logarithmic",
    "Posit",
    "PowerOfTwo",
    "Range",
    "Scaled",
    "SumOfPowers",
    "Table",
    "calibrate",
    "decode",
    "encode",
    "fixed_conv2d",
    "fixed_matmul",
    "formats",
    "measure_error",
    "pack",
    "parse",
    "quant_matmul",
    "quantize",
    "range_of",
    "unpack",
]

publish(globals())
