"""Products with a rounded accumulator on a GPU have the bits of the CPU, in the interpreter and on a device."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter import BackendError, quant  # noqa: E402
from fastiter.quant._torch import triton_matmul as gpu_product  # noqa: E402
from fastiter.torch import nn as layers  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.cases import FLOAT_ROUNDINGS, ROUNDINGS, numbers, overflows, random_fixed, random_float  # noqa: E402
from tests.quant.gpu import Gpu, same  # noqa: E402
from tests.quant.torch.torch_cases import LAYOUTS  # noqa: E402

SMALL = ("fp16", "bf16", "e5m2", "e4m3fn", "e4m3fnuz", "fp32", "e3m2", "float<5,0,none>")
SMALL += ("float<9,20>", "float<9,50,none>")
#: Bits of x and weight, and the number of places that a 9-bit or 40-bit accumulator keeps or discards
PLACES = ((4, 5, 3), (4, 5, 0), (4, 5, -4), (4, 5, -28), (28, 31, 50), (5, 9, -55), (20, 30, -2))


@pytest.fixture
def gpu(device: str) -> Gpu:
    return Gpu(device)


def check(gpu: Gpu, x: Any, weight: Any, accumulate: Any, every: int = 1, bias: Any = None) -> Any:
    """Assert that linear with the GPU kernel equals linear on the CPU, and return it."""
    x, weight, bias = (torch.from_numpy(np.array(t)) if isinstance(t, np.ndarray) else t for t in (x, weight, bias))
    placed = [gpu.put(t) for t in (x, weight, bias)]
    y = gpu.run(lambda: ours.linear(*placed, accumulator=accumulate, accumulate_every=every))
    expected = ours.linear(x, weight, bias, accumulator=accumulate, accumulate_every=every)
    same(y, expected, (str(accumulate), every))
    return expected


def integers(rng: np.random.Generator, bits: int, *shape: int) -> Any:
    return rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.float64)


# --- floating point ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", FLOAT_ROUNDINGS)
def test_every_rounding_of_floats(gpu: Gpu, rounding: str) -> None:
    rng = np.random.default_rng(FLOAT_ROUNDINGS.index(rounding))
    for k, name in enumerate(SMALL):
        fmt = replace(quant.parse(name), rounding=rounding)
        low, high = max(fmt.min_exponent - fmt.mantissa, -149), min(fmt.max_exponent + 1, 128)
        given = numbers(np.float32, low, high, 40, seed=k)
        with np.errstate(all="ignore"):
            given = given if k % 2 else given[np.isfinite(given) & (abs(given) < 2.0 ** (high - 2))]
        if (k + FLOAT_ROUNDINGS.index(rounding)) % 3:
            weight = rng.choice([1.0, -1, 0.75, 2**-12, 3], (40, 3)).astype(np.float32)
            check(gpu, rng.choice(given, (12, 3)), weight, fmt)
        else:
            check(gpu, rng.choice(given, (12, 4)), rng.choice(given, (40, 4)), fmt, every=3)


def test_any_float(gpu: Gpu) -> None:
    rng = np.random.default_rng(1)
    for k in range(24):
        fmt = random_float(rng)
        if fmt.signed and fmt.min_exponent <= fmt.mantissa:
            given = numbers(np.float32, fmt.min_exponent - fmt.mantissa, fmt.max_exponent + 1, 40, seed=k)
            check(gpu, rng.choice(given, (12, 3)), rng.choice(given, (40, 3)), fmt, k % 3 + 1)


@pytest.mark.parametrize(("accumulate", "every"), [("bf16", 1), ("tf32", 1), ("fp32", 1), ("fp32", 3)])
def test_sums_beside_the_middle_between_numbers(gpu: Gpu, accumulate: str, every: int) -> None:
    """An odd number plus half a place, minus 2^-46 of that: doubles round to the tie, which would then go to even."""
    place = 2.0 ** -quant.parse(accumulate).mantissa
    x = np.array([[s * (1 + place), s * place / 2 * (1 + 2**-23), 0] for s in (1, -1)], np.float32)
    weight = np.array([[1, 1 - 2**-23, 1]], np.float32)
    assert check(gpu, x, weight, accumulate, every).tolist() == [[1 + place], [-1 - place]]


#: Formats whose sums float32 holds: all nearest modes, directed ones of a smaller range, float32's own exponents
NARROW = ("bf16", "tf32", "fp16", "e5m2", "e4m3fnuz", "fp32", "float<5,0,none>", "bf16<RNA>", "fp16<RZ>", "e5m2<RU>")
NARROW += ("float<8,21>", "float<5,20,ieee,RA>")


@pytest.mark.parametrize("name", NARROW)
def test_sums_in_float32_have_the_bits_of_sums_in_float64(gpu: Gpu, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of 24-bit numbers that cancel, that are ties but for their last bit, and that are zeros of either sign."""
    monkeypatch.setattr(gpu_product, "_prefers_float32", lambda x: True)
    fmt, rng = quant.parse(name), np.random.default_rng(NARROW.index(name))
    given = numbers(np.float32, -20, 6, 60, seed=NARROW.index(name))
    given = given[(given == 0) | (abs(given) < 2.0**20) & (abs(given) > 2.0**-40)]
    x, weight = rng.choice(given, (13, 24)), rng.choice(given, (40, 24))
    x[:, 1::4], weight[:, 1::4] = -x[:, ::4], weight[:, ::4] * np.float32(1 - 2**-23)  # almost the opposite products
    x[::2, 2::4] = np.nextafter(x[::2, ::4], np.float32(0))
    x[::3], weight[1::3, ::2] = x[::3] * rng.choice([0, -0.0], (len(x[::3]), 24)), -0.0
    assert gpu_product._fits_float32(fmt) and gpu_product._holds(torch.from_numpy(x.T), torch.from_numpy(weight.T))
    found = [check(gpu, x, weight, fmt, every) for every in (1, 5)]
    monkeypatch.setattr(gpu_product, "_fits_float32", lambda acc: False)
    for every, expected in zip((1, 5), found, strict=True):
        placed = [gpu.put(torch.from_numpy(t)) for t in (x, weight)]
        wide = gpu.run(lambda every=every, of=placed: ours.linear(*of, accumulator=fmt, accumulate_every=every))
        same(wide, expected, name)


