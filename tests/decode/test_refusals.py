"""Models of which a plan would leave something out: each is refused with the name of the module and the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", "5.24")

from torch import nn  # noqa: E402

from fastiter.decode._torch.plans import plan_of  # noqa: E402
from fastiter.torch import accelerate  # noqa: E402
from tests.decode.models import exact, make, tokens  # noqa: E402


class Linear(nn.Linear):
    """A class of a user, with a known name."""


def with_module(name: str, module: Any) -> Callable[[Any], None]:
    """Return a change that sets a submodule of a model."""
    parent, _, last = name.rpartition(".")
    return lambda model: setattr(model.get_submodule(parent), last, module)


def with_parameter(name: str) -> Callable[[Any], None]:
    parent, _, last = name.rpartition(".")
    return lambda model: model.get_submodule(parent).register_parameter(last, nn.Parameter(torch.zeros(3)))


def with_hook(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *given: None)


def with_forward(model: Any) -> None:
    model.model.layers[1].mlp.forward = lambda x: x


def with_int8(model: Any) -> None:
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(24, 20, dtype=torch.int8), requires_grad=False)


def with_longer_list(model: Any) -> None:
    model.model.layers.append(model.model.layers[0])


MLP = "model.layers.0.mlp"
CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "another activation": (
        with_module(f"{MLP}.act_fn", nn.Mish()),
        rf"{MLP}.act_fn must be a SiLUActivation or .*Mish",
    ),
    "another class": (
        with_module(f"{MLP}.up_proj", Linear(20, 24)),
        rf"{MLP}.up_proj must be a Linear .*refusals.Linear",
    ),
    "no linear layer": (with_module(f"{MLP}.up_proj", None), rf"{MLP} must have a module up_proj, got none"),
    "one more module": (
        with_module(f"{MLP}.dropout", nn.Dropout()),
        rf"must have no module {MLP}.dropout, got .*Dropout",
    ),
    "one more parameter": (with_parameter(f"{MLP}.scale"), rf"Qwen3_5MLP must have no scale, got one in {MLP}"),
    "a bias": (with_parameter("model.norm.bias"), "Qwen3_5RMSNorm must have no bias, got one in model.norm"),
    "a hook": (with_hook, "model.layers.1.mlp must be without forward hooks"),
    "another forward": (with_forward, "model.layers.1.mlp must have the forward of its class"),
    "integers": (with_int8, "up_proj.weight must be a tensor of floating-point numbers, got torch.int8"),
    "one more layer": (with_longer_list, "the number of layers of model must be 3, got 4"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_models(change: str) -> None:
    model = make("Qwen3_5")
    edit, expected = CHANGES[change]
    edit(model)
    with pytest.raises((TypeError, ValueError), match=f"^Decoder: .*{expected}"):
        plan_of(model)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "Lfm2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}},
            "rope_type of model.rotary_emb must be 'default' or .*, got 'dynamic'",
        ),
        ("Mamba", {"hidden_act": "mish"}, "backbone.layers.0.mixer.act must be a SiLUActivation or"),
        ("xLSTM", {"mode": "train"}, "mode of xLSTMForCausalLM must be 'inference', got 'train'"),
        ("RecurrentGemma", {"lru_width": 40}, "lru_width of model.layers.0.temporal_block must be 20, got 40"),
    ],
)
def test_options(name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^Decoder: {expected}"):
        plan_of(make(name, **options))


def test_models_without_a_plan() -> None:
    with pytest.raises(TypeError, match=r"^Decoder: model must be one of BambaForCausalLM, .*, got torch.nn"):
        plan_of(nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"^Decoder: model must be one of .*, got transformers.*MambaModel"):
        plan_of(make("Mamba").backbone)


def test_older_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Mamba")
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.12.0")  # transformers replaces itself there
    with pytest.raises(ValueError, match=r"^Decoder: transformers must have at least version 5.24, got 5.12.0$"):
        plan_of(model)


def test_adapters() -> None:
    adapter = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    model = make("Mamba")
    model.backbone.layers[0].mixer.x_proj = adapter(40, 13)
    expected = r"^Decoder: backbone.layers.0.mixer.x_proj must be without adapters \(merge_and_unload\(\) returns such"
    with pytest.raises(TypeError, match=expected):
        plan_of(model)


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "Lfm2"])
def test_models_that_have_been_used(name: str) -> None:
    """Accelerated models, and those that have returned hidden states, have plans."""
    model = make(name)
    expected = plan_of(model)
    with torch.no_grad(), exact(model):
        model(tokens(1, 3), output_hidden_states=True)
    accelerate(model)
    for plan in (plan_of(model), expected):
        assert [type(step) for step in plan.steps] == [type(step) for step in expected.steps]


def test_tied_weights_have_one_name() -> None:
    for is_tied in (False, True):
        plan = plan_of(make("Mamba", tie_word_embeddings=is_tied))
        names = {
            step.table.name if hasattr(step, "table") else step.matrix.name for step in (plan.steps[0], plan.steps[-1])
        }
        assert len(names) == (1 if is_tied else 2)
