"""Products of bfloat16 numbers in Triton's interpreter.

It truncates when it converts to bfloat16, and its dot interprets bfloat16 bits as integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from fastiter.kernels.common import triton_tiles
from fastiter.kernels.ssm import triton_attention, triton_attention_levels, triton_chunks, triton_low_rank_chunks

_exact = triton_chunks.dot


@triton.jit
def rounded_dot(a, b, PRECISION: tl.constexpr):
    """Round the operands to the nearest bfloat16, as a kernel's dot does on a card.

    The upper 8 of 24 bits are computed by Veltkamp's splitting.
    """
    a, b = a.to(tl.float32), b.to(tl.float32)
    shifted_a, shifted_b = a * 65537.0, b * 65537.0
    return tl.dot(shifted_a - (shifted_a - a), shifted_b - (shifted_b - b), input_precision="ieee")


@triton.jit
def attention_dot(a, b, PRECISION: tl.constexpr):
    """The product of the kernels of linear attention"""
    if PRECISION == "bf16":
        return rounded_dot(a, b, PRECISION)
    else:
        return _exact(a, b, PRECISION)


def attention_dots() -> Iterator[tuple[Any, str, Any]]:
    """Yield (module, name, function) to set for the interpreter of the kernels of linear attention."""
    for module in (triton_attention, triton_attention_levels, triton_chunks, triton_low_rank_chunks, triton_tiles):
        yield module, "dot", attention_dot
