"""Streams and steps: weight changes that torch does not count, tensors without memory, traces, invalid states."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import fastiter.torch.onnx  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F32, H, I, make, one_thread, randn  # noqa: E402, F401

ALL = ["lstm", "gru", "tanh", "relu", "sLSTM"]


# ---- weight changes that torch does not count -----------------------------------------------------------------------


def by_fused_optimizer(module):
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.Adam(module.parameters(), 0.1, fused=True).step()


def through_data(module):
    for p in module.parameters():
        p.data.mul_(0.5)


def by_other_memory(module):
    """Freed memory may be allocated again at the same address."""
    for p in module.parameters():
        p.data = p.detach() * 0.5


@pytest.mark.parametrize("change", [by_fused_optimizer, through_data, by_other_memory])
@pytest.mark.parametrize("kind", ALL)
def test_changes_that_torch_does_not_count(kind, change):
    module, x = make(ours, kind, num_layers=2, dtype=F32), randn(2, I, dtype=F32)
    stream = ours.StreamingRNN(module, 2)
    stream(x)
    with torch.no_grad():
        module.step(x)
    for _ in range(10):
        state = stream.state
        change(module)
        with torch.no_grad():
            expected = module(x[None], state)[0][0]
            assert module.step(x, state)[0].equal(expected)
        assert stream(x).equal(expected)


def pruned(module):
    prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)


def normed(module):
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(module, "weight_hh_l0")


@pytest.mark.parametrize("change", [pruned, normed])
def test_weights_that_a_hook_computes(change):
    module, x = make(ours, "gru", dtype=F32), randn(I, dtype=F32)
    change(module)
    for function, call in {
        "StreamingRNN": lambda: ours.StreamingRNN(module),
        "GRU.step": lambda: module.step(x),
        "onnx.export": lambda: fastiter.torch.onnx.export(module),
    }.items():
        with pytest.raises(TypeError, match=f"{function}: module must hold weight_hh_l0 as a parameter or a param"):
            call()


def test_weights_that_are_plain_tensors():
    module, x = make(ours, "gru", dtype=F32), randn(I, dtype=F32)
    weight = module.weight_hh_l0.detach()
    del module.weight_hh_l0
    with torch.no_grad():
        for factor in (1, 2):
            module.weight_hh_l0 = weight * factor
            state = torch.ones(1, H)
            assert module.step(x, state)[0].equal(module(x[None], state)[0][0])
    with pytest.raises(TypeError, match="StreamingRNN: module must hold weight_hh_l0 as a parameter"):
        ours.StreamingRNN(module)


# ---- tensors without memory, and tracing ----------------------------------------------------------------------------


def test_another_default_device():
    module, x = make(ours, "lstm", dtype=F32), randn(2, 2 * I, dtype=F32)[:, ::2]
    stream, other = ours.StreamingRNN(module, 2), ours.StreamingRNN(module, 2)
    y, state = stream(x), stream.state
    torch.set_default_device("meta")
    try:
        assert other(x).equal(y)
        assert all(s.equal(e) for s, e in zip(other.state, state, strict=True))
        with torch.no_grad():
            assert module.step(x, state)[0].equal(stream(x))
    finally:
        torch.set_default_device(None)


def test_fake_tensors_are_refused():
    module, x = make(ours, "gru", dtype=F32), randn(I, dtype=F32)
    stream = ours.StreamingRNN(module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.randn(I)
        for call in (lambda: stream(fake), lambda: stream(x), lambda: stream.state):
            with pytest.raises(RuntimeError, match="tensors that have memory, got a fake one"):
                call()
        with pytest.raises(RuntimeError, match="tensors that have memory, got a fake one"):
            ours.StreamingRNN(make(ours, "gru", dtype=F32))
    with pytest.raises(RuntimeError, match="tensors that have memory, got a fake one"):
        stream(fake)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_traces_are_refused():
    stream, x = ours.StreamingRNN(make(ours, "gru", dtype=F32)), randn(I, dtype=F32)
    for trace in (lambda: make_fx(stream)(x), lambda: torch.jit.trace(lambda x: stream(x), x, check_trace=False)):
        with pytest.raises(RuntimeError, match="StreamingRNN: a step cannot be traced, as its state is in no graph"):
            trace()


# ---- every step accepts the same states -----------------------------------------------------------------------------


def test_a_bound_that_changes():
    module, x = make(ours, "gru", dtype=F32), randn(I, dtype=F32)
    stream = ours.StreamingRNN(module)
    for bound in (None, 0.01, 0.02, None):
        module.clip_state = bound
        state = stream.state
        with torch.no_grad():
            assert stream(10 * x).equal(module(10 * x[None], state)[0][0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_invalid_states_are_refused_at_every_step(kind):
    module, x, zeros = make(ours, kind, dtype=F32), randn(2, I, dtype=F32), torch.zeros(1, 2, H)
    for hx in ((), [], (zeros,) * 3, *([(zeros,), [zeros], zeros] if kind == "lstm" else [])):
        with torch.no_grad():
            for _ in range(2):
                with pytest.raises(TypeError, match=": hx must be a "):
                    module.step(x, hx)
                module.step(x)


def test_a_single_state_in_any_form_at_every_step():
    module, x, h = make(ours, "gru", dtype=F32), randn(2, I, dtype=F32), randn(1, 2, H, dtype=F32)
    expected = module.step(x, h)
    with torch.no_grad():
        for hx in (h, (h,), [h]) * 2:
            y, last = module.step(x, hx)
            assert y.equal(expected[0]) and last.equal(expected[1])


@pytest.mark.parametrize("contiguous", [True, False])
def test_an_input_has_a_row_axis_if_the_stream_has_one(contiguous):
    module, x = make(ours, "gru", dtype=F32), randn(1, 2 * I, dtype=F32)[:, ::2]
    x = x.contiguous() if contiguous else x
    with pytest.raises(ValueError, match=r"x must have shape \(5,\)"):
        ours.StreamingRNN(module)(x)
    with pytest.raises(ValueError, match=r"x must have shape \(1, 5\)"):
        ours.StreamingRNN(module, 1)(x[0])
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got layout torch\.sparse_coo"):
        ours.StreamingRNN(module, 1)(x.to_sparse())
