"""Number formats, on arrays, tensors and models."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from fastiter import quant

Array = npt.NDArray[Any]


def arrays() -> None:
    """Round, encode and measure."""
    x: Array = np.ones((3, 16), np.float32)
    y: Array = np.ones((16, 3), np.float32)
    codes: Array = quant.encode(x, "int8")  # of a name, whose format may have scales: Array or Any
    assert_type(quant.encode(x, quant.Fixed(8, 4, rounding="RNE"), rng=np.random.default_rng(0), nan=0.0), Array)
    blocks = quant.encode(x, quant.NVFP4(), scale=0.5)
    assert_type(blocks, quant.BlockCodes)
    fitted = quant.encode(x, np.int8, scale="amax", scale_axis=0)
    assert_type(fitted, quant.Scaled)
    assert_type(quant.quantize(x, np.float16, scale="amax"), Array)
    counted, counts = quant.quantize(x, "fp8", counts=True, nan="keep", backend="cpu")
    assert_type(counted, Array)
    assert_type(counts.total, int)
    assert_type(quant.quant_matmul(x, y, "fp8", np.float16, np.float32), Array)
    assert_type(quant.measure_error(x, "mxfp4", rng=counts.total).sqnr, float)
    assert_type(quant.formats()[0].bits, float | None)
    assert_type(quant.decode(codes, "int8"), Array)
    assert_type(quant.decode(fitted, "int8"), Array)
    assert_type(quant.decode(blocks, "nvfp4"), Array)
    assert_type(quant.calibrate(x, "int8").fmt, quant.Format)


def tensors() -> None:
    """The same on tensors; layers and converted models."""
    import torch
    from torch import Tensor

    from fastiter.torch import nn
    from fastiter.torch import quant as tensors_quant

    x = torch.ones(3, 16)
    codes: Tensor = tensors_quant.encode(x, torch.int8)
    assert_type(tensors_quant.encode(x, quant.Float(4, 3, "fn")), Tensor)
    blocks = tensors_quant.encode(x, quant.MX(quant.Float(2, 1, "none")))
    assert_type(blocks, tensors_quant.BlockCodes)
    fitted = tensors_quant.encode(x, "int4", scale="amax", scale_axis=1)
    assert_type(fitted, tensors_quant.Scaled)
    rounded = tensors_quant.quantize(x, torch.float8_e5m2, scale="amax", ste="pass", rng=torch.Generator())
    assert_type(rounded, Tensor)
    assert_type(tensors_quant.linear(x, x, accumulator=np.float32, accumulate_every=2), Tensor)
    assert_type(tensors_quant.measure_error(x, "fp6", scale="amax").sqnr, float)
    assert_type(tensors_quant.decode(codes, "int8"), Tensor)
    assert_type(tensors_quant.decode(fitted, "int4"), Tensor)
    assert_type(tensors_quant.decode(blocks, "mxfp4"), Tensor)
    model = nn.quantize_model(torch.nn.Linear(16, 2), "int8")
    assert_type(model, torch.nn.Linear)
    plan = nn.QuantPlan(weight=nn.FixedQuantizer(4, rng=1, method="NEAREST"), input=torch.float16)
    layer = nn.QuantLinear(16, 2, plan=plan)
    assert_type(layer(x), Tensor)
    assert_type(nn.FormatQuantizer("fp8")(x), Tensor)
    assert_type(nn.QuantLSTM(16, 4, plan=plan)(x)[1], tuple[Tensor, Tensor])
    assert_type(nn.summary(layer, x)[0].bits, float)
