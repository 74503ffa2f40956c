"""A Mamba from transformers on a CPU, before and after accelerate: the same loss and gradients."""

import copy

import torch
from transformers import MambaConfig, MambaForCausalLM

from fastiter.torch import accelerate

torch.manual_seed(0)
before = MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=128))
after = accelerate(copy.deepcopy(before), verbose=True)
text = torch.randint(128, (2, 33))
losses = [model(text, labels=text, use_cache=False).loss for model in (before, after)]
for loss in losses:
    loss.backward()
print(*(f"{loss:.6f}" for loss in losses))
torch.testing.assert_close(*losses)
