"""LSTM, GRU, RNN and sLSTM in torch tools that accept torch's classes only: quantized, or refused with a reason."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.ao.quantization import (  # noqa: E402
    QConfigMapping,
    convert,
    default_dynamic_qconfig,
    get_default_qconfig,
    prepare,
    quantize_dynamic,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import replace, restore  # noqa: E402
from tests.rnn.nn.cases_nn import F32, H, I, make, make_input, one_thread  # noqa: E402, F401
from tests.support.pairs import pairs  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated"),
    pytest.mark.filterwarnings("ignore:.*reduce_range will be deprecated"),
    pytest.mark.filterwarnings("ignore:must run observer before calling calculate_qparams"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
]
LEFT = "torch.ao.quantization leaves this layer in float"
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}]


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(H * (2 if layer.bidirectional else 1), 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def both(name, **options):
    """Return the same model with torch's layer and with fastiter's."""
    theirs = Model(make(nn, name, **options)).eval()
    mine = copy.deepcopy(theirs)
    mine.layer = make(ours, name, **options)
    return theirs, mine.eval()


@pairs
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("spec", ["classes", "names", "all"])
def test_quantize_dynamic(name, options, spec):
    theirs, mine = both(name, **options)
    asked = {
        "classes": ({nn.Linear, getattr(nn, name)}, {nn.Linear, getattr(ours, name)}),
        "names": ({"layer": default_dynamic_qconfig},) * 2,
        "all": ({"": default_dynamic_qconfig},) * 2,
    }[spec]
    x = make_input("time", F32)
    expected = quantize_dynamic(theirs, asked[0])
    quantized = quantize_dynamic(mine, asked[1])
    assert type(quantized.layer) is type(expected.layer) and "quantized" in type(quantized.layer).__module__
    assert quantized(x).equal(expected(x))
    assert type(mine.layer) is getattr(ours, name), "the model itself was to stay"


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("asked", [None, {nn.LSTM, nn.GRU, nn.Linear}, {nn.Linear}])
def test_a_layer_that_stays_in_float_is_named(name, asked):
    _, mine = both(name)
    x = make_input("time", F32)
    with pytest.warns(UserWarning, match=LEFT) as caught:
        quantized = quantize_dynamic(mine, asked)
    (text,) = {str(w.message) for w in caught if LEFT in str(w.message)}
    assert text.startswith(f"{name}(5, 7): {LEFT}, as it was asked to quantize no fastiter.torch.nn")
    assert "fastiter.torch.restore(model)" in text and "fastiter.torch.nn.QuantLSTM" in text
    assert type(quantized.layer) is getattr(ours, name) and "quantized" in type(quantized.head).__module__
    assert quantized.layer(x)[0].equal(mine.layer(x)[0])
    assert not hasattr(quantized.layer, "qconfig") and not hasattr(mine.layer, "qconfig")


def test_after_replace_and_restore():
    """Quantizing after replace warns; restore gives torch's own result."""
    theirs, _ = both("LSTM")
    x, expected = make_input("time", F32), quantize_dynamic(theirs)
    replace(theirs)
    with pytest.warns(UserWarning, match=LEFT):
        quantize_dynamic(theirs)
    restore(theirs)
    assert quantize_dynamic(theirs)(x).equal(expected(x))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: ours.sLSTM(5, 7), "sLSTM(5, 7): ... as torch has no sLSTM;"),
        (lambda: ours.GRU(5, 6, num_heads=2), "GRU(5, 6, num_heads=2): ... as torch's has no num_heads, which is 2;"),
        (lambda: ours.LSTM(5, 7, clip_state=2.0), "as torch's has no clip_state, which is 2.0;"),
        (lambda: type("Own", (ours.GRU,), {})(5, 7), f"as {__name__}.Own is none of torch's classes;"),
    ],
)
def test_layers_that_torch_cannot_quantize_are_named(layer, why):
    model, x = nn.Sequential(layer()), make_input("time", F32)
    with pytest.warns(UserWarning, match=LEFT) as caught:
        quantized = quantize_dynamic(model, {"": default_dynamic_qconfig})
    (text,) = {str(w.message) for w in caught if LEFT in str(w.message)}
    assert all(part in text for part in why.split(" ... "))
    assert type(quantized[0]) is type(model[0]) and quantized[0](x)[0].equal(model[0](x)[0])


def test_prepare_and_convert():
    theirs, mine = both("LSTM")
    x, results = make_input("time", F32), []
    for model in (theirs, mine):
        model.qconfig = get_default_qconfig("x86")
        prepared = prepare(model)
        assert type(prepared.layer).__module__.startswith("torch.ao.nn.quantizable")
        prepared(x)
        results.append(convert(prepared).layer)
    assert type(results[0]) is type(results[1])
    a, b = (layer.state_dict() for layer in results)
    assert list(a) == list(b)
    for key in a:
        same = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else repr(a[key]) == repr(b[key])
        assert same, key


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_the_flow_on_graphs(name):
    theirs, mine = both(name)
    x, results = make_input("time", F32), []
    mapping = QConfigMapping().set_global(default_dynamic_qconfig)
    for model in (theirs, mine):
        results.append(convert_fx(prepare_fx(model, mapping, (x,))))
    assert type(results[0].layer) is type(results[1].layer)
    assert "quantized" in type(results[1].layer).__module__
    assert results[0](x).equal(results[1](x))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_the_flow_on_graphs_configured_for_torchs_class(name):
    _, mine = both(name)
    mapping = QConfigMapping().set_object_type(getattr(nn, name), default_dynamic_qconfig)
    with pytest.warns(UserWarning, match=LEFT):
        converted = convert_fx(prepare_fx(mine, mapping, (make_input("time", F32),)))
    assert type(converted.layer) is getattr(ours, name)


def test_parametrized():
    theirs, mine = both("LSTM")
    for model in (theirs, mine):
        parametrizations.weight_norm(model.layer, "weight_hh_l0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine.layer.qconfig = default_dynamic_qconfig
    assert isinstance(mine.layer, nn.LSTM) and not isinstance(mine.layer, ours.LSTM)
    assert mine(make_input("time", F32)).equal(theirs(make_input("time", F32)))


def test_a_qconfig_is_an_attribute_like_others():
    layer = ours.sLSTM(5, 7)
    assert not hasattr(layer, "qconfig")
    with pytest.raises(AttributeError, match="qconfig"):
        layer.qconfig  # noqa: B018
    with pytest.warns(UserWarning, match=LEFT):
        layer.qconfig = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert copy.deepcopy(layer).qconfig is None and pickle.loads(pickle.dumps(layer)).qconfig is None
    del layer.qconfig
    assert not hasattr(layer, "qconfig")


@pytest.mark.parametrize("layer", [ours.LSTM, ours.GRU, ours.RNN, ours.sLSTM])
def test_scripting_is_refused_in_a_sentence(layer):
    model = nn.Sequential(layer(5, 7))
    message = f"^{layer.__name__}: torch.jit.script cannot compile this layer; fastiter.torch.restore"
    for module in (model, model[0]):
        with pytest.raises(RuntimeError, match=message) as error:
            torch.jit.script(module)
        assert "\n" not in str(error.value)
    assert type(model[0]) is layer


def test_scripting_after_restore():
    model, x = nn.Sequential(ours.GRU(5, 7)), make_input("time", F32)
    expected = model(x)[0]
    assert restored_names(model, built=True) == ["0"]
    torch.testing.assert_close(torch.jit.script(model)(x)[0], expected)
