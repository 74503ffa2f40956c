"""The private ops of the diagonal cells under torch's own checks, torch.compile, torch.export, and under autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from tests.newton.calls import GATES, STATES, every_cell, para_inputs  # noqa: E402
from tests.newton.torch_calls import Leaves, leaves, numpy, run  # noqa: E402
from tests.rnn.calls import both_ways, full_and_ragged, some_lengths  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

OPS = torch.ops.fastiter
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
LAYOUTS = {
    "batch-major": lambda wx: wx,
    "time-major": lambda wx: wx.transpose(0, 1).contiguous().transpose(0, 1),
    "units not side by side": lambda wx: wx.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda wx: wx[:1].expand(wx.shape),
}


def opcheck(op: Any, *arguments: Any) -> None:
    torch.library.opcheck(op.default, arguments, test_utils=CHECKS)


def forward_arguments(cell: str, given: Leaves, newton: tuple[Any, ...], lengths: Any = None) -> tuple[Any, ...]:
    a, p = (*given.weights, None)[:2]
    return cell, given.wx, a, p, list(given.state), lengths is not None, lengths, *newton


NEWTON = ((0, 0, 0.0, 0.0), (3, 8, 1e-6, 1e-6))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_opcheck(cell: str, layout: str) -> None:
    sizes = itertools.product(((3, 4), (1, 4), (3, 1), (0, 2)), NEWTON)
    for ((B, T), newton), save in zip(sizes, itertools.cycle((False, True, True)), strict=False):
        given = leaves(para_inputs(cell, B, T, 5, np.float32)).detached()
        given = given._replace(wx=LAYOUTS[layout](given.wx))
        lengths = torch.tensor(some_lengths(B, T)) if save else None
        arguments = forward_arguments(cell, given, newton, lengths)
        opcheck(OPS._para_fwd, *arguments, save)
        h, last, *rest = OPS._para_fwd(*arguments, True)
        rest = rest[newton[0] > 0 :]
        dh, dlast = (torch.ones_like(h), None) if save else (None, last)
        opcheck(OPS._para_bwd, *arguments[:5], [h, *rest], dh, dlast, save, lengths, not save, newton[0] > 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_fake_outputs_have_the_strides_of_real_ones(cell: str, layout: str) -> None:
    """Code generated for the fake outputs runs on the real ones."""

    def strides(given: Leaves) -> list[Any]:
        arguments = forward_arguments(cell, given, NEWTON[0])
        h, last, *rest = OPS._para_fwd(*arguments, True)
        gradients = OPS._para_bwd(*arguments[:5], [h, *rest], torch.ones_like(h), last, False, None, True, False)
        return [x.stride() for x in (h, last, *rest, *gradients)]

    for B, T in ((3, 4), (1, 4), (3, 1)):
        given = leaves(para_inputs(cell, B, T, 5, np.float32)).detached()
        given = given._replace(wx=LAYOUTS[layout](given.wx))
        with torch._subclasses.FakeTensorMode() as mode:
            fake = strides(given.replaced([mode.from_tensor(x) for x in given.all()]))
        assert fake == strides(given)


# --- torch.compile and torch.export ----------------------------------------------------------------------------------


def compiled(function: Any, dynamic: bool | None = None) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)


def with_gradients(function: Any, given: list[Leaves]) -> list[Any]:
    outputs, every = function(given), [x for one in given for x in one.all()]
    return [*outputs, *torch.autograd.grad(outputs, every, [y.detach() for y in outputs])]


def assert_equal(actual: list[Any], expected: list[Any]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_compile() -> None:
    """Graphs of every cell, each by both methods, in both layouts by one of them."""
    for time_major in (False, True):
        calls = [(cell, ("auto", "newton")[(k + time_major) % 2]) for k, cell in enumerate(GATES)]

        def layer(each: list[Leaves], calls: Any = calls) -> list[Any]:
            outputs = []
            for (cell, method), given in zip(calls, each, strict=True):
                h, last = run(cell, given, reverse=True, method=method)
                outputs += [h, *last]
            return outputs

        fast = compiled(layer)
        given = [leaves(para_inputs(cell, 3, 5, 5, np.float32), time_major) for cell, _ in calls]
        assert_equal(with_gradients(fast, given), with_gradients(layer, given))
    with torch.no_grad():
        assert_equal(fast(given), layer(given))


def test_compile_around_it_with_lengths_and_any_sizes() -> None:
    def model(wx: Any, a: Any, lengths: Any) -> Any:
        h, (last,) = fastiter.torch.paragru(torch.tanh(wx), a, lengths=lengths)
        return h.sum((1, 2)) * last.sum(1)

    fast = compiled(model, dynamic=True)
    for B, T in ((3, 5), (4, 7), (2, 6)):
        given = leaves(para_inputs("paragru", B, T, 5, np.float64))
        lengths, results = torch.tensor(some_lengths(B, T)), []
        for function in (fast, model):
            y = function(given.wx, given.weights[0], lengths)
            results.append([y, *torch.autograd.grad(y.sum(), (given.wx, *given.weights))])
        assert_equal(*results)


def test_lengths_are_checked_when_compiled_code_runs() -> None:
    fast = compiled(lambda wx, a, lengths: fastiter.torch.paragru(wx, a, lengths=lengths)[0])
    given = leaves(para_inputs("paragru", 3, 5, 5, np.float64)).detached()
    fast(given.wx, *given.weights, torch.tensor([5, 0, 2]))
    for wrong in ([6, 0, 2], [5, -1, 2]):
        with pytest.raises(ValueError, match=r"paragru: lengths must be from 0 to T = 5, got (6|-1)"):
            fast(given.wx, *given.weights, torch.tensor(wrong))


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.p = (torch.nn.Parameter(torch.rand(G, 5)) for G in (3, 2))

    def forward(self, wx: Any, lengths: Any) -> Any:
        h, (last, c) = fastiter.torch.paralstm(wx, self.a, self.p, lengths=lengths)
        return h, last, c


def test_export_with_any_batch_and_time() -> None:
    layer = Layer()
    sizes = {0: torch.export.Dim("B", min=1), 1: torch.export.Dim("T", min=1)}
    example = (torch.randn(3, 6, 3, 5), torch.tensor([6, 1, 3]))
    program = torch.export.export(layer, example, dynamic_shapes=(sizes, {0: sizes[0]}))
    for B, T in ((3, 6), (5, 2)):
        given = (torch.randn(B, T, 3, 5), torch.tensor(some_lengths(B, T)))
        assert_equal(list(program.module()(*given)), list(layer(*given)))


@full_and_ragged
@both_ways
@every_cell
def test_torch_modes_see_the_op(cell: str, reverse: bool, ragged: bool) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    given, how = leaves(para_inputs(cell, 3, 4, 5, np.float32)), {"lengths": [4, 0, 2] if ragged else None}
    expected, _ = run(cell, given, reverse=reverse, **how)
    with Watch():
        h, _ = run(cell, given, reverse=reverse, **how)
        h.sum().backward()
    assert torch.equal(h, expected)
    assert {"fastiter._para_fwd.default", "fastiter._para_bwd.default"} <= set(seen)


def test_tensors_without_data_have_only_shapes() -> None:
    """A kernel that reads from such a tensor ends the process with a segmentation fault."""
    make = partial(torch.empty, device="meta")
    for cell, G in GATES.items():
        for grad, method in ((False, "auto"), (True, "auto"), (True, "newton")):
            weights = (make(G, 5), make(2, 5)) if cell == "paralstm" else (make(G, 5),)
            wx = make(3, 4, G, 5).requires_grad_(grad)
            h, last = getattr(fastiter.torch, cell)(wx, *weights, method=method)
            assert h.shape == (3, 4, 5) and h.is_meta
            assert last[-1].shape == (3, 5)
            if grad:
                h.sum().backward()
                assert wx.grad.shape == wx.shape


# --- autograd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cotangent", ["constant", "variable"])
@every_cell
def test_double_backward_is_refused(cell: str, cotangent: str) -> None:
    given = leaves(para_inputs(cell, 2, 3, 2, np.float64))
    h, *_ = run(cell, given)
    loss = h.sum() if cotangent == "constant" else h.square().sum()
    for g in torch.autograd.grad(loss, given.all(), create_graph=True):
        with pytest.raises(RuntimeError, match=r"twice"):
            torch.autograd.grad(loss + g.square().sum(), given.all(), retain_graph=True)


def test_forward_mode_is_refused() -> None:
    given = leaves(para_inputs("paragru", 2, 3, 4, np.float64)).detached()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(given.wx, given.wx)
        with pytest.raises((RuntimeError, NotImplementedError)):
            fastiter.torch.paragru(dual, *given.weights)


CHANGES: dict[str, Callable[[Leaves, Any], None]] = {
    "wx": lambda given, _: given.wx.mul_(3),
    "a": lambda given, _: given.weights[0].mul_(3),
    "p or a": lambda given, _: given.weights[-1].mul_(3),
    "state": lambda given, _: given.state[0].mul_(3),
    "last state": lambda given, _: given.state[-1].mul_(3),
    "h": lambda _, outputs: outputs[1].mul_(3),
    "final state": lambda _, outputs: outputs[2][-1].detach().mul_(3),
    "lengths": lambda _, outputs: outputs[0].fill_(2),
}


@pytest.mark.parametrize("what", CHANGES)
@every_cell
def test_a_change_between_forward_and_backward_is_harmless_or_an_error(cell: str, what: str) -> None:
    given, lengths = leaves(para_inputs(cell, 3, 4, 5, np.float64)), torch.tensor([4, 1, 3])
    h, last = run(cell, given, lengths=lengths)
    total = h.sum() + sum((k + 2) * s.sum() for k, s in enumerate(last))
    expected = torch.autograd.grad(total, given.all(), retain_graph=True)
    message, gradients = "", expected
    try:
        with torch.no_grad():
            CHANGES[what](given, (lengths, h, last))
        gradients = torch.autograd.grad(total, given.all())
    except RuntimeError as error:
        message = str(error)
    assert message == "" or "modified by an inplace operation" in message or "modified inplace" in message
    assert_equal(list(gradients), list(expected))


@every_cell
def test_inputs_and_cotangents_are_not_modified(cell: str) -> None:
    given, lengths = leaves(para_inputs(cell, 3, 5, 17, np.float32)), torch.tensor([5, 0, 3])
    h, last = run(cell, given, lengths=lengths)
    outputs = [h, *last]
    cotangents = [torch.randn_like(y) for y in outputs]
    arguments = [*given.all(), lengths, *outputs, *cotangents]
    before = [(x.detach().clone(), x._version) for x in arguments]
    torch.autograd.grad(outputs, given.all(), cotangents)
    for x, (values, version) in zip(arguments, before, strict=True):
        assert_same_bits(numpy(x), numpy(values))
        assert x._version == version
    storages = [{y.untyped_storage().data_ptr() for y in some} for some in (given.all(), outputs)]
    assert not storages[0] & storages[1]


@every_cell
def test_final_states_may_be_changed_and_detached_in_place(cell: str) -> None:
    given = leaves(para_inputs(cell, 3, 4, 5, np.float64))
    _, last = run(cell, given)
    expected = torch.autograd.grad(sum((k + 2) * s.sum() for k, s in enumerate(last)), given.all())
    _, last = run(cell, given)
    for k, s in enumerate(last):
        s.mul_(k + 2)
    for g, e in zip(torch.autograd.grad(sum(s.sum() for s in last), given.all()), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-13)
    h, last = run(cell, given)
    assert [s.detach_().requires_grad for s in last] == [False] * len(STATES[cell])
    assert h.requires_grad


@every_cell
def test_every_element_is_written(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(given: Leaves, **how: Any) -> Any:
        h, last = run(cell, given, **how)
        outputs = [h, *last]
        return numpy(outputs), numpy(torch.autograd.grad(outputs, given.all(), [y.detach() for y in outputs]))

    def fill(on: bool) -> None:
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", on)
        torch.use_deterministic_algorithms(on)

    for (B, T, D), method in itertools.product(((3, 5, 17), (2, 0, 3), (1, 4, 1)), ("sequential", "newton")):
        for lengths, time_major in itertools.product((None, some_lengths(B, T), [0] * B), (False, True)):
            given, how = (
                leaves(para_inputs(cell, B, T, D, np.float32), time_major),
                {"lengths": lengths, "method": method},
            )
            expected = gradients(given, **how)
            try:
                fill(True)
                assert torch.empty(3).isnan().all()
                assert_same_bits(gradients(given, **how), expected)
            finally:
                fill(False)


@every_cell
def test_checkpoints_and_saved_tensor_hooks(cell: str) -> None:
    from torch.utils.checkpoint import checkpoint

    def gradients(function: Callable[..., Any]) -> Any:
        given = leaves(para_inputs(cell, 3, 4, 5, np.float64))
        last = function(*given.all())
        sum((k + 2) * s.sum() for k, s in enumerate(last)).backward()
        return numpy([x.grad for x in given.all()])

    count = len(leaves(para_inputs(cell, 1, 1, 1, np.float64)).weights)

    def final_states(wx: Any, *others: Any) -> Any:
        return run(cell, Leaves(wx, others[:count], others[count:]))[1]

    expected = gradients(final_states)
    for reentrant in (False, True):
        assert_same_bits(gradients(lambda *x, r=reentrant: checkpoint(final_states, *x, use_reentrant=r)), expected)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        assert_same_bits(gradients(final_states), expected)