@pytest.mark.parametrize("name", ["bf16<RZ>", "float<9,20>", "float<8,22>", "float<7,23>", "fp32<RNA>", "fp32<RD>"])
def test_formats_whose_sums_float32_does_not_hold(name: str) -> None:
    assert not gpu_product._fits_float32(quant.parse(name))


def test_factors_whose_sums_float32_does_not_hold(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each bound, and beyond it; either way the result is the CPU's."""
    monkeypatch.setattr(gpu_product, "_prefers_float32", lambda x: True)
    one = np.float32(1)
    odd = one + one * 2**-23
    for x, weight, holds in (
        ([odd * 2.0**-50, 1], [2.0**-76, 1], True),  # the last bits are at 2^-73 and 2^-76
        ([odd * 2.0**-50, 1], [2.0**-77, 1], False),
        ([2.0**61, 0], [2.0**59, 1], True),  # 4 K products of less than 2^122
        ([2.0**61, 0], [2.0**60, 1], False),
        ([2.0**114, 1], [2.0**-40, 1], True),
        ([2.0**115, 1], [2.0**-40, 1], False),  # its halves overflow
        ([math.inf, 1], [1, 1], False),
        ([math.nan, 1], [1, 1], False),
        ([0, 0], [0, 0], True),
    ):
        a, w = np.array([x], np.float32), np.array([weight], np.float32)
        assert bool(gpu_product._holds(torch.from_numpy(a.T), torch.from_numpy(w.T))) == holds, (x, weight)
        for name in ("bf16", "fp32", "tf32"):
            check(gpu, a, w, name)


@pytest.mark.parametrize(("capability", "prefers"), [((8, 0), False), ((8, 9), True), ((9, 0), False), ((12, 0), True)])
def test_float32_is_preferred_where_doubles_are_slow(
    capability: tuple[int, int], prefers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    on_card = SimpleNamespace(is_cuda=True, device="cuda")
    assert gpu_product._prefers_float32(on_card) == prefers


# --- fixed point ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_rounding_and_overflow_of_fixed_point(gpu: Gpu, rounding: str) -> None:
    rng = np.random.default_rng(ROUNDINGS.index(rounding))
    modes = [(signed, *mode) for signed in (True, False) for mode in overflows(signed, 9)]
    first = ROUNDINGS.index(rounding) % 2  # half of the modes for each rounding: the CPU has all
    for k, (signed, overflow, saturated) in list(enumerate(modes))[first::2]:
        of_x, of_weight, dropped = PLACES[k % len(PLACES)]
        width = 9 if k % 3 else 40
        saturated = 40 if saturated == 9 and width == 40 else saturated
        fmt = quant.Fixed(width, width + dropped, signed, rounding, overflow, saturated)
        check(gpu, integers(rng, of_x, 12, 4), integers(rng, of_weight, 40, 4), fmt, every=1 + k % 2)


def test_any_fixed_point(gpu: Gpu) -> None:
    rng = np.random.default_rng(2)
    for k in range(32):
        width = int(rng.integers(1, 63))
        fmt = random_fixed(rng, width)
        of_x, of_weight = (int(n) for n in rng.integers(1, 29, 2))
        fmt = replace(fmt, integer=fmt.width + int(rng.integers(-4, of_x + of_weight)) - (70 if k % 8 == 0 else 0))
        check(gpu, integers(rng, of_x, 12, 3), integers(rng, of_weight, 40, 3) / 8, fmt, k % 4 + 1)


def test_the_widest_accumulators(gpu: Gpu) -> None:
    rng = np.random.default_rng(3)
    x, weight = integers(rng, 30, 12, 5) * 4, integers(rng, 34, 40, 5)
    for overflow, signed in (("SAT", True), ("WRAP", True), ("SAT_ZERO", False), ("WRAP", False), ("WRAP_SM", True)):
        for fraction in (-2, 0, 1, 40):
            check(gpu, x, weight, quant.Fixed(62, 62 - fraction, signed, "RND_CONV", overflow))


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", ["bf16", "e4m3fnuz<RU>", "fixed<9,5,RND_ZERO,SAT>", "ufixed<40,9,TRN,WRAP,2>"])
def test_it_is_the_specification(gpu: Gpu, accumulate: str) -> None:
    x, weight = (ours.quantize(torch.randn(n, 11), "fixed<8,4,RND,SAT>") for n in (4, 5))
    for every in (1, 4):
        y = gpu.run(
            lambda every=every: ours.linear(gpu.put(x), gpu.put(weight), accumulator=accumulate, accumulate_every=every)
        )
        fmt = "fp32" if "fixed" not in accumulate else "fixed<8,4>"
        same(y, quant.quant_matmul(x.numpy(), weight.numpy().T, fmt, fmt, accumulate, every, backend="reference")
             .astype(np.float32))  # fmt: skip


@pytest.mark.parametrize("accumulate", ["e5m2", "fixed<9,5,RND,SAT>"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0, 0), (33, 67, 2), (3, 130, 1)])
def test_sizes(gpu: Gpu, sizes: tuple[int, int, int], accumulate: str) -> None:
    M, N, K = sizes
    rng = np.random.default_rng(4)
    x, weight, bias = integers(rng, 5, M, K), integers(rng, 5, N, K) / 8, integers(rng, 6, N) / 4
    check(gpu, x, weight, accumulate, 1)
    check(gpu, x, weight, accumulate, 2, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_and_layouts(gpu: Gpu, dtype: Any) -> None:
    rng = np.random.default_rng(5)
    x, weight, bias = (torch.from_numpy(integers(rng, 5, *shape)).to(dtype) for shape in ((2, 3, 4), (5, 4), (5,)))
    layouts = list(LAYOUTS.items())
    for i, accumulate in enumerate(("float<5,3,ieee,RU>", "fixed<11,7,RND_INF,SAT>", "fixed<60,20>")):
        for name, view in layouts[i % 2 :: 2] if dtype.itemsize > 2 else layouts[(i + 1) % 2 :: 2]:
            if name == "negated" and dtype == torch.bfloat16:  # made from a complex view; bfloat16 has none
                continue
            check(gpu, view(x), view(weight), accumulate, 1, bias)
        check(gpu, x[1, 2], weight, accumulate, 2, torch._neg_view(bias))
    check(gpu, x * 0, weight, "fixed<9,5>")
    check(gpu, torch.full((2, 4), 5e-324, dtype=dtype), weight, "fixed<9,-1060>")


def test_gradients_and_layers(gpu: Gpu) -> None:
    rng = np.random.default_rng(6)
    plan = layers.QuantPlan("fixed<5,2,RND,SAT>", "fixed<8,3,RND,SAT>", "fixed<6,3,RND,SAT>", accumulator="fixed<9,5>")
    for layer in (layers.QuantLinear(6, 5, plan=plan), layers.QuantConv2d(6, 4, 2, groups=2, padding=1, plan=plan)):
        shape = (3, 4, 6) if isinstance(layer, torch.nn.Linear) else (6, 2, 3)
        x = torch.from_numpy(rng.standard_normal(shape)).float()

        def trained(layer: Any = layer, x: Any = x, put: Any = lambda t: t) -> list[Any]:
            copy, given = put(layer), put(x).requires_grad_()
            y = copy(given)
            return [y, *torch.autograd.grad((y * y).sum(), (given, copy.weight, copy.bias))]

        found = gpu.run(lambda run=trained: run(put=lambda t: t.to(gpu.device)))
        expected = trained(layer.cpu(), x)
        same(found[0], expected[0])
        for mine, theirs in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(mine.cpu(), theirs)


def test_wrong_weights_and_options_are_refused(gpu: Gpu) -> None:
    x, weight = torch.ones(2, 3), torch.ones(4, 3)

    def run(x: Any, weight: Any, accumulate: str, every: int = 1) -> Any:
        return gpu.run(lambda: ours.linear(gpu.put(x), gpu.put(weight), accumulator=accumulate, accumulate_every=every))

    for bad in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match="linear: weight must be finite for an accumulator in fixed point, got NaN"
        ):
            run(x[:0], weight * bad, "fixed<9,5>")
        same(run(x, weight * bad, "e5m2"), ours.linear(x, weight * bad, accumulator="e5m2"))
    wide = torch.tensor([[1.0, 2.0**-31, 2.0**-40]], dtype=torch.float64)
    with pytest.raises(ValueError, match="linear: x must be rounded to at most 64 bits with weights, got 82 bits"):
        run(torch.tensor([[2.0**40, 2.0**-40]]), torch.ones(1, 2), "fixed<9,5>")
    with pytest.raises(ValueError, match="at most 64 bits together, got 42 and 42 bits"):
        run(wide, wide, "fixed<9,5>")
    with pytest.raises(ValueError, match="linear: x must be numbers of float32 for an accumulator in floating point"):
        run(wide / 3, wide, "bf16")
    with pytest.raises(ValueError, match="must have at most 50 bits of mantissa"):
        run(x, weight, "float<11,51>")
    with pytest.raises(BackendError, match=r"linear: accumulator must have at most 62 bits on a GPU, got .* with 63"):
        run(x, weight, "fixed<63,5>")
    with pytest.raises(BackendError, match="at most 64 bits on a GPU, got 42 and 22 bits with accumulate_every=3"):
        run(wide, torch.tensor([[1.0, 1.0, 2.0**-20]], dtype=torch.float64), "fixed<9,5>", every=7)
