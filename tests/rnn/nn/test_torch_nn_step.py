"""step and StreamingRNN: the bits of a run over all steps, from any state; refusals."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F32, F64, H, I, make, make_states, one_thread, randn  # noqa: E402, F401
from tests.support.pairs import pairs  # noqa: E402

CASES = [
    ("lstm", {}),
    ("lstm", {"num_layers": 3, "bias": False}),
    ("lstm_proj", {"num_layers": 2}),
    ("gru", {"num_layers": 2}),
    ("gru", {"num_heads": 7}),
    ("tanh", {"num_layers": 2, "num_heads": 7}),
    ("relu", {}),
    ("sLSTM", {"num_layers": 2, "num_heads": 7}),
]
T = 5


def states_of(last):
    return last if isinstance(last, tuple) else (last,)


def assert_equal(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        assert x.equal(y)


@pairs
@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("with_state", [False, True])
def test_streams_the_bits_of_the_whole_run(kind, options, batch, with_state):
    module = make(ours, kind, dtype=F32, **options)
    x = randn(T, I, dtype=F32) if batch is None else randn(T, batch, I, dtype=F32)
    hx = None
    if with_state:
        states = make_states(module, batch, F32)
        hx = states[0] if len(states) == 1 else tuple(states)
    with torch.no_grad():
        y, last = module(x, hx)
    stream = ours.StreamingRNN(module, batch, hx)
    if with_state:
        assert_equal(states_of(stream.state), states)
    assert torch.stack([stream(step) for step in x]).equal(y)
    assert_equal(states_of(stream.state), states_of(last))
    stream.reset(hx)
    assert stream(x[0]).equal(y[0])


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_step_is_one_step_of_forward_with_gradients(kind, options, batch_first):
    module = make(ours, kind, batch_first=batch_first, dtype=F64, **options)
    x = randn(T, 3, I)
    whole = x.transpose(0, 1) if batch_first else x
    y, last = module(whole)
    expected = torch.autograd.grad(y.sum() + sum(s.sum() for s in states_of(last)), list(module.parameters()))
    state, outputs = None, []
    for step in x:
        output, state = module.step(step, state)
        outputs.append(output)
    stepwise = torch.stack(outputs, 1 if batch_first else 0)
    if kind == "lstm_proj":
        torch.testing.assert_close(stepwise, y)
    else:
        assert stepwise.equal(y)
        assert_equal(states_of(state), states_of(last))
    found = torch.autograd.grad(stepwise.sum() + sum(s.sum() for s in states_of(state)), list(module.parameters()))
    torch.testing.assert_close(found, expected)
    alone, _ = module.step(x[0, 0])
    assert alone.shape == outputs[0][0].shape
    assert alone.equal(outputs[0][0])


@pytest.mark.parametrize("kind", ["lstm", "gru", "relu", "sLSTM"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_in_bfloat16(kind, batch_first):
    module = make(ours, kind, num_layers=2, batch_first=batch_first, dtype=torch.bfloat16)
    x, state = randn(T, 3, I).bfloat16(), None
    y, last = module(x.transpose(0, 1) if batch_first else x)
    for t, step in enumerate(x):
        output, state = module.step(step, state)
        assert output.equal(y[:, t] if batch_first else y[t])
    assert [s.dtype for s in states_of(state)[1:]] == [F32] * (len(states_of(last)) - 1)


def test_steps_under_autocast_use_cast_weights():
    module, x = make(ours, "gru", dtype=F32), randn(I, dtype=F32)
    with torch.no_grad():
        _, state = module.step(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert module.step(x, state)[0].equal(module(x[None], state)[0][0])


def test_a_stream_has_the_weights_of_its_reset():
    module = make(ours, "gru", dtype=F32)
    stream, x = ours.StreamingRNN(module), randn(I, dtype=F32)
    before = stream(x)
    assert not before.requires_grad
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    stream.reset()
    assert stream(x).equal(module.step(x)[0])
    assert not stream(x).equal(before)


def test_streams_are_independent_and_their_state_is_a_copy():
    module = make(ours, "lstm", num_layers=2, dtype=F32)
    x = randn(T, I, dtype=F32)
    first = ours.StreamingRNN(module)
    first(x[0])
    state = first.state
    second = ours.StreamingRNN(module, state=state)
    expected = first(x[1])
    state[0].zero_()
    first(x[2])
    assert second(x[1]).equal(expected)


def test_torch_modules_and_views_stream_too():
    module = make(torch.nn, "lstm", dtype=F32)
    columns = randn(I, T, dtype=F32).t()
    stream = ours.StreamingRNN(module)
    with torch.no_grad():
        torch.testing.assert_close(torch.stack([stream(x) for x in columns]), module(columns)[0])


def test_weights_may_be_parametrized():
    module = make(ours, "gru", dtype=F32)
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    x = randn(T, I, dtype=F32)
    stream = ours.StreamingRNN(module)
    with torch.no_grad():
        assert torch.stack([stream(step) for step in x]).equal(module(x)[0])


def test_refusals():
    both_ways = make(ours, "gru", bidirectional=True)
    x = randn(I, dtype=F32)
    calls = {"GRU": lambda: both_ways.step(x), "StreamingRNN": lambda: ours.StreamingRNN(both_ways)}
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name}: bidirectional must be False to go step by step, got True"):
            call()
    module = make(ours, "gru")
    with pytest.raises(ValueError, match=r"GRU: input must have 1 or 2 dimensions, got shape \(1, 1, 5\)"):
        module.step(x.view(1, 1, I))
    with pytest.raises(TypeError, match="GRU: input must be a Tensor, got list"):
        module.step([1.0] * I)
    with pytest.raises(TypeError, match=r"StreamingRNN: module must be an LSTM, GRU, RNN or sLSTM, got torch.*Linear"):
        ours.StreamingRNN(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="StreamingRNN: batch_size must be an int or None, got float"):
        ours.StreamingRNN(module, 2.0)
    with pytest.raises(ValueError, match="StreamingRNN: batch_size must be at least 1, got 0"):
        ours.StreamingRNN(module, 0)
    with pytest.raises(TypeError, match=r"StreamingRNN: module must have float32 or float64 .*, got torch.float16"):
        ours.StreamingRNN(copy.deepcopy(module).half())
    with pytest.raises(
        fastiter.BackendError, match="StreamingRNN: module must have its parameters on the CPU, got meta"
    ):
        ours.StreamingRNN(make(ours, "gru", device="meta"))
    with pytest.raises(RuntimeError, match=r"GRU: hx must have shape \(1, 2, 7\), got \(1, 7\)"):
        ours.StreamingRNN(module, 2, torch.zeros(1, H))
    stream = ours.StreamingRNN(module, 2)
    with pytest.raises(ValueError, match=r"StreamingRNN: x must have shape \(2, 5\), .* on the CPU, got \(5,\)"):
        stream(x)
    with pytest.raises(TypeError, match=r"StreamingRNN: x must be a torch.Tensor, got list"):
        stream([1.0])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_continue_from_the_state_at_copying(duplicate):
    stream = ours.StreamingRNN(make(ours, "sLSTM", dtype=F32))
    x = randn(T, I, dtype=F32)
    stream(x[0])
    other = duplicate(stream)
    expected = stream(x[1])
    stream(x[2])
    assert other(x[1]).equal(expected)
