"""tests/support/guarded.py for the recurrences on bfloat16, forward and backward, with every array between guard pages.

python -m tests.rnn.guarded_bf16: run by test_isa.py for every instruction set.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

import fastiter.torch
import fastiter.torch.nn
from tests.rnn.calls import options, some_lengths
from tests.support.cases import RNN_CELLS, rnn_inputs
from tests.support.guarded import copies, guarded_tensor

SIZES = list(itertools.product((1, 5, 18), (3,), (2,), (1, 16, 17, 40, 65)))


def tensor(x: Any, at_end: bool) -> Any:
    """Return a guarded bfloat16 tensor with the values of a float array."""
    return torch.from_numpy(copies(torch.from_numpy(x).bfloat16().view(torch.int16).numpy(), at_end)).view(
        torch.bfloat16
    )


def like(y: Any, at_end: bool) -> Any:
    if y.dtype == torch.bfloat16:
        return tensor(np.ones(y.shape, np.float32), at_end)
    return torch.from_numpy(copies(np.ones(y.shape, np.float32), at_end))


LAYERS = [(1, 3, 2, 2), (9, 3, 34, 18), (16, 3, 66, 64), (18, 2, 6, 130), (3, 2, 770, 4), (9, 2, 33, 7)]  # B, T, I, H
CELLS = {"lstm": 2, "gru": 1, "elman": 1, "slstm": 4}  # states
made = []


def new_empty(x: Any, shape: Any, dtype: Any = None, **how: Any) -> Any:
    made.append(dtype or x.dtype)
    return guarded_tensor(x, shape, dtype, **how)


def new_empty_strided(x: Any, shape: Any, strides: Any, **how: Any) -> Any:
    return new_empty(x, (int(np.prod(shape)),), **how).as_strided(tuple(shape), tuple(strides))


def main() -> None:
    torch.Tensor.new_empty = new_empty  # type: ignore[assignment, method-assign]
    torch.Tensor.new_empty_strided = new_empty_strided  # type: ignore[assignment, method-assign]
    for (cell, activation), (B, T, N, D), at_end in itertools.product(RNN_CELLS, SIZES, (False, True)):
        wx, r, b, (h, *others) = rnn_inputs(cell, B, T, N, D, np.float32)
        given = [tensor(x, at_end).requires_grad_() for x in (wx, r, b, h)]
        given += [torch.from_numpy(copies(s, at_end)).requires_grad_() for s in others]
        for lengths, checkpoint in itertools.product((None, some_lengths(B, T)), (None, 2)):
            how = options(activation, return_all_states=True, reverse=bool((B + D) % 2), lengths=lengths)
            h_all, last, states = getattr(fastiter.torch, cell)(*given[:3], given[3:], **how, checkpoint=checkpoint)
            outputs = [h_all, *last, *states[1:]]
            torch.autograd.backward(outputs, [like(y, True) for y in outputs])
    assert torch.bfloat16 in made, "the outputs come from elsewhere"


def layers() -> None:
    """Run modules whose layers are computed by one call, on guarded inputs."""
    names = {"LSTM": "lstm", "GRU": "gru", "RNN": "elman", "sLSTM": "slstm"}
    for (name, cell), (B, T, I, H), at_end in itertools.product(names.items(), LAYERS, (False, True)):
        module = getattr(fastiter.torch.nn, name)(I, H)
        for key, weight in module.named_parameters():
            setattr(module, key, torch.nn.Parameter(tensor(weight.detach().numpy(), at_end)))
        x, dy = (tensor(np.ones((T, B, width), np.float32), at_end) for width in (I, H))
        first = [torch.from_numpy(copies(np.ones((1, B, H), np.float32), at_end)) for _ in range(CELLS[cell])]
        first[0] = tensor(np.ones((1, B, H), np.float32), at_end)
        y, _ = module(x.requires_grad_(), first[0] if len(first) == 1 else tuple(first))
        y.backward(dy)


if __name__ == "__main__":
    main()
    layers()
    print("done")
