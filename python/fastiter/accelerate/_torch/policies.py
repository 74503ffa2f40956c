"""Recurrent policies of sb3-contrib: the steps of an LSTM in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rnn._torch.nn.modules import LSTM
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
    return not lstm.training or lstm.dropout == 0 or lstm.num_layers == 1
