"""An LSTM of torch.nn, replaced in place: the same weights and outputs."""

import torch
from torch import nn

from fastiter.torch import replace, restore

torch.manual_seed(0)
model = nn.ModuleDict({"encoder": nn.LSTM(32, 64, num_layers=2, batch_first=True, bidirectional=True)})
x = torch.randn(4, 100, 32)
before, _ = model["encoder"](x)

model = replace(model, verbose=True)  # the only change
after, _ = model["encoder"](x)
print(f"largest difference of the outputs: {(after - before).abs().max():.1e}")

restore(model, verbose=True)  # back to torch's
torch.testing.assert_close(model["encoder"](x)[0], before)
