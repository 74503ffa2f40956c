"""Numbers coarser than float: fixed point as HLS computes it, small floats, block formats, posits, tables."""

from __future__ import annotations

from ._formats import Fixed, Float, Format, Int, parse

__all__ = ["Fixed", "Float", "Format", "Int", "parse"]
