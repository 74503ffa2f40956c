"""Calls whose types mypy checks; as a program, it runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiter import quant, tune
from fastiter.torch import nn as layers
from fastiter.torch import quant as tensors

Array = npt.NDArray[Any]


def arrays(x: Array) -> list[Array]:
    """Call the functions on arrays: mypy refuses the assignment of a result whose type is not the annotated one."""
    codes: Array = quant.encode(x, "int8")
    fixed: Array = quant.encode(x, quant.Fixed(8, 4, rounding="RNE"), rng=np.random.default_rng(0), nan=0.0)
    blocks: quant.BlockCodes = quant.encode(x, quant.NVFP4(), scale=0.5)
    fitted: quant.Scaled = quant.encode(x, np.int8, scale="amax", scale_axis=0)
    rounded: Array = quant.quantize(x, np.float16, scale="amax")
    counted, counts = quant.quantize(x, "fp8", counts=True, nan="keep", backend="cpu")
    total: int = counts.total
    product: Array = quant.quant_matmul(x, x.T, "fp8", np.float16, np.float32)
    error: float = quant.measure_error(x, "mxfp4", rng=total).sqnr
    bits: float | None = quant.formats()[0].bits
    print(error, bits, blocks.scales.shape)
    values = [quant.decode(each, fmt) for each, fmt in ((codes, "int8"), (fitted, "int8"), (blocks, "nvfp4"))]
    return [fixed, rounded, counted, product, *values]


def on_tensors(x: Tensor) -> list[Tensor]:
    """Call the functions on tensors."""
    codes: Tensor = tensors.encode(x, torch.int8)
    single: Tensor = tensors.encode(x, quant.Float(4, 3, "fn"))
    blocks: tensors.BlockCodes = tensors.encode(x, quant.MX(quant.Float(2, 1, "none")))
    fitted: tensors.Scaled = tensors.encode(x, "int4", scale="amax", scale_axis=1)
    rounded: Tensor = tensors.quantize(x, torch.float8_e5m2, scale="amax", ste="pass", rng=torch.Generator())
    product: Tensor = tensors.linear(x, x, accumulator=np.float32, accumulate_every=2)
    error: float = tensors.measure_error(x, "fp6", scale="amax").sqnr
    model: torch.nn.Linear = layers.quantize_model(torch.nn.Linear(4, 2), "int8")
    plan = layers.QuantPlan(weight=layers.FixedQuantizer(4, rng=1, method="NEAREST"), input=torch.float16)
    print(error, model, plan, single.shape)
    values = [tensors.decode(each, fmt) for each, fmt in ((codes, "int8"), (fitted, "int4"), (blocks, "mxfp4"))]
    return [rounded, product, *values]


if __name__ == "__main__":
    print(arrays(np.ones((3, 16), np.float32)), on_tensors(torch.ones(3, 16)))
    print(tune.rnn_plan(tune.DEVICES["H100"], cell="gru", heads=1, width=64, batch=8, dtype="float32"))
