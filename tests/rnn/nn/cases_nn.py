"""Modules, inputs and comparisons that the tests of fastiter.torch.nn share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastiter
from fastiter.torch import nn as ours
from tests.support.torch_bounds import held

I, H, T, B = 5, 7, 6, 4
F32, F64 = torch.float32, torch.float64
KINDS = {
    "lstm": ("LSTM", {}),
    "lstm_proj": ("LSTM", {"proj_size": 3}),
    "gru": ("GRU", {}),
    "tanh": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
}
LAYOUTS = {
    "time": lambda x: x,
    "batch": lambda x: x,
    "unbatched": lambda x: x,
    "packed": lambda x: pack_padded_sequence(x, [6, 4, 4, 1]),
    "unsorted": lambda x: pack_padded_sequence(x, [2, 6, 1, 2], enforce_sorted=False),
}
no_onednn_projection = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
kinds = pytest.mark.parametrize("kind", KINDS)
classes = pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
all_names = pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "sLSTM"])


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread: on few busy cores, waiting for a second thread takes longer than all of these tests."""
    mine, theirs = fastiter.get_num_threads(), torch.get_num_threads()
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    yield
    torch.set_num_threads(theirs)
    fastiter.set_num_threads(mine)


def make(library, kind, *args, **options):
    """Return a module of torch.nn or of fastiter, initialised from the same seed."""
    name, extra = KINDS.get(kind, (kind, {}))
    torch.manual_seed(7)
    return getattr(library, name)(*(args or (I, H)), **extra, **options)


def pair(kind, *args, **options):
    return make(torch.nn, kind, *args, **options), make(ours, kind, *args, **options)


def randn(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make_states(module, batch, dtype=F64):
    """Random initial states for `module`, as a list; batch None: unbatched."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    count = {"LSTM": 2, "sLSTM": 4}.get(type(module).__name__, 1)
    widths = [module.proj_size or module.hidden_size] + [module.hidden_size] * (count - 1)
    shapes = [(rows, w) if batch is None else (rows, batch, w) for w in widths]
    states = [randn(*shape, dtype=dtype, seed=10 + i) for i, shape in enumerate(shapes)]
    if count == 4:
        states[2] = states[2].abs() + 1  # the normaliser n of a running sequence is at least 1
    return states


def run(module, x, states=None, wrap=lambda x: x, wrap_state=lambda s: s):
    """Return the outputs of `module` for wrap(x), and all gradients of a random linear functional of them."""
    x = x.detach().clone().requires_grad_()
    leaves = [s.detach().clone().requires_grad_() for s in states or []]
    module.zero_grad()
    hx = tuple(wrap_state(s) for s in leaves)
    args = () if states is None else (hx if len(hx) == 1 else (hx,))
    output, last = module(wrap(x), *args)
    last = last if isinstance(last, tuple) else (last,)
    result = {f"state {i}": s for i, s in enumerate(last)}
    if isinstance(output, PackedSequence):
        result |= {f: v for f, v in zip(output._fields[1:], output[1:], strict=True) if v is not None}
    result["output"] = output = output.data if isinstance(output, PackedSequence) else output
    (sum((v * randn(*v.shape, dtype=v.dtype, seed=20 + i)).sum() for i, v in enumerate([output, *last]))).backward()
    grads = {"input": x} | {f"hx {i}": s for i, s in enumerate(leaves)} | dict(module.named_parameters())
    return {k: v.detach() for k, v in result.items()} | {f"d {k}": v.grad for k, v in grads.items()}


def assert_same(actual, expected, factor=200):
    """Equal up to `factor` units in the last place of the largest element (sums over T, B and H of order-1 terms)."""
    assert actual.keys() == expected.keys()
    for key, e in expected.items():
        a = actual[key]
        assert (a is None) == (e is None), key
        if e is None:
            continue
        assert (a.shape, a.dtype) == (e.shape, e.dtype), key
        if not e.is_floating_point():
            assert torch.equal(a, e), key
        elif e.numel():
            error, scale = (a - e).abs().max().item(), max(1.0, e.abs().max().item())
            assert error <= factor * torch.finfo(e.dtype).eps * scale, f"{key}: {error:.3g}, scale {scale:.3g}"


def assert_equal_parameters(a, b):
    a, b = dict(a.named_parameters()), dict(b.named_parameters())
    assert list(a) == list(b)
    for key in a:
        assert torch.equal(a[key], b[key]) and a[key].requires_grad == b[key].requires_grad, key


def make_input(layout, dtype=F64, steps=T, batch=B, features=I):
    shape = {"batch": (batch, steps, features), "unbatched": (steps, features)}.get(layout, (steps, batch, features))
    return randn(*shape, dtype=dtype)


def slstm_direction(x, weights, heads, state):
    w_ih, w_hh, *biases = weights
    D = w_hh.shape[1]
    r = w_hh.view(4, heads, D, D)
    outputs = []
    for t in range(x.shape[0]):
        h, c, n, m = state
        recurrent = torch.einsum("gnij,bnj->bgni", r, h.unflatten(1, (heads, D))).flatten(1)
        a = x[t] @ w_ih.T + sum(biases) + recurrent
        a_i, a_f, a_z, a_o = a.chunk(4, 1)
        log_f = torch.nn.functional.logsigmoid(a_f) + m
        m = torch.where(n == 0, a_i, torch.maximum(a_i, log_f))
        i, f = (a_i - m).exp(), (log_f - m).exp()
        c = f * c + i * a_z.tanh()
        n = held(f * n + i, low=1)
        h = a_o.sigmoid() * c / n
        state = (h, c, n, m)
        outputs.append(h)
    return torch.stack(outputs), state


class SLSTMLoop(torch.nn.Module):
    """Reference loop of sLSTM for x (T, B, I), with the parameters of a given module."""

    def __init__(self, module):
        super().__init__()
        self.module = copy.deepcopy(module)

    def forward(self, x, hx=None):
        module = self.module
        directions = 2 if module.bidirectional else 1
        lasts = []
        for layer in range(module.num_layers):
            outputs = []
            for d in range(directions):
                k = layer * directions + d
                zeros = x.new_zeros(x.shape[1], module.hidden_size)
                state = (zeros,) * 4 if hx is None else tuple(s[k] for s in hx)
                weights = module.all_weights[k]
                y, last = slstm_direction(x.flip(0) if d else x, weights, module.num_heads, state)
                outputs.append(y.flip(0) if d else y)
                lasts.append(last)
            x = torch.cat(outputs, -1)
        return x, tuple(torch.stack(s) for s in zip(*lasts, strict=True))
