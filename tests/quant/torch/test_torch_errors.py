"""Every wrong argument of the functions, quantizers and layers raises one sentence that names the expected value."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import nn  # noqa: E402
from fastiter.torch import quant as q  # noqa: E402

X, POINT = torch.rand(4, 6), torch.tensor(3.0)
LINEAR = torch.nn.Linear(6, 2)
ADAM = torch.optim.Adam(LINEAR.parameters())

CALLS: dict[str, tuple[Any, type[Exception], str]] = {
    # quantize and similar functions
    "array": (lambda: q.quantize(np.ones(3), "int8"), TypeError, "quantize: x must be a torch.Tensor, got ndarray"),
    "dtype": (
        lambda: q.quantize(X.long(), "int8"),
        TypeError,
        "quantize: x must be floats, as x.float() is, got dtype torch.int64",
    ),
    "sparse": (lambda: q.quantize(X.to_sparse(), "int8"), TypeError, "quantize: x must be a dense tensor"),
    "no format": (lambda: q.quantize(X, 8), TypeError, "quantize: fmt must be a format, its text or a dtype, got int"),
    "text": (
        lambda: q.quantize(X, "int99"),
        ValueError,
        "quantize: fmt must be a format, its text or a dtype, got",
    ),
    "scale type": (
        lambda: q.quantize(X, "int8", scale=[1.0]),
        TypeError,
        "quantize: scale must be a number or a tensor of floats, got list",
    ),
    "scale dtype": (
        lambda: q.quantize(X, "int8", scale=torch.tensor(3)),
        TypeError,
        "quantize: scale must be a number or a tensor of floats, got dtype torch.int64",
    ),
    "scale word": (
        lambda: q.quantize(X, "int8", scale="max"),
        ValueError,
        "quantize: scale must be a number, a tensor or 'amax', got 'max'",
    ),
    "scale of a format without": (
        lambda: q.quantize(X, "fixed<8,4>", scale="amax"),
        ValueError,
        "quantize: scale must be a number or a tensor for fixed<8,4>, got 'amax'",
    ),
    "scale shape": (
        lambda: q.quantize(X, "int8", scale=torch.ones(3, 1)),
        ValueError,
        "quantize: scale must have axes that divide those of x, (4, 6), got (3, 1)",
    ),
    "scale value": (
        lambda: q.quantize(X, "int8", scale=-1.0),
        ValueError,
        "quantize: scale must be positive and finite, got -1.0",
    ),
    "scale gradient": (
        lambda: q.quantize(X, "nvfp4", scale=torch.ones(1, requires_grad=True)),
        ValueError,
        "quantize: scale must require no gradient for a format with blocks, got one for nvfp4",
    ),
    "scale of blocks": (
        lambda: q.quantize(X, "mxfp4_e2m1", scale=0.5),
        ValueError,
        "quantize: scale must be None for a format with blocks, got one for mxfp4_e2m1",
    ),
    "zero_point of a float": (
        lambda: q.quantize(X, "e4m3fn", zero_point=3),
        ValueError,
        "quantize: zero_point must be None for a format that is no Int, got one for e4m3fn",
    ),
    "zero_point dtype": (
        lambda: q.quantize(X, "uint8", zero_point=torch.tensor(0.5)),
        TypeError,
        "quantize: zero_point must be a number or a tensor of integers, got dtype torch.float32",
    ),
    "zero_point value": (
        lambda: q.quantize(X, "uint4", zero_point=16),
        ValueError,
        "quantize: zero_point must be a code of uint4, from 0 to 15, got 16",
    ),
    "axis type": (lambda: q.quantize(X, "nf4", axis=0.5), TypeError, "quantize: axis must be an int, got float"),
    "axis": (lambda: q.quantize(X, "nf4", axis=2), ValueError, "quantize: axis must be one of the 2 axes of x, got 2"),
    "rng type": (
        lambda: q.quantize(X, "e5m2<STOCHASTIC>", rng=0.5),
        TypeError,
        "quantize: rng must be an int, an int64 tensor or a torch.Generator, got float",
    ),
    "rng value": (
        lambda: q.quantize(X, "e5m2<STOCHASTIC>", rng=2**64),
        ValueError,
        "quantize: rng must be from 0 to 2**64 - 1, got 18446744073709551616",
    ),
    "rng tensor": (
        lambda: q.quantize(X, "e5m2<STOCHASTIC>", rng=torch.ones(2, dtype=torch.int64)),
        TypeError,
        "quantize: rng must be an int64 tensor of one element, an int or a generator, got torch.int64 of shape (2,)",
    ),
    "nan": (
        lambda: q.quantize(X, "int8", nan="zero"),
        ValueError,
        "quantize: nan must be 'raise' or 'keep' or a number, got 'zero'",
    ),
    "ste": (
        lambda: q.quantize(X, "int8", ste="hard"),
        ValueError,
        "quantize: ste must be 'clip' or 'pass', got 'hard'",
    ),
    "ste type": (lambda: q.quantize(X, "int8", ste=True), TypeError, "quantize: ste must be a str, got bool"),
    "encode nan": (
        lambda: q.encode(X, "int8", nan="keep"),
        ValueError,
        "encode: nan must be 'raise' or a number, got 'keep'",
    ),
    "codes": (
        lambda: q.decode(X, "int8"),
        TypeError,
        "decode: codes must be a torch.Tensor of integers, got dtype torch.float32",
    ),
    "codes of blocks": (
        lambda: q.decode(X.to(torch.uint8), "nf4"),
        TypeError,
        "decode: codes must be the codes and scales that encode returns for nf4, got torch.Tensor",
    ),
    "codes too high": (
        lambda: q.decode(torch.tensor([16]), "e2m1"),
        ValueError,
        "decode: codes must be from 0 to 15 for e2m1, got 16",
    ),
    "decode scales dtype": (
        lambda: q.decode(q.BlockCodes(torch.ones(4, dtype=torch.uint8), torch.tensor([126.9])), "mxfp4_e2m1"),
        TypeError,
        "decode: scales must be integers for mxfp4_e2m1, got dtype float32",
    ),
    "decode scales": (
        lambda: q.decode(q.BlockCodes(torch.ones(4, dtype=torch.uint8), torch.tensor([300])), "mxfp4_e2m1"),
        ValueError,
        "decode: scales must be codes from 0 to 255 for mxfp4_e2m1, got 300",
    ),
    "decode dtype": (
        lambda: q.decode(torch.tensor([1]), "e2m1", dtype=torch.float16),
        TypeError,
        "decode: dtype must be torch.float32 or torch.float64, got torch.float16",
    ),
    # learned parameters
    "width": (lambda: q.round_fixed(X, 54, POINT), ValueError, "round_fixed: width must be from 1 to 53, got 54"),
    "width type": (lambda: q.round_fixed(X, 8.0, POINT), TypeError, "Fixed: width must be an int, got float"),
    "point type": (lambda: q.round_fixed(X, 8, 3), TypeError, "round_fixed: point must be a torch.Tensor, got int"),
    "point dtype": (
        lambda: q.round_fixed(X, 8, torch.tensor(3)),
        TypeError,
        "round_fixed: point must be a number or a tensor of floats, got dtype torch.int64",
    ),
    "point shape": (
        lambda: q.round_fixed(X, 8, torch.ones(4)),
        ValueError,
        "round_fixed: point must have axes that divide those of x, (4, 6), got (4,)",
    ),
    "point value": (
        lambda: q.round_fixed(X, 8, torch.tensor(127.0)),
        ValueError,
        "round_fixed: point must be from -126 to 126, got 127",
    ),
    "rounding": (
        lambda: q.round_fixed(X, 8, POINT, rounding="UP"),
        ValueError,
        "Fixed: rounding must be one of 'TRN'",
    ),
    "terms": (
        lambda: q.round_fixed(X, 8, POINT, terms=2, overflow="WRAP"),
        ValueError,
        "round_fixed: overflow must be 'SAT' with terms, got 'WRAP'",
    ),
    "gradient_scale": (
        lambda: q.round_fixed(X, 8, POINT, gradient_scale="lsq"),
        TypeError,
        "round_fixed: gradient_scale must be a number, got str",
    ),
    "gradient_scale value": (
        lambda: q.lsq(X, POINT, 8, gradient_scale=float("inf")),
        ValueError,
        "lsq: gradient_scale must be finite, got inf",
    ),
    "step shape": (
        lambda: q.lsq(X, torch.ones(5), 8),
        ValueError,
        "lsq: step must have axes that divide those of x, (4, 6), got (5,)",
    ),
    "alpha": (
        lambda: q.pact(X, torch.ones(4, 1), 8),
        ValueError,
        "pact: alpha must be one number, got shape (4, 1)",
    ),
    "step value": (
        lambda: q.lsq(X, torch.tensor(0.0), 8),
        ValueError,
        "lsq: step must be positive and finite, got 0.0",
    ),
    "alpha value": (
        lambda: q.pact(X, torch.tensor(-1.0), 8),
        ValueError,
        "pact: alpha must be positive and finite, got -1",
    ),
    "zero_point of many bits": (
        lambda: q.quantize(X, "int8", zero_point=2**70),
        ValueError,
        "quantize: zero_point must be from -2**63 to 2**63 - 1, got 1180591620717411303424",
    ),
    "gradient axis": (
        lambda: q.quantize_gradient(X, "nvfp4", scale="amax", axis=5),
        ValueError,
        "quantize_gradient: axis must be one of the 2 axes of x, got 5",
    ),
    "linear accumulate": (
        lambda: q.linear(X, torch.rand(2, 6), accumulator="int8"),
        ValueError,
        "linear: accumulator must be a Fixed or a signed Float that rounds without random numbers, got int8",
    ),
    "linear at random": (
        lambda: q.linear(X, torch.rand(2, 6), accumulator="bf16<STOCHASTIC>"),
        ValueError,
        "linear: accumulator must be a Fixed or a signed Float that rounds without random numbers, got bf16<ST",
    ),
    "linear every": (
        lambda: q.linear(X, torch.rand(2, 6), accumulator="bf16", accumulate_every=0),
        ValueError,
        "linear: accumulate_every must be at least 1, got 0",
    ),
    "linear shapes": (
        lambda: q.linear(X, torch.rand(2, 5), accumulator="bf16"),
        ValueError,
        "linear: x and weight must have shapes (..., K) and (N, K), got (4, 6) and (2, 5)",
    ),
    "linear bias": (
        lambda: q.linear(X, torch.rand(2, 6), torch.rand(3), accumulator="bf16"),
        ValueError,
        "linear: bias must have shape (2,), got (3,)",
    ),
    "linear dtypes": (
        lambda: q.linear(X, torch.rand(2, 6).double(), accumulator="bf16"),
        TypeError,
        "linear: weight must have dtype torch.float32 like x, got torch.float64",
    ),
    "linear bits": (
        lambda: q.linear(torch.tensor([[1.0, 2.0**-40]]), torch.tensor([[1.0, 2.0**-40]]), accumulator="fixed<20,10>"),
        ValueError,
        "linear: x and weight must be rounded to at most 64 bits together, got 42 and 42 bits",
    ),
    "linear more bits": (
        lambda: q.linear(torch.tensor([[1.0, 2.0**-90]]), torch.ones(1, 2), accumulator="fixed<20,10>"),
        ValueError,
        "linear: x must be rounded to at most 64 bits with weights, got 92 bits",
    ),
    "linear doubles": (
        lambda: q.linear(torch.full((1, 6), 0.1).double() / 3, torch.ones(2, 6).double(), accumulator="bf16"),
        ValueError,
        "linear: x must be numbers of float32 for an accumulator in floating point, got others",
    ),
    "linear nan": (
        lambda: q.linear(torch.full((1, 6), float("nan")), torch.ones(2, 6), accumulator="fixed<20,10>"),
        ValueError,
        "linear: x must be finite for an accumulator in fixed point, got NaN or infinity",
    ),
    # modules
    "module width": (
        lambda: nn.FixedQuantizer(60),
        ValueError,
        "FixedQuantizer: width must be from 1 to 53, got 60",
    ),
    "module learn": (
        lambda: nn.FixedQuantizer(4, learn_point=1),
        TypeError,
        "FixedQuantizer: learn_point must be a bool, got int",
    ),
    "module channels": (
        lambda: nn.LSQQuantizer(4, channels=3),
        ValueError,
        "LSQQuantizer: channels must be positive and go with an axis, got 3 and axis=None",
    ),
    "module channels of x": (
        lambda: _used(nn.LSQQuantizer(4, axis=1), X)(torch.rand(4, 5)),
        ValueError,
        "LSQQuantizer: x must have 6 channels along axis 1, got shape (4, 5)",
    ),
    **{
        f"module channels of the first x, {made.__name__}": (
            lambda made=made: made(4, axis=0, channels=2)(X),
            ValueError,
            f"{made.__name__}: x must have 2 channels along axis 0, got shape (4, 6)",
        )
        for made in (nn.FixedQuantizer, nn.LSQQuantizer)
    },
    "module dims": (
        lambda: nn.LSQQuantizer(4, axis=2)(X),
        ValueError,
        "LSQQuantizer: x must have an axis 2, got 2 axes",
    ),
    "module gradient_scale": (
        lambda: nn.FixedQuantizer(4, gradient_scale="tqt"),
        ValueError,
        "FixedQuantizer: gradient_scale must be a number or 'lsq', got 'tqt'",
    ),
    "module seed": (
        lambda: nn.FormatQuantizer("int8", rng=2**31),
        ValueError,
        "FormatQuantizer: rng must be from 0 to 2**31 - 1, got 2147483648",
    ),
    "module sample": (
        lambda: nn.FixedQuantizer(4)(torch.tensor([1.0, float("nan")])),
        ValueError,
        "FixedQuantizer: x must be finite numbers to initialize from, got NaN or infinity",
    ),
    "module method": (
        lambda: nn.FixedQuantizer(4).initialize(X, method="max"),
        ValueError,
        "FixedQuantizer: method must be 'minmax' or 'mse', got 'max'",
    ),
    "module alpha": (
        lambda: nn.PACTQuantizer(4, alpha=0.0),
        ValueError,
        "PACTQuantizer: alpha must be finite and above 0, got 0.0",
    ),
    "module format": (
        lambda: nn.FormatQuantizer(None),
        TypeError,
        "FormatQuantizer: fmt must be a format, its text or a dtype, got NoneType",
    ),
    "module scale": (
        lambda: nn.FormatQuantizer("mxfp4_e2m1", scale="first"),
        ValueError,
        "FormatQuantizer: scale must be None or a number for mxfp4_e2m1, got 'first'",
    ),
    "module scale_axis": (
        lambda: nn.FormatQuantizer("e4m3fn", scale_axis=1),
        ValueError,
        "FormatQuantizer: scale_axis must go with scale='amax', got scale=None",
    ),
    **{
        f"module scale_axis {axis}": (
            lambda axis=axis: nn.FormatQuantizer("int8", scale="amax", scale_axis=axis)(X),
            ValueError,
            f"FormatQuantizer: x must have an axis {axis}, got 2 axes",
        )
        for axis in (2, 7, -3)
    },
    "module first": (
        lambda: nn.FormatQuantizer("int8", scale="first")(torch.tensor([float("nan")])),
        ValueError,
        "FormatQuantizer: x must be finite numbers to initialize from, got NaN or infinity",
    ),
    "module first of none": (
        lambda: nn.FormatQuantizer("int8", scale="first")(torch.empty(0)),
        ValueError,
        "FormatQuantizer: x must be finite numbers to initialize from, got an empty tensor",
    ),
    "plan accumulate_every": (
        lambda: nn.QuantPlan(accumulate_every=0),
        ValueError,
        "QuantPlan: accumulate_every must be 1 without an accumulator, got 0",
    ),
    "gradient scale": (
        lambda: nn.GradientQuantizer("int8", scale="first"),
        ValueError,
        "GradientQuantizer: scale must be a number or one of 'amax', got 'first'",
    ),
    "affine features": (lambda: nn.QuantAffine(0), ValueError, "QuantAffine: features must be positive, got 0"),
    "affine input": (
        lambda: nn.QuantAffine(3)(X),
        ValueError,
        "QuantAffine: input must have 3 features along the last axis, got shape (4, 6)",
    ),
    "one value": (
        lambda: nn.QuantBatchNorm1d(3)(torch.rand(1, 3)),
        ValueError,
        "QuantBatchNorm1d: input must have more than one value per channel in training, got shape (1, 3)",
    ),
    # plans and models
    "plan field": (
        lambda: nn.QuantPlan(weight=8),
        TypeError,
        "QuantPlan: weight must be a format, its text or a dtype, a Quantizer or None, got int",
    ),
    "plan text": (
        lambda: nn.QuantPlan(weight="int"),
        ValueError,
        "QuantPlan: weight must have one field for int, the width, got 'int'",
    ),
    "plan gradient": (
        lambda: nn.QuantPlan(gradient=nn.FixedQuantizer(4)),
        TypeError,
        "QuantPlan: gradient must be a format, its text or a dtype, a GradientQuantizer or None, got FixedQuantizer",
    ),
    "plan weight": (
        lambda: nn.QuantPlan(weight=nn.GradientQuantizer("int8")),
        TypeError,
        "QuantPlan: weight must be a format, its text or a dtype, a Quantizer or None, got GradientQuantizer",
    ),
    "plan optimizer": (
        lambda: nn.QuantPlan(optimizer=nn.FormatQuantizer("int8")),
        TypeError,
        "QuantPlan: optimizer must be a format, its text or a dtype or None, got FormatQuantizer",
    ),
    "plan accumulator": (
        lambda: nn.QuantPlan(accumulator="int8"),
        ValueError,
        "QuantPlan: accumulator must be a Fixed or a signed Float that rounds without random numbers, got int8",
    ),
    "layer plan": (
        lambda: nn.QuantLinear(3, 2, plan="int8"),
        TypeError,
        "QuantLinear: plan must be a QuantPlan, got str",
    ),
    "model": (
        lambda: nn.quantize_model("x", nn.QuantPlan()),
        TypeError,
        "quantize_model: model must be a torch.nn.Module, got str",
    ),
    "model plan": (
        lambda: nn.quantize_model(LINEAR, 8),
        TypeError,
        "quantize_model: plan must be a QuantPlan, a format for the weights, or a mapping of names to these, got int",
    ),
    "model plan of a name": (
        lambda: nn.quantize_model(LINEAR, {"*": 8}),
        TypeError,
        "quantize_model: plan['*'] must be a QuantPlan, a format for the weights, or None, got int",
    ),
    "model inplace": (
        lambda: nn.quantize_model(LINEAR, nn.QuantPlan(), inplace=1),
        TypeError,
        "quantize_model: inplace must be a bool, got int",
    ),
    "model name": (
        lambda: nn.quantize_model(LINEAR, {"fc*": nn.QuantPlan()}),
        ValueError,
        "quantize_model: plan['fc*'] must match a layer that can round, got no module of that name",
    ),
    "model kind": (
        lambda: nn.quantize_model(torch.nn.Sequential(LINEAR, torch.nn.Tanh()), {"1": nn.QuantPlan()}),
        ValueError,
        "quantize_model: plan['1'] must match a layer that can round, got '1', a Tanh",
    ),
    "summary": (lambda: nn.summary("x"), TypeError, "summary: model must be a torch.nn.Module, got str"),
    "optimizer": (
        lambda: nn.quantize_optimizer(LINEAR, "int8"),
        TypeError,
        "quantize_optimizer: optimizer must be a torch.optim.Optimizer, got torch.nn.modules.linear.Linear",
    ),
    "optimizer plan": (
        lambda: nn.quantize_optimizer(ADAM, nn.QuantPlan()),
        ValueError,
        "quantize_optimizer: plan must have a format for the optimizer, got None",
    ),
    "optimizer format": (
        lambda: nn.quantize_optimizer(ADAM, {"exp_avg": 8}),
        TypeError,
        "quantize_optimizer: fmt must be a format, its text or a dtype, got int",
    ),
    "optimizer scale": (
        lambda: nn.quantize_optimizer(ADAM, "int8", scale="first"),
        ValueError,
        "quantize_optimizer: scale must be 'amax' or None, got 'first'",
    ),
}


def _used(module: Any, x: Any) -> Any:
    module(x)
    return module


@pytest.mark.parametrize("name", CALLS)
def test_message(name: str) -> None:
    call, error, message = CALLS[name]
    with pytest.raises(error, match="^" + re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_other_devices_are_refused() -> None:
    with pytest.raises(fastiter.BackendError, match="quantize: scale must be on the CPU, got device"):
        q.quantize(X, "int8", scale=_elsewhere())


def _elsewhere() -> Any:
    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> Any:
            return torch.device("cuda")

    return torch.ones(()).as_subclass(Elsewhere)
