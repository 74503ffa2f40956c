"""Packed steps: partial vectors, changing weights, any input layout, threads; steps under no_grad."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.rnn._torch.nn import step as rnn_step  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F32, F64, I, make, one_thread, randn  # noqa: E402, F401
from tests.support.pairs import pairs  # noqa: E402

T = 3
ALL = ["lstm", "gru", "tanh", "relu", "sLSTM"]


def assert_streams(module, x, batch):
    with torch.no_grad():
        y, last = module(x)
    stream = ours.StreamingRNN(module, batch)
    assert torch.stack([stream(step) for step in x]).equal(y)
    state = stream.state
    for found, expected in zip(*(s if isinstance(s, tuple) else (s,) for s in (state, last)), strict=True):
        assert found.equal(expected)


@pairs
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("inputs", "hidden", "heads", "batch"),
    [(1, 1, 1, 1), (3, 150, 1, 1), (3, 150, 1, 5), (40, 96, 3, 1), (5, 34, 2, 13), (800, 5, 1, 2), (3, 390, 1, 1)],
)
def test_sizes(kind, dtype, inputs, hidden, heads, batch):
    """Whole and partial vectors, panels, tiles of rows; sums in several blocks."""
    module = make(ours, kind, inputs, hidden, num_heads=heads, dtype=dtype)
    assert_streams(module, randn(T, batch, inputs, dtype=dtype), batch)


@pytest.mark.parametrize("batch", [1, 7])
def test_sizes_of_projections(batch):
    module = make(ours, "LSTM", 3, 400, proj_size=70, num_layers=2, dtype=F32)
    assert_streams(module, randn(T, batch, 3, dtype=F32), batch)


@pytest.mark.parametrize(("kind", "options"), [("lstm", {"proj_size": 200}), ("gru", {}), ("sLSTM", {"num_heads": 3})])
@pytest.mark.parametrize("batch", [1, 4])
def test_two_threads_have_the_bits_of_one(kind, options, batch):
    module = make(ours, kind, 300, 333, num_layers=2, dtype=F64, **options)
    x, results = randn(T, batch, 300), []
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        stream = ours.StreamingRNN(module, batch)
        results.append(torch.stack([stream(step) for step in x]))
    assert results[0].equal(results[1])


def halve_in_place(module):
    with torch.no_grad():
        module.weight_hh_l0.mul_(0.5)


def replace_a_parameter(module):
    module.bias_ih_l0 = torch.nn.Parameter(randn(*module.bias_ih_l0.shape, dtype=F32))


def replace_data(module):
    module.weight_ih_l0.data = 2 * module.weight_ih_l0.data


def load(module):
    module.load_state_dict({name: 0.5 * value for name, value in module.state_dict().items()})


def parametrize(module):
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(0.5)


CHANGES = [halve_in_place, replace_a_parameter, replace_data, load, parametrize, lambda module: module.double()]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["lstm_proj", "gru"])
def test_changed_weights_are_packed_again(kind, change):
    module, x = make(ours, kind, dtype=F32), randn(2, I, dtype=F32)
    stream = ours.StreamingRNN(module)
    stream(x[0])
    state = stream.state
    change(module)
    dtype = module.weight_ih_l0.dtype
    cast = tuple(s.to(dtype) for s in state) if isinstance(state, tuple) else state.to(dtype)
    expected = module.step(x[1].to(dtype), cast)[0]
    found = stream(x[1].to(dtype))
    assert found.equal(expected)
    assert not found.requires_grad


def test_a_stream_does_not_follow_a_module_to_another_device():
    module = make(ours, "gru", dtype=F32)
    stream, x = ours.StreamingRNN(module), randn(I, dtype=F32)
    module.to("meta")
    with pytest.raises(fastiter.BackendError, match="module must have its parameters on the CPU, got meta"):
        stream(x)


def test_weights_created_in_inference_mode():
    with torch.inference_mode():
        module, x = make(ours, "gru", dtype=F32), randn(2, I, dtype=F32)
        stream = ours.StreamingRNN(module)
        assert stream(x[0]).equal(module.step(x[0])[0])


class Marked(torch.Tensor):
    """A tensor subclass."""


@pytest.mark.parametrize(
    "as_given",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: x[:1].expand_as(x),
        lambda x: torch._neg_view(-x),
        lambda x: x.as_subclass(Marked),
        lambda x: x.clone().requires_grad_(),
    ],
)
@pytest.mark.parametrize("batch", [None, 2])
def test_inputs_in_any_memory(as_given, batch):
    module, x = make(ours, "lstm", dtype=F32), as_given(randn(2, I, dtype=F32))
    x = x if batch else x[1]
    expected = ours.StreamingRNN(module, batch)(x.detach().clone().as_subclass(torch.Tensor))
    found = ours.StreamingRNN(module, batch)(x)
    assert found.equal(expected)
    assert type(found) is torch.Tensor
    assert not found.requires_grad


@pytest.mark.parametrize("kind", ["gru", "lstm_proj"])
def test_states_are_clipped(kind):
    module, x = make(ours, kind, num_layers=2, clip_state=0.125, dtype=F64), 3 * randn(T, 2, I)
    assert_streams(module, x, 2)
    for bound in (0.125, 0.0625, None):
        module.clip_state = bound
        assert_steps(module, x[0])


def test_several_threads_may_share_a_stream():
    module, x = make(ours, "tanh", 200, 200, dtype=F32), randn(200, dtype=F32)
    stream, alone = ours.StreamingRNN(module), ours.StreamingRNN(module)
    with ThreadPoolExecutor(3) as pool:
        found = {y.numpy().tobytes() for y in pool.map(stream, [x] * 30)}
    assert found == {alone(x).numpy().tobytes() for _ in range(30)}


# ---- step without gradients -----------------------------------------------------------------------------------------


def states_of(last):
    return last if isinstance(last, tuple) else (last,)


def assert_steps(module, x, state=None):
    """Compare two steps without gradients, the second with packed weights, to one with; return the state."""
    expected, last = module.step(x, state)
    with torch.no_grad():
        for _ in range(2):
            found, after = module.step(x, state)
            assert found.equal(expected)
            assert all(a.equal(b) for a, b in zip(states_of(after), states_of(last), strict=True))
    return tuple(s.detach() for s in last) if isinstance(last, tuple) else last.detach()


@pytest.mark.parametrize("kind", [*ALL, "lstm_proj"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_with_packed_weights(kind, batch_first):
    module, x = make(ours, kind, num_layers=2, batch_first=batch_first, dtype=F32), randn(3, I, dtype=F32)
    assert_steps(module, x, assert_steps(module, x))
    assert_steps(module, x[0], assert_steps(module, x[0]))
    assert (module in rnn_step._STREAM_OF) == (kind != "lstm_proj")
    halve_in_place(module)
    assert_steps(module, x)
    assert_steps(module.double(), x.double())


def test_other_states_and_options_between_steps():
    module, x = make(ours, "lstm", num_layers=2, dropout=0.5, dtype=F32).eval(), randn(2, I, dtype=F32)
    h, c = assert_steps(module, x)
    assert_steps(module, x, [h, c])
    assert_steps(module, x, (h.transpose(0, 1).contiguous().transpose(0, 1), c))
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"LSTM: hx\[1\] \(c\) must have shape \(2, 2, 7\)"):
        module.step(x, (h, c[:1]))
    with torch.no_grad(), pytest.raises(ValueError, match="LSTM: input must be float32 like the parameters"):
        module.step(x.double())
    module.train()
    with torch.no_grad():
        assert not all(module.step(x)[0].equal(module.step(x)[0]) for _ in range(3))


def test_packed_weights_live_as_long_as_their_module():
    module = make(ours, "gru", dtype=F32)
    assert_steps(module, randn(I, dtype=F32))
    alive, count = weakref.ref(module), len(rnn_step._STREAM_OF)
    del module
    gc.collect()
    assert alive() is None
    assert len(rnn_step._STREAM_OF) < count
