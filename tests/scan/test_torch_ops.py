"""The private ops of the scans under torch's own checks, torch.compile, torch.export, and tensors that have no data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.scan._torch.ops import OPS, ScanForward, forward_twice  # noqa: E402
from tests.scan.calls import both_kinds, resets, scan_inputs, some_lengths  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

SCANS = {"linear": fastiter.torch.linear_scan, "block": fastiter.torch.block_scan}
SIZES = {"linear": (5,), "block": (2, 3)}
LAYOUTS = {
    "batch-major": lambda y: y,
    "time-major": lambda y: y.transpose(0, 1).contiguous().transpose(0, 1),
    "numbers not side by side": lambda y: y.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda y: y[:1].expand(y.shape),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def test_a_copy_of_the_states_is_written_in_the_same_pass() -> None:
    """Both have equal bits, in parts of larger tensors too: for few and many channels, padded rows, and resets."""
    for width, dtype in itertools.product((3, 40, 100, 3000), (torch.float32, torch.bfloat16, torch.complex64)):
        a, x = torch.randn(2, 2, 90, width, dtype=dtype)
        cut = (bool(width % 3), torch.rand(2, 90) < 0.1, torch.tensor([90, 33]), None)
        call = ScanForward(a, x, None, *cut)
        h, last = OPS["linear_scan"].forward(call)
        pair = torch.full((2, 2, 90, width + 1), torch.nan, dtype=dtype)
        found, copy = pair[..., :-1]
        assert torch.equal(forward_twice(call, found, copy), last)
        assert torch.equal(found, h) and torch.equal(copy, h) and pair[..., -1].isnan().all()


def given(kind: str, B: int = 3, T: int = 5, dtype: Any = np.float32, broadcast: str = "full") -> list[Any]:
    return [torch.from_numpy(y) for y in scan_inputs(kind, B, T, SIZES[kind], dtype, broadcast)]


def op(kind: str, name: str) -> Any:
    return getattr(torch.ops.fastiter, f"_{kind}_scan_{name}").default


@every_layout
@both_kinds
def test_opcheck(kind: str, layout: str) -> None:
    kinds = [(np.float32, "full", 3, 5), (np.complex128, "one row", 3, 1), (np.float64, "constant", 0, 2)]
    at = list(LAYOUTS).index(layout)
    for dtype, broadcast, B, T in kinds[at % 3 :: 3]:
        a, x, h0 = given(kind, B, T, dtype, broadcast)
        x = LAYOUTS[layout](x)
        cut = (True, torch.from_numpy(resets(B, T)), torch.tensor(some_lengths(B, T), dtype=torch.int64), None)
        torch.library.opcheck(op(kind, "fwd"), (a, x, h0, *cut))
        h, last = op(kind, "fwd")(a, x, h0, *cut)
        torch.library.opcheck(op(kind, "bwd"), (a, h, h0, LAYOUTS[layout](h), last, *cut, True, True, True))
        if at % 2:  # fewer arguments and gradients: half of them with each layout
            torch.library.opcheck(op(kind, "fwd"), (a, x, None, False, None, None, None))
            torch.library.opcheck(op(kind, "bwd"), (a, h, h0, h, last, *cut, False, True, False))
            torch.library.opcheck(op(kind, "bwd"), (a, h, None, None, last, *cut, True, True, True))
        else:
            torch.library.opcheck(op(kind, "out"), (a, x, h0, *cut, torch.empty(x.shape, dtype=x.dtype)))
            torch.library.opcheck(op(kind, "bwd"), (a, h, h0, h, last, *cut, True, False, True))
            torch.library.opcheck(op(kind, "bwd"), (a, h, h0, h, None, *cut, True, True, True))


def test_opcheck_of_bfloat16() -> None:
    a, x, h0 = given("linear", broadcast="one step")
    a, x = a.bfloat16(), x.bfloat16()
    cut = (False, None, None, None)
    torch.library.opcheck(op("linear", "fwd"), (a, x, h0, *cut))
    h, last = op("linear", "fwd")(a, x, h0, *cut)
    torch.library.opcheck(op("linear", "bwd"), (a, h, h0, h, last, *cut, True, True, True))


@every_layout
@both_kinds
def test_fake_outputs_have_the_strides_of_real_ones(kind: str, layout: str) -> None:
    """Code generated for the fake outputs runs on the real ones."""

    def strides(a: Any, x: Any, h0: Any) -> list[Any]:
        h, last = op(kind, "fwd")(a, x, h0, False, None, None, None)
        gradients = op(kind, "bwd")(a, h, h0, h, last, False, None, None, None, True, True, True)
        return [y.stride() for y in (h, last, *gradients)]

    for (B, T), broadcast in itertools.product(((3, 4), (1, 4), (3, 1)), ("full", "one row", "one step")):
        tensors = [
            LAYOUTS[layout](y) if y.dim() > 3 - (kind == "linear") else y
            for y in given(kind, B, T, broadcast=broadcast)
        ]
        with torch._subclasses.FakeTensorMode() as mode:
            fake = strides(*map(mode.from_tensor, tensors))
        assert fake == strides(*tensors)


def compiled(function: Any, dynamic: bool | None = None) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)


def test_compile_with_any_sizes() -> None:
    """A graph of both scans: forward and in reverse with gradients, and the other way round without."""

    def model(*tensors: Any) -> Any:
        outputs, (flags, lengths) = [], tensors[-2:]
        for k, kind in enumerate(SCANS):
            a, x, h0 = tensors[3 * k : 3 * k + 3]
            reverse = (kind == "block") == torch.is_grad_enabled()
            h, last = SCANS[kind](torch.tanh(a), x, h0, reset=flags, lengths=lengths, reverse=reverse)
            outputs += [h * 2, last]
        return outputs

    fast = compiled(model, dynamic=True)
    for B, T in ((3, 5), (4, 7), (2, 6)):
        tensors = [y.requires_grad_() for kind in SCANS for y in given(kind, B, T)]
        more = (torch.from_numpy(resets(B, T)), torch.tensor(some_lengths(B, T)))
        results = []
        for function in (fast, model):
            outputs = function(*tensors, *more)
            results.append([*outputs, *torch.autograd.grad(outputs, tensors, [y.detach() for y in outputs])])
        assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))
    with torch.no_grad():
        assert all(torch.equal(p, q) for p, q in zip(fast(*tensors, *more), model(*tensors, *more), strict=True))


@both_kinds
def test_compile_of_packed_rows(kind: str) -> None:
    fast = compiled(lambda a, x, bounds: SCANS[kind](a, x, cu_seqlens=bounds), dynamic=True)
    for T in (5, 8):
        a, x, _ = given(kind, 1, T)
        bounds = torch.tensor([0, 2, T])
        expected = SCANS[kind](a, x, cu_seqlens=bounds)
        assert all(torch.equal(p, q) for p, q in zip(fast(a, x, bounds), expected, strict=True))
        with pytest.raises(ValueError, match=f"{kind}_scan: cu_seqlens must rise from 0 to T = {T}"):
            fast(a, x, torch.tensor([0, 2, T + 1]))


@both_kinds
def test_lengths_are_checked_when_compiled_code_runs(kind: str) -> None:
    fast = compiled(lambda a, x, lengths: SCANS[kind](a, x, lengths=lengths)[0])
    a, x, _ = given(kind)
    fast(a, x, torch.tensor([5, 0, 2]))
    for wrong in ([6, 0, 2], [5, -1, 2]):
        with pytest.raises(ValueError, match=rf"{kind}_scan: lengths must be from 0 to T = 5, got (6|-1)"):
            fast(a, x, torch.tensor(wrong))


@both_kinds
def test_compile_with_out(kind: str) -> None:
    fast = compiled(lambda a, x, out: SCANS[kind](a, x, out=out)[1])
    a, x, _ = given(kind)
    expected, state = SCANS[kind](a, x)
    for out in (torch.zeros_like(x), torch.zeros_like(x).transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(fast(a, x, out), state)
        assert torch.equal(out, expected)


@both_kinds
def test_export_with_any_batch_and_time(kind: str) -> None:
    class Layer(torch.nn.Module):
        def forward(self, a: Any, x: Any, lengths: Any) -> Any:
            return SCANS[kind](a, x, lengths=lengths, reverse=True)

    batch, time = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    a, x, _ = given(kind, 3, 6, broadcast="constant")
    example = (a[0, 0], x, torch.tensor([6, 1, 3]))
    program = torch.export.export(Layer(), example, dynamic_shapes=({}, {0: batch, 1: time}, {0: batch}))
    for B, T in ((3, 6), (5, 2)):
        _, x, _ = given(kind, B, T)
        tensors = (a[0, 0], x, torch.tensor(some_lengths(B, T)))
        assert all(torch.equal(p, q) for p, q in zip(program.module()(*tensors), Layer()(*tensors), strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@both_kinds
def test_trace_is_right_or_refused(kind: str) -> None:
    a, x, _ = given(kind)
    try:
        program = torch.jit.trace(lambda x: SCANS[kind](a, x)[0], x, check_trace=False)
    except RuntimeError:
        return
    for y in (x, x * 2):
        assert torch.equal(program(y), SCANS[kind](a, y)[0])


@both_kinds
def test_torch_modes_see_the_ops(kind: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    tensors = [y.requires_grad_() for y in given(kind)]
    expected, _ = SCANS[kind](*tensors)
    with Watch():
        h, _ = SCANS[kind](*tensors)
        h.sum().backward()
    assert torch.equal(h, expected)
    assert {f"fastiter._{kind}_scan_fwd.default", f"fastiter._{kind}_scan_bwd.default"} <= set(seen)


@both_kinds
def test_gradients_of_torch_func(kind: str) -> None:
    a, x, h0 = given(kind, dtype=np.float64)

    def loss(a: Any, x: Any, h0: Any) -> Any:
        h, last = SCANS[kind](a, x, h0)
        return h.square().sum() + last.sum()

    tensors = [y.clone().requires_grad_() for y in (a, x, h0)]
    expected = torch.autograd.grad(loss(*tensors), tensors)
    for mine, e in zip(torch.func.grad(loss, argnums=(0, 1, 2))(a, x, h0), expected, strict=True):
        torch.testing.assert_close(mine, e, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match=r"forward AD|jvp"):
        torch.func.jvp(lambda x: SCANS[kind](a, x)[0], (x,), (x,))


def shapes_of_calls(make: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    for kind, shape in (("linear", (3, 4, 5)), ("block", (3, 4, 2, 3))):
        scan = getattr(fastiter.torch, f"{kind}_scan")
        for grad in (False, True):
            a, x = make(*shape, *shape[3:]).requires_grad_(grad), make(*shape)
            h, last = scan(a, x, make(shape[0], *shape[2:]))
            yield h, shape
            yield last, (shape[0], *shape[2:])
            if grad:
                h.sum().backward()
                yield a.grad, a.shape


def check_shapes(make: Any, device: str) -> None:
    for y, shape in shapes_of_calls(make):
        assert y.shape == shape and y.device.type == device and type(y) is type(make(1)), (type(y), y.shape, y.device)


def test_tensors_without_data_have_only_shapes() -> None:
    """A kernel that reads from such a tensor ends the process with a segmentation fault."""
    check_shapes(lambda *shape: torch.empty(shape, device="meta"), "meta")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        check_shapes(lambda *shape: torch.empty(shape), "cpu")
    check_shapes(lambda *shape: mode.from_tensor(torch.empty(shape)), "cpu")
