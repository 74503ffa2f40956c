"""Straight-through gradients against their formulas, written as torch expressions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import quant  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, LAYOUTS, some_numbers  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402
from tests.support.torch_bounds import held  # noqa: E402

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")
OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")


def near_edges(fmt: Any, dtype: Any) -> Any:
    """Return every quarter of a step around both ends of the range, and their neighbours."""
    low, high, step = quant.range_of(fmt)
    grid = np.array([end + step * k / 4 for end in (low, 0.0, high) for k in range(-9, 10)], dtype)
    return np.concatenate([grid, np.nextafter(grid, dtype(np.inf)), np.nextafter(grid, dtype(-np.inf))])


def in_range(x: Any, fmt: Any, **options: Any) -> Any:
    """Return whether each number is in range once rounded, tested one by one."""
    counts = [quant.quantize(x[i : i + 1], fmt, counts=True, **options)[1] for i in range(len(x))]
    return np.array([c.overflow == 0 for c in counts])


def dx_of(y: Any, x: Any) -> Any:
    return torch.autograd.grad(y.sum(), x)[0].numpy()


@pairs
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_gradients_of_fixed_point_pass_in_range(rounding: str, overflow: str, dtype: Any) -> None:
    for signed in (True, False) if overflow != "WRAP_SM" else (True,):
        fmt = quant.Fixed(4, 2, signed, rounding, overflow)
        x = near_edges(fmt, dtype)
        inside = in_range(x, fmt)
        assert 0 < inside.sum() < len(x)
        given = torch.from_numpy(x).requires_grad_()
        np.testing.assert_array_equal(dx_of(ours.quantize(given, fmt), given), inside)
        np.testing.assert_array_equal(dx_of(ours.quantize(given, fmt, ste="pass"), given), 1.0)
        point = torch.tensor(2.3, requires_grad=True)
        how: dict[str, Any] = {"signed": signed, "rounding": rounding, "overflow": overflow}
        np.testing.assert_array_equal(dx_of(ours.round_fixed(given, 4, point, **how), given), inside)


FLOATS = ("e4m3fn", "e4m3fn<RZ,NAN>", "e5m2<RU,SAT>", "e2m1", "e3m2<RD>", "posit<6,1>", "pow2<-3,2>", "log2<-3,2,1>")


@pytest.mark.parametrize("fmt", [*FLOATS, "table<-1.0 0.1 0.5>", "khot<1,6,2>", "khot<2,6,2,NEAREST>", "int3", "e8m0"])
def test_gradients_of_other_formats_pass_in_range(fmt: str) -> None:
    low, high, _ = quant.range_of(fmt)
    edges = np.array([end * r for end in (low, high) for r in np.linspace(0.8, 1.3, 41)], np.float32)
    x = np.concatenate([edges, np.nextafter(edges, np.float32(9)), some_numbers(200)])
    given = torch.from_numpy(x).requires_grad_()
    np.testing.assert_array_equal(dx_of(ours.quantize(given, fmt), given), in_range(x, fmt))


@pytest.mark.parametrize("zero", [0, 3, 7])
def test_gradients_of_integers_pass_in_range(zero: int) -> None:
    x = np.linspace(-3, 3, 301, dtype=np.float32)
    for rounding in ROUNDINGS:
        given = torch.from_numpy(x).requires_grad_()
        options = {"scale": 0.37, "zero_point": zero}
        fmt = f"uint3<{rounding}>"
        np.testing.assert_array_equal(dx_of(ours.quantize(given, fmt, **options), given), in_range(x, fmt, **options))
        y = ours.quantize(given * 3, fmt, zero_point=zero)
        np.testing.assert_array_equal(dx_of(y, given), 3 * in_range(3 * x, fmt, zero_point=zero))


def test_zero_points_of_channels_each_have_their_range() -> None:
    x = torch.linspace(-3, 3, 61).expand(3, 61).clone().requires_grad_()
    scale, zero = torch.tensor([[0.3], [0.5], [0.3]]), torch.tensor([[0], [3], [7]])
    whole = dx_of(ours.quantize(x, "uint3", scale=scale, zero_point=zero), x)
    for k in range(3):
        row = x[k].detach().requires_grad_()
        alone = dx_of(ours.quantize(row, "uint3", scale=float(scale[k]), zero_point=int(zero[k])), row)
        np.testing.assert_array_equal(whole[k], alone)


def test_gradients_of_stochastic_rounding_pass_between_the_ends() -> None:
    x = torch.tensor([-2.26, -2.25, -2.0, 1.75, 1.76, 3.0], requires_grad=True)
    for seed in range(5):
        y = ours.quantize(x, "fixed<4,2,STOCHASTIC,SAT>", rng=seed)
        assert dx_of(y, x).tolist() == [0, 0, 1, 1, 0, 0]


def test_infinity_and_nan_have_gradient_zero() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    y = ours.quantize(x, "int8", scale=scale, nan="keep")
    assert dx_of(y, x).tolist() == [0, 0, 0, 1]
    for fmt, ste in (("int8", "pass"), ("e5m2", "pass"), ("mxfp8_e4m3", "clip"), ("nvfp4", "clip"), ("bfp<4>", "clip")):
        assert dx_of(ours.quantize(x, fmt, nan="keep", ste=ste), x).tolist() == [1, 1, 1, 1]
    y = ours.quantize(x[1:], "int8", scale=scale)
    assert torch.autograd.grad(y.sum(), scale)[0] == -1  # 127 - 128 + 0


@pytest.mark.parametrize("fmt", ["mxfp4_e2m1", "nvfp4", "bfp<4,8>", "nf4"])
def test_blocks_pass_everything(fmt: str) -> None:
    x = torch.from_numpy(some_numbers(4, 64)).requires_grad_()
    assert (dx_of(ours.quantize(x, fmt), x) == 1).all()


# --- learned parameters -----------------------------------------------------------------------------------------------


def straight(v: Any, rounded: Any) -> Any:
    """Round v, with the derivative of the identity."""
    return v + (rounded - v).detach()


def spread(parameter: Any, shape: tuple[int, ...]) -> Any:
    """Expand to one value for each element."""
    for axis, size in enumerate(shape if parameter.dim() else ()):
        parameter = parameter.repeat_interleave(size // parameter.shape[axis], axis)
    return parameter


def qfx(x: Any, point: Any, width: int, signed: bool, rounding: Any) -> Any:
    """The definition: scale up, round, clip, scale down, with straight-through roundings."""
    s = torch.exp2(straight(point, point.round()))
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    v = x * s
    return held(straight(v, rounding(v)), low, high) / s


ROUNDED = {"RND_CONV": torch.round, "TRN": torch.floor, "RND": lambda v: torch.floor(v + 0.5)}


@pairs
@pytest.mark.parametrize("shape", [(), (1, 6, 1), (4, 1, 1), (2, 3, 5)])
@pytest.mark.parametrize("rounding", ROUNDED)
@pytest.mark.parametrize("signed", [True, False])
def test_fixed_point_is_the_expression(signed: bool, rounding: str, shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(some_numbers(4, 6, 35, dtype=np.float64)).requires_grad_()
    point = (torch.rand(shape, dtype=torch.float64) * 6 - 1).requires_grad_()
    dy = torch.from_numpy(some_numbers(4, 6, 35, dtype=np.float64, seed=2))
    y = ours.round_fixed(x, 5, point, signed=signed, rounding=rounding)
    expected = qfx(x, spread(point, x.shape), 5, signed, ROUNDED[rounding])
    assert torch.equal(y, expected)
    dx, dpoint = torch.autograd.grad(y, (x, point), dy)
    wanted, wanted_point = torch.autograd.grad(expected, (x, point), dy)
    assert torch.equal(dx, wanted)
    torch.testing.assert_close(dpoint, wanted_point, rtol=1e-12, atol=1e-12 * float(dy.abs().sum()))
    (scaled,) = torch.autograd.grad(
        ours.round_fixed(x, 5, point, signed=signed, rounding=rounding, gradient_scale=0.25), point, dy
    )
    torch.testing.assert_close(scaled, dpoint / 4)


def test_the_gradient_of_the_point_is_the_slope_of_its_surrogate() -> None:
    """With codes held fixed in range and clipped outside, y is smooth in the point: compare finite differences."""
    x = torch.from_numpy(some_numbers(300, dtype=np.float64))
    for f in (-1, 0, 3):
        point = torch.tensor(float(f), dtype=torch.float64, requires_grad=True)
        y = ours.round_fixed(x, 6, point)
        error, cut = torch.round(x * 2.0**f) - x * 2.0**f, (x * 2.0**f).round().clamp(-32, 31)
        inside = cut == (x * 2.0**f).round()

        def surrogate(at: float, error: Any = error, cut: Any = cut, inside: Any = inside) -> Any:
            return torch.where(inside, (x * 2.0**at + error) / 2.0**at, cut / 2.0**at).sum().item()

        slope = (surrogate(f + 1e-4) - surrogate(f - 1e-4)) / 2e-4
        (dpoint,) = torch.autograd.grad(y.sum(), point)
        assert dpoint.item() == pytest.approx(slope, rel=1e-6)


def test_wrapped_codes() -> None:
    x = torch.tensor([0.3, 9.0], dtype=torch.float64)  # 9 = 144 / 16 wraps to -112 / 16 = -7
    for ste, expected in (("clip", math.log(2) * 7), ("pass", math.log(2) * (9 + 7))):
        point = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
        y = ours.round_fixed(x, 8, point, overflow="WRAP", ste=ste)
        assert y.tolist() == [0.3125, -7.0]
        (dpoint,) = torch.autograd.grad(y.sum(), point)
        assert dpoint.item() == pytest.approx(math.log(2) * (0.3 - 0.3125) + expected, rel=1e-12)


@pytest.mark.parametrize("signed", [True, False])
def test_lsq_is_torchs_learnable_fake_quantization(signed: bool) -> None:
    low, high = (-8, 7) if signed else (0, 15)
    x = torch.from_numpy(some_numbers(4, 60)).requires_grad_()
    dy = torch.from_numpy(some_numbers(4, 60, seed=2))
    zero = torch.zeros(1)
    for step in (torch.tensor([0.25]), torch.tensor([0.11])):
        step.requires_grad_()
        theirs = torch._fake_quantize_learnable_per_tensor_affine(x, step, zero, low, high, 0.5)
        mine = ours.lsq(x, step, 4, signed=signed, gradient_scale=0.5)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
        for a, b in zip(
            torch.autograd.grad(mine, (x, step), dy), torch.autograd.grad(theirs, (x, step), dy), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_lsq_of_channels_is_torchs() -> None:
    x = torch.from_numpy(some_numbers(3, 5, 60)).requires_grad_()
    dy = torch.from_numpy(some_numbers(3, 5, 60, seed=2))
    step = torch.tensor([0.25, 0.11, 0.5, 1.0, 0.06], requires_grad=True)
    theirs = torch._fake_quantize_learnable_per_channel_affine(x, step, torch.zeros(5), 1, -8, 7, 1.0)
    mine = ours.lsq(x, step.view(1, 5, 1), 4)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    for a, b in zip(torch.autograd.grad(mine, (x, step), dy), torch.autograd.grad(theirs, (x, step), dy), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_the_references_check_value() -> None:
    step = torch.tensor(1 / 16, dtype=torch.float64, requires_grad=True)
    y = ours.lsq(torch.tensor([0.3, 9.0, -9.0], dtype=torch.float64), step, 8)
    assert torch.autograd.grad(y.sum(), step)[0].item() == pytest.approx(-0.8, rel=1e-12)
    point = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    z = ours.round_fixed(torch.tensor([0.3, 9.0, -9.0], dtype=torch.float64), 8, point)
    chained = -0.8 * -math.log(2) / 16  # ds/df = -ln2 s
    assert torch.autograd.grad(z.sum(), point)[0].item() == pytest.approx(chained, rel=1e-12)


@pytest.mark.parametrize("shape", [(), (4, 1), (2, 5)])
@pytest.mark.parametrize("fmt", ["e4m3fn", "e2m1", "posit<8,1>", "fixed<6,2,RND,SAT>", "int5", "pow2<-4,1>"])
def test_the_gradient_of_any_scale_is_the_expression(fmt: str, shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(some_numbers(4, 60, dtype=np.float64)).requires_grad_()
    dy = torch.from_numpy(some_numbers(4, 60, dtype=np.float64, seed=2))
    scale = (torch.rand(shape, dtype=torch.float64) + 0.1).requires_grad_()
    y = ours.quantize(x, fmt, scale=scale)
    each = spread(scale, x.shape)
    v = x / each
    code = ours.quantize(v.detach(), fmt)
    inside = torch.from_numpy(in_range(v.detach().flatten().numpy(), fmt)).view(4, 60)
    expected = torch.where(inside, straight(v, code), code) * each
    assert torch.equal(y, expected.detach())
    for a, b in zip(torch.autograd.grad(y, (x, scale), dy), torch.autograd.grad(expected, (x, scale), dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_pact_is_the_expression() -> None:
    x = torch.from_numpy(np.append(some_numbers(300), [0.0, 2.0, -0.0, 1.9999999]))
    x = x.float().requires_grad_()
    alpha = torch.tensor(2.0, requires_grad=True)
    y = ours.pact(x, alpha, 4)
    dx, dalpha = torch.autograd.grad(y.sum(), (x, alpha))
    assert torch.equal(dx, ((x >= 0) & (x < 2)).float())
    assert dalpha == (x >= 2).sum()
    clipped = 0.5 * (x.abs() - (x - alpha).abs() + alpha)  # the paper's form of the clip
    torch.testing.assert_close(y, torch.round(clipped * 7.5) / 7.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 63, 4095, 4096, 4097, 70001])
def test_sizes(size: int, dtype: Any) -> None:
    x = torch.from_numpy(some_numbers(size + 1, dtype=np.float64)).to(dtype)[1:].requires_grad_()
    point, scale = torch.tensor(2.0, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    dy = torch.from_numpy(some_numbers(size, dtype=np.float64, seed=1)).to(dtype)
    for parameter, step in ((point, 0.25), (scale, scale.item())):
        y = ours.round_fixed(x, 4, point) if parameter is point else ours.lsq(x, scale, 4)
        dx, dparameter = torch.autograd.grad(y, (x, parameter), dy)
        v = (x.detach().float() if dtype == torch.float32 else x.detach()) / step
        inside = (v.round() >= -8) & (v.round() <= 7)
        assert torch.equal(dx, torch.where(inside, dy, 0))
        terms = dy.double() * (y.double() - torch.where(inside, x, 0).double()).detach()
        factor = -math.log(2) if parameter is point else 1 / step
        wanted = factor * terms.sum().item()
        assert dparameter.item() == pytest.approx(wanted, abs=abs(factor) * 1e-6 * terms.abs().sum().item())


# --- dtypes, layouts, missing derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype: Any) -> None:
    x = torch.full((5000,), 0.3, dtype=dtype).requires_grad_()
    point = torch.tensor(1.0, requires_grad=True)
    y = ours.round_fixed(x, 8, point)
    dx, dpoint = torch.autograd.grad(y.sum(), (x, point))
    assert dx.dtype == dtype and dpoint.dtype == torch.float32
    error = 5000 * (x[0].item() - 0.5)
    assert dpoint.item() == pytest.approx(math.log(2) * error, rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = LAYOUTS[layout](torch.from_numpy(some_numbers(6, 5, 40))).detach().requires_grad_()
    dy = LAYOUTS[layout](torch.from_numpy(some_numbers(6, 5, 40, seed=5)))
    point = torch.tensor(2.0, requires_grad=True)
    dx, dpoint = torch.autograd.grad(ours.round_fixed(x, 6, point), (x, point), dy)
    plain = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    other = torch.autograd.grad(ours.round_fixed(plain, 6, point), (plain, point), dy.contiguous())
    assert torch.equal(dx, other[0]) and torch.equal(dpoint, other[1])


@pytest.mark.parametrize("fmt", FORMATS)
def test_empty_tensors(fmt: str) -> None:
    x = torch.zeros(3, 0, requires_grad=True)
    y = ours.quantize(x, fmt, **FORMATS[fmt])
    assert torch.autograd.grad(y.sum(), x)[0].shape == (3, 0)


@pytest.mark.parametrize("name", ["quantize", "round_fixed", "lsq", "pact", "quantize_gradient"])
def test_differentiating_twice_is_refused(name: str) -> None:
    x = torch.rand(5, requires_grad=True)
    number = torch.tensor(1.0, requires_grad=True)
    y = {
        "quantize": lambda: ours.quantize(x, "int8", scale=number),
        "round_fixed": lambda: ours.round_fixed(x, 8, number),
        "lsq": lambda: ours.lsq(x, number, 8),
        "pact": lambda: ours.pact(x, number, 8),
        "quantize_gradient": lambda: ours.quantize_gradient(x, "e5m2"),
    }[name]()
    (dx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"^{name}: .* cannot be differentiated twice"):
        dx.sum().backward()


def test_gradients_do_not_depend_on_which_others_are_required() -> None:
    x, point = torch.rand(50, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    both = torch.autograd.grad(ours.round_fixed(x, 4, point).sum(), (x, point))
    (dx,) = torch.autograd.grad(ours.round_fixed(x, 4, point.detach()).sum(), x)
    (dpoint,) = torch.autograd.grad(ours.round_fixed(x.detach(), 4, point).sum(), point)
    assert torch.equal(dx, both[0]) and torch.equal(dpoint, both[1])
