"""Products with a rounded accumulator on tensors and in layers: quant_matmul's values, the product's gradient."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import quant as formats  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import quant  # noqa: E402
from tests.rnn.test_torch_ops import compiled, opcheck  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

ACCUMULATORS = ("fixed<10,4,RND,SAT>", "fixed<9,3,TRN,WRAP>", "fixed<10,4,RND_CONV,SAT_SYM>", "fixed<16,6>")
FLOATS = ("e4m3fn", "bf16", "float<5,6>")


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Any, fmt: str = "fixed<8,4,RND,SAT>") -> Any:
    return quant.quantize(x, fmt)


def by_hand(x: Any, weight: Any, bias: Any, accumulate: str) -> Any:
    """Compute the accumulator step by step in exact numbers, rounded by quantize."""
    steps = torch.zeros(len(x), len(weight), dtype=torch.float64)
    if bias is not None:
        steps = quant.quantize((steps + bias.double()), accumulate)
    for k in range(x.shape[1]):
        steps = quant.quantize(steps + x[:, k, None].double() * weight[:, k].double(), accumulate)
    return steps.to(x.dtype)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("accumulate", [*ACCUMULATORS, *FLOATS])
def test_every_sum_is_rounded(accumulate: str, with_bias: bool) -> None:
    x, weight = rounded(numbers(7, 40) * 2), rounded(numbers(5, 40, seed=1), "fixed<8,2,RND,SAT>")
    bias = rounded(numbers(5, seed=2), "fixed<12,3,RND,SAT>") if with_bias else None
    y = quant.linear(x, weight, bias, accumulator=accumulate)
    assert torch.equal(y, by_hand(x, weight, bias, accumulate))
    assert not torch.allclose(y, torch.nn.functional.linear(x, weight, bias), atol=1e-3)


def test_names_of_accumulators() -> None:
    x, weight = rounded(numbers(3, 500)), rounded(numbers(2, 500, seed=1))
    expected = quant.linear(x, weight, accumulator="fp32")
    for name in ("float32", torch.float32, np.float32, "FP32"):
        assert torch.equal(quant.linear(x, weight, accumulator=name), expected)
        assert ours.QuantPlan(accumulator=name).accumulator == formats.Float(8, 23)


@pytest.mark.parametrize("every", [1, 3, 8, 100])
@pytest.mark.parametrize("accumulate", ["fixed<10,5,RND,SAT>", "e5m2"])
def test_rounding_after_several_sums(accumulate: str, every: int) -> None:
    x, weight = rounded(numbers(7, 40)), rounded(numbers(5, 40, seed=1))
    fmt = formats.Fixed(12, 6)
    expected = formats.quant_matmul(x.numpy(), weight.numpy().T, fmt, fmt, accumulate, every)
    assert torch.equal(
        quant.linear(x, weight, accumulator=accumulate, accumulate_every=every), torch.from_numpy(expected)
    )


def test_linear_equals_fixed_matmul() -> None:
    x, weight, bias = rounded(numbers(4, 30)), rounded(numbers(3, 30, seed=1)), rounded(numbers(3, seed=2))
    arrays = [formats.FixedArray(t.numpy().astype(np.float64), "fixed<8,4>") for t in (x, weight, bias)]
    expected = formats.fixed_matmul(arrays[0], arrays[1].T, "fixed<11,5,RND_CONV,SAT>", bias=arrays[2])
    y = quant.linear(x, weight, bias, accumulator="fixed<11,5,RND_CONV,SAT>")
    np.testing.assert_array_equal(y.numpy(), expected.to_float())


@pytest.mark.parametrize("fmt", ["e4m3fn", "khot<2,8,3>", "pow2<-6,2>", "posit<8,1>", "mxfp4_e2m1", "fixed<20,-3>"])
def test_numbers_of_any_format(fmt: str) -> None:
    x, weight = rounded(numbers(3, 32) / 9, fmt), rounded(numbers(2, 32, seed=1))
    y = quant.linear(x, weight, accumulator="fixed<40,10,RND,SAT>")
    for m in range(3):
        for n in range(2):
            acc = Fraction(0)
            for a, b in zip(x[m].tolist(), weight[n].tolist(), strict=True):
                step = (acc + Fraction(a) * Fraction(b)) * 2**30
                acc = Fraction(int((step + Fraction(1, 2)).__floor__()), 2**30)
            assert y[m, n].item() == np.float32(float(acc))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_and_shapes(dtype: Any) -> None:
    x, weight = rounded(numbers(2, 3, 9), "fixed<6,3,RND,SAT>").to(dtype), rounded(numbers(4, 9)).to(dtype)
    y = quant.linear(x, weight, accumulator="fixed<9,5,RND,SAT>")
    assert y.dtype == dtype and y.shape == (2, 3, 4)
    wide = quant.linear(x.float(), weight.float(), accumulator="fixed<9,5,RND,SAT>")
    assert torch.equal(y, wide.to(dtype))
    assert torch.equal(quant.linear(x[1, 2], weight, accumulator="fixed<9,5,RND,SAT>"), y[1, 2])
    assert torch.equal(quant.linear(x.transpose(0, 1), weight, accumulator="fixed<9,5,RND,SAT>"), y.transpose(0, 1))
    assert quant.linear(x[:0], weight, accumulator="bf16").shape == (0, 3, 4)
    zeros = quant.linear(torch.zeros(2, 9, dtype=dtype), weight, accumulator="fixed<9,5>")
    assert not zeros.any()


def test_the_gradient_is_the_products() -> None:
    x, weight, bias = (
        t.requires_grad_() for t in (rounded(numbers(2, 4, 9)), rounded(numbers(5, 9)), rounded(numbers(5)))
    )
    dy = numbers(2, 4, 5, seed=4)
    mine = torch.autograd.grad(quant.linear(x, weight, bias, accumulator="e4m3fn"), (x, weight, bias), dy)
    theirs = torch.autograd.grad(torch.nn.functional.linear(x, weight, bias), (x, weight, bias), dy)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    (dx,) = torch.autograd.grad(quant.linear(x, weight, accumulator="bf16").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^linear: .* cannot be differentiated twice"):
        dx.sum().backward()


def test_opcheck_and_compile() -> None:
    x, weight, bias = rounded(numbers(2, 4, 9)), rounded(numbers(5, 9)), rounded(numbers(5))
    for accumulate in ("fixed<9,5,RND,SAT>", "bf16"):
        opcheck(torch.ops.fastiter._quant_linear, x, weight, bias, accumulate, 2)
        opcheck(torch.ops.fastiter._quant_linear, x.transpose(0, 1), weight, None, accumulate, 1)
        fast = compiled(lambda x, w, acc=accumulate: quant.linear(x * 2, w, accumulator=acc) + 1)
        assert torch.equal(fast(x, weight), quant.linear(x * 2, weight, accumulator=accumulate) + 1)


# --- layers -----------------------------------------------------------------------------------------------------------

PLAN = ours.QuantPlan(
    weight=ours.FixedQuantizer(4, axis=0),
    bias="fixed<8,2,RND,SAT>",
    input=ours.FixedQuantizer(5),
    accumulator="fixed<12,5,RND,SAT>",
)


def test_linear_layers() -> None:
    layer, x = ours.QuantLinear(20, 6, plan=PLAN), numbers(5, 20)
    y = layer(x)
    weight, bias = layer.weight_quantizer(layer.weight), layer.bias_quantizer(layer.bias)
    assert torch.equal(y, by_hand(layer.input_quantizer(x), weight, bias, str(PLAN.accumulator)))
    y.sum().backward()
    assert layer.weight.grad.any() and layer.weight_quantizer.point.grad.any()


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "groups": {"groups": 2, "padding": 1, "bias": False},
    "same": {"padding": "same"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    how = CONVOLUTIONS[name]
    layer, x = ours.QuantConv2d(4, 6, 3, plan=PLAN, **how), numbers(2, 4, 7, 8)
    y = layer(x)
    given, weight = layer.input_quantizer(x).detach(), layer.weight_quantizer(layer.weight).detach()
    bias = None if layer.bias is None else layer.bias_quantizer(layer.bias).detach()
    exact = layer._conv_forward(given, weight, bias)
    assert y.shape == exact.shape
    wide = ours.quantize_model(layer, ours.QuantPlan(accumulator="fixed<48,20>"))
    with torch.no_grad():
        wide.weight.copy_(weight)
        if bias is not None:
            wide.bias.copy_(bias)
    torch.testing.assert_close(wide(given), exact)  # an accumulator that is exact
    assert torch.equal(wide(given[0]), wide(given)[0])
    if name == "strided":
        arrays = [formats.FixedArray(t.double().numpy(), "fixed<24,10>") for t in (given, weight, bias)]
        expected = formats.fixed_conv2d(
            *arrays[:2], PLAN.accumulator, bias=arrays[2], stride=(2, 1), padding=(1, 2), dilation=(1, 2)
        )
        np.testing.assert_array_equal(y.detach().numpy(), expected.to_float())
    dy = numbers(*y.shape, seed=5)
    quantized = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    mine = torch.autograd.grad(y, quantized, dy)
    for a, b in zip(
        mine,
        torch.autograd.grad(
            layer._conv_forward(
                layer.input_quantizer(x),
                layer.weight_quantizer(layer.weight),
                None if layer.bias is None else layer.bias_quantizer(layer.bias),
            ),
            quantized,
            dy,
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers(kind: str) -> None:
    torch.manual_seed(0)
    coarse = ours.QuantPlan(
        weight="fixed<6,1,RND,SAT>",
        bias="fixed<8,2,RND,SAT>",
        input="fixed<6,3,RND,SAT>",
        output="fixed<8,1,RND,SAT>",
        accumulator="fixed<40,10>",
    )
    layer, x = getattr(ours, f"Quant{kind}")(5, 4, plan=coarse), numbers(6, 3, 5)
    without = ours.quantize_model(layer, ours.QuantPlan(coarse.weight, coarse.bias, coarse.input, coarse.output))
    torch.testing.assert_close(layer(x)[0], without(x)[0], rtol=0, atol=1 / 128)  # one step where a tie occurs
    few = ours.quantize_model(
        layer, ours.QuantPlan(coarse.weight, coarse.bias, coarse.input, coarse.output, accumulator="fixed<8,4>")
    )
    assert (few(x)[0] - without(x)[0]).abs().max() > 1 / 32
