"""The sLSTM of the packages xlstm and tirex, with their names, layouts and signatures, in plain loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Config:
    """Configuration of an xlstm cell."""

    hidden_size: int = 12
    num_heads: int = 3
    num_states: int = 4
    num_gates: int = 4
    function: str = "slstm"
    input_shape: str = "BSGNH"
    output_shape: str = "BNSH"
    gradient_recurrent_cut: bool = False
    gradient_recurrent_clipval: float | None = None
    forward_clipval: float | None = None
    constants: dict = field(default_factory=dict)
    dropout: float = 0.0

    @property
    def head_dim(self):
        return self.hidden_size // self.num_heads


@dataclass
class TirexConfig:
    """Configuration of a tirex cell."""

    embedding_dim: int = 12
    num_heads: int = 3
    num_states: int = 4
    num_gates: int = 4

    @property
    def head_dim(self):
        return self.embedding_dim // self.num_heads


def slstm_step(raw, states):
    _, c, n, m = states
    i, f, z, o = raw
    log_f = m + F.logsigmoid(f)
    new = i if torch.all(n == 0) else torch.maximum(i, log_f)
    gate_i, gate_f = torch.exp(i - new), torch.exp(log_f - new).clamp(max=1)
    c, n = gate_f * c + gate_i * torch.tanh(z), gate_f * n + gate_i
    return torch.stack([torch.sigmoid(o) * c / n, c, n, new])


def lstm_step(raw, states):
    i, f, z, o = raw
    c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(z)
    return torch.stack([torch.sigmoid(o) * torch.tanh(c), c])


STEPS = {"slstm": slstm_step, "lstm": lstm_step}


class Cell(nn.Module):
    """Cell of xlstm, with its backend "vanilla" or, as a loop, the layouts of "cuda"."""

    def __init__(self, config, backend="vanilla"):
        super().__init__()
        self.config, heads, width = config, config.num_heads, config.head_dim
        self.is_vanilla = backend == "vanilla"
        shape = (heads, 4 * width, width) if self.is_vanilla else (heads, width, 4 * width)
        self._recurrent_kernel_ = nn.Parameter(torch.zeros(shape))
        self._bias_ = nn.Parameter(torch.randn(4 * heads * width))

    def forward(self, input, state=None, lengths=None):
        config, heads, width = self.config, self.config.num_heads, self.config.head_dim
        assert input.shape[-1] == 4 * heads * width
        x = input if config.input_shape == "SBGNH" else input.transpose(0, 1)
        kernel, bias = self._recurrent_kernel_, self._bias_
        if self.is_vanilla:
            kernel, bias = kernel.transpose(1, 2), bias.view(4, heads, width)
        else:
            bias = bias.view(heads, 4, width).transpose(0, 1)
        states = x.new_zeros(config.num_states, x.shape[1], heads * width) if state is None else state
        every = []
        for wx in x:
            recurrent = torch.einsum("bni,nij->bnj", states[0].unflatten(-1, (heads, width)), kernel)
            recurrent = recurrent.unflatten(-1, (4, width)).transpose(1, 2).flatten(2)
            raw = wx.unflatten(-1, (4, -1)) + recurrent + bias.flatten(1)
            states = STEPS[config.function](raw.unbind(1), states).to(states.dtype)
            every.append(states[0])
        h = torch.stack(every)
        heads_apart = h.unflatten(-1, (heads, width))
        h = {
            "BNSH": heads_apart.permute(1, 2, 0, 3),
            "SBNH": heads_apart,
            "BSH": h.transpose(0, 1),
            "SBH": h,
        }[config.output_shape]
        return h, states


class TirexCell(nn.Module):
    """Cell of tirex, which rounds products and states to bfloat16 and computes the rest of a step in float32."""

    def __init__(self, config, backend="torch"):
        super().__init__()
        self.config, self.backend, heads, width = config, backend, config.num_heads, config.head_dim
        self._recurrent_kernel_ = nn.Parameter(torch.randn(heads, width, 4 * width) / width)
        self._bias_ = nn.Parameter(torch.randn(4 * heads * width))

    def forward(self, input, state):
        if self.backend == "cuda":
            raise ValueError("xlstm package not found!")
        heads, width, rows = self.config.num_heads, self.config.head_dim, input.shape[0]
        kernel, bias = self._recurrent_kernel_.bfloat16(), self._bias_.float().view(heads, 4, width)
        states = input.new_zeros(4, rows, heads * width) if state is None else state
        states, every = states.bfloat16(), []
        for wx in input.bfloat16().transpose(0, 1):
            product = torch.matmul(states[0].view(rows, heads, 1, width), kernel).view(rows, heads, 4, width)
            raw = wx.view(rows, 4, -1).float() + product.transpose(1, 2).flatten(2).float()
            i, f, z, o = (raw + bias.transpose(0, 1).flatten(1)).unbind(1)
            states = slstm_step((i, f.clamp(max=15), z, o), states.float()).bfloat16()
            every.append(states[0])
        output = torch.stack(every, 1).view(rows, -1, heads, width).transpose(1, 2)
        return output.to(input.dtype), states.to(input.dtype)


class Block(nn.Module):
    """Residual block of xlstm, with xlstm's parameter names."""

    def __init__(self, size=12, heads=3, steps=4, width=64, backend="vanilla", act_fn="gelu", bias=False, **options):
        super().__init__()
        cell = Config(size, heads, **options)
        ffn = SimpleNamespace(act_fn=act_fn, dropout=cell.dropout, bias=bias) if width else None
        self.config = SimpleNamespace(slstm=cell, feedforward=ffn)
        self.xlstm_norm, self.xlstm = Scale(size), nn.Module()
        if steps:
            self.xlstm.conv1d = nn.Module()
            self.xlstm.conv1d.conv = nn.Conv1d(size, size, steps, groups=size, padding=steps - 1)
        for gate in ("fgate", "igate", "zgate", "ogate"):
            setattr(self.xlstm, gate, nn.Module())
            getattr(self.xlstm, gate).weight = nn.Parameter(torch.randn(heads, size // heads, size // heads) / 2)
        self.xlstm.slstm_cell = Cell(cell, backend)
        nn.init.normal_(self.xlstm.slstm_cell._recurrent_kernel_, std=0.5)
        self.xlstm.group_norm = Scale(size)
        self.ffn_norm = self.ffn = None
        if width:
            self.ffn_norm, self.ffn = Scale(size), nn.Module()
            self.ffn.proj_up, self.ffn.proj_down = nn.Linear(size, 2 * width, bias), nn.Linear(width, size, bias)

    def forward(self, x, conv_state=None, slstm_state=None):
        layer, heads = self.xlstm, self.config.slstm.num_heads
        inner = seen = self.xlstm_norm(x)
        if hasattr(layer, "conv1d"):
            past = 0 if conv_state is None else conv_state.shape[1]
            long = inner if conv_state is None else torch.cat([conv_state, inner], 1)
            seen = F.silu(layer.conv1d.conv(long.transpose(1, 2))[..., past : past + x.shape[1]].transpose(1, 2))
        gates = [
            torch.einsum("bthd,hod->btho", y.unflatten(-1, (heads, -1)), getattr(layer, name).weight).flatten(2)
            for name, y in (("fgate", seen), ("igate", seen), ("zgate", inner), ("ogate", inner))
        ]
        h, _ = layer.slstm_cell(torch.cat(gates, -1), slstm_state)
        h = h.transpose(1, 2).flatten(2)
        x = x + F.group_norm(h.flatten(0, 1), heads, 1 + layer.group_norm.weight).view(h.shape)
        if self.ffn is None:
            return x
        a, b = self.ffn.proj_up(self.ffn_norm(x)).chunk(2, -1)
        act = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "selu": F.selu}[self.config.feedforward.act_fn]
        return x + self.ffn.proj_down(act(a) * b)


class Scale(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) / 3)

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], 1 + self.weight)
