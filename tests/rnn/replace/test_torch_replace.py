"""replace and restore: the same objects, weights, hooks, parametrisations and mode; torch's results; reasons."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

from fastiter.torch import accelerate, replace, restore  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F64, KINDS, H, I, assert_same, make, make_input, no_onednn_projection, one_thread, run  # noqa: E402, F401
from tests.support.reports import report_of, restored_names  # noqa: E402

pytestmark = no_onednn_projection


class Model(nn.Module):
    """Two layers that share weights, one of another kind, and non-recurrent layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(I, I, 2, dropout=0.3, dtype=F64)
        self.second = nn.LSTM(I, I, 2, dropout=0.3, dtype=F64)
        for name, p in self.first.named_parameters():
            setattr(self.second, name, p)
        self.inner = nn.ModuleList([nn.GRU(I, H, bidirectional=True, dtype=F64)])
        self.head = nn.Linear(2 * H, 3, dtype=F64)

    def forward(self, x):
        x = self.second(self.first(x)[0])[0]
        return self.head(self.inner[0](x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_results_stay_and_come_back(kind):
    module = make(nn, kind, num_layers=2, bidirectional=True, dtype=F64)
    theirs = type(module)
    expected, parameters = run(module, make_input("time")), list(module.parameters())
    report = report_of(replace, module)
    assert type(module) is getattr(ours, theirs.__name__)
    assert list(report.replaced) == [""] and not report.left
    assert str(report).startswith(f"replaced the model itself: {theirs.__name__}(")
    assert all(p is q for p, q in zip(module.parameters(), parameters, strict=True))
    assert_same(run(module, make_input("time")), expected)
    assert restored_names(module) == [""] and type(module) is theirs
    assert_same(run(module, make_input("time")), expected, factor=0)
    assert restored_names(module) == []


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_bfloat16(name):
    module, x = make(nn, name, dtype=torch.bfloat16), make_input("time", torch.bfloat16)
    expected = module(x)[0]
    assert list(report_of(replace, module).replaced) == [""]
    actual = module(x)[0]
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).abs().max() <= 2**-8 * (1 + len(x)) * expected.abs().max()
    assert restored_names(module) == [""] and module(x)[0].equal(expected)


def test_a_model_keeps_its_weights_hooks_and_mode():
    torch.manual_seed(0)
    model = Model().eval()
    model.first.train()
    seen, x = [], make_input("time")
    model.first.register_forward_hook(lambda module, given, output: seen.append(type(module)))
    model.first.weight_hh_l0.register_hook(lambda g: seen.append("gradient"))
    model.first.dropout = 0.0
    expected = model(x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = report_of(replace, model)
    assert report.replaced == {
        "first": "LSTM(5, 5, num_layers=2)",
        "second": "LSTM(5, 5, num_layers=2, dropout=0.3)",
        "inner.0": "GRU(5, 7, bidirectional=True)",
    }
    assert model.first.training and not model.second.training
    assert model.first.weight_hh_l0 is model.second.weight_hh_l0
    seen.clear()
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    assert seen == [ours.LSTM, ours.LSTM, "gradient"]
    optimizer.step()
    after = model(x)
    assert not after.equal(expected)
    assert restored_names(model) == ["first", "second", "inner.0"]
    torch.testing.assert_close(model(x), after)
    assert type(model.first) is nn.LSTM


def test_parametrisations_stay():
    module = make(nn, "gru", dtype=F64)
    parametrizations.weight_norm(module, "weight_hh_l0")
    parametrizations.orthogonal(module, "weight_ih_l0")
    expected, state = run(module, make_input("time")), dict(module.state_dict())
    report = report_of(replace, module)
    assert report.replaced == {"": "GRU(5, 7)"}
    assert isinstance(module, ours.GRU) and type(module).__name__ == "ParametrizedGRU"
    assert_same(run(module, make_input("time")), expected)
    assert module.state_dict().keys() == state.keys()
    parametrize.remove_parametrizations(module, "weight_ih_l0")
    assert restored_names(module) == [""] and isinstance(module, nn.GRU) and not isinstance(module, ours.GRU)
    assert parametrize.is_parametrized(module, "weight_hh_l0")
    torch.testing.assert_close(module(make_input("time"))[0], expected["output"])
    replace(module)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is ours.GRU
    assert restored_names(module) == [""] and type(module) is nn.GRU


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0", "weight_ih_l1"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_parametrisation_with_a_product_under_autocast(kind, name):
    """Autocast computes that one weight in bfloat16, while the others stay float32."""

    class Scaled(nn.Module):
        def forward(self, w):
            return (torch.eye(len(w)) @ w.reshape(len(w), -1)).view(w.shape)

    module, x = make(nn, kind, num_layers=2), make_input("time", torch.float32)
    parametrize.register_parametrization(module, name, Scaled())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = module(x)[0]
        assert list(report_of(replace, module).replaced) == [""]
        y = module(x)[0]
        y.float().sum().backward()
    assert y.dtype == expected.dtype and (y - expected).abs().max() <= 2**-6
    original = module.parametrizations[name].original
    assert original.grad.dtype == torch.float32 and original.grad.abs().max() > 0


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm. is deprecated:FutureWarning")
def test_weight_norm_by_hooks_stays():
    module = make(nn, "tanh", dtype=F64)
    torch.nn.utils.weight_norm(module, "weight_hh_l0")
    expected = module(make_input("time"))[0]
    assert list(report_of(replace, module).replaced) == [""]
    torch.testing.assert_close(module(make_input("time"))[0], expected)
    module.weight_hh_l0_g.data.mul_(2)
    changed = module(make_input("time"))[0]
    assert not changed.equal(expected)
    restore(module)
    torch.testing.assert_close(module(make_input("time"))[0], changed)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_restored_too(duplicate):
    model = Model()
    replace(model)
    other = duplicate(model)
    assert type(other.first) is ours.LSTM
    assert restored_names(other) == ["first", "second", "inner.0"]
    assert type(other.first) is nn.LSTM and type(model.first) is ours.LSTM


class OwnLSTM(nn.LSTM):
    def forward(self, x):
        return torch.zeros(len(x), x.shape[1], self.hidden_size)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_layers_left_unchanged_and_the_reasons():
    model = nn.ModuleDict(
        {
            "own": OwnLSTM(2, 2),
            "short": nn.GRU(2, 2, dtype=torch.float16),
            "meta": nn.GRU(2, 2, device="meta"),
            "cell": nn.LSTMCell(2, 2),
            "patched": nn.RNN(2, 2),
            "scripted": torch.jit.script(nn.GRU(2, 2)),
            "ours": ours.LSTM(2, 2),
            "slstm": ours.sLSTM(2, 2),
            "linear": nn.Linear(2, 2),
        }
    )
    model["patched"].forward = lambda x: x
    report = report_of(replace, model)
    assert not report.replaced
    assert report.left == {
        "own": f"the forward of its class, {__name__}.OwnLSTM, does not call super().forward",
        "short": "its weight_ih_l0 is float16 on cpu",
        "meta": "its weight_ih_l0 is float32 on meta",
        "cell": "it is a cell, which runs one step at a time",
        "patched": "its forward was replaced",
        "scripted": "it is scripted",
    }
    assert "left cell: it is a cell" in str(report)
    assert restored_names(model) == []
    assert type(model["ours"]) is ours.LSTM
    assert str(report_of(replace, nn.Linear(2, 2))) == "no recurrent layers"
    with pytest.raises(TypeError, match=r"^restore: built must be a bool, got int$"):
        restore(model, built=1)
    for function in (replace, restore):
        with pytest.raises(TypeError, match=f"^{function.__name__}: verbose must be a bool, got int$"):
            function(model, verbose=1)
        with pytest.raises(TypeError, match=f"^{function.__name__}: model must be a torch.nn.Module, got list$"):
            function([])


def test_restore_skips_layers_of_another_class():
    model = nn.Sequential(nn.LSTM(3, 4), nn.GRU(4, 4), nn.RNN(4, 4), nn.GRU(4, 4))
    parametrizations.weight_norm(model[3], "weight_hh_l0")
    assert len(report_of(replace, model).replaced) == 4
    model[0].__class__ = nn.LSTM
    sharded = type("FSDPGRU", (nn.Identity, ours.GRU), {})  # as torch.distributed.fsdp.fully_shard does
    model[1].__class__ = sharded
    model[3].__class__ = type("FSDPParametrizedGRU", (nn.Identity, type(model[3])), {})
    restored = report_of(restore, model)
    assert list(restored.restored) == ["2"] and type(model[2]) is nn.RNN
    assert type(model[0]) is nn.LSTM and type(model[1]) is sharded
    why = "its class was changed after replace, to"
    assert restored.left == {
        "0": f"{why} torch.nn.modules.rnn.LSTM",
        "1": f"{why} {__name__}.FSDPGRU",
        "3": f"{why} {__name__}.FSDPParametrizedGRU",
    }
    model[1].__class__ = ours.GRU
    restored = report_of(restore, model)
    assert list(restored.restored) == ["1"] and list(restored.left) == ["3"]
    assert type(model[1]) is nn.GRU


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_were_built_as_ours_become_torchs(kind):
    layer, x = make(ours, kind, num_layers=2, dtype=F64), make_input("time")
    expected, parameters = layer(x)[0], list(layer.parameters())
    model = nn.ModuleDict({"layer": layer, "slstm": ours.sLSTM(2, 2), "heads": ours.GRU(2, 2, num_heads=2)})
    model["clipped"], model["own"] = ours.RNN(2, 2, clip_state=1.0), type("Own", (ours.LSTM,), {})(2, 2)
    replaced = model["replaced"] = nn.GRU(2, 2)
    replace(model)
    assert restored_names(copy.deepcopy(model)) == ["replaced"]
    restored = report_of(restore, model, built=True)
    assert list(restored.restored) == ["layer", "replaced"]
    assert type(layer) is getattr(nn, KINDS[kind][0]) and type(replaced) is nn.GRU
    assert all(p is q for p, q in zip(layer.parameters(), parameters, strict=True))
    torch.testing.assert_close(layer(x)[0], expected)
    assert restored.left == {
        "slstm": "torch has no sLSTM",
        "heads": "torch's has no num_heads, which is 2",
        "clipped": "torch's has no clip_state, which is 1.0",
        "own": f"it is of a class of its own, {__name__}.Own",
    }


def test_reports_have_a_line_for_each_kind() -> None:
    """Modules of one kind are counted, and indices in their names are left out; what was left has its reason."""
    layers = [nn.ModuleDict({"rnn": nn.GRU(4, 4), "cell": nn.GRUCell(4, 4)}) for _ in range(12)]
    others = {name: nn.LSTM(4, size) for size, name in enumerate("abcde", start=1)}
    model = nn.ModuleDict({"layers": nn.ModuleList(layers), **others, "one": nn.RNN(4, 4)})
    of_cells = "left 12 modules, layers.*.cell: it is a cell, which runs one step at a time"
    for change, verb, by in (
        (replace, "replaced", ""),
        (accelerate, "accelerated", " by fastiter.torch.nn.{}"),
    ):
        report = change(model, return_report=True)[1]
        assert str(report).splitlines() == [
            f"{verb} 12 modules, layers.*.rnn: GRU(4, 4){by.format('GRU')}",
            f"{verb} 5 modules, a, b, c and 2 more: LSTM{by.format('LSTM')}",
            f"{verb} one: RNN(4, 4){by.format('RNN')}",
            of_cells,
        ]
        assert "restored 12 modules, layers.*.rnn: GRU(4, 4)" in str(restore(model, return_report=True)[1])
