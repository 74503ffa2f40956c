"""Registers the CUDA implementations of the rounding ops."""

from __future__ import annotations

from ._op import LIBRARY
from ._quant_gpu_bwd import backward, step
from ._quant_gpu_codes import decode, pack, unpack
from ._quant_gpu_forward import encode, quantize
from ._quant_gpu_product import linear
from ._quant_op import _seed

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
