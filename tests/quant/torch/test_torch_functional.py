"""Tensors are rounded to the same bits as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import quant  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, LAYOUTS, some_numbers  # noqa: E402

every_format = pytest.mark.parametrize("fmt", FORMATS)


def same(actual: Any, expected: Any) -> None:
    """Assert equal bits, and NaN in the same places."""
    array = actual.numpy()
    assert array.dtype == expected.dtype and array.shape == expected.shape
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(np.signbit(array), np.signbit(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@every_format
def test_bits_are_numpys(fmt: str, dtype: Any) -> None:
    options = FORMATS[fmt]
    for shape in ((7, 33), (3, 0), (1,), (2, 3, 70)):
        x = some_numbers(*shape, dtype=dtype)
        y = ours.quantize(torch.from_numpy(x), fmt, **options)
        same(y, quant.quantize(x, fmt, **options))
        if x.size == 1:
            assert torch.equal(ours.quantize(torch.from_numpy(x)[0], fmt, **options), y[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@every_format
def test_layouts(fmt: str, layout: str) -> None:
    x = LAYOUTS[layout](torch.from_numpy(some_numbers(6, 5, 40)))
    y = ours.quantize(x, fmt, **FORMATS[fmt])
    same(y, quant.quantize(np.ascontiguousarray(x.resolve_neg().numpy()), fmt, **FORMATS[fmt]))
    assert y.is_contiguous()


@every_format
def test_bfloat16_is_computed_in_float32(fmt: str) -> None:
    x = torch.from_numpy(some_numbers(5, 64)).bfloat16()
    y = ours.quantize(x, fmt, **FORMATS[fmt])
    expected = ours.quantize(x.float(), fmt, **FORMATS[fmt])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
@pytest.mark.parametrize("fmt", ["mxfp4_e2m1<16>", "nvfp4", "bfp<6,8>", "nf4", "mxfp8_e5m2<4>"])
def test_blocks_run_along_the_axis(fmt: str, axis: int) -> None:
    x = some_numbers(20, 6, 35)
    same(ours.quantize(torch.from_numpy(x), fmt, axis=axis), quant.quantize(x, fmt, axis=axis))


@pytest.mark.parametrize("shape", [(1, 6, 1), (4, 1, 5), (4, 6, 35), (2, 3, 7), (1, 1, 1)])
@pytest.mark.parametrize("fmt", ["int8", "uint5", "e4m3fn", "fixed<8,3,RND,SAT>", "int28"])
def test_scales_of_channels_and_groups(fmt: str, shape: tuple[int, ...]) -> None:
    x = some_numbers(4, 6, 35)
    scale = np.random.default_rng(1).uniform(0.01, 0.2, shape)
    options: dict[str, Any] = {"scale": scale}
    tensors: dict[str, Any] = {"scale": torch.from_numpy(scale)}
    if "int" in fmt:
        zero = np.random.default_rng(2).integers(0, 9, shape)
        options["zero_point"], tensors["zero_point"] = zero, torch.from_numpy(zero)
    same(ours.quantize(torch.from_numpy(x), fmt, **tensors), quant.quantize(x, fmt, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_format
def test_codes_are_numpys(fmt: str, dtype: Any) -> None:
    x, options = some_numbers(6, 64, dtype=dtype), FORMATS[fmt]
    codes, expected = ours.encode(torch.from_numpy(x), fmt, **options), quant.encode(x, fmt, **options)
    assert isinstance(codes, tuple) == isinstance(expected, tuple)
    pairs = zip(codes, expected, strict=True) if isinstance(codes, tuple) else [(codes, expected)]
    for mine, theirs in pairs:
        assert mine.numpy().dtype == theirs.dtype
        np.testing.assert_array_equal(mine.numpy(), theirs)
    scaling = {name: value for name, value in options.items() if name != "rng"}
    same(ours.decode(codes, fmt, **scaling), quant.decode(expected, fmt, **scaling))
    if dtype == np.float64:
        wide = ours.decode(codes, fmt, dtype=torch.float64, **scaling)
        same(wide, quant.decode(expected, fmt, dtype=np.float64, **scaling))


def test_codes_wider_than_the_mantissa_of_float32() -> None:
    x = np.random.default_rng(0).uniform(-2e4, 2e4, 500).astype(np.float32)
    for options in ({"scale": 0.5, "zero_point": 2**30 + 5}, {"scale": 1.1e-5}):
        codes = ours.encode(torch.from_numpy(x), "int32", **options)
        same(ours.decode(codes, "int32", dtype=torch.float32, **options), quant.quantize(x, "int32", **options))
    codes = ours.encode(torch.from_numpy(x), "mx<float<9,3>,4>")
    same(ours.decode(codes, "mx<float<9,3>,4>"), quant.quantize(x, "mx<float<9,3>,4>"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("fmt", ["int8", "uint8", "e4m3fn", "e5m2<RU>", "nvfp4", "posit<8,1>", "float<8,3,fn>"])
def test_amax_is_numpys(fmt: str, dtype: Any) -> None:
    x = some_numbers(6, 64, dtype=dtype)
    axes = (None,) if fmt == "nvfp4" else (None, 0, 1, -1)
    for given in (x, np.zeros((2, 3), dtype), np.zeros((2, 0), dtype), np.array([[np.inf, 1.0], [np.nan, 2.0]], dtype)):
        for axis in axes:
            if fmt == "uint8" and not np.isfinite(given).all():
                continue
            how: Any = {"scale": "amax", "scale_axis": axis, "nan": 0.0}
            y = quant.quantize(given, fmt, **how)
            same(ours.quantize(torch.from_numpy(given), fmt, **how), y)
            found, mine = quant.encode(given, fmt, **how), ours.encode(torch.from_numpy(given), fmt, **how)
            assert isinstance(found, quant.Scaled) and isinstance(mine, ours.Scaled)
            np.testing.assert_array_equal(mine.scale.numpy(), found.scale)
            np.testing.assert_array_equal(quant.quantize(given, fmt, scale=found.scale, nan=0.0), y)
            if dtype == np.float32:
                np.testing.assert_array_equal(quant.decode(found, fmt, dtype=dtype), y)
                same(ours.decode(mine, fmt, dtype=torch.float32), y)
    if fmt != "uint8":  # calibrate gives an affine scale
        wide = np.float64 if dtype == np.float64 else np.float32
        assert wide(quant.encode(x, fmt, scale="amax").scale) == wide(quant.calibrate(x, fmt).scale)
    for odd in (torch.zeros(4), torch.zeros(0), torch.tensor([np.inf, 1.0])):
        assert torch.isfinite(ours.quantize(odd, "int8", scale="amax")).all()


def test_codes_with_a_scale_accept_no_other() -> None:
    found = quant.encode(some_numbers(3, 4), "int8", scale="amax", scale_axis=0)
    assert found.scale.shape == (3, 1)
    with pytest.raises(ValueError, match="decode: scale must be None for codes that have theirs, got another"):
        quant.decode(found, "int8", scale=2.0)
    mine = ours.encode(torch.ones(3), "int8", scale="amax")
    with pytest.raises(ValueError, match="decode: scale must be None for codes that have theirs, got another"):
        ours.decode(mine, "int8", scale=2.0)


# --- random numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 2**63, 2**64 - 1])
def test_seeds_are_numpys(seed: int) -> None:
    x, fmt = some_numbers(200), "fixed<6,3,STOCHASTIC,SAT>"
    expected = quant.quantize(x, fmt, rng=seed)
    same(ours.quantize(torch.from_numpy(x), fmt, rng=seed), expected)
    signed = seed - 2**64 if seed >= 2**63 else seed
    same(ours.quantize(torch.from_numpy(x), fmt, rng=torch.tensor([signed])), expected)


def test_a_generator_draws_a_seed() -> None:
    x, fmt = torch.from_numpy(some_numbers(200)), "int8<STOCHASTIC>"
    generator = torch.Generator().manual_seed(4)
    first, second = (ours.quantize(x, fmt, rng=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, ours.quantize(x, fmt, rng=torch.Generator().manual_seed(4)))


def test_without_a_seed_every_call_draws_one() -> None:
    x, fmt = torch.from_numpy(some_numbers(200)), "int8<STOCHASTIC>"
    state = torch.random.get_rng_state()
    first, second = ours.quantize(x, fmt), ours.quantize(x, fmt)
    torch.random.set_rng_state(state)
    assert torch.equal(ours.quantize(x, fmt), first) and not torch.equal(first, second)
    weight = torch.ones(200, requires_grad=True)
    (a,), (b,) = (torch.autograd.grad(ours.quantize_gradient(weight, fmt), weight, x) for _ in range(2))
    assert not torch.equal(a, b)
    assert not torch.equal(*(ours.pact(x.abs(), torch.tensor(9.0), 3, rounding="STOCHASTIC") for _ in range(2)))
    array = x.numpy()
    assert not np.array_equal(quant.quantize(array, fmt), quant.quantize(array, fmt))
    for make in (np.random.default_rng, np.random.SeedSequence, np.random.PCG64):
        one, other = quant.quantize(array, fmt, rng=make(3)), quant.quantize(array, fmt, rng=make(3))
        np.testing.assert_array_equal(one, other)
        same(ours.quantize(x, fmt, rng=make(3)), one)


# --- NaN --------------------------------------------------------------------------------------------------------------


def test_nan() -> None:
    x = torch.tensor([1.0, np.nan, -2.0])
    for fmt in ("fixed<8,4>", "int8", "e2m1", "table<0.0 1.0>"):
        with pytest.raises(ValueError, match=r"quantize: x contains NaN, which .* cannot represent; pass nan="):
            ours.quantize(x, fmt)
        assert torch.isnan(ours.quantize(x, fmt, nan="keep")).tolist() == [False, True, False]
        replaced = ours.quantize(x, fmt, nan=1.0)
        assert replaced[1] == ours.quantize(torch.tensor([1.0]), fmt)
    assert torch.isnan(ours.quantize(x, "e4m3fn")).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="encode: x contains NaN"):
        ours.encode(x, "int8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fixed_point_is_fixed(dtype: Any) -> None:
    x = torch.from_numpy(some_numbers(5, 60, dtype=np.float64)).to(dtype)
    for point in (-3.4, 0.0, 2.5, 4.2, 20.0):
        for rounding, overflow in (("RND", "SAT"), ("TRN", "WRAP"), ("RND_CONV", "SAT_ZERO"), ("STOCHASTIC", "SAT")):
            f = round(point)
            fmt = quant.Fixed(7, 7 - f, rounding=rounding, overflow=overflow)
            how: dict[str, Any] = {"rounding": rounding, "overflow": overflow, "rng": 3}
            y = ours.round_fixed(x, 7, torch.tensor(point), **how)
            assert torch.equal(y, ours.quantize(x, fmt, rng=3))
    hot = ours.round_fixed(x, 8, torch.tensor(4.0), terms=2)
    assert torch.equal(hot, ours.quantize(x, quant.SumOfPowers(2, 8, 4)))


@pytest.mark.parametrize("terms", [None, 2])
def test_points_of_channels_are_those_of_each(terms: int | None) -> None:
    x = torch.from_numpy(np.concatenate([some_numbers(4, 3, 50), np.full((4, 3, 1), -1e-44, np.float32)], -1))
    point = torch.tensor([3.0, -20.4, 120.0]).view(1, 3, 1)
    y = ours.round_fixed(x, 6, point, rounding="TRN", terms=terms)
    for k in range(3):
        alone = ours.round_fixed(x[:, k], 6, point[0, k, 0], rounding="TRN", terms=terms)
        assert torch.equal(y[:, k], alone)
    assert y[0, 1, -1] == -(2.0**20)  # the largest negative number of the lowest exponents is not lost


def test_lsq_and_pact_are_integers() -> None:
    x = torch.from_numpy(some_numbers(5, 60))
    step = torch.rand(5, 1) + 0.1
    assert torch.equal(ours.lsq(x, step, 5), ours.quantize(x, "int5", scale=step))
    shifted = ours.lsq(x, step, 5, signed=False, zero_point=9)
    assert torch.equal(shifted, ours.quantize(x, "uint5", scale=step, zero_point=torch.full((5, 1), 9)))
    cut = ours.pact(x, torch.tensor(3.0), 2)
    assert torch.equal(cut, torch.round(x.clamp(0, 3)))


def test_rounded_gradients() -> None:
    x = torch.from_numpy(some_numbers(6, 40)).requires_grad_()
    dy = torch.from_numpy(some_numbers(6, 40, seed=3))
    for fmt in ("e5m2", "mxfp4_e2m1", "fixed<6,2,STOCHASTIC,SAT>"):
        y = ours.quantize_gradient(x, fmt, rng=4)
        assert torch.equal(y, x)
        (dx,) = torch.autograd.grad(y, x, dy)
        assert torch.equal(dx, ours.quantize(dy, fmt, rng=4))
    (dx,) = torch.autograd.grad(ours.quantize_gradient(x, "int8", scale="amax"), x, dy)
    assert torch.equal(dx, ours.quantize(dy, "int8", scale="amax"))
    odd = dy.clone()
    odd[0, 0] = np.nan
    (dx,) = torch.autograd.grad(ours.quantize_gradient(x, "int8", scale=0.1), x, odd)
    assert torch.isnan(dx).sum() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "fmt", ["e5m2<RU>", "e5m2<RA>", "e4m3<RD>", "int8<TRN>", "float<8,3,fn>", "bf16<RU>", "float<9,4,none>", "e4m3fn"]
)
def test_amax_holds_the_largest_of_any_size(fmt: str, dtype: Any) -> None:
    """No infinity with any rounding and width of format, and no tiny number is lost."""
    rng = np.random.default_rng(0)
    powers = (-110, -20, 0, 60, 120) if dtype == torch.float32 else (-900, -200, 0, 100, 900)
    for power in powers:
        x = torch.from_numpy(np.ldexp(rng.uniform(0.5, 1, (40, 3)) * rng.choice([-1, 1], (40, 3)), power)).to(dtype)
        for row in x:
            y = ours.quantize(row, fmt, scale="amax")
            torch.testing.assert_close(y, row, rtol=0.35, atol=0)


def test_dtypes_are_formats() -> None:
    x = torch.from_numpy(some_numbers(6, 40))
    floats = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.bfloat16, torch.float16)
    for dtype in (*floats, torch.float8_e8m0fnu, torch.float64, torch.int8, np.float16, "FP8"):
        name = "fp8" if dtype == "FP8" else str(dtype).removeprefix("torch.") if dtype != np.float16 else "fp16"
        same(ours.quantize(x, dtype), quant.quantize(x.numpy(), name))
    assert torch.equal(ours.quantize(x, torch.float16), x.half().float())
    fast = torch.compile(lambda x: ours.quantize(x, torch.float8_e5m2), fullgraph=True, backend="aot_eager")
    assert torch.equal(fast(x), ours.quantize(x, "e5m2"))


def test_tensors_are_refused_by_the_functions_on_arrays() -> None:
    with pytest.raises(TypeError, match=r"array \(fastiter.torch.quant takes tensors\), got torch.Tensor"):
        quant.quantize(torch.ones(3), "int8")
