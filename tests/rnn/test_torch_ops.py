"""The private ops under torch's own checks, torch.compile, torch.export, and tensors that have no data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter._torch.linear import linear  # noqa: E402
from tests.rnn.calls import both_ways, every_cell, full_and_ragged, options, some_lengths  # noqa: E402
from tests.rnn.torch_calls import Leaves, leaves, run  # noqa: E402
from tests.support.cases import RNN_CELLS, STATES, rnn_inputs  # noqa: E402

# torch's own warnings: it inspects functions with a deprecated module and loads decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.torch.jit.script")

OPS = torch.ops.fastiter
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def opcheck(op: Any, *arguments: Any) -> None:
    torch.library.opcheck(op.default, arguments, test_utils=CHECKS)


def detached(given: Leaves) -> Leaves:
    wx, r, b, *state = (x.detach() for x in given.all())
    return Leaves(wx, r, b, tuple(state))


LAYOUTS = {
    "batch-major": lambda wx: wx,
    "time-major": lambda wx: wx.transpose(0, 1).contiguous().transpose(0, 1),
    "units not side by side": lambda wx: wx.transpose(-1, -2).contiguous().transpose(-1, -2),
    "expanded": lambda wx: wx[:1].expand(wx.shape),
}


# --- opcheck ---------------------------------------------------------------------------------------------------------


def results(cell: str, outputs: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    """Return h, the final states, and the other outputs of the forward op."""
    count = len(STATES[cell])
    return outputs[0], outputs[1 : 1 + count], outputs[1 + count :]


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_opcheck_of_the_recurrence(cell: str, activation: str, layout: str) -> None:
    name = f"{cell}_{activation}" if activation else cell
    flags = ((False, False), (False, True), (True, False), (True, True))
    for (B, T), (reverse, save) in zip(((3, 4), (1, 4), (3, 1), (0, 2)), flags, strict=True):
        wx, r, b, state = detached(leaves(rnn_inputs(cell, B, T, 2, 5, np.float32)))
        wx = LAYOUTS[layout](wx)
        lengths = torch.tensor(some_lengths(B, T)) if reverse else None
        opcheck(OPS._rnn_fwd, name, wx, r, b if save else None, list(state), reverse, lengths, None, not save, save)
        h, last, kept = results(cell, OPS._rnn_fwd(name, wx, r, b, list(state), reverse, lengths, None, True, True))
        rest = len(STATES[cell]) - 1
        dstates = [torch.ones_like(h), *[None] * rest] if reverse else [torch.ones_like(h)]
        before_and_after = (name, r, list(state), [h, *kept[:rest]], kept[rest:])
        how = (dstates, last if save else [None, *last[1:]], reverse, lengths, None, save, True, not save)
        opcheck(OPS._rnn_bwd, *before_and_after, *how)


@every_cell
def test_opcheck_of_a_packed_recurrence(cell: str, activation: str) -> None:
    name = f"{cell}_{activation}" if activation else cell
    wx, r, b, state = detached(leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float64)))
    rows = torch.nn.utils.rnn.pack_padded_sequence(wx, [4, 3, 1], batch_first=True)
    forward = (name, rows.data, r, b, list(state), False, None, rows.batch_sizes)
    opcheck(OPS._rnn_fwd, *forward, False, False)
    h, last, kept = results(cell, OPS._rnn_fwd(*forward, False, True))
    rest = len(STATES[cell]) - 1
    saved = (name, r, list(state), [h, *kept[:rest]], kept[rest:], [torch.ones_like(h)], last, False, None)
    opcheck(OPS._rnn_bwd, *saved, rows.batch_sizes, True, True, True)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (3,), (0, 3), (2, 0, 3)])
def test_opcheck_of_linear(shape: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(7, 3), torch.randn(7)
    for given in ((x, weight, bias), (x, weight, None), (x, torch.randn(3, 7).t(), torch.randn(14)[::2])):
        opcheck(OPS._linear_fwd, *given)
    for need in itertools.product((False, True), repeat=3):
        opcheck(OPS._linear_bwd, torch.randn(*shape[:-1], 7), x, weight, list(need))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_cell
def test_fake_outputs_have_the_strides_of_real_ones(cell: str, activation: str, layout: str) -> None:
    """Code generated for the fake outputs runs on the real ones."""
    name = f"{cell}_{activation}" if activation else cell
    rest = len(STATES[cell]) - 1

    def strides(wx: Any, r: Any, b: Any, *state: Any) -> list[Any]:
        h, last, kept = results(cell, OPS._rnn_fwd(name, wx, r, b, state, False, None, None, True, True))
        saved = ([h, *kept[:rest]], kept[rest:], [torch.ones_like(h)], last)
        gradients = OPS._rnn_bwd(name, r, state, *saved, False, None, None, True, True, True)
        return [x.stride() for x in (h, *last, *kept, *gradients)]

    for B, T in ((3, 4), (1, 4), (3, 1)):
        wx, *others = detached(leaves(rnn_inputs(cell, B, T, 2, 5, np.float32))).all()
        given = [LAYOUTS[layout](wx), *others]
        with torch._subclasses.FakeTensorMode() as mode:
            fake = strides(*map(mode.from_tensor, given))
        assert fake == strides(*given)


# --- torch.compile ---------------------------------------------------------------------------------------------------


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
    """A graph of all cells."""
    cells = [which for which in RNN_CELLS if which[1] != "relu"]

    def layer(each: list[Leaves]) -> list[Any]:
        outputs = []
        for (cell, activation), given in zip(cells, each, strict=False):
            h, last, states = run(cell, activation, given, reverse=True)
            outputs += [h, *last, *states[1:]]
        return outputs

    fast = compiled(layer)
    for time_major in (False, True):
        given = [leaves(rnn_inputs(cell, 3, 5, 2, 5, np.float32), time_major) for cell, _ in cells]
        assert_equal(with_gradients(fast, given), with_gradients(layer, given))
    with torch.no_grad():
        assert_equal(fast(given[:1]), layer(given[:1]))


def test_compile_around_it_with_lengths_and_any_sizes() -> None:
    def model(wx: Any, r: Any, lengths: Any) -> Any:
        h, (last,) = fastiter.torch.gru(torch.tanh(wx), r, lengths=lengths)
        return h.sum((1, 2)) * last.sum((1, 2))[:, None]

    fast = compiled(model, dynamic=True)
    for B, T in ((3, 5), (4, 7), (2, 6)):
        given = leaves(rnn_inputs("gru", B, T, 2, 5, np.float64))
        lengths = torch.tensor(some_lengths(B, T))
        results = []
        for function in (fast, model):
            y = function(given.wx, given.r, lengths)
            results.append([y, *torch.autograd.grad(y.sum(), (given.wx, given.r))])
        assert_equal(*results)


def test_lengths_are_checked_when_compiled_code_runs() -> None:
    fast = compiled(lambda wx, r, lengths: fastiter.torch.gru(wx, r, lengths=lengths)[0])
    given = detached(leaves(rnn_inputs("gru", 3, 5, 2, 5, np.float64)))
    fast(given.wx, given.r, torch.tensor([5, 0, 2]))
    for wrong in ([6, 0, 2], [5, -1, 2]):
        with pytest.raises(ValueError, match=r"gru: lengths must be from 0 to T = 5, got (6|-1)"):
            fast(given.wx, given.r, torch.tensor(wrong))


def test_compile_of_linear() -> None:
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((2, 5, 3), (7, 3), (7,)))
    results = []
    for function in (compiled(linear), linear):
        y = function(x, weight, bias)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))])
    assert_equal(*results)


# --- torch.export ----------------------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r = torch.nn.Parameter(torch.randn(4, 2, 5, 5) / 3)

    def forward(self, wx: Any, lengths: Any) -> Any:
        h, (last, c) = fastiter.torch.lstm(wx, self.r, lengths=lengths)
        return h, last, c


def test_export() -> None:
    layer, given = Layer(), (torch.randn(3, 6, 4, 2, 5), torch.tensor([6, 1, 3]))
    assert_equal(list(torch.export.export(layer, given).module()(*given)), list(layer(*given)))


def test_export_with_any_batch_and_time() -> None:
    layer = Layer()
    sizes = {0: torch.export.Dim("B", min=1), 1: torch.export.Dim("T", min=1)}
    example = (torch.randn(3, 6, 4, 2, 5), torch.tensor([6, 1, 3]))
    program = torch.export.export(layer, example, dynamic_shapes=(sizes, {0: sizes[0]}))
    for B, T in ((3, 6), (5, 2)):
        given = (torch.randn(B, T, 4, 2, 5), torch.tensor(some_lengths(B, T)))
        assert_equal(list(program.module()(*given)), list(layer(*given)))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
def test_trace_is_right_or_refused() -> None:
    """torch.jit.trace records only calls through torch's dispatcher; others would be missing in the program."""
    given = detached(leaves(rnn_inputs("gru", 3, 5, 2, 5, np.float32)))
    try:
        program = torch.jit.trace(lambda wx: fastiter.torch.gru(wx, given.r)[0], given.wx, check_trace=False)
    except RuntimeError:
        return
    for wx in (given.wx, given.wx * 2):
        assert torch.equal(program(wx), fastiter.torch.gru(wx, given.r)[0])


