"""Layers of one recurrence, their equations as plain loops, inputs and comparisons, shared by their tests."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

import fastiter
from fastiter.torch import nn as ours

I, H, T, B = 6, 8, 7, 4
F32, F64 = torch.float32, torch.float64
LENGTHS = [3, 7, 1, 3]
LAYERS = {
    "gru": ("ParaGRU", {}),
    "gru heads": ("ParaGRU", {"num_heads": 2, "bias": False}),
    "gru newton": ("ParaGRU", {"method": "newton"}),
    "lstm": ("ParaLSTM", {}),
    "lstm heads": ("ParaLSTM", {"num_heads": 2}),
    "signed": ("LinearRNN", {}),
    "positive": ("LinearRNN", {"eigenvalues": "positive", "bias": False}),
    "complex": ("LinearRNN", {"eigenvalues": "complex"}),
    "lru": ("LinearRNN", {"eigenvalues": "complex", "input_dependent": False}),
    "fixed": ("LinearRNN", {"input_dependent": False}),
    "delta": ("DeltaNet", {}),
    "delta plain": ("DeltaNet", {"conv_size": 0, "eigenvalues": "positive"}),
    "delta gated": ("DeltaNet", {"num_heads": 2, "decay": True, "output_gate": True, "conv_size": 2}),
    "delta product": ("DeltaNet", {"num_heads": 2, "num_householder": 3, "key_size": 3, "conv_size": 1}),
}
layers = pytest.mark.parametrize("kind", LAYERS)
classes = pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM", "LinearRNN", "DeltaNet"])


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread: on few busy cores, waiting for a second thread takes longer than all of these tests."""
    mine, theirs = fastiter.get_num_threads(), torch.get_num_threads()
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    yield
    torch.set_num_threads(theirs)
    fastiter.set_num_threads(mine)


def make(kind, *sizes, dtype=F64, **options):
    """Return a layer in which every parameter has an effect: none is left at 0 or 1."""
    name, own = LAYERS.get(kind, (kind, {}))
    torch.manual_seed(7)
    layer = getattr(ours, name)(*(sizes or (I, H)), dtype=dtype, **{**own, **options})
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


