"""The factors of quant_matmul: codes and floats as values of their formats."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._check import check_floats
from ._codes import check_codes, values_of
from ._formats.base import Format
from ._formats.properties import Span
from ._quantize import quantize

Array = npt.NDArray[Any]
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)


@lru_cache(maxsize=512)
def span(fmt: Format) -> Span:
    """Return the span of a format's numbers; numbers with a shared scale are treated as float32."""
    return fmt._span()


def numbers(name: str, x: Array, fmt: Format, along: int) -> Array:
    """Return the values of codes, or the rounded floats, in float32 or float64."""
    dtype = _F32 if span(fmt).in_float32 else _F64
    in_blocks = fmt.block > 0
    if x.dtype.kind in "iu":
        if in_blocks:
            raise TypeError(f"quant_matmul: {name} must be floats for a block format, got dtype {x.dtype}")
        return values_of(operand_codes(name, x, fmt), fmt, dtype)
    floats = operand_floats(name, x, fmt)
    if dtype == _F64 or x.dtype.itemsize == 2:
        floats = floats.astype(dtype, copy=False)
    rounded = quantize(floats, fmt, axis=along if in_blocks and x.ndim > 1 else -1)
    with np.errstate(over="ignore", under="ignore"):
        return rounded.astype(dtype, copy=False)


def operand_codes(name: str, x: Array, fmt: Format) -> Array:
    """Check that x are codes of the format."""
    try:
        return check_codes("quant_matmul", x, fmt)
    except ValueError as error:
        worst = str(error).rpartition("got ")[2]
        raise ValueError(f"quant_matmul: {name} must be codes of {fmt}, got {worst}") from None


def operand_floats(name: str, x: Array, fmt: Format) -> Array:
    """Check that x are floats that the format can represent."""
    x = check_floats("quant_matmul", name, x)
    if not fmt.has_nan and np.isnan(x).any():
        raise ValueError(f"quant_matmul: {name} must have no NaN, which {fmt} cannot represent, got NaN")
    return x
