"""The scales that layers choose: integers by their largest number, blocks by their own, and a warning of a loss."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastiter.quant as arrays

torch = pytest.importorskip("torch")
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import quant  # noqa: E402

BLOCKS = ("mxfp8_e4m3", "mxfp4", "mxint8", "bfp<6>", "nf4")


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fmt", ["int8", "uint8", "int4", "int2<SR>"])
def test_integers_in_layers_are_scaled_by_their_largest_number(fmt: str) -> None:
    x = 0.01 * numbers(5, 8)
    plan = ours.QuantPlan(weight=fmt, bias=fmt, input=fmt, output=fmt, gradient=fmt, state=fmt)
    layers = [ours.QuantLinear(8, 4, plan=plan), ours.QuantLSTM(8, 4, plan=plan), ours.QuantAdd(plan=plan)]
    found = [
        q for layer in layers for q in layer.modules() if isinstance(q, (ours.FormatQuantizer, ours.GradientQuantizer))
    ]
    assert len(found) > 12 and {q.scaling for q in found} == {"amax"}
    one = ours.FormatQuantizer(fmt, rng=3).eval()
    seed = {"rng": 3 << 32} if "SR" in fmt else {}
    assert torch.equal(one(x), quant.quantize(x, fmt, scale="amax", **seed))
    assert torch.equal(ours.FormatQuantizer("int8", 1.0)(x), torch.zeros_like(x))  # whole numbers, if asked for
    assert ours.FormatQuantizer("int8", scale_axis=0).scale_axis == 0


def test_a_network_keeps_its_results_with_integers_in_a_plan() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    x = numbers(256, 64)
    rounded = ours.quantize_model(model, ours.QuantPlan(weight="int8", input="int8"))
    agree = (rounded(x).argmax(1) == model(x).argmax(1)).float().mean()
    assert agree > 0.95


def test_states_of_optimizers_too() -> None:
    weight = torch.nn.Parameter(numbers(40))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    ours.quantize_optimizer(optimizer, {"momentum_buffer": "int8"})
    (1e-3 * weight * numbers(40, seed=1)).sum().backward()
    optimizer.step()
    expected = quant.quantize(1e-3 * numbers(40, seed=1), "int8", scale="amax")
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], expected)


@pytest.mark.parametrize("fmt", BLOCKS)
def test_blocks_keep_to_their_scales(fmt: str) -> None:
    x = numbers(6, 64)
    want = quant.quantize(x, fmt)
    assert torch.equal(quant.quantize(x, fmt, scale="amax"), want)
    assert torch.equal(ours.FormatQuantizer(fmt, "amax")(x), want)
    assert np.array_equal(arrays.quantize(x.numpy(), fmt, scale="amax"), want.numpy())
    for module, y in ((quant, x), (arrays, x.numpy())):
        (codes, scales), (same, others) = module.encode(y, fmt, scale="amax"), module.encode(y, fmt)
        assert (codes == same).all() and (scales == others).all()
        with pytest.raises(ValueError, match=r"^encode: scale_axis must be None for \S+, whose blocks have .* got 0$"):
            module.encode(y, fmt, scale="amax", scale_axis=0)
    with pytest.raises(ValueError, match=r"^FormatQuantizer: scale_axis must be None for .* got 1$"):
        ours.FormatQuantizer(fmt, "amax", scale_axis=1)
    y = x.clone().requires_grad_()
    (dy,) = torch.autograd.grad(quant.quantize_gradient(y, fmt, scale="amax"), y, x)
    assert torch.equal(dy, want)
    assert ours.GradientQuantizer(fmt, "amax").scaling is None


@pytest.mark.parametrize(
    ("fmt", "scale", "size", "warns"),
    [
        ("e2m1", None, 0.02, True),  # most weights become 0
        ("e2m1", None, 2.0, False),
        ("e4m3fn", None, 0.02, False),  # a float keeps its precision
        ("e4m3fn", None, 1e4, True),  # all saturate
        ("fp16", None, 1e6, True),  # all overflow
        ("e2m1", 0.005, 0.02, False),
        ("int8", 1.0, 0.02, True),
        ("int8", None, 0.02, False),
        ("int8", "first", 0.02, False),
        ("mxfp4", None, 0.02, False),
        ("nvfp4", None, 1.0, False),
        ("e2m1<SR>", None, 0.02, True),
        ("int8", 1.0, 0.0, False),  # zeros are exact
    ],
)
def test_a_plan_that_loses_the_weights_warns(fmt: str, scale: Any, size: float, warns: bool) -> None:
    layers = torch.nn.Linear(32, 32), torch.nn.LSTM(32, 32), torch.nn.BatchNorm1d(32)
    with torch.no_grad():
        for parameter in (p for layer in layers[:2] for p in layer.parameters()):
            parameter.copy_(size * numbers(*parameter.shape))
    plan = ours.QuantPlan(weight=ours.FormatQuantizer(fmt, scale))
    for layer in layers:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours.quantize_model(torch.nn.Sequential(layer), plan)
        texts = [str(one.message) for one in caught]
        expected = {"Linear": 1, "LSTM": 2}.get(type(layer).__name__, 0) if warns else 0
        assert len(texts) == expected, texts
        assert all(t.startswith("Quant") and "less signal-to-noise ratio than with" in t for t in texts)
        assert all(one.filename == __file__ for one in caught)


def test_bits_count_the_scales_of_blocks() -> None:
    rows = {row.name: row.bits for row in arrays.formats()}
    known = {
        "mxfp4_e2m1": 4.25,
        "nvfp4": 4.5,
        "mxfp8_e4m3": 8.25,
        "mxfp6_e3m2": 6.25,
        "nf4": 4.5,
        "int8": 8,
        "fp16": 16,
    }
    assert {name: rows[name] for name in known} == known
    for name in known:  # the same as what encode returns
        fmt = arrays.parse(name)
        codes = arrays.encode(np.ones(fmt.block or 1, np.float32), fmt)
        if fmt.block:
            assert fmt.storage_bits * fmt.block == fmt.bits * fmt.block + 8 * codes[1].nbytes
        else:
            assert fmt.storage_bits == fmt.bits
    model = ours.QuantLinear(64, 4, plan=ours.QuantPlan(weight="mxfp4", input="nvfp4"))
    assert [row.bits for row in ours.summary(model)] == [4.25, 4.5]
    assert " 4.25 " in str(ours.summary(model)) and " 4.25 " in str(arrays.formats())
