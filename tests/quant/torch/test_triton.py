"""Rounding on a GPU: every format has the CPU's bits, in the interpreter and on a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from fastiter import quant  # noqa: E402
from fastiter.quant._torch import triton_codes, triton_forward  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.cases import FLOAT_ROUNDINGS, KINDS, NAMED_FLOATS, ROUNDINGS, numbers, overflows, random_float  # noqa: E402
from tests.quant.gpu import Gpu, same  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, LAYOUTS, some_numbers  # noqa: E402

every_format = pytest.mark.parametrize("fmt", FORMATS)
STOCHASTIC = ("fixed<8,4,STOCHASTIC,SAT>", "int8<STOCHASTIC>", "e4m3fn<STOCHASTIC>", "bf16<STOCHASTIC>")
STOCHASTIC += ("posit<8,1,STOCHASTIC>", "pow2<-6,2,STOCHASTIC>", "khot<2,8,3,GREEDY,STOCHASTIC>")
STOCHASTIC += ("table<-1.0 -0.25 0.5 2.0,0,STOCHASTIC>", "nf4<STOCHASTIC>", "mx<e4m3fn<STOCHASTIC>,32>")
STOCHASTIC += ("bfp<6,8,STOCHASTIC>", "bfp<6,5,STOCHASTIC>", "fixed<60,30,STOCHASTIC,SAT>")


@pytest.fixture
def gpu(device: str) -> Gpu:
    return Gpu(device)


def check(gpu: Gpu, x: Any, fmt: Any, **options: Any) -> None:
    """Assert that quantize with the GPU kernels equals quantize on the CPU."""
    given = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    how = {"nan": "keep", **options}
    placed = {name: gpu.put(value) if name in ("scale", "zero_point") else value for name, value in how.items()}
    y = gpu.run(lambda: ours.quantize(gpu.put(given), fmt, **placed))
    as_tensors = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in how.items()}
    same(y, ours.quantize(given, fmt, **as_tensors), fmt)


# --- elements ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@every_format
def test_bits_are_the_cpus(gpu: Gpu, fmt: str, dtype: Any) -> None:
    x = torch.from_numpy(numbers(np.float64, *KINDS.get(fmt, (-8, 6)), count=200)).to(dtype)
    x = torch.cat([x, torch.tensor([math.nan, -0.0, 1e-45, -1e-45], dtype=dtype)])
    x = x[: x.numel() // 3 * 3 - 3].view(3, -1)
    check(gpu, x, fmt, **FORMATS[fmt])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("rounding", [*ROUNDINGS, "STOCHASTIC"])
def test_every_rounding_and_overflow_of_fixed_point(gpu: Gpu, rounding: str, signed: bool) -> None:
    """Every two of a rounding, a sign and an overflow mode; all three together run on the CPU."""
    first = ([*ROUNDINGS, "STOCHASTIC"].index(rounding) + signed) % 2
    for k, (overflow, saturated) in list(enumerate(overflows(signed, 6)))[first::2]:
        fmt = quant.Fixed(6, (3, -2, 9)[k % 3], signed, rounding, overflow, saturated)
        dtype = np.float64 if k % 4 == 3 else np.float32
        check(gpu, numbers(dtype, -fmt.fraction, fmt.integer, 150, seed=k), fmt, rng=k)


@pytest.mark.parametrize("rounding", [*ROUNDINGS, "STOCHASTIC"])
def test_fixed_point_that_doubles_do_not_hold(gpu: Gpu, rounding: str) -> None:
    rng = np.random.default_rng(ROUNDINGS.index(rounding) if rounding in ROUNDINGS else 9)
    for k in range(8):
        width, signed = int(rng.integers(54, 65)) if k else 64, bool(k % 3)
        overflow, saturated = overflows(signed, width)[int(rng.integers(3, 6 if not signed else 11))]
        fmt = quant.Fixed(width, int(rng.integers(-10, 70)), signed, rounding, overflow, saturated)
        dtype = np.float32 if k % 2 else np.float64
        check(gpu, numbers(dtype, -fmt.fraction, fmt.integer, 150, seed=k), fmt, rng=k)
    for fmt in (quant.Fixed(8, -990, True, rounding, "SAT"), quant.Fixed(8, 1000, True, rounding, "SAT_ZERO")):
        check(gpu, numbers(np.float64, -fmt.fraction, fmt.integer, 150), fmt, rng=5)


@pytest.mark.parametrize("rounding", [*FLOAT_ROUNDINGS, "STOCHASTIC"])
def test_every_rounding_of_named_floats(gpu: Gpu, rounding: str) -> None:
    """Half of the formats for each rounding, as a kernel reads both from its arguments; the CPU has all."""
    first = [*FLOAT_ROUNDINGS, "STOCHASTIC"].index(rounding) % 2
    for k, name in list(enumerate((*NAMED_FLOATS, "fp32")))[first::2]:
        fmt = quant.parse(f"{name}<{rounding}>")
        low, high = fmt.min_exponent - fmt.mantissa - 2, fmt.max_exponent + 2
        check(gpu, numbers(np.float64 if k % 5 == 4 else np.float32, low, high, 150, seed=k), fmt, rng=k)


def test_any_float(gpu: Gpu) -> None:
    rng = np.random.default_rng(3)
    formats = [random_float(rng) for _ in range(40)]
    formats += [
        quant.Float(11, 52, "ieee"),
        quant.Float(11, 10, "fn", "RU", bias=1060),
        quant.Float(8, 0, "none", bias=1070),
    ]
    for k, fmt in enumerate(formats):
        low, high = max(fmt.min_exponent - fmt.mantissa - 2, -1070), min(fmt.max_exponent + 2, 1020)
        check(gpu, numbers(np.float64 if k >= 30 else np.float32, low, high, 100, seed=k), fmt)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits(gpu: Gpu, dtype: Any) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for fmt in ("fixed<10,5,RND_ZERO,SAT>", "e5m2", "e4m3fnuz<RZ>", "posit<8,0>", "log2<-9,4,3>", "mxfp6_e3m2", "fp16"):
        check(gpu, x, fmt)
    check(gpu, x, "int8", scale=0.01)


def test_posits_and_tables(gpu: Gpu) -> None:
    for n, es in ((3, 0), (5, 3), (16, 1), (32, 2), (32, 4)):
        for dtype in (np.float32, np.float64):
            check(gpu, numbers(dtype, -40, 40, 150), quant.Posit(n, es))
    rng = np.random.default_rng(1)
    for count in (2, 3, 17, 256):
        values = tuple(np.sort(rng.standard_normal(count)).tolist())
        middles = np.convolve(values, [0.5, 0.5], "valid") if count > 1 else np.zeros(1)
        x = np.concatenate([middles, values, rng.standard_normal(100)])
        for dtype in (np.float32, np.float64):
            check(gpu, x.astype(dtype), quant.Table(values))
            check(gpu, x.astype(dtype), quant.Table(values, 7))
    for fmt in (
        "khot<3,10,2,NEAREST,RND>",
        "ukhot<1,6,-2,GREEDY,TRN>",
        "log2<-20,20,6>",
        "upow2<-3,1>",
        "ulog2<-2,2,1>",
    ):
        check(gpu, numbers(np.float32, -22, 22, 200), fmt)


@pytest.mark.parametrize("fmt", STOCHASTIC)
def test_random_numbers_are_the_cpus(gpu: Gpu, fmt: str) -> None:
    check(gpu, some_numbers(5, 7, 64, dtype=np.float32), fmt, rng=0)
    check(gpu, some_numbers(3, 77, dtype=np.float64), fmt, rng=2**63 + 11)
    x = some_numbers(300)
    seed = torch.tensor([-5])
    y = gpu.run(lambda: ours.quantize(gpu.put(x), fmt, rng=gpu.put(seed), nan="keep"))
    same(y, ours.quantize(torch.from_numpy(x), fmt, rng=2**64 - 5), fmt)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(gpu: Gpu, layout: str) -> None:
    x = LAYOUTS[layout](torch.from_numpy(some_numbers(6, 5, 40)))
    for fmt in ("fixed<8,4,RND_CONV,SAT>", "e5m2<STOCHASTIC>", "mxfp4_e2m1<16>"):
        check(gpu, x, fmt, rng=3)


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (1, 1), (2, 3, 70)])
def test_sizes(gpu: Gpu, shape: tuple[int, ...]) -> None:
    for fmt in ("fixed<8,4,RND,SAT>", "bf16<STOCHASTIC>", "nvfp4", "nf4"):
        check(gpu, some_numbers(*shape), fmt, rng=1)


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("fmt", ["mxfp4_e2m1<16>", "nvfp4", "bfp<6,8>", "nf4", "mxfp8_e5m2<5>"])
def test_blocks_run_along_the_axis(gpu: Gpu, fmt: str, axis: int) -> None:
    check(gpu, some_numbers(20, 6, 35), fmt, axis=axis)


@pytest.mark.parametrize("rule", ["FLOOR", "EVEN", "CEIL", "RCEIL"])
def test_rules_of_scales(gpu: Gpu, rule: str) -> None:
    for k, element in enumerate(("e4m3fn", "e5m2<RU>", "e2m1<RD>", "e3m2<RA>", "fp16<RZ>", "bf16")):
        x = numbers(np.float64 if k % 2 else np.float32, -130, 120, 300, seed=k)
        x = x[np.isfinite(x)]
        check(gpu, np.concatenate([x, [math.inf, 1.0, math.nan, 2.0]]).astype(x.dtype), f"mx<{element},4,{rule}>")
        check(gpu, np.ldexp(some_numbers(32, 8), -140).astype(x.dtype), f"mx<{element},8,{rule}>")


def test_other_blocks(gpu: Gpu) -> None:
    x = np.ldexp(some_numbers(40, 64), np.random.default_rng(0).integers(-100, 100, (40, 1))).astype(np.float32)
    for fmt in ("nvfp4<16,RU>", "nvfp4<24>", "bfp<24,1>", "bfp<2,1024,TRN>", "mxint8<RND>", "nf4"):
        check(gpu, x, fmt)
        check(gpu, x, fmt, nan=1.5)
    check(gpu, x, "nvfp4", scale=0.37)


# --- scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6, 1), (4, 1, 5), (4, 6, 35), (2, 3, 7), (1, 1, 35), (1, 1, 1)])
@pytest.mark.parametrize(
    "fmt", ["int8", "uint5", "e4m3fn", "fixed<8,3,RND,SAT>", "int28", "khot<2,8,8>", "posit<32,2>"]
)
def test_scales_of_channels_and_groups(gpu: Gpu, fmt: str, shape: tuple[int, ...]) -> None:
    x, rng = some_numbers(4, 6, 35), np.random.default_rng(1)
    zero = {"zero_point": rng.integers(0, 9, shape)} if "int" in fmt else {}
    check(gpu, x, fmt, scale=rng.uniform(0.01, 0.2, shape), **zero)
    if not zero:
        check(gpu, x, fmt, scale=np.exp2(rng.integers(-9, 9, shape)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_one_scale(gpu: Gpu, dtype: Any) -> None:
    x = numbers(dtype, -12, 10, 200)
    for scale in (0.3, 0.25, 2.0**-126, 2.0**127):
        for fmt in ("fixed<8,8,TRN,WRAP>", "fixed<12,4,RND_CONV,SAT>", "khot<2,8,8>", "fixed<30,30,RND,SAT_ZERO>"):
            check(gpu, x, fmt, scale=scale)
    for fmt in ("int8", "uint8<RND_ZERO>", "int32", "e4m3fnuz", "tf32", "posit<16,1>", "log2<-6,3,2>"):
        check(gpu, x, fmt, scale=0.3)
    check(gpu, x, "uint4", scale=0.3, zero_point=5)
    check(gpu, x, "int8", zero_point=-100)
    check(gpu, x, "int8", scale="amax")


def test_nan_is_kept_replaced_or_refused(gpu: Gpu) -> None:
    x = np.array([[1.0, np.nan, -2.0, np.nan]], np.float32)
    for fmt in FORMATS:
        if fmt != "nf4":  # a NaN in a table format makes its block NaN
            check(gpu, x, fmt, nan=1.25, rng=1)
    for zero in (0.0, -0.0, 0.0):
        check(gpu, x, "e4m3fn", nan=zero)
    for fmt in ("int8", "e4m3fn", "fixed<8,4,RND,SAT>"):  # NaN is replaced before the scale is computed
        y = gpu.run(lambda fmt=fmt: ours.quantize(gpu.put(x), fmt, scale=0.5, nan=3.0))
        same(y, quant.quantize(x, fmt, scale=0.5, nan=3.0, backend="reference"))
    for fmt in ("int8", "e2m1"):
        with pytest.raises(ValueError, match=r"quantize: x contains NaN, which .* cannot represent; pass nan="):
            gpu.run(lambda fmt=fmt: ours.quantize(gpu.put(x), fmt))


def test_constants_stay_where_graphs_of_calls_read_them() -> None:
    """A CUDA graph holds the address of a tensor, and not the tensor."""
    cpu = torch.device("cpu")
    for constants in (
        lambda k: triton_forward.numbers_of(quant.Int(8), "float32", False, False, float(k), cpu).numbers,
        lambda k: triton_codes._factor(k, cpu),
    ):
        first = constants(0)
        assert all(constants(k) is not first for k in range(1, 600)) and constants(0) is first


@pytest.mark.parametrize("fmt", ["int8", "e2m1", "fixed<8,4,STOCHASTIC,SAT>", "fixed<60,30,RND,SAT>", "pow2<-6,2>"])
def test_nan_is_found_while_numbers_are_rounded(gpu: Gpu, fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no separate pass over x, which would read it twice."""
    x = np.linspace(-1.5, 1.5, 2 * 1024 + 5, dtype=np.float32)
    expected = ours.quantize(torch.from_numpy(x), fmt, rng=3), ours.encode(torch.from_numpy(x), fmt, rng=3)
    monkeypatch.setattr(torch, "isnan", None)
    for call, result, at in zip((ours.quantize, ours.encode), expected, (0, len(x) - 1), strict=True):
        same(gpu.run(lambda call=call: call(gpu.put(torch.from_numpy(x)), fmt, rng=3)), result, fmt)
        with_nan = torch.from_numpy(x.copy())
        with_nan[at] = math.nan
        with pytest.raises(ValueError, match="x contains NaN, which"):
            gpu.run(lambda call=call, given=with_nan: call(gpu.put(given), fmt, rng=3))


@pytest.mark.parametrize("fmt", KINDS)
def test_bits_are_the_specifications(gpu: Gpu, fmt: str) -> None:
    low, high = KINDS[fmt]
    x = numbers(np.float32, low, high, 12, seed=7)
    options: dict[str, Any] = {"rng": 9} if "STOCHASTIC" in fmt else {}
    y = gpu.run(lambda: ours.quantize(gpu.put(x), fmt, nan="keep", **options))
    same(y, quant.quantize(x, fmt, nan="keep", backend="reference", **options), fmt)


@pytest.mark.parametrize("fmt", ["fixed<5,2,STOCHASTIC,WRAP>", "e3m2<STOCHASTIC>", "nvfp4<16,STOCHASTIC>"])
def test_random_bits_are_the_specifications(gpu: Gpu, fmt: str) -> None:
    x = some_numbers(3, 50)
    y = gpu.run(lambda: ours.quantize(gpu.put(x), fmt, rng=77))
    same(y, quant.quantize(x, fmt, rng=77, backend="reference"), fmt)
