"""torch.nn.LSTM = fastiter.torch.nn.LSTM, likewise GRU and RNN: libraries then build fastiter's layers."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

BEGIN = """
import copy, io, pickle, sys, warnings
import torch
import fastiter, fastiter.torch
from fastiter.torch import nn as ours, replace, restore
from tests.support.reports import report_of, restored_names  # noqa: E402
warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
torch.set_num_threads(1)
fastiter.set_num_threads(1)
theirs = {name: getattr(torch.nn, name) for name in ("LSTM", "GRU", "RNN")}
CELLS = [("LSTM", {}), ("LSTM", {"proj_size": 3}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})]
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}]
x = torch.randn(4, 3, 5)

def same(a, b):
    return all(p.equal(q) for p, q in zip(a, b, strict=True))
"""

PATCH = """
for name in theirs:
    for place in PLACES:
        setattr(place, name, getattr(ours, name))
"""

BUILT = """
for name, more in CELLS:
    for options in OPTIONS:
        torch.manual_seed(1)
        expected = theirs[name](5, 7, **more, **options)
        torch.manual_seed(1)
        layer = getattr(torch.nn, name)(5, 7, **more, **options)
        assert type(layer) is getattr(ours, name) and isinstance(layer, getattr(torch.nn, name))
        assert isinstance(layer, torch.nn.RNNBase) and isinstance(layer, theirs[name])
        assert same(layer.parameters(), expected.parameters())
        y, want = layer(x)[0], expected(x)[0]
        assert torch.allclose(y, want, atol=1e-5), name
        y.square().sum().backward()
        want.square().sum().backward()
        for p, q in zip(layer.parameters(), expected.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, atol=1e-4), name
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert type(copied) is type(layer) and copied(x)[0].equal(y)
        expected.load_state_dict(layer.state_dict())
        layer.load_state_dict(expected.state_dict())
        assert list(layer.state_dict()) == list(expected.state_dict())
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        assert torch.load(file, weights_only=False)(x)[0].equal(y)
"""

DERIVED = """
class Mixin:
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)

for name, more in CELLS:
    class Own(torch.nn.__dict__[name]):
        def __init__(self, size):
            super().__init__(size, 7, **more)
            self.extra = torch.nn.Linear(7, 2)
        def forward(self, x):
            return super().forward(x)[0]

    class Mixed(Mixin, torch.nn.__dict__[name]):
        pass

    class Older(torch.nn.__dict__[name]):
        def __init__(self, size):
            torch.nn.__dict__[name].__init__(self, size, 7, **more)
        def forward(self, x):
            return torch.nn.__dict__[name].forward(self, x)[0]

    for layer in (Own(5), Mixed(5, 7, **more), Older(5)):
        assert isinstance(layer, ours.__dict__[name]) and isinstance(layer, theirs[name])
        y = layer(x)
        (y if isinstance(y, torch.Tensor) else y[0]).sum().backward()
        assert all(p.grad is not None for key, p in layer.named_parameters() if "extra" not in key)
        assert same(copy.deepcopy(layer).parameters(), layer.parameters())
"""

OTHERS = """
for layer in (ours.sLSTM(5, 7), ours.QuantLSTM(5, 7), ours.QuantGRU(5, 7)):
    layer(x)[0].sum().backward()
model = torch.nn.ModuleDict({"built": torch.nn.LSTM(5, 7), "before": theirs["LSTM"](5, 7), "gru": theirs["GRU"](5, 7)})
assert list(report_of(replace, model).replaced) == ["before", "gru"]
assert restored_names(model) == ["before", "gru"] and type(model["before"]) is theirs["LSTM"]
assert restored_names(model, built=True) == ["built"] and type(model["built"]) is theirs["LSTM"]
quantized = ours.quantize_model(torch.nn.Sequential(torch.nn.LSTM(5, 7)), ours.QuantPlan())
assert type(quantized[0]) is ours.QuantLSTM and quantized(x)[0].shape == (4, 3, 7)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    left = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(5, 7)))
assert type(left[0]) is ours.LSTM
assert any("in float, as torch.nn.LSTM is not torch's own any more;" in str(w.message) for w in seen)
stream = ours.StreamingRNN(torch.nn.GRU(5, 7), 3)
assert stream(x[0]).shape == (3, 7)
"""


def test_our_classes_under_the_names_of_torch():
    """In torch.nn alone, then also where torch.nn takes them from."""
    script = BEGIN
    for places in ("[torch.nn]", "[torch.nn, torch.nn.modules, torch.nn.modules.rnn]"):
        script += PATCH.replace("PLACES", places) + BUILT + DERIVED + OTHERS
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
