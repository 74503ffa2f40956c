"""accelerate and restore: the same objects, weights, hooks and mode; copies and files; other models; reasons."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402
from transformers.models.mamba import modeling_mamba  # noqa: E402

from fastiter.torch import Accelerated, accelerate, restore  # noqa: E402
from tests.accelerate.models import make, tokens  # noqa: E402
from tests.rnn.replace.xlstm_like import Cell, Config  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

MIXERS = ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(tokens(2, 9)).logits


def is_accelerated(model: Any) -> bool:
    found = {type(model.get_submodule(name)) is not modeling_mamba.MambaMixer for name in MIXERS}
    assert len(found) == 1
    return found.pop()


def test_the_plain_call_returns_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = make("Mamba")
    assert accelerate(model) is model
    assert capsys.readouterr().out == ""
    again, report = accelerate(model, verbose=True, return_report=True)
    assert again is model and report == Accelerated()  # it is accelerated already
    assert capsys.readouterr().out == "nothing to accelerate\n"
    assert restored_names(model) == MIXERS
    assert list(accelerate(model, return_report=True)[1].accelerated) == MIXERS


def test_weights_state_dict_hooks_and_mode_are_kept() -> None:
    model, seen = make("Mamba"), []
    mixer = model.get_submodule(MIXERS[0])
    mixer.train()
    mixer.register_forward_hook(lambda module, given, output: seen.append(type(module).__name__))
    mixer.in_proj.register_forward_pre_hook(lambda module, given: seen.append("in_proj"))
    expected, state = logits(model), model.state_dict()
    parameters, modules = list(model.parameters()), list(model.modules())
    accelerate(model)
    assert list(model.modules()) == modules and mixer.training and not model.training
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    found = model.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], x) for name, x in state.items())
    assert isinstance(mixer, modeling_mamba.MambaMixer)
    torch.testing.assert_close(logits(model), expected)
    assert seen == 2 * ["in_proj", "MambaMixer"]
    model.load_state_dict(make("Mamba").state_dict())
    restore(model)
    assert torch.equal(logits(model), expected) and type(mixer) is modeling_mamba.MambaMixer


def test_other_models_and_the_module_do_not_change() -> None:
    other, before = make("Mamba"), dict(vars(modeling_mamba))
    forward = modeling_mamba.MambaMixer.forward
    expected = logits(other)
    accelerate(make("Mamba"))
    assert dict(vars(modeling_mamba)) == before and modeling_mamba.MambaMixer.forward is forward
    assert torch.equal(logits(other), expected) and not is_accelerated(other)


def save_and_load(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), save_and_load])
def test_copies_and_files_stay_accelerated(copied: Any) -> None:
    model = accelerate(make("Mamba"))
    other = copied(model)
    assert is_accelerated(other) and torch.equal(logits(other), logits(model))
    assert {p.data_ptr() for p in other.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    with torch.no_grad():
        other.backbone.layers[0].mixer.D.add_(1)
    assert not torch.equal(logits(other), logits(model))
    assert restored_names(other) == MIXERS and is_accelerated(model)


def test_a_file_is_loaded_unaccelerated_if_the_function_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = pickle.dumps(accelerate(make("Mamba")).backbone.layers[0].mixer)
    newer = type("MambaMixer", (modeling_mamba.MambaMixer,), {"__module__": modeling_mamba.__name__})
    monkeypatch.setattr(modeling_mamba, "MambaMixer", newer)
    monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", lambda hidden_states, steps: hidden_states)
    with pytest.warns(UserWarning, match=r"saved accelerated is loaded as it was before: its mamba_selective_scan has"):
        assert type(pickle.loads(saved)) is newer


def test_decorators_are_kept() -> None:
    """Decorators of transformers run hooks of submodules whose weights are read, and accept old argument names."""

    class Hook:
        def pre_forward(self, module: Any) -> None:
            seen.append(module)

        def post_forward(self, module: Any, output: Any) -> None:
            seen.append(output)

    seen: list[Any] = []
    mixer = accelerate(make("Mamba")).backbone.layers[0].mixer
    mixer.conv1d._hf_hook = Hook()
    x = torch.randn(1, 4, 32)
    with pytest.warns(FutureWarning, match="cache_params"), torch.no_grad():
        found = mixer(x, cache_params=None)
    assert seen == [mixer.conv1d, ()]
    assert found.shape == x.shape


class Hooked(nn.Module):
    """A model to which Hugging Face's accelerate adds a hook, or from which it removes one."""

    @staticmethod
    def add(module: Any, seen: list[str]) -> None:
        old = module.forward

        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append("hook")
            return module._old_forward(*args, **kwargs)

        module._old_forward, module._hf_hook = old, object()
        module.forward = functools.update_wrapper(functools.partial(forward, module), old)

    @staticmethod
    def remove(module: Any) -> None:
        module.forward = module._old_forward
        del module._old_forward, module._hf_hook