def randn(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make_state(layer, batch):
    """Return the parts of a random state; unbatched if batch is None."""
    shapes = [(part.shape if batch is None else (batch, *part.shape), part.dtype) for part in layer._parts()]
    return [randn(*shape, dtype=dtype, seed=10 + i) for i, (shape, dtype) in enumerate(shapes)]


def as_state(parts):
    return parts[0] if len(parts) == 1 else tuple(parts)


def as_parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def make_input(dtype=F64):
    return randn(T, B, I, dtype=dtype)


def zeros(layer, batch):
    return [torch.zeros_like(part) for part in make_state(layer, batch)]


# ---- The equations of one step, x (B, I) ----------------------------------------------------------------------------


def para_gates(layer, x, h):
    """W x + b, and the recurrent weights times h, gate by gate."""
    heads = layer.num_heads
    blocks = [torch.block_diag(*layer.weight_ih[:, gate]) for gate in range(3)]
    assert blocks[0].shape == (layer.hidden_size, layer.input_size) and layer.weight_ih.shape[0] == heads
    bias = torch.zeros_like(layer.weight_hh) if layer.bias is None else layer.bias
    return [x @ w.t() + b for w, b in zip(blocks, bias, strict=True)], layer.weight_hh


def gru_step(layer, x, state):
    (h,) = state
    (xz, xr, xq), (az, ar, aq) = para_gates(layer, x, h)
    z, r = torch.sigmoid(xz + az * h), torch.sigmoid(xr + ar * h)
    h = z * torch.tanh(xq + aq * r * h) + (1 - z) * h
    return h, [h]


def lstm_step(layer, x, state):
    h, c = state
    (xf, xo, xq), (af, ao, aq) = para_gates(layer, x, h)
    pf, po = layer.weight_ch
    f = torch.sigmoid(xf + af * h + pf * c)
    c = f * c + (1 - f) * torch.tanh(xq + aq * h)
    h = torch.sigmoid(xo + ao * h + po * c) * torch.tanh(c)
    return h, [h, c]


def linear_step(layer, x, state):
    (h,) = state
    u = layer.in_proj(x)
    g = layer.gate.expand_as(u) if layer.gate_proj is None else layer.gate_proj(x)
    if layer.eigenvalues == "complex":
        n = layer.hidden_size
        h = g[:, :n].sigmoid() * torch.exp(1j * g[:, n:]) * h + u[:, :n] + 1j * u[:, n:]
        return layer.out_proj(torch.cat([h.real, h.imag], 1)), [h]
    a = g.sigmoid() if layer.eigenvalues == "positive" else 2 * g.sigmoid() - 1
    h = a * h + u
    return layer.out_proj(h), [h]


def delta_step(layer, x, state):
    S, *recent = state
    N, M, K, V = layer.num_heads, layer.num_householder, layer.key_size, layer.value_size
    inputs = layer.in_proj(x)
    if recent:
        window = torch.cat([recent[0], inputs.unsqueeze(1)], 1)
        inputs, recent = (window * layer.conv_weight.t()).sum(1), [window[:, 1:]]
    inputs = inputs * inputs.sigmoid()
    q, k, v = inputs[:, : N * K], inputs[:, N * K : (M + 1) * N * K], inputs[:, (M + 1) * N * K :]
    q, k, v = q.view(-1, N, K), k.view(-1, M, N, K), v.view(-1, M, N, V)
    beta = layer.beta_proj(x).sigmoid().view(-1, M, N) * (2 if layer.eigenvalues == "signed" else 1)
    if layer.decay_proj is not None:
        S = S * torch.exp(-layer.decay_rate * F.softplus(layer.decay_proj(x)))[..., None, None]
    for m in range(M):
        key = k[:, m] / k[:, m].norm(dim=-1, keepdim=True)
        held = (S * key.unsqueeze(-1)).sum(2)
        S = S + beta[:, m, :, None, None] * key.unsqueeze(-1) * (v[:, m] - held).unsqueeze(2)
    o = (S * (q / q.norm(dim=-1, keepdim=True)).unsqueeze(-1)).sum(2)
    y = (o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight).flatten(1)
    if layer.gate_proj is not None:
        y = y * F.silu(layer.gate_proj(x))
    return layer.out_proj(y), [S, *recent]


STEPS = {"ParaGRU": gru_step, "ParaLSTM": lstm_step, "LinearRNN": linear_step, "DeltaNet": delta_step}


class Loop(torch.nn.Module):
    """The equations over x (T, B, I), with the parameters of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, state=None):
        parts = zeros(self.layer, x.shape[1]) if state is None else as_parts(state)
        outputs = []
        for step in x:
            y, parts = STEPS[type(self.layer).__name__](self.layer, step, parts)
            outputs.append(y)
        return torch.stack(outputs), as_state(parts)


# ---- Comparisons ----------------------------------------------------------------------------------------------------


def run(module, x, parts=None, **options):
    """Return the outputs of `module`, and all gradients of a random linear functional of them."""
    x = x.detach().clone().requires_grad_()
    leaves = [part.detach().clone().requires_grad_() for part in parts or []]
    module.zero_grad()
    output, last = module(x, as_state(leaves) if leaves else None, **options)
    results = [output.data if isinstance(output, PackedSequence) else output, *as_parts(last)]
    total = 0
    for i, v in enumerate(results):
        weights = randn(*v.shape, dtype=torch.complex128 if v.is_complex() else F64, seed=20 + i)
        total = total + (v * weights.to(v.dtype)).real.sum()
    total.backward()
    found = {f"result {i}": v.detach() for i, v in enumerate(results)} | {"dx": x.grad}
    found |= {f"dstate {i}": leaf.grad for i, leaf in enumerate(leaves)}
    return found | {k.removeprefix("layer."): p.grad for k, p in module.named_parameters()}


def assert_close(actual, expected, factor=1.0):
    """Equal within rounding, relative to the largest element."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key].shape == value.shape and actual[key].dtype == value.dtype, key
        scale = max(1.0, value.abs().max().item() if value.numel() else 0.0)
        error = (actual[key] - value).abs().max().item() if value.numel() else 0.0
        bound = factor * 400 * torch.finfo(value.dtype).eps * scale
        assert error <= bound, f"{key}: {error:.1e} > {bound:.1e}"
