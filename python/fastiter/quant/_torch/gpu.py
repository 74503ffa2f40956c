"""Registers the CUDA implementations of the rounding ops."""

from __future__ import annotations

from ..._torch.ops import LIBRARY
from .ops import _seed
from .triton_backward import backward, step
from .triton_codes import decode, pack, unpack
from .triton_forward import encode, quantize
from .triton_matmul import linear

__all__ = ["pack", "unpack"]

for _name, _cuda in (
    ("_quantize", quantize),
    ("_quant_encode", encode),
    ("_quant_decode", decode),
    ("_quant_step", step),
    ("_quant_seed", _seed),
    ("_quantize_bwd", backward),
    ("_quant_linear", linear),
):
    LIBRARY.impl(_name, _cuda, "CUDA")
