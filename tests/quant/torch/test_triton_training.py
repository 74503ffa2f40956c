"""Codes, gradients and quantizers on a GPU equal the CPU's, in the interpreter and on a device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter import quant  # noqa: E402
from fastiter.quant._codes import code_dtype  # noqa: E402
from fastiter.quant._torch import triton_backward as bwd  # noqa: E402
from fastiter.quant._torch import triton_codes as gpu_codes  # noqa: E402
from fastiter.quant._torch.nn import quantizer as nn_quantizer  # noqa: E402
from fastiter.quant._torch.ops import Step  # noqa: E402
from fastiter.torch import nn  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.cases import numbers  # noqa: E402
from tests.quant.gpu import Gpu, same  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, some_numbers  # noqa: E402

every_format = pytest.mark.parametrize("fmt", FORMATS)
#: Formats whose codes have too many bits for a lookup table
WIDE = ("fixed<60,30>", "ufixed<64,64>", "fixed<24,1000>", "int32", "fp32", "float<9,20,fn>", "float<8,15,fnuz>")
WIDE += ("ufloat<10,12,none>", "posit<32,2>", "posit<19,0>")


@pytest.fixture
def gpu(device: str) -> Gpu:
    return Gpu(device)


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "fmt", [*FORMATS, "nf4<STOCHASTIC>", "e5m2", "e5m2fnuz", "posit<32,2>", "fixed<64,32,RND,SAT>"]
)
def test_codes_are_the_cpus(gpu: Gpu, fmt: str, dtype: Any) -> None:
    x = numbers(dtype, -8, 6, 100)
    x = x[np.isfinite(x) & (np.abs(x) < 2.0**40)]
    options = FORMATS.get(fmt, {"rng": 1})
    codes = gpu.run(lambda: ours.encode(gpu.put(x), fmt, **options))
    expected = ours.encode(torch.from_numpy(x), fmt, **options)
    pairs = zip(codes, expected, strict=True) if isinstance(codes, tuple) else [(codes, expected)]
    for mine, theirs in pairs:
        same(mine, theirs, fmt)
    scaling = {name: value for name, value in options.items() if name != "rng"}
    for wide in (torch.float32, torch.float64):
        y = gpu.run(lambda wide=wide: ours.decode(codes, fmt, dtype=wide, **scaling))
        same(y, ours.decode(expected, fmt, dtype=wide, **scaling), fmt)


def test_special_numbers_have_the_cpus_codes(gpu: Gpu) -> None:
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e30, -1e-30, 0.0], np.float32)
    for fmt in (
        "e4m3fn",
        "e5m2",
        "e4m3fnuz",
        "fp16",
        "bf16",
        "posit<8,1>",
        "mxfp8_e4m3<2>",
        "nvfp4<4>",
        "bfp<6,2>",
        "ufloat<8,3>",
    ):
        codes = gpu.run(lambda fmt=fmt: ours.encode(gpu.put(x), fmt))
        expected = ours.encode(torch.from_numpy(x), fmt)
        pairs = zip(codes, expected, strict=True) if isinstance(codes, tuple) else [(codes, expected)]
        for mine, theirs in pairs:
            same(mine, theirs, fmt)


@pytest.mark.parametrize("fmt", ["float<4,3,none,RNE,SAT,1040>", "ufloat<6,2,ieee,RNE,INF,1023,False>", "ufloat<11,3>"])
def test_numbers_that_are_subnormal_in_float64_have_the_cpus_codes(gpu: Gpu, fmt: str) -> None:
    codes = np.arange(1 << quant.parse(fmt).bits, dtype=np.uint16)
    x = quant.decode(codes, fmt, dtype=np.float64)
    x = torch.from_numpy(np.append(x[np.isfinite(x)], -0.0))
    same(gpu.run(lambda: ours.encode(gpu.put(x), fmt)), ours.encode(x, fmt), fmt)


@pytest.mark.parametrize("fmt", WIDE)
def test_codes_of_many_bits_are_decoded(gpu: Gpu, fmt: str) -> None:
    form, rng = quant.parse(fmt), np.random.default_rng(0)
    dtype, bits = code_dtype(form), form.bits
    anything = rng.integers(0, 2**64, 400, dtype=np.uint64) >> np.uint64(64 - bits)
    few = np.arange(40, dtype=np.uint64)
    codes = np.concatenate([anything, few, np.uint64((1 << bits) - 1) - few])
    codes = (codes << np.uint64(64 - bits)).view(np.int64) >> np.int64(64 - bits) if dtype.kind == "i" else codes
    for wide in (torch.float32, torch.float64):
        y = gpu.run(lambda wide=wide: ours.decode(gpu.put(codes.astype(dtype)), fmt, dtype=wide))
        same(y, ours.decode(torch.from_numpy(codes.astype(dtype)), fmt, dtype=wide), fmt)


def test_codes_with_scales_of_channels(gpu: Gpu) -> None:
    rng = np.random.default_rng(1)
    codes, scale = rng.integers(-128, 128, (4, 6, 10)).astype(np.int8), rng.uniform(0.1, 1, (4, 3, 1))
    zero = rng.integers(-9, 9, (4, 3, 1))
    given = [gpu.put(part) for part in (codes, scale, zero)]
    y = gpu.run(lambda: ours.decode(given[0], "int8", scale=given[1], zero_point=given[2]))
    same(y, quant.decode(codes, "int8", scale=scale, zero_point=zero))
    wide = gpu.run(lambda: ours.decode(given[0], "int30", scale=given[1]))
    same(wide, quant.decode(codes, "int30", scale=scale))
    codes, scale = codes.astype(np.int32) + 2**30, scale.astype(np.float32)
    given = [gpu.put(part) for part in (codes, scale, zero + 2**30)]
    y = gpu.run(lambda: ours.decode(given[0], "int32", scale=given[1], zero_point=given[2], dtype=torch.float32))
    same(y, quant.decode(codes, "int32", scale=scale, zero_point=zero + 2**30, dtype=np.float32))


def test_elements_beyond_float32_are_scaled_in_float64(gpu: Gpu) -> None:
    x = torch.tensor([1.0, 2.0, 3.0, -7.5, 1e30, 2e-3, 3.0, -7.5e30])
    for fmt in ("mx<float<8,3,none>,4>", "mx<float<9,3>,4>"):
        codes = ours.encode(x, fmt)
        y = gpu.run(lambda fmt=fmt, codes=codes: ours.decode(ours.BlockCodes(*map(gpu.put, codes)), fmt))
        same(y, ours.quantize(x, fmt), fmt)


@pytest.mark.parametrize("fmt", ["uint1", "int2", "uint3", "e2m1", "int5", "e3m2", "uint7", "int8", "uint9", "int12"])
def test_packed_codes_are_the_cpus(gpu: Gpu, fmt: str) -> None:
    _check_packed(gpu, fmt, 1)


def test_packed_codes_of_many_bits_are_the_cpus(gpu: Gpu) -> None:
    for fmt in ("tf32", "ufixed<17,0>", "int32", "ufixed<33,3>", "fixed<63,3>", "ufixed<64,3>"):
        _check_packed(gpu, fmt, 2)


def _check_packed(gpu: Gpu, fmt: str, seed: int) -> None:
    form = quant.parse(fmt)
    bits, dtype, rng = form.bits, code_dtype(form), np.random.default_rng(seed)
    for shape in ((13,), (3, 8), (2, 1), (2, 0)):
        codes = rng.integers(0, 2**64, shape, dtype=np.uint64) << np.uint64(64 - bits)
        codes = codes.view(np.int64) >> np.int64(64 - bits) if dtype.kind == "i" else codes >> np.uint64(64 - bits)
        codes = codes.astype(dtype)
        packed = gpu.run(lambda codes=codes: gpu_codes.pack(gpu.put(codes), fmt))
        same(packed, quant.pack(codes, fmt), fmt)
        same(gpu.run(lambda n=shape[-1], p=packed: gpu_codes.unpack(p, fmt, n)), codes, fmt)


def test_unpack_refuses_wrong_bytes_and_sizes(gpu: Gpu) -> None:
    packed = gpu.put(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"unpack: packed must have 2 bytes along the last axis for 4 codes, got \(3,\)"
    ):
        gpu_codes.unpack(packed, "int4", 4)
    with pytest.raises(TypeError, match=r"unpack: packed must be uint8, got dtype torch.int32"):
        gpu_codes.unpack(packed.int(), "int4", 6)


# --- gradients --------------------------------------------------------------------------------------------------------


def _gradients(call: Callable[..., Any], x: Any, parameter: Any, dy: Any) -> list[Any]:
    x = x.clone().requires_grad_()
    inputs = [x] if parameter is None else [x, parameter.clone().requires_grad_()]
    y = call(*inputs)
    return [y, *torch.autograd.grad(y, inputs, dy)]


def check_gradients(gpu: Gpu, call: Callable[..., Any], x: Any, parameter: Any = None) -> None:
    """Assert that y and dx have the CPU's bits; a sum over n products may differ by its order of summation."""
    given = [torch.from_numpy(t) if isinstance(t, np.ndarray) else t for t in (x, parameter)]
    dy = torch.from_numpy(some_numbers(*given[0].shape, seed=4)).to(given[0].dtype)
    placed = [gpu.put(t) for t in (*given, dy)]
    mine, theirs = gpu.run(lambda: _gradients(call, *placed)), _gradients(call, *given, dy)
    same(mine[0], theirs[0])
    same(mine[1], theirs[1])
    if parameter is not None:
        assert mine[2].shape == theirs[2].shape and mine[2].dtype == theirs[2].dtype
        eps = 2.0**-24 if given[0].dtype != torch.float64 else 2.0**-53
        largest = _gradients(call, given[0], given[1].double(), dy.abs())[2].abs().max() + dy.abs().sum()
        bound = eps * given[0].numel() * float(largest)
        assert (mine[2].cpu().double() - theirs[2].double()).abs().max() <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_straight_through(gpu: Gpu, dtype: Any) -> None:
    """Every two of a format, ste and dtype."""
    x = numbers(dtype, -8, 6, 100)
    for k, (fmt, options) in enumerate(FORMATS.items(), np.dtype(dtype).itemsize // 4):
        ste = ("clip", "pass")[k % 2]
        how = {"ste": ste, "nan": "keep", **options}
        check_gradients(gpu, lambda x, fmt=fmt, how=how: ours.quantize(x, fmt, **how), x)


@pytest.mark.parametrize("shape", [(), (1, 6, 1), (4, 3, 5), (1, 1, 35)])
@pytest.mark.parametrize(
    "fmt", ["int8", "uint5<RND_ZERO>", "e4m3fn", "fixed<6,6,RND,SAT>", "int28", "int4<STOCHASTIC>"]
)
def test_gradients_of_scales(gpu: Gpu, fmt: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    for scale in (rng.uniform(0.02, 0.3, shape), np.exp2(rng.integers(-5, 3, shape).astype(np.float64))):
        step = torch.from_numpy(np.asarray(scale, np.float32))
        zero = {"zero_point": torch.from_numpy(np.asarray(rng.integers(0, 7, shape)))} if "int" in fmt else {}

        def call(x: Any, s: Any, zero: Any = zero) -> Any:
            zeros = {name: value.to(x.device) for name, value in zero.items()}
            return ours.quantize(x, fmt, scale=s, rng=3, **zeros)

        check_gradients(gpu, call, some_numbers(4, 6, 35), step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_learned_binary_points(gpu: Gpu, dtype: Any) -> None:
    x = torch.from_numpy(some_numbers(4, 6, 35, dtype=np.float64)).to(dtype)
    x[0, 0, 0] = -1e-30  # one step lower where numbers are rounded down
    for point in (torch.tensor(3.4), torch.tensor([2.5, -20.2, 4.0, 120.0, 0.0, -60.0]).view(1, 6, 1)):
        for how in (
            {"rounding": "RND", "overflow": "SAT"},
            {"rounding": "TRN", "overflow": "WRAP"},
            {"rounding": "STOCHASTIC", "rng": 3},
            {"terms": 2},
        ):
            check_gradients(gpu, lambda x, p, how=how: ours.round_fixed(x, 7, p, **how), x, point)
    check_gradients(gpu, lambda x, p: ours.round_fixed(x, 30, p), x, torch.tensor(11.0))


def test_points_outside_the_range_of_steps(gpu: Gpu) -> None:
    points = gpu.put(torch.tensor([200.0, -200.0, float("nan"), 2.5, -0.5]))
    assert gpu.run(lambda: bwd.step(Step(points, "round_fixed")))[[0, 1, 3, 4]].tolist() == [
        2.0**-126,
        2.0**126,
        0.25,
        1.0,
    ]
    assert gpu.run(lambda: bwd.step(Step(points, "round_fixed")))[2].isnan()


def test_other_learned_parameters(gpu: Gpu) -> None:
    x = some_numbers(5, 60)
    check_gradients(gpu, lambda x, s: ours.lsq(x, s, 4, signed=False, gradient_scale=0.5), x, torch.rand(5, 1) + 0.1)
    check_gradients(gpu, lambda x, a: ours.pact(x, a, 3), x, torch.tensor(2.0))
    for fmt, scale in (("e5m2", None), ("mxfp4_e2m1", None), ("int8<STOCHASTIC>", "amax")):
        check_gradients(gpu, lambda x, f=fmt, s=scale: ours.quantize_gradient(x, f, scale=s, rng=4), x)


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.FixedQuantizer(5, axis=0, rounding="STOCHASTIC", rng=4),
        lambda: nn.FixedQuantizer(8, terms=2),
        lambda: nn.LSQQuantizer(4),
        lambda: nn.PACTQuantizer(3, alpha=2.0),
        lambda: nn.FormatQuantizer("mxfp8_e4m3"),
        lambda: nn.FormatQuantizer("int4", scale="amax", scale_axis=0),
        lambda: nn.GradientQuantizer("e5m2<STOCHASTIC>", rng=1),
    ],
)
def test_quantizers_on_a_gpu_are_those_on_the_cpu(gpu: Gpu, made: Callable[[], Any]) -> None:
    x, dy = (torch.from_numpy(some_numbers(6, 50, seed=k)) for k in (1, 2))
    cpu = made()
    cpu(x)
    other = copy.deepcopy(cpu).to(gpu.device)
    assert nn_quantizer.seed_op is not None
    for _ in range(2):
        given = [gpu.put(x).clone().requires_grad_(), x.clone().requires_grad_()]
        y = gpu.run(lambda given=given: other(given[0]))
        theirs = cpu(given[1])
        same(y, theirs)
        gpu.run(lambda y=y: y.backward(gpu.put(dy)))
        theirs.backward(dy)
        same(given[0].grad, given[1].grad)
    for mine, right in zip(other.parameters(), cpu.parameters(), strict=True):
        bound = 2.0**-24 * x.numel() * float(dy.abs().sum() * x.abs().max())
        assert (mine.grad.cpu() - right.grad).abs().max() <= bound
