"""Recurrent policies of sb3-contrib and torchrl: an LSTM or GRU on episodes in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rnn._torch.nn.modules import GRU, LSTM
from .functions import Function, on_cpu
from .layers import has_hooks


def process_sequence(theirs: Function) -> Function:
    """Return a replacement for RecurrentActorCriticPolicy._process_sequence, which calls the LSTM once a step.

    The original does so if any flag is set; in its batches, each sequence is a part of an episode, with a flag at its
    first step. It runs for an LSTM whose single steps differ from one call, and for flags that are neither 0 nor 1.
    """

    def _process_sequence(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: Any) -> Any:
        if not on_cpu(features) or not _runs_in_one_call(lstm):
            return theirs(features, lstm_states, episode_starts, lstm)
        rows = lstm_states[0].shape[1]
        x, starts = features.reshape(rows, -1, lstm.input_size), episode_starts.reshape(rows, -1)
        kept = (1.0 - starts[:, 0]).view(1, rows, 1)
        options = {}
        if starts[:, 1:].any():
            reset = starts != 0
            if not torch.equal(reset.to(starts.dtype), starts):
                return theirs(features, lstm_states, episode_starts, lstm)
            options["reset"] = reset.t()
        out, states = lstm(x.transpose(0, 1), (kept * lstm_states[0], kept * lstm_states[1]), **options)
        return out.transpose(0, 1).flatten(0, 1), states

    return _process_sequence


def _runs_in_one_call(lstm: Any) -> bool:
    """Return whether a call over steps equals a call for each: without hooks, directions, and random numbers."""
    if not isinstance(lstm, LSTM) or lstm.batch_first or lstm.bidirectional or has_hooks(lstm):
        return False
    return not _draws(lstm)


def _draws(rnn: Any) -> bool:
    """Return whether a layer draws random numbers, which depend on the order of its calls and of their rows."""
    return bool(rnn.training and rnn.dropout > 0 and rnn.num_layers > 1)


def recurrent_module(theirs: Function, layer: str) -> Function:
    """Return a replacement for the forward of torchrl's LSTMModule or GRUModule, whose layer has the given name.

    The original cuts the rows of a batch where episodes start, and pads the parts. Here they are the sequences of one
    call, without padding.
    """
    from tensordict.nn import dispatch  # imported by torchrl

    def forward(self: Any, tensordict: Any) -> Any:
        rnn, (x, *states) = getattr(self, layer), (tensordict.get(key, None) for key in self.in_keys[:-1])
        starts, has_states = tensordict.get("is_init", None), states[0] is not None
        if any((s is not None) != has_states for s in states) or not _cuts_rows(self, rnn, x, starts):
            return theirs(self, tensordict)
        shape = starts.shape[:-1]
        starts = starts.squeeze(-1).clone()
        starts[..., 0] = True
        first = starts.flatten().nonzero().squeeze(1)
        bounds = torch.cat((first, first.new_tensor([starts.numel()])))
        states = [s.flatten(0, len(shape) - 1)[first].transpose(0, 1) for s in states] if has_states else [None]
        hx = tuple(states) if len(states) > 1 else states[0]
        out, last = rnn(x.flatten(0, len(shape) - 1), hx, cu_seqlens=bounds)
        ends = [_at(bounds[1:] - 1, starts.numel(), s) for s in (last if isinstance(last, tuple) else (last,))]
        for key, tensor in zip(self.out_keys, (out, *ends), strict=True):
            tensordict.set(key, tensor.unflatten(0, shape))
        return tensordict

    return dispatch(forward)


def _at(steps: Tensor, count: int, states: Tensor) -> Tensor:
    """Return as many states as there are steps: those of the sequences (layers, N, H) at N steps, and zeros."""
    return states.new_zeros(count, *states.shape[::2]).index_copy(0, steps, states.transpose(0, 1))


def _cuts_rows(module: Any, rnn: Any, x: Tensor | None, starts: Tensor | None) -> bool:
    """Return whether a module of torchrl cuts its rows, and one call of its layer can do without."""
    if not module.recurrent_mode or module.recurrent_backend not in ("auto", "pad") or torch.compiler.is_compiling():
        return False
    if x is None or starts is None or not on_cpu(x) or not isinstance(rnn, (LSTM, GRU)):
        return False
    return not has_hooks(rnn) and not _draws(rnn) and bool(starts[..., 1:, :].any())
