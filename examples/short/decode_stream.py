"""A small Mamba writes tokens with weights of 8 bits."""

import torch
from transformers import MambaConfig, MambaForCausalLM

from fastiter.torch import Decoder

torch.manual_seed(0)
config = MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=256, eos_token_id=None)
model = MambaForCausalLM(config).eval()
prompt = torch.randint(256, (1, 8))

decoder = Decoder(model, weights="int8")
text = decoder.generate(prompt, 16)
print(text.tolist())
print(f"{decoder.report.bytes:,} bytes of weights")
