"""Programs of torch.export without fastiter's ops: their values, and ONNX if torch's exporter is installed."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch.onnx import decompose  # noqa: E402
from tests.support.cases import tolerance  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

CASES = [  # layer, options, strict
    (ours.LSTM, {"proj_size": 3, "clip_state": 0.1}, False),
    (ours.GRU, {"num_heads": 2, "bias": False}, True),
    (ours.RNN, {"nonlinearity": "relu", "bidirectional": True}, False),
    (ours.sLSTM, {"num_heads": 2}, False),
]


class Asked(torch.nn.Module):
    """Calls a layer with lengths and reset; layers with heads then again from their final states, one or several."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any, lengths: Any, reset: Any) -> Any:
        y, last = self.layer(x, lengths=lengths, reset=reset)
        again = self.layer(x, last)[:1] if self.layer.num_heads > 1 else ()
        return (y, *again, *(last if isinstance(last, tuple) else (last,)))


def given(B: int, T: int) -> tuple[Any, ...]:
    return torch.randn(B, T, 5), torch.randint(0, T + 1, (B,)), torch.rand(B, T) < 0.3


@pytest.mark.parametrize(("layer", "options", "strict"), CASES)
def test_programs_without_our_ops(layer: Any, options: dict[str, Any], strict: bool) -> None:
    torch.manual_seed(0)
    model = Asked(layer(5, 6, batch_first=True, **options)).eval()
    B, T = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    sizes = ({0: B, 1: T}, {0: B}, {0: B, 1: T})
    program = decompose(torch.export.export(model, given(3, 4), dynamic_shapes=sizes, strict=strict))
    assert not any("fastiter" in str(node.target) for node in program.graph.nodes)
    inputs = [given(3, 4), given(2, 7), given(1, 2)]
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    written = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = runtime.InferenceSession(written, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    runs = [lambda *its: session.run(None, dict(zip(names, (x.numpy() for x in its), strict=True)))]
    if strict:
        runs.append(program.module())
    for run in runs:
        for its in inputs:
            with torch.no_grad():
                expected = model(*its)
            for a, e in zip(run(*its), expected, strict=True):
                bound = 8 * tolerance("float32", 2 * its[0].shape[1], 6) * max(1.0, float(e.abs().max()))
                assert abs(torch.as_tensor(a) - e).max() <= bound


def test_what_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^onnx.decompose: program must be a torch.export.ExportedProgram, got .*LSTM$"
    ):
        decompose(ours.LSTM(5, 6))

    class Packed(torch.nn.Module):
        def forward(self, wx: Any, bounds: Any) -> Any:
            return fastiter.torch.gru(wx, torch.ones(3, 1, 2, 2), cu_seqlens=bounds)[0]

    program = torch.export.export(Packed(), (torch.randn(1, 4, 3, 1, 2), torch.tensor([0, 1, 4])))
    expected = "program must have rows side by side and no gradients, got packed sequences"
    with pytest.raises(ValueError, match=f"^onnx.decompose: {expected}"):
        decompose(program)