@pytest.mark.parametrize("removed", ["never", "while accelerated", "after restore"])
@pytest.mark.parametrize("added", ["before", "after"])
def test_hooks_of_hugging_faces_accelerate(added: str, removed: str) -> None:
    model, seen = make("Mamba"), []
    expected = logits(model)
    mixer = model.backbone.layers[0].mixer
    for when in ("before", "after"):
        if when == added:
            Hooked.add(mixer, seen)
        if when == "before":
            accelerate(model)
    ours = logits(model)
    assert not torch.equal(ours, expected) and seen == ["hook"]
    torch.testing.assert_close(ours, expected)
    if removed == "while accelerated":
        Hooked.remove(mixer)
        assert torch.equal(logits(model), ours) and seen == ["hook"]
    assert restored_names(model) == MIXERS
    if removed == "after restore":
        Hooked.remove(mixer)
    assert torch.equal(logits(model), expected)
    assert seen == (["hook", "hook"] if removed == "never" else ["hook"])


def test_a_parametrized_mixer() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * x

    model = make("Mamba")
    parametrize.register_parametrization(model.backbone.layers[0].mixer, "D", Doubled())
    expected = logits(model)
    assert list(accelerate(model, return_report=True)[1].accelerated) == MIXERS
    torch.testing.assert_close(logits(model), expected)
    assert restored_names(model) == MIXERS and torch.equal(logits(model), expected)


def test_layers_of_torch() -> None:
    model = nn.ModuleDict({"layer": nn.LSTM(5, 8), "cell": nn.GRUCell(5, 8), "head": nn.Linear(8, 2)})
    x = torch.randn(4, 3, 5)
    expected = model["layer"](x)[0]
    report = accelerate(model, return_report=True)[1]
    assert report.accelerated == {"layer": "LSTM(5, 8) by fastiter.torch.nn.LSTM"}
    assert report.left == {"cell": "it is a cell, which runs one step at a time"}
    torch.testing.assert_close(model["layer"](x)[0], expected)
    assert restored_names(model) == ["layer"] and torch.equal(model["layer"](x)[0], expected)


def test_an_unknown_model_is_left_unchanged() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    report = accelerate(model, return_report=True)[1]
    assert report == Accelerated() and str(report) == "nothing to accelerate"
    assert restored_names(model) == []


def test_torch_compile() -> None:
    mixer = make("Mamba").backbone.layers[0].mixer
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        expected = accelerate(mixer)(x)
        compiled = torch.compile(mixer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)


# ---- Unknown functions, and functions that differ from known ones ----------------------------------------------------


def mamba_selective_scan(*arguments: Any, **options: Any) -> Any:
    """Stand in for the function of a GPU package, which fails on the CPU."""
    raise RuntimeError("0 active drivers")


class Mixer(nn.Module):
    """A mixer whose forward uses a function by its global name."""

    def forward(self, *arguments: Any) -> Any:
        return mamba_selective_scan(*arguments)


def scan_arguments() -> tuple[Any, ...]:
    u, delta = torch.randn(2, 1, 4, 6).unbind()
    B, C = torch.randn(2, 1, 3, 6).unbind()
    return u, delta.abs(), -torch.rand(4, 3), B, C


def reason(monkeypatch: pytest.MonkeyPatch, function: Any) -> str:
    """Return the reason why a mixer with this function is left unchanged."""
    monkeypatch.setitem(globals(), "mamba_selective_scan", function)
    report = accelerate(Mixer(), return_report=True)[1]
    assert report.accelerated == {}
    return report.left[""]


def test_a_function_bound_to_a_package_for_gpus_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = scan_arguments()
    theirs = modeling_mamba.mamba_selective_scan
    broken = functools.wraps(theirs)(mamba_selective_scan)  # as bound by transformers' decorator
    monkeypatch.setitem(globals(), "mamba_selective_scan", broken)
    model = Mixer()
    with pytest.raises(RuntimeError, match="0 active drivers"):
        model(*arguments)
    torch.testing.assert_close(accelerate(model)(*arguments), theirs(*arguments))


def test_reasons_against_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_names(x: Any, dt: Any) -> Any:
        return x

    def other_values(hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                     return_last_state=False):  # fmt: skip
        found = modeling_mamba.mamba_selective_scan(
            hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
        )
        return (1.001 * found[0], found[1]) if return_last_state else 1.001 * found

    def failing(hidden_states, dt, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
                return_last_state=False):  # fmt: skip
        raise RuntimeError("no driver")

    assert reason(monkeypatch, None) == "its mamba_selective_scan is None, not a function"
    assert reason(monkeypatch, other_names).startswith(
        "its mamba_selective_scan has the parameters x, dt, not hidden_s"
    )
    assert reason(monkeypatch, other_values) == "its mamba_selective_scan computes something else than before"
    assert reason(monkeypatch, failing) == "its mamba_selective_scan fails: no driver"


def test_reasons_against_modules() -> None:
    model = make("Mamba")
    first, second = (model.get_submodule(name) for name in MIXERS)
    first.forward = types.MethodType(lambda self, x, **options: x, first)
    second.to("meta")
    report = accelerate(model, return_report=True)[1]
    assert report.left == {MIXERS[0]: "its forward was replaced"} and list(report.accelerated) == [MIXERS[1]]
    assert str(report).splitlines()[1] == f"left {MIXERS[0]}: its forward was replaced"


