"""A small Mamba as a layer of a character model: from transformers if it is installed, otherwise in plain torch."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

STATES, KERNEL = 16, 4  # size of a channel's state; taps of the convolution


def mamba(width: int) -> tuple[str, nn.Module]:
    """Return a one-layer Mamba, which takes (batch, time, width) like torch.nn.LSTM, and the library it comes from."""
    if importlib.util.find_spec("transformers"):
        return "transformers", TransformersMamba(width)
    return "torch", Mamba(width)


class TransformersMamba(nn.Module):
    """transformers' MambaModel, applied to the character model's own embeddings."""

    def __init__(self, width: int) -> None:
        import transformers

        super().__init__()
        transformers.logging.set_verbosity_error()
        sizes = {"vocab_size": 1, "hidden_size": width, "num_hidden_layers": 1, "state_size": STATES}
        config = transformers.MambaConfig(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=0)
        self.model = transformers.MambaModel(config)
        self.model.embeddings.requires_grad_(False)  # not used

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.model(inputs_embeds=x, use_cache=False).last_hidden_state, None


class Mamba(nn.Module):
    """A Mamba block with a norm before and after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixer, self.before, self.after = Mixer(width), nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.after(x + self.mixer(self.before(x))), None


class Mixer(nn.Module):
    """Mamba's block: projections, a short convolution, the selective scan, and a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.sizes = (rank, STATES, STATES)
        self.input = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, KERNEL, padding=KERNEL - 1, groups=inner)
        self.selection = nn.Linear(inner, sum(self.sizes), bias=False)
        self.delta = nn.Linear(rank, inner)
        self.log_A = nn.Parameter(torch.arange(1, STATES + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.output = nn.Linear(inner, width, bias=False)
        with torch.no_grad():  # steps from 1e-3 to 1e-1
            delta = torch.exp(torch.empty(inner).uniform_(math.log(1e-3), math.log(1e-1)))
            self.delta.bias.copy_(delta.expm1().log())

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.input(x).chunk(2, dim=-1)
        x = silu(self.convolution(x.mT)[..., : x.shape[1]].mT)
        delta, B, C = self.selection(x).split(self.sizes, dim=-1)
        y = self.selective_scan(x, softplus(self.delta(delta)), -self.log_A.exp(), B, C, self.D)
        return self.output(y * silu(gate))

    def selective_scan(self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """Return y[t] = C[t] h[t] + D x[t], h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] x[t]: a loop over time.

        x and delta (batch, time, channels), A (channels, states), B and C (batch, time, states), D (channels,).
        fastiter.torch.accelerate recognises this method by its name and arguments, which are those in mambapy.
        """
        h: Any = 0.0
        y = []
        for t in range(x.shape[1]):
            h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
            y.append((h @ C[:, t, :, None]).squeeze(-1))
        return torch.stack(y, dim=1) + D * x
