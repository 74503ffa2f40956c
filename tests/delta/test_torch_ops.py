"""The ops of the delta rule under torch's own checks, torch.compile, torch.export, and tensors that have no data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter.delta._torch.ops import DeltaBackward, backward  # noqa: E402
from tests.delta.calls import delta_inputs, some_bounds, some_resets  # noqa: E402
from tests.delta.test_torch_functional import LAYOUTS  # noqa: E402
from tests.delta.torch_calls import leaves, run, tensor  # noqa: E402
from tests.rnn.calls import some_lengths  # noqa: E402
from tests.rnn.test_torch_ops import assert_equal, compiled, opcheck  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

OPS = torch.ops.fastiter


def tensors(*size: int, dtype: Any = np.float32, **how: Any) -> list[Any]:
    """q, k, v, beta, decay or None, h0"""
    inputs = delta_inputs(*size, dtype, **how)
    return [None if x is None else tensor(x) for x in (*inputs[:4], inputs.decay, inputs.state)]


# --- opcheck ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["time-major", "expanded", "negated"])
@pytest.mark.parametrize(("M", "gated"), [(None, False), (2, True)])
def test_opcheck(M: int | None, gated: bool, layout: str) -> None:
    for (B, T), method, save in (((3, 4), "sequential", True), ((1, 20), "chunk", False), ((0, 2), "sequential", True)):
        q, k, v, beta, decay, h0 = tensors(B, T, 2, 5, 3, M=M, gated=gated)
        q, k, v = (LAYOUTS[layout](x).detach() for x in (q, k, v))
        lengths, flags = torch.tensor(some_lengths(B, T)), tensor(some_resets(B, T))
        forward = (q, k, v, beta, decay, h0 if save else None, method, 8, flags, lengths, None)
        opcheck(OPS._delta_fwd, *forward, save)
        o, last, e, states = OPS._delta_fwd(*forward, True)
        saved, every = (q, k, beta, decay, None, e, states), 0b11111 if gated else 0b01111
        opcheck(OPS._delta_bwd, *saved, LAYOUTS[layout](o), last, method, 8, flags, lengths, None, every | save << 5)
        opcheck(OPS._delta_bwd, *saved, None, last, method, 8, flags, lengths, None, every | 1 << 5)
        opcheck(OPS._delta_bwd, *saved, o, None, method, 8, None, lengths, None, every)


def test_opcheck_of_packed_rows() -> None:
    q, k, v, beta, decay, h0 = tensors(1, 90, 2, 5, 3, rows=4)
    bounds = torch.tensor(some_bounds(4, 90))
    forward = (q, k, v, beta, decay, h0, "auto", 64, None, None, bounds)
    opcheck(OPS._delta_fwd, *forward, True)
    o, last, e, states = OPS._delta_fwd(*forward, True)
    opcheck(OPS._delta_bwd, q, k, beta, decay, h0, e, states, o, last, "auto", 64, None, None, bounds, 0b100101)


# --- gradients in parts of tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [None, 2])
def test_gradients_in_parts_of_tensors(M: int | None) -> None:
    """Some heads of larger tensors have the same bits as separate tensors, whether threads share a head or not."""
    B, T, N = 2, 40, 2
    q, k, v, beta, decay, h0 = tensors(B, T, N, 9, 150, M=M)
    lengths = torch.tensor([T, T - 3])
    _, last, e, states = OPS._delta_fwd(q, k, v, beta, decay, h0, "auto", 64, None, lengths, None, True)
    d_o = torch.randn(B, T, N, 150, generator=torch.Generator().manual_seed(0))
    call = DeltaBackward(q, k, beta, decay, h0, e, states, d_o, last, "auto", 64, None, lengths, None, 0b111111)
    for threads in (1, 2, 5):
        fastiter.set_num_threads(threads)
        expected = backward(call)
        whole = [torch.full((*x.shape[:-2], N + 2, x.shape[-1]), torch.nan) for x in expected[:3]]
        parts = [x[..., 1:-1, :] for x in whole]
        others = [torch.empty_like(x) for x in expected[3:]]
        for x, y in zip(backward(call, [*parts, *others]), expected, strict=True):
            assert torch.equal(x, y)
        assert all(x[..., [0, -1], :].isnan().all() for x in whole)


# --- torch.compile ---------------------------------------------------------------------------------------------------


def with_gradients(function: Any, given: list[Any], **how: Any) -> list[Any]:
    outputs = function(given, **how)
    return [*outputs, *torch.autograd.grad(outputs, given, [y.detach() for y in outputs])]


@pytest.mark.parametrize(("method", "chunk", "M"), [("sequential", 64, None), ("chunk", 16, 2)])
def test_compile(method: Any, chunk: int, M: int | None) -> None:
    def layer(given: list[Any]) -> Any:
        return fastiter.torch.delta_scan(*given[:5], decay=given[5], method=method, chunk=chunk)

    fast = compiled(layer)
    given = leaves(delta_inputs(2, 20, 2, 5, 3, np.float32, M=M))
    assert_equal(with_gradients(fast, given), with_gradients(layer, given))
    with torch.no_grad():
        assert_equal(list(fast(given)), list(layer(given)))


def test_compile_with_rows_and_any_sizes() -> None:
    def model(given: list[Any], lengths: Any, flags: Any) -> Any:
        o, last = fastiter.torch.delta_scan(
            torch.tanh(given[0]), *given[1:5], decay=given[5], lengths=lengths, reset=flags
        )
        return o.sum((1, 3)) * last.sum((2, 3))

    fast = compiled(model, dynamic=True)
    for B, T, M in ((3, 5, 2), (4, 70, 3), (2, 6, 2)):
        given = leaves(delta_inputs(B, T, 2, 5, 3, M=M))
        lengths, flags = torch.tensor(some_lengths(B, T)), tensor(some_resets(B, T))
        results = []
        for function in (fast, model):
            y = function(given, lengths, flags)
            results.append([y, *torch.autograd.grad(y.sum(), given)])
        assert_equal(*results)


def test_compile_with_packed_rows_whose_bounds_are_checked_when_it_runs() -> None:
    def packed(given: list[Any], bounds: Any) -> Any:
        return fastiter.torch.delta_scan(*given[:5], decay=given[5], cu_seqlens=bounds)

    fast = compiled(packed)
    given, bounds = leaves(delta_inputs(1, 40, 2, 5, 3, rows=3)), torch.tensor(some_bounds(3, 40))
    assert_equal(with_gradients(fast, given, bounds=bounds), with_gradients(packed, given, bounds=bounds))
    for wrong in ([0, 5, 4, 40], [1, 5, 6, 40], [0, 5, 6, 41]):
        with pytest.raises(ValueError, match="delta_scan: cu_seqlens must rise from 0 to T = 40, got"):
            fast(given, torch.tensor(wrong))
    ragged = compiled(lambda given, lengths: fastiter.torch.delta_scan(*given[:4], lengths=lengths))
    with pytest.raises(ValueError, match="delta_scan: lengths must be from 0 to T = 40, got 41"):
        ragged(given, torch.tensor([41]))


# --- torch.export ----------------------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    def forward(self, q: Any, k: Any, v: Any, beta: Any, lengths: Any) -> Any:
        return fastiter.torch.delta_scan(q, k, v, beta, lengths=lengths)


def test_export_with_any_batch_and_time() -> None:
    sizes = {0: torch.export.Dim("B", min=1), 1: torch.export.Dim("T", min=1)}

    def given(B: int, T: int) -> tuple[Any, ...]:
        return (*tensors(B, T, 2, 5, 3)[:4], torch.tensor(some_lengths(B, T)))

    dynamic = (sizes, sizes, sizes, sizes, {0: sizes[0]})
    program = torch.export.export(Layer(), given(3, 6), dynamic_shapes=dynamic)
    for B, T in ((3, 6), (5, 2), (2, 70)):
        x = given(B, T)
        assert_equal(list(program.module()(*x)), list(Layer()(*x)))


# --- tensors without data, and modes ---------------------------------------------------------------------------------


def check_shapes(make: Any, device: str) -> None:
    for factors in ((), (2,)):
        for grad in (False, True):
            steps = (3, 70, *factors, 2)
            k = make(*steps, 5).requires_grad_(grad)
            o, last = fastiter.torch.delta_scan(make(3, 70, 2, 5), k, make(*steps, 4), make(*steps))
            for y, shape in ((o, (3, 70, 2, 4)), (last, (3, 2, 5, 4))):
                assert y.shape == shape and y.device.type == device and type(y) is type(make(1)), (type(y), y.shape)
            if grad:
                o.sum().backward()
                assert k.grad.shape == k.shape


def test_tensors_without_data_have_only_shapes() -> None:
    """A kernel that reads from such a tensor ends the process with a segmentation fault."""
    check_shapes(lambda *shape: torch.empty(shape, device="meta"), "meta")
    mode = FakeTensorMode()
    with mode:
        check_shapes(lambda *shape: torch.empty(shape), "cpu")
    check_shapes(lambda *shape: mode.from_tensor(torch.empty(shape)), "cpu")


def test_torch_modes_see_the_ops() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    given = leaves(delta_inputs(2, 9, 2, 5, 3))
    expected, _ = run(given)
    with Watch():
        o, _ = run(given)
        o.sum().backward()
    assert torch.equal(o, expected)
    assert {"fastiter._delta_fwd.default", "fastiter._delta_bwd.default"} <= set(seen)
