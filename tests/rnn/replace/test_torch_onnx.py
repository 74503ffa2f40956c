"""ONNX: the standard operators reproduce the modules in onnxruntime, and programs of torch.export; refusals."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import fastiter.torch  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch.onnx import decompose, export  # noqa: E402
from tests.rnn.nn.cases_nn import F32, F64, I, make, make_states, randn  # noqa: E402
from tests.support.cases import tolerance  # noqa: E402

CASES = [
    ("lstm", {}),
    ("lstm", {"num_heads": 7, "bias": False}),
    ("lstm_proj", {}),
    ("gru", {"dropout": 0.5}),
    ("gru", {"num_heads": 7, "bias": False}),
    ("tanh", {}),
    ("relu", {"num_heads": 7}),
]


def infer(model, feed):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: x.numpy() for name, x in feed.items()})


@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_onnxruntime_computes_the_same(kind, options):
    for layers, bidirectional, batch_first, initial in itertools.product((1, 3), *[(False, True)] * 3):
        if initial and kind == "lstm_proj":
            continue
        more = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
        module = make(ours, kind, dtype=F32, **more, **options).eval()
        model = export(module, with_state=initial)
        for T, B in ((4, 3), (1, 2)):  # dynamic numbers of steps and rows
            x = randn(*((B, T) if batch_first else (T, B)), I, dtype=F32)
            states = make_states(module, B, F32) if initial else []
            hx = None if not states else states[0] if len(states) == 1 else tuple(states)
            feed = {"input": x, **dict(zip(("h_0", "c_0"), states, strict=False))}
            with torch.no_grad():
                output, last = module(x, hx)
            expected = [output, *(last if isinstance(last, tuple) else (last,))]
            for found, y in zip(infer(model, feed), expected, strict=True):
                assert found.shape == y.shape
                # Three layers, and each runtime has its own approximation of tanh.
                bound = 8 * tolerance("float32", T, 7)
                assert abs(found - y.numpy()).max() <= bound


@pytest.mark.parametrize("kind", ["lstm", "lstm_proj", "gru"])
def test_bfloat16_becomes_float32(kind):
    """The graph computes the module with its weights in float32."""
    module = make(ours, kind, num_layers=2, bidirectional=True, dtype=torch.bfloat16)
    x = randn(4, 3, I, dtype=torch.bfloat16)
    found = infer(export(module), {"input": x.float()})
    with torch.no_grad():
        rounded, _ = module(x)
        output, last = module.float()(x.float())
    for a, y in zip(found, [output, *(last if isinstance(last, tuple) else (last,))], strict=True):
        assert abs(a - y.numpy()).max() <= 8 * tolerance("float32", 4, 7)
    assert abs(found[0] - rounded.float().numpy()).max() <= 2.0**-8 * (1 + (4 + 7) ** 0.5)


def test_the_graph_has_the_standard_operators_and_is_written(tmp_path):
    module = make(torch.nn, "gru", num_layers=2, bidirectional=True)
    export(module, tmp_path / "gru.onnx")
    graph = onnx.load(tmp_path / "gru.onnx").graph
    assert [node.op_type for node in graph.node].count("GRU") == 2
    assert [x.name for x in graph.input] == ["input"]
    assert [x.name for x in graph.output] == ["output", "h_n"]
    inputs = [x.name for x in export(make(ours, "lstm"), with_state=True).graph.input]
    assert inputs == ["input", "h_0", "c_0"]
    double = export(make(ours, "lstm_proj", dtype=F64))  # for other runtimes than onnxruntime
    assert {x.data_type for x in double.graph.initializer} == {onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64}


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_onnxruntime_has_no_kernels_for_float64(kind):
    with pytest.raises(Exception, match=r"does not support double|Could not find an implementation for RNN"):
        infer(export(make(ours, kind, dtype=F64)), {"input": randn(4, 3, I)})


def own_forward(kind):
    """Return modules with a custom forward, defined by a subclass and on the instance."""
    base = getattr(ours, kind)

    class Scaled(base):
        def forward(self, input, hx=None):
            return super().forward(2 * input, hx)

    patched = base(I, 7)
    patched.forward = lambda x: x
    return [Scaled(I, 7), patched]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_forward_of_ones_own_is_refused(kind):
    message = "module must run the forward of torch.nn's or fastiter.torch.nn's LSTM, GRU, RNN or sLSTM, got a .* with"
    for module in own_forward(kind):
        with pytest.raises(TypeError, match=f"^onnx.export: {message}"):
            export(module)
        with pytest.raises(TypeError, match=f"^StreamingRNN: {message}"):
            ours.StreamingRNN(module)


def test_refusals():
    for module, got in ((make(ours, "sLSTM"), "sLSTM"), (torch.nn.Linear(2, 2), "Linear"), (3, "int")):
        with pytest.raises(TypeError, match=f"^onnx.export: module must be an LSTM, GRU or RNN, got .*{got}$"):
            export(module)
    with pytest.raises(ValueError, match=r"^onnx.export: with_state must be False with proj_size = 3, got True$"):
        export(make(ours, "lstm_proj"), with_state=True)
    with pytest.raises(TypeError, match=r"^onnx.export: with_state must be a bool, got int$"):
        export(make(ours, "gru"), with_state=1)
    with pytest.raises(TypeError, match=r"^onnx.export: module must have float32, .*, got torch.float16$"):
        export(make(ours, "gru").half())


class Tagger(torch.nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent, self.head = recurrent, torch.nn.Linear(14, 2)

    def forward(self, x):
        y, last = self.recurrent(x)
        return self.head(y), last


def export_by_torch(model, *arguments):
    file, names = io.BytesIO(), ["x", "h"][: len(arguments)]
    axes = dict(zip(names, [{0: "T", 1: "B"}, {1: "B"}], strict=False))
    torch.onnx.export(model, arguments, file, dynamo=False, input_names=names, dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # these three are torch's own
    "ignore::torch.jit.TracerWarning",
    "ignore:Exporting a model to ONNX with a batch_size other",
)
@pytest.mark.parametrize("kind", ["lstm", "gru", "relu"])
def test_a_whole_model_is_exported_by_torch(kind):
    """torch.onnx.export finds the layers of torch.nn in it, with dynamo=False, which needs no further package."""
    model = Tagger(make(ours, kind, num_layers=2, bidirectional=True, dtype=F32)).eval()
    written = export_by_torch(model, randn(4, 3, I, dtype=F32))
    assert [node.op_type for node in written.graph.node].count(model.recurrent.mode.split("_")[0]) == 2
    x = randn(6, 2, I, dtype=F32)
    with torch.no_grad():
        output, last = model(x)
    expected = [output, *(last if isinstance(last, tuple) else (last,))]
    for found, y in zip(infer(written, {"x": x}), expected, strict=True):
        assert abs(found - y.numpy()).max() <= 8 * tolerance("float32", 6, 14)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Exporting a model to ONNX with a batch_size other",
)
@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_a_layer_itself_is_exported_by_torch(kind):
    """torch passes the defaults of the exported module's keyword-only arguments by position."""
    module, x = make(ours, kind, dtype=F32).eval(), randn(6, 2, I, dtype=F32)
    with torch.no_grad():
        output, last = module(x)
        more, h = (module(x, last)[0], last) if kind != "lstm" else (None, None)
    example = randn(4, 3, I, dtype=F32)
    found = infer(export_by_torch(module, example), {"x": x})
    assert abs(found[0] - output.numpy()).max() <= 8 * tolerance("float32", 6, 14)
    if more is not None:
        found = infer(export_by_torch(module, example, randn(1, 3, 7, dtype=F32)), {"x": x, "h": h})
        assert abs(found[0] - more.numpy()).max() <= 8 * tolerance("float32", 6, 14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_that_torch_cannot_export():
    x = randn(4, 3, I, dtype=F32)
    for kind, options, error, expected in (
        ("sLSTM", {}, TypeError, "sLSTM: torch.onnx.export takes LSTM, GRU and RNN, got sLSTM"),
        ("gru", {"num_heads": 7}, ValueError, "GRU: num_heads must be 1 .* in torch.onnx.export, got num_heads=7, .*"),
        ("lstm", {"clip_state": 1.0}, ValueError, "LSTM: num_heads .* clip_state None in .*, clip_state=1.0"),
    ):
        with pytest.raises(error, match=f"^{expected}$"):
            export_by_torch(make(ours, kind, dtype=F32, **options), x)
    asked = make(ours, "gru", dtype=F32)
    asked.register_forward_pre_hook(lambda *_: (_[1], {"lengths": [4, 1, 2]}), with_kwargs=True)
    for root in (asked, torch.nn.Sequential(asked)):
        with pytest.raises(ValueError, match=r"^GRU: reset, lengths and cu_seqlens must be None in torch.onnx.export"):
            export_by_torch(root, x)
    with pytest.raises(ValueError, match=r"^GRU: reset, lengths and cu_seqlens must be None in torch.onnx.export"):
        torch.onnx.export(make(ours, "gru"), (x, {"lengths": torch.tensor([4, 1, 2])}), io.BytesIO(), dynamo=False)


def quiet(test):
    """Ignore the warnings of torch's exporter about itself."""
    for category in ("DeprecationWarning", "UserWarning", "FutureWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{category}")(test)
    return test


Layers = list[tuple[Any, dict[str, Any]]]
PROGRAMS: dict[bool, Layers] = {  # the layers of a program, strict or not
    False: [
        (ours.LSTM, {"proj_size": 3, "clip_state": 0.1}),
        (ours.RNN, {"nonlinearity": "relu", "bidirectional": True}),
        (ours.sLSTM, {"num_heads": 2}),
    ],
    True: [(ours.GRU, {"num_heads": 2, "bias": False})],
}


class Asked(torch.nn.Module):
    """Calls layers with lengths and reset; those with heads then again from their final states, one or several."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layer(5, 6, batch_first=True, **options) for layer, options in layers)

    def forward(self, x: Any, lengths: Any, reset: Any) -> Any:
        outputs = []
        for layer in self.layers:
            y, last = layer(x, lengths=lengths, reset=reset)
            again = layer(x, last)[:1] if layer.num_heads > 1 else ()
            outputs += [y, *again, *(last if isinstance(last, tuple) else (last,))]
        return tuple(outputs)


def given(B: int, T: int) -> tuple[Any, ...]:
    return torch.randn(B, T, 5), torch.randint(0, T + 1, (B,)), torch.rand(B, T) < 0.3


@quiet
@pytest.mark.parametrize("strict", PROGRAMS)
def test_programs_without_our_ops(strict: bool) -> None:
    torch.manual_seed(0)
    model = Asked(PROGRAMS[strict]).eval()
    B, T = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    sizes = ({0: B, 1: T}, {0: B}, {0: B, 1: T})
    program = decompose(torch.export.export(model, given(3, 4), dynamic_shapes=sizes, strict=strict))
    assert not any("fastiter" in str(node.target) for node in program.graph.nodes)
    inputs = [given(3, 4), given(2, 7), given(1, 2)]
    pytest.importorskip("onnxscript")
    written = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
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


@quiet
def test_programs_that_are_refused() -> None:
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