def test_a_decorator_that_hides_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden(Mixer):
        forward = functools.wraps(Mixer.forward)(eval("lambda self, *arguments: arguments[0]"))

    monkeypatch.setitem(globals(), "mamba_selective_scan", modeling_mamba.mamba_selective_scan)
    report = accelerate(Hidden(), return_report=True)[1]
    assert report.left == {"": "a decorator hides the function Mixer.forward"}


def test_a_class_that_cannot_be_derived_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Final(Mixer):
        def __init_subclass__(cls) -> None:
            raise TypeError("it is final")

    monkeypatch.setitem(globals(), "mamba_selective_scan", modeling_mamba.mamba_selective_scan)
    report = accelerate(Final(), return_report=True)[1]
    assert report.left[""].startswith("no class can be derived from ") and report.left[""].endswith(": it is final")


def test_unsupported_recurrences_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixer(nn.Module):
        def forward(self, x: Any) -> Any:
            return mamba_chunk_scan_combined(x)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setitem(globals(), "mamba_chunk_scan_combined", None)
    report = accelerate(nn.Sequential(Mixer()), return_report=True)[1]
    assert report.left == {"0": "there is nothing for its mamba_chunk_scan_combined yet"} and not report.accelerated


def test_recurrences_without_a_kernel_are_named() -> None:
    """Also in scripted modules, whose code cannot change."""
    kinds = {name: type(name, (nn.Module,), {}) for name in ("minGRU", "LiGRU", "ZayaCCAProjection", "Other")}
    model = nn.ModuleDict({name: kind() for name, kind in kinds.items()})
    report = accelerate(model, return_report=True)[1]
    assert list(report.left) == ["minGRU", "LiGRU", "ZayaCCAProjection"] and not report.accelerated
    assert report.left["LiGRU"] == "it is a light gated recurrent unit, for which there is no kernel yet"
    assert str(report).splitlines()[2].startswith("left ZayaCCAProjection: it convolves with groups of channels")


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated", "ignore:.*torch.jit.* is not supported")
def test_scripted_cells_and_layers_are_named() -> None:
    model = torch.jit.script(nn.ModuleDict({"cell": nn.LSTMCell(3, 4), "layer": nn.GRU(3, 4), "head": nn.Linear(4, 2)}))
    assert accelerate(model, return_report=True)[1].left == {"cell": "it is scripted", "layer": "it is scripted"}


class Derived(nn.LSTM):
    """A layer with a class of its own."""


def test_names_in_reports_exist() -> None:
    model = nn.ModuleDict({"own": Derived(3, 4), "relu": nn.RNN(3, 4, nonlinearity="relu"), "gru": nn.GRU(3, 4)})
    model.update({f"cell {kind}": Cell(Config(function=kind), "vanilla") for kind in ("slstm", "lstm")})
    report = accelerate(model, return_report=True)[1]
    names = {name: text.rpartition(" by fastiter.torch.")[2] for name, text in report.accelerated.items()}
    expected = {"own": "nn.LSTM", "relu": "nn.RNN", "gru": "nn.GRU", "cell slstm": "slstm", "cell lstm": "lstm"}
    assert names == expected and not report.left
    assert report.accelerated["own"] == "Derived(3, 4) by fastiter.torch.nn.LSTM"


def test_a_class_that_was_changed_later_is_not_restored() -> None:
    model = make("Mamba")
    accelerate(model)
    mixer = model.backbone.layers[0].mixer
    mixer.__class__ = type("Sharded", (type(mixer),), {})
    restored = report_of(restore, model)
    assert list(restored.restored) == MIXERS[1:]
    assert restored.left[MIXERS[0]].startswith("its class was changed after accelerate, to ")


def test_products() -> None:
    """All layers of torch.nn.Linear, also those around the mixers; with few rows torch's product has the same bits."""
    model, plain = accelerate(make("Qwen3Next"), products=True), accelerate(make("Qwen3Next"))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    x = tokens(2, 33)
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(each(x).logits, plain(x).logits, rtol=1e-4, atol=1e-5)
    large, sizes = torch.ones(1 << 16, 32), (1 << 16, 1 << 10, 3)
    by_ours = [type(m.lm_head(large[:rows]).grad_fn).__name__ for m in (model, plain) for rows in sizes]
    assert [name == "_LinearBackward" for name in by_ours] == [True, *5 * [False]]
    assert torch.equal(model(x[:, :3]).logits, plain(x[:, :3]).logits)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(model.lm_head(large), plain.lm_head(large))
    model.double()(x)
    restored = report_of(restore, model)
    assert linear < set(restored.restored) and all(
        type(m) is nn.Linear for n, m in model.named_modules() if n in linear
    )


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"accelerate: model must be a torch.nn.Module, got int"):
        accelerate(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"accelerate: products must be a bool, got int"):
        accelerate(nn.Linear(1, 1), products=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"accelerate: verbose must be a bool, got int"):
        accelerate(nn.Linear(1, 1), verbose=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"accelerate: return_report must be a bool, got str"):
        accelerate(nn.Linear(1, 1), return_report="yes")  # type: ignore[call-overload]
