"""The loss of a character model before and after accelerate: the same."""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastiter.torch import accelerate


def loss(model: nn.ModuleDict, text: torch.Tensor) -> torch.Tensor:
    h, _ = model["lstm"](model["embedding"](text[:, :-1]))
    return cross_entropy(model["output"](h).flatten(0, 1), text[:, 1:].flatten())


torch.manual_seed(0)
layers = {"embedding": nn.Embedding(128, 64), "lstm": nn.LSTM(64, 64, batch_first=True), "output": nn.Linear(64, 128)}
before = nn.ModuleDict(layers)
after = accelerate(copy.deepcopy(before), verbose=True)
text = torch.tensor([list(b"the same weights, the same batches, the same loss")])
losses = [loss(model, text) for model in (before, after)]
print(*(f"{each:.6f}" for each in losses))
torch.testing.assert_close(*losses)