# --- tensors without data --------------------------------------------------------------------------------------------

GATES = {"elman": 1, "lstm": 4, "gru": 3, "slstm": 4}


def shapes_of_calls(make: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    yield linear(make(2, 3), make(4, 3), make(4)), (2, 4)
    for cell, G in GATES.items():
        for grad in (False, True):
            wx, r = make(3, 4, G, 2, 5), make(G, 2, 5, 5)
            h, last = getattr(fastiter.torch, cell)(wx.requires_grad_(grad), r, make(G, 2, 5))
            yield h, (3, 4, 2, 5)
            yield last[-1], (3, 2, 5)
            if grad:
                h.sum().backward()
                yield wx.grad, (3, 4, G, 2, 5)


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
    for place in range(2):  # one argument among ordinary tensors: outside of the mode, the fake one decides
        arguments = [torch.randn(3, 4, 1, 2, 5), torch.randn(1, 2, 5, 5)]
        arguments[place] = mode.from_tensor(arguments[place])
        h, _ = fastiter.torch.elman(*arguments)
        assert type(h) is type(arguments[place])


def test_tensor_subclasses_are_accepted() -> None:
    class Seen(torch.Tensor):
        pass

    given = detached(leaves(rnn_inputs("lstm", 2, 3, 1, 4, np.float32)))
    expected, _ = fastiter.torch.lstm(*given)
    for place in range(3):
        arguments = [x.as_subclass(Seen) if i == place else x for i, x in enumerate(given[:3])]
        h, _ = fastiter.torch.lstm(*arguments, given.state)
        assert torch.equal(h.as_subclass(torch.Tensor), expected)


@full_and_ragged
@both_ways
@every_cell
def test_torch_modes_see_the_op(cell: str, activation: str, reverse: bool, ragged: bool) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    given = leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float32))
    how = options(activation, reverse=reverse, lengths=[4, 0, 2] if ragged else None)
    expected, _ = getattr(fastiter.torch, cell)(*given, **how)
    with Watch():
        h, _ = getattr(fastiter.torch, cell)(*given, **how)
        h.sum().backward()
    assert torch.equal(h, expected)
    assert {"fastiter._rnn_fwd.default", "fastiter._rnn_bwd.default"} <= set(seen)
