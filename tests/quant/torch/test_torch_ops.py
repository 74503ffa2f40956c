"""The rounding ops under torch's own checks, torch.compile, torch.export, and on tensors without data."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter import quant as formats  # noqa: E402
from fastiter.torch import quant as ours  # noqa: E402
from tests.quant.torch.torch_cases import FORMATS, LAYOUTS, some_numbers  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

OPS = torch.ops.fastiter


def numbers(*shape: int) -> Any:
    return torch.from_numpy(some_numbers(*shape))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded"])
@pytest.mark.parametrize("fmt", ["fixed<6,2,STOCHASTIC,SAT>", "int8", "mxfp4_e2m1<8>", "nf4", "e4m3fn"])
def test_opcheck(fmt: str, layout: str) -> None:
    seed = torch.tensor(3)
    for dtype in (torch.float32, torch.bfloat16):
        x = LAYOUTS[layout](numbers(4, 6, 20)).to(dtype)
        scale = torch.rand(4, 1, 5) + 0.1 if fmt in ("int8", "e4m3fn") else None
        opcheck(OPS._quantize, x, fmt, scale, None, 1, seed, "quantize", True, None)
        opcheck(OPS._quant_encode, x, fmt, scale, None, 1, seed, True, None)
        y = ours.quantize(x, fmt, axis=1, scale=scale, rng=seed)
        opcheck(OPS._quantize_bwd, y, x, y, fmt, scale, None, True, scale is not None)


def test_opcheck_of_zero_points_codes_and_points() -> None:
    x, zero = numbers(4, 6), torch.tensor([[1], [2], [0], [9]])
    scale = torch.rand(4, 1) + 0.1
    opcheck(OPS._quantize, x, "uint4", scale, zero, -1, None, "quantize", False, 1.0)
    opcheck(OPS._quantize_bwd, x, x, x, "uint4", scale, zero, True, True)
    for fmt in ("int5", "nf4", "mxfp8_e4m3", "posit<16,1>"):
        made = ours.encode(x, fmt)
        codes, scales = made if isinstance(made, tuple) else (made, None)
        opcheck(OPS._quant_decode, codes, scales, fmt, None, None, torch.float32)
    opcheck(OPS._quant_step, torch.rand(3, 1), "round_fixed")
    opcheck(OPS._quant_seed, torch.tensor(4), 3, True)


def outcome(function: Any, *given: Any) -> list[Any]:
    """Return the results, and the gradients of all inputs that have one."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [*outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), leaves)]


A_FORMAT = formats.Fixed(6, 3, rounding="RND", overflow="SAT")  # created outside the compiled function
FUNCTIONS: dict[str, Any] = {
    "quantize": lambda x, s: ours.quantize(torch.tanh(x) * 9, "e4m3fn", scale=s.abs()) * 2,
    "quantize a format": lambda x, s: ours.quantize(x * s, A_FORMAT),
    "quantize by amax": lambda x, s: ours.quantize(x * s, "int8", scale="amax"),
    "quantize blocks": lambda x, s: ours.quantize(x * s, "mxfp4_e2m1", axis=0),
    "quantize at random": lambda x, s: ours.quantize(x * s, "int8<STOCHASTIC>", scale=0.1, rng=3),
    "round_fixed": lambda x, s: ours.round_fixed(x + 1, 5, s + 2, rounding="TRN"),
    "lsq": lambda x, s: ours.lsq(x * 2, s, 4, gradient_scale=0.5),
    "pact": lambda x, s: ours.pact(x * 2, s, 4),
    "quantize_gradient": lambda x, s: ours.quantize_gradient(x * s, "e5m2<STOCHASTIC>", rng=4) * 3,
}


def test_compile() -> None:
    """A graph of all functions, each of its own arguments."""

    def every(*given: Any) -> tuple[Any, ...]:
        return tuple(f(x, s) for f, x, s in zip(FUNCTIONS.values(), given[::2], given[1::2], strict=True))

    given = (numbers(6, 40), torch.tensor(0.37)) * len(FUNCTIONS)
    fast = compiled(every)
    assert_equal(outcome(fast, *given), outcome(every, *given))
    with torch.no_grad():
        assert_equal(list(fast(*given)), list(every(*given)))


