"""Registers the CUDA implementations of the rounding ops."""

from __future__ import annotations

from .matmul import linear_op
from .ops import decode_op, encode_op, next_seed, quantize_op, seed_op, step_op
from .ops_backward import quantize_bwd
from .triton_backward import backward, step
from .triton_codes import decode, pack, unpack
from .triton_forward import encode, quantize
from .triton_matmul import linear

__all__ = ["pack", "unpack"]

quantize_op.on_cuda(quantize)
encode_op.on_cuda(encode)
decode_op.on_cuda(decode)
step_op.on_cuda(step)
seed_op.on_cuda(next_seed)
quantize_bwd.on_cuda(backward)
linear_op.on_cuda(linear)
