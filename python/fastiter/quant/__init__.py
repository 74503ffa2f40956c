"""Numbers coarser than float: fixed point as HLS computes it, small floats, block formats, posits, tables."""

from __future__ import annotations

from ._arithmetic import FixedArray
from ._formats import Fixed, Float, Format, Int, parse
from ._matmul import fixed_conv2d, fixed_matmul

__all__ = [
    "Fixed",
    "FixedArray",
    "Float",
    "Format",
    "Int",
    "fixed_conv2d",
    "fixed_matmul",
    "parse",
]