def test_compile_with_any_sizes() -> None:
    def layer(x: Any, point: Any) -> Any:
        return ours.quantize(ours.round_fixed(x * 2, 6, point), "mxfp8_e4m3").sum(0)

    fast = compiled(layer, dynamic=True)
    for shape in ((3, 5), (4, 70), (2, 33)):
        assert_equal(
            outcome(fast, numbers(*shape), torch.tensor(2.2)), outcome(layer, numbers(*shape), torch.tensor(2.2))
        )


def test_compile_of_codes() -> None:
    for fmt in ("int5", "nf4", "mxfp4_e2m1"):

        def round_trip(x: Any, fmt: str = fmt) -> Any:
            return ours.decode(ours.encode(x + 1, fmt), fmt) * 2

        assert_equal([compiled(round_trip)(numbers(3, 70))], [round_trip(numbers(3, 70))])


def test_values_are_checked_at_run_time() -> None:
    fast = compiled(lambda x, point: ours.round_fixed(x, 5, point))
    fast(numbers(3), torch.tensor(2.0))
    with pytest.raises(ValueError, match="round_fixed: point must be from -126 to 126, got nan"):
        fast(numbers(3), torch.tensor(float("nan")))
    other = compiled(lambda x: ours.quantize(x, "int8"))
    with pytest.raises(ValueError, match="quantize: x contains NaN, which int8 cannot represent; pass nan="):
        other(torch.tensor([1.0, float("nan")]))


class Layer(torch.nn.Module):
    def forward(self, x: Any, point: Any) -> Any:
        y = ours.quantize(ours.round_fixed(x, 6, point), "mxfp8_e4m3")
        return y, ours.encode(y, "int8", scale=0.25), ours.quantize(y, "int8<STOCHASTIC>", rng=5)


def test_export_with_any_sizes() -> None:
    sizes = {0: torch.export.Dim("B", min=1), 1: torch.export.Dim("N", min=2)}
    given = (numbers(3, 40), torch.tensor(2.3))
    program = torch.export.export(Layer(), given, dynamic_shapes=(sizes, None))
    for shape in ((3, 40), (5, 7), (2, 90)):
        x = (numbers(*shape), torch.tensor(1.0))
        assert_equal(list(program.module()(*x)), list(Layer()(*x)))


def check_shapes(make: Any, device: str) -> None:
    for fmt, how in (("int8", {}), ("mxfp4_e2m1", {"axis": 0}), ("e4m3fn", {"scale": make(3, 1)}), ("nf4", {})):
        x = make(3, 70).requires_grad_()
        y = ours.quantize(x, fmt, **how)
        assert y.shape == (3, 70) and y.device.type == device and type(y) is type(make(1)), (type(y), y.shape)
        y.sum().backward()
        assert x.grad.shape == (3, 70)
        codes = ours.encode(x, fmt, **how)
        ours.decode(codes, fmt)
    point = make().requires_grad_()
    ours.round_fixed(make(3, 70), 5, point).sum().backward()
    assert point.grad.shape == ()


def test_tensors_without_data_have_only_shapes() -> None:
    """A kernel that reads from such a tensor ends the process with a segmentation fault."""
    check_shapes(lambda *shape: torch.empty(shape, device="meta"), "meta")
    mode = FakeTensorMode()
    with mode:
        check_shapes(lambda *shape: torch.empty(shape), "cpu")


@pytest.mark.parametrize("fmt", FORMATS)
def test_results_do_not_depend_on_threads(fmt: str) -> None:
    x = numbers(40, 4000).requires_grad_()
    results = []
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        y = ours.quantize(x, fmt, **FORMATS[fmt])
        results.append([y, *torch.autograd.grad(y.square().sum(), x)])
        point = torch.tensor(2.0, requires_grad=True)
        results[-1] += torch.autograd.grad(ours.round_fixed(x, 4, point).sum(), point)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
