"""Numbers coarser than float: fixed point as HLS computes it, small floats, block formats, posits, tables."""

from __future__ import annotations

from .._public import publish
from ._block_formats import MX, NVFP4, BlockFloat
from ._calibrate import Calibration, calibrate
from ._catalog import FormatRow, FormatTable, formats
from ._codes import pack, unpack
from ._error import ErrorStatistics, measure_error
from ._fixed_array import FixedArray
from ._fixed_matmul import fixed_conv2d, fixed_matmul
from ._formats import Fixed, Float, Format, Int, parse
from ._matmul import quant_matmul
from ._other_formats import Logarithmic, Posit, PowerOfTwo, SumOfPowers, Table
from ._quantize import decode, encode, quantize
from ._range import Range, range_of
from ._rounding import Blocks, Counts, Scaled

__all__ = [
    "MX",
    "NVFP4",
    "BlockFloat",
    "Blocks",
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
