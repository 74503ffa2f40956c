"""Every option that changes a gradient, against finite differences of the surrogate in docs/quant/training_theory.md.

With v = x / s, r the rounded v and q the number of the format for r, y = q s is differentiated as if

- r - v were a constant if r is in the format's range, or has wrapped and ste="pass";
- q were a constant otherwise. With "pass", dy/dx is 1 nevertheless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter import quant  # noqa: E402
from fastiter.quant import Fixed, Int, SumOfPowers  # noqa: E402
from fastiter.torch import nn  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.gpu import Gpu  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "STOCHASTIC")
OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")
SHAPES = ((), (3, 1), (1, 4))
every_ste = pytest.mark.parametrize("ste", ["clip", "pass"])
H = 2.0**-17

Run = Callable[[Callable[[], Any]], Any]


def on_cpu(call: Callable[[], Any]) -> Any:
    return call()


@pytest.fixture(params=["cpu", "triton"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run an operation on the CPU kernels, or on the GPU kernels in the interpreter."""
    if request.param == "cpu":
        return on_cpu
    pytest.importorskip("triton")
    return Gpu("cpu").run


def shared(run: Run, items: Iterable[Any], second: bool) -> list[tuple[int, Any]]:
    """Number the items. In the interpreter, whose bits are the CPU's in other tests, take half: the first or second."""
    return [(k, item) for k, item in enumerate(items) if run is on_cpu or (k // 2 + second) % 2 == 0]


def numbers(fmt: Any, scale: Any, zero: Any = 0) -> Any:
    """Return 3 x 20 numbers without ties: in range, around both ends, and up to four times beyond."""
    low, high, step = quant.range_of(fmt)
    near = np.array([-3.3, -1.4, -0.6, -0.3, 0.2, 0.4, 0.7, 1.6, 2.7]) * (step if step == step else 0.1)
    spread = np.linspace(-4.05, 3.97, 33) * max(abs(low), abs(high))
    v = np.concatenate([low + near, high + near, near[:9], spread]).reshape(3, 20) - zero
    return torch.from_numpy(v) * scale


def spread_over(parameter: Any, shape: tuple[int, int]) -> Any:
    """Expand a scale or a zero point to one value for each element."""
    for axis, size in enumerate(shape if parameter.dim() else ()):
        parameter = parameter.repeat_interleave(size // parameter.shape[axis], axis)
    return parameter.expand(shape)


def is_inside(v: Any, fmt: Any, zero: Any) -> Any:
    """Return whether each number is in range once rounded, tested one by one."""
    if fmt.stochastic:
        low, high, _ = quant.range_of(fmt)
        return (v >= low - zero) & (v <= high - zero)
    found = []
    for each, z in zip(v.flatten().tolist(), zero.flatten().tolist(), strict=True):
        how = {"zero_point": int(z)} if isinstance(fmt, Int) else {}
        found.append(quant.quantize(np.array([each]), fmt, counts=True, **how)[1].overflow == 0)
    return torch.tensor(found).view(v.shape)


def check(
    y: Any, x: Any, parameter: Any, fmt: Any, ste: str, *, is_point: bool = False, zero: Any = 0, factor: float = 1.0
) -> None:
    """Assert that dx and the gradient of the scale or binary point are the slopes of the surrogate."""
    dy = torch.linspace(0.5, 2.0, x.numel(), dtype=torch.float64).view(x.shape).cos()
    dx, found = torch.autograd.grad(y, (x, parameter), dy)
    given = parameter.detach().round() if is_point else parameter.detach()
    given, found = (t.unsqueeze(-1) if t.dim() == 1 else t for t in (given, found))  # a module's channels
    zero = spread_over(torch.as_tensor(zero), x.shape)

    def scale_of(p: Any) -> Any:
        return spread_over(torch.exp2(-p) if is_point else p, x.shape)

    x, y, s = x.detach(), y.detach(), scale_of(given)
    v, q = x / s, y / s
    inside = is_inside(v, fmt, zero)
    assert 0.1 < inside.double().mean() < 0.9
    wraps = ste == "pass" and getattr(fmt, "overflow", "").startswith("WRAP") and fmt.saturated_bits < fmt.width
    moves = inside | wraps

    def surrogate(p: Any, x: Any = x) -> Any:
        return scale_of(p) * torch.where(moves, x / scale_of(p) + (q - v), q)

    def slope(way: Any) -> Any:
        return (dy * (surrogate(given + H * way) - surrogate(given - H * way))).sum() / (2 * H)

    ways = [way.view(given.shape) for way in torch.eye(given.numel(), dtype=torch.float64)]
    expected = factor * torch.stack([slope(way) for way in ways]).view(given.shape)
    size = factor * float((dy * q).abs().sum() + (dy * v).abs().sum())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * size)
    in_x = dy * (surrogate(given, x + H) - surrogate(given, x - H)) / (2 * H)
    torch.testing.assert_close(dx, dy if ste == "pass" else in_x, rtol=1e-8, atol=1e-8)


def scales(shape: tuple[int, ...], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.asarray(rng.uniform(0.05, 2.0, shape))).requires_grad_()


def fixed_formats(overflow: str) -> list[Fixed]:
    """Yield all roundings and signs; saturated bits from none to all, each with half of the roundings."""
    signs = (True, False) if overflow != "WRAP_SM" else (True,)
    bits = (0, 1, 2, 5) if overflow.startswith("WRAP") else (0,)
    listed = [(rounding, signed, n) for rounding in ROUNDINGS for signed in signs for n in bits]
    return [Fixed(5, 2, sign, way, overflow, n) for k, (way, sign, n) in enumerate(listed) if n == 0 or k % 3 == 0]


@every_ste
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_scales_of_fixed_point(run: Run, overflow: str, ste: str) -> None:
    for k, fmt in shared(run, fixed_formats(overflow), ste == "pass"):
        scale = scales(SHAPES[k % 3], k)
        x = numbers(fmt, spread_over(scale.detach(), (3, 20))).requires_grad_()
        check(run(lambda: ours.quantize(x, fmt, scale=scale, ste=ste, rng=k)), x, scale, fmt, ste)  # noqa: B023


@every_ste
@pytest.mark.parametrize("overflow", ["SAT", "SAT_SYM"])
def test_scales_of_integers(run: Run, overflow: str, ste: str) -> None:
    for k, rounding in shared(run, ROUNDINGS, ste == "pass"):
        for signed in (True, False):
            fmt, shape = Int(4, signed, rounding, overflow), SHAPES[(k + signed) % 3]
            scale, zero = scales(shape, k), torch.full(shape, 3 - 5 * signed)
            x = numbers(fmt, spread_over(scale.detach(), (3, 20)), int(zero.flatten()[0])).requires_grad_()
            how: dict[str, Any] = {"zero_point": zero, "rng": k}
            y = run(lambda: ours.quantize(x, fmt, scale=scale, ste=ste, **how))  # noqa: B023
            check(y, x, scale, fmt, ste, zero=zero)


FORMATS = ("e2m1", "e4m3fn<RZ>", "e4m3fn<STOCHASTIC>", "e5m2<RD,SAT>", "e3m2<RU>", "e2m3<RA>", "e4m3fnuz<RNA>")
FORMATS += ("posit<6,1>", "table<-1.0 -0.25 0.5 2.0>", "table<-1.0 0.1 0.5,0,STOCHASTIC>", "pow2<-3,2>", "upow2<-3,2>")
FORMATS += ("khot<1,6,2>", "khot<2,6,2,NEAREST>", "ukhot<2,5,1,GREEDY,TRN>", "log2<-3,2,1>", "ulog2<-3,2>")


@every_ste
@pytest.mark.parametrize("text", FORMATS)
def test_scales_of_other_formats(run: Run, text: str, ste: str) -> None:
    fmt = quant.parse(text)
    for shape in SHAPES[:2] if run is on_cpu else (SHAPES[ste == "pass"],):
        scale = scales(shape)
        x = numbers(fmt, spread_over(scale.detach(), (3, 20))).requires_grad_()
        check(run(lambda: ours.quantize(x, fmt, scale=scale, ste=ste, rng=5)), x, scale, fmt, ste)  # noqa: B023


@every_ste
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_binary_points(run: Run, overflow: str, ste: str) -> None:
    for k, rounding in shared(run, ROUNDINGS, ste == "pass"):
        signed = overflow == "WRAP_SM" or k % 2 == 0
        fmt, shape = Fixed(5, 5, signed, rounding, overflow), SHAPES[k % 3]
        point = (torch.arange(math.prod(shape), dtype=torch.float64).view(shape) * 1.3 - 1.2).requires_grad_()
        x = numbers(fmt, spread_over(torch.exp2(-point.detach().round()), (3, 20))).requires_grad_()
        how: dict[str, Any] = {"signed": signed, "rounding": rounding, "overflow": overflow, "rng": k}
        y = run(lambda: ours.round_fixed(x, 5, point, ste=ste, gradient_scale=0.3, **how))  # noqa: B023
        check(y, x, point, fmt, ste, is_point=True, factor=0.3)


@every_ste
@pytest.mark.parametrize("method", ["GREEDY", "NEAREST"])
def test_binary_points_of_sums_of_powers(run: Run, method: str, ste: str) -> None:
    for terms, signed in ((1, True), (2, False), (3, True)):
        fmt = SumOfPowers(terms, 6, 6, signed, method)
        point = torch.tensor(2.2, dtype=torch.float64, requires_grad=True)
        x = numbers(fmt, 0.25).requires_grad_()
        how: dict[str, Any] = {"signed": signed, "terms": terms, "method": method, "ste": ste}
        check(run(lambda: ours.round_fixed(x, 6, point, **how)), x, point, fmt, ste, is_point=True)  # noqa: B023


@pytest.mark.parametrize("overflow", ["SAT", "SAT_SYM"])
def test_steps_of_lsq(run: Run, overflow: str) -> None:
    for k, rounding in shared(run, ROUNDINGS, overflow == "SAT_SYM"):
        fmt, step = Int(4, k % 2 == 0, rounding, overflow), scales(SHAPES[k % 3], k)
        x = numbers(fmt, spread_over(step.detach(), (3, 20))).requires_grad_()
        how: dict[str, Any] = {"signed": fmt.signed, "rounding": rounding, "overflow": overflow, "rng": k}
        y = run(lambda: ours.lsq(x, step, 4, gradient_scale=0.7, **how))  # noqa: B023
        check(y, x, step, fmt, "clip", factor=0.7)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_alpha_of_pact(run: Run, rounding: str) -> None:
    alpha = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-1.0, 4.0, 41, dtype=torch.float64, requires_grad=True)
    dy = torch.linspace(0.5, 2.0, 41, dtype=torch.float64)

    def clip(x: Any, alpha: float) -> Any:
        return dy * x.clamp(0.0, alpha)

    dx, dalpha = torch.autograd.grad(run(lambda: ours.pact(x, alpha, 3, rounding=rounding, rng=1)), (x, alpha), dy)
    plain = x.detach() + 1e-3  # away from the ends, where each side has a different slope
    torch.testing.assert_close(dx, (clip(plain + H, 1.7) - clip(plain - H, 1.7)) / (2 * H), rtol=1e-8, atol=1e-8)
    slope = (clip(x.detach(), 1.7 + H) - clip(x.detach(), 1.7 - H)).sum() / (2 * H)
    torch.testing.assert_close(dalpha, slope, rtol=1e-8, atol=1e-8)


@every_ste
def test_modules(run: Run, ste: str) -> None:
    for k, overflow in enumerate(OVERFLOWS):
        axis = (None, 0)[k % 2]
        channels = None if axis is None else 3
        q = nn.FixedQuantizer(5, overflow=overflow, axis=axis, channels=channels, ste=ste, gradient_scale=0.6).double()
        fmt = Fixed(5, 5, rounding="RND_CONV", overflow=overflow)
        with torch.no_grad():
            q.point.fill_(2.0)
        q._is_initialized = True
        x = numbers(fmt, 0.25).requires_grad_()
        check(run(lambda: q(x)), x, q.point, fmt, ste, is_point=True, factor=0.6)  # noqa: B023
    form = nn.FormatQuantizer("e2m1", 0.4, ste=ste)
    x = numbers(form.fmt, 0.4).requires_grad_()
    (dx,) = torch.autograd.grad(run(lambda: form(x)).sum(), x)
    inside = is_inside(x.detach() / 0.4, form.fmt, torch.zeros(3, 20))
    assert torch.equal(dx, torch.ones_like(dx) if ste == "pass" else inside.double())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_step_of_a_module_may_have_any_sign(run: Run, sign: float) -> None:
    q = nn.LSQQuantizer(4, gradient_scale=1.0).double()
    with torch.no_grad():
        q.step.fill_(0.3 * sign)
    q._is_initialized = True
    x, step = numbers(Int(4), 0.3).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(run(lambda: q(x)).sum(), (x, q.step))
    expected = torch.autograd.grad(run(lambda: ours.lsq(x, step, 4)).sum(), (x, step))
    torch.testing.assert_close(found, (expected[0], sign * expected[1]), rtol=0, atol=0)


# --- cases without a surrogate ----------------------------------------------------------------------------------------


@pairs
@every_ste
@pytest.mark.parametrize(
    "text", ["fixed<6,3,RND,SAT>", "ufixed<6,3,TRN,SAT_ZERO>", "int5", "uint3", "e4m3fn", "posit<6,1>"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_numbers_are_proportional_to_the_scale(run: Run, text: str, ste: str, dtype: Any) -> None:
    """Beyond the range, y is the end of the range times s, so finite differences of y itself give the slope."""
    _, high, _ = quant.range_of(text)
    x = torch.linspace(1.6, 3.0, 20, dtype=dtype) * high * 0.5
    scale = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    (found,) = torch.autograd.grad(run(lambda: ours.quantize(x, text, scale=scale, ste=ste)).sum(), scale)
    ends = [ours.quantize(x.double(), text, scale=0.5 + h).sum().item() for h in (H, -H)]
    assert found.item() == pytest.approx((ends[0] - ends[1]) / (2 * H), rel=1e-6, abs=1e-9)


@every_ste
@pytest.mark.parametrize(
    "made", [lambda ste: nn.FixedQuantizer(8, ste=ste), lambda ste: nn.FixedQuantizer(8, overflow="SAT_SYM", ste=ste)]
)
def test_training_leaves_a_range_that_is_too_small(made: Callable[[str], Any], ste: str) -> None:
    q, x = made(ste), torch.randn(1000)
    q.initialize(x * 0.01)
    optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
    for _ in range(100):
        loss = (q(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
