"""The trial of a decoder: models whose classes compute something else than their plans are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from fastiter.torch import Decoder, accelerate, decode  # noqa: E402
from tests.decode.models import make, tokens  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


def scaled(output: Any) -> Any:
    """Return the output of a module with its first tensor multiplied by a factor, as a new version could have it."""
    return (1.05 * output[0], *output[1:]) if isinstance(output, tuple) else 1.05 * output


def turned(output: Any) -> Any:
    """Return the cosines and sines of rotary embeddings for the next position."""
    cos, sin = output
    return cos * torch.cos(torch.tensor(0.5)) - sin * torch.sin(torch.tensor(0.5)), sin


#: The forwards of changed classes, and the edits of their results
CHANGED: dict[type, tuple[Callable[..., Any], Callable[[Any], Any]]] = {}


def changed_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute what a class computes after a change; as new code, it is none of which accelerate knows the equations."""
    forward, edit = next(CHANGED[kind] for kind in type(self).__mro__ if kind in CHANGED)
    return edit(forward(self, *args, **kwargs))


def change(monkeypatch: pytest.MonkeyPatch, model: Any, path: str, edit: Callable[[Any], Any] = scaled) -> None:
    """Let the class of a submodule compute something else."""
    kind = type(model.get_submodule(path))
    monkeypatch.setitem(CHANGED, kind, (kind.forward, edit))
    monkeypatch.setattr(kind, "forward", changed_forward)


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Mamba": ("backbone.layers.0.mixer", scaled),
    "FalconMamba": ("backbone.layers.1.mixer", scaled),
    "Mamba2": ("backbone.layers.0.mixer.norm", scaled),
    "Qwen3_5": ("model.layers.0.linear_attn.norm", lambda y: y + 0.05),
    "Qwen3Next": ("model.layers.2.self_attn", scaled),
    "Qwen3_5Moe": ("model.layers.0.mlp.experts", scaled),
    "Lfm2": ("model.rotary_emb", turned),
    "GraniteMoeHybrid": ("model.layers.0.shared_mlp", scaled),
    "FalconH1": ("model.layers.1.feed_forward", scaled),
    "RecurrentGemma": ("model.layers.0.temporal_block.rg_lru", scaled),
    "xLSTM": ("backbone.blocks.0.ffn", scaled),
}


@pytest.mark.parametrize("name", CHANGES)
def test_classes_that_compute_something_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name).float()
    change(monkeypatch, model, *CHANGES[name])
    before = {key: x.data_ptr() for key, x in model.named_parameters()}
    expected = (
        rf"^Decoder: {name}ForCausalLM of transformers {transformers.__version__} must compute the steps of its plan, "
        r"got logits that differ by \d\.\de[-+]\d\d of the largest, more than \d\.\de-0\d$"
    )
    with pytest.raises(ValueError, match=expected):
        Decoder(model, weights="int4")
    assert {key: x.data_ptr() for key, x in model.named_parameters()} == before


def test_accelerate_and_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make("Mamba").float()
    model.save_pretrained(tmp_path)
    change(monkeypatch, model, "backbone.layers.0.mixer")
    with pytest.raises(ValueError, match="must compute the steps of its plan"):
        accelerate(model, decode=True)
    with pytest.raises(ValueError, match="must compute the steps of its plan"):
        decode.load(tmp_path)
    loaded, built = decode.load(tmp_path, trial=False), Decoder(model, trial=False)
    assert torch.equal(loaded.step(torch.tensor([3])), built.step(torch.tensor([3])))


def test_a_step_that_reads_states_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are as before, and only steps with a cache have changed."""
    model = make("Qwen3_5").float()
    kind = type(model.model)
    forward = kind.forward

    def changed(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, position_ids=position_ids * 2 if position_ids is not None else None, **kwargs)

    Decoder(model, keep=True)
    monkeypatch.setattr(kind, "forward", changed)
    with pytest.raises(ValueError, match=r"^Decoder: Qwen3_5ForCausalLM of transformers .* must compute the steps"):
        Decoder(model)


def test_steps_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a cache of another kind: the model's own error is the cause."""
    model = make("Lfm2").float()

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError("no conv_states")

    monkeypatch.setattr(type(model.model), "forward", failing)
    expected = r"^Decoder: Lfm2ForCausalLM of transformers .* must compute a step with a cache, got no conv_states$"
    with pytest.raises(ValueError, match=expected) as raised:
        Decoder(model)
    assert isinstance(raised.value.__cause__, AttributeError)


def test_a_model_without_finite_logits_is_not_judged() -> None:
    model = make("Mamba").float()
    model.backbone.norm_f.weight.data[0] = float("inf")
    Decoder(model)


def test_a_trial_leaves_no_sequence() -> None:
    for name in ("Mamba", "RecurrentGemma"):
        model = make(name).float()
        tried, other = Decoder(model, keep=True), Decoder(model, trial=False)
        assert torch.equal(tried.prefill(tokens(2, 12)), other.prefill(tokens(2, 12)))
        with pytest.raises(ValueError, match="a token must have been read"):
            Decoder(make(name).float()).state()
