"""Whole mixers: states in caches, replaced layers, and calls that the original code handles."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fastiter import _core  # noqa: E402
from fastiter.torch import accelerate  # noqa: E402
from tests.accelerate.models import make, tokens  # noqa: E402

MIXERS = {
    "Mamba": "backbone.layers.0.mixer",
    "FalconMamba": "backbone.layers.0.mixer",
    "Mamba2": "backbone.layers.0.mixer",
    "FalconH1": "model.layers.0.mamba",
    "Qwen3Next": "model.layers.0.linear_attn",
    "Qwen3_5": "model.layers.0.linear_attn",
}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def in_parts(models: list[Any], mask: Any = None) -> tuple[Any, Any]:
    """Return the logits of a prompt and three single tokens, and the cache; the models process the parts in turn."""
    x, found, cache = tokens(2, 40), [], None
    parts = (x[:, :23], x[:, 23:37], x[:, 37:38], x[:, 38:39], x[:, 39:])
    with torch.no_grad():
        for i, part in enumerate(parts):
            how = {"attention_mask": mask} if i == 0 and mask is not None else {}
            output = models[i % len(models)](part, use_cache=True, cache=cache, **how)
            cache = output.cache
            found.append(output.logits)
    return torch.cat(found, 1), cache


def states_of(cache: Any) -> list[Any]:
    layers = [layer for layer in cache.layers if hasattr(layer, "recurrent_states")]
    return [x for layer in layers for x in (*layer.conv_states.values(), *layer.recurrent_states.values())]


@every_mixer
def test_caches_are_the_same_and_shared(name: str) -> None:
    """A model that is not accelerated can continue with the cache of one that is, and vice versa."""
    mask = torch.ones(2, 23, dtype=torch.long)
    mask[1, :4] = 0
    theirs, ours = make(name).double(), accelerate(make(name).double())
    expected, cache = in_parts([theirs], mask)
    for models in ([ours], [ours, theirs], [theirs, ours], [copy.deepcopy(ours)], [pickle.loads(pickle.dumps(ours))]):
        found, other = in_parts(models, mask)
        for a, e in zip([found, *states_of(other)], [expected, *states_of(cache)], strict=True):
            # transformers rounds some factors to float32 in models of every dtype
            assert a.dtype == e.dtype or e.dtype == torch.float32
            assert (a - e).norm() <= 2**-20 * e.norm()
            assert a.is_contiguous() == e.is_contiguous()


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Bamba", "NemotronH", "Zamba2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_a_mixer_is_one_call(name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    for step in ("mamba_step", "mamba2_step"):
        real = getattr(_core.ssm, step)

        def counted(*arguments: Any, real: Any = real) -> Any:
            versions = [x._version for x in arguments[3:5]]
            out = real(*arguments)
            calls.append(out is not None)
            assert versions == [x._version for x in arguments[3:5]]  # the caller updates the counts
            return out

        monkeypatch.setattr(_core.ssm, step, counted)
    ours = accelerate(make(name).to(dtype))
    expected, exact = in_parts([make(name).to(dtype).double()])
    found, cache = in_parts([ours])
    mixers = sum(hasattr(m, "A_log") for m in ours.modules())
    assert calls == [True] * 3 * mixers and mixers
    bound = 2**-16 if dtype == torch.float32 else 2**-4
    for a, e in zip([found, *states_of(cache)], [expected, *states_of(exact)], strict=True):
        assert (a - e).norm() <= bound * e.norm()
    versions = [x._version for x in states_of(cache)]
    with torch.no_grad():
        ours(tokens(2, 1), use_cache=True, cache=cache)
    assert all(x._version > before for x, before in zip(states_of(cache), versions, strict=True))
    norms = [m for n, m in ours.named_modules() if n.endswith(("mixer.norm", "mamba.norm"))]
    for norm in norms:
        norm.register_forward_hook(lambda module, args, output: 1.5 * output)
    calls.clear()
    hooked, _ = in_parts([ours])
    assert bool(calls) == (not norms)
    assert not norms or not torch.allclose(hooked.float(), found.float(), rtol=1e-2, atol=1e-2)


class Scaled(torch.nn.Module):
    """A layer around another one, as adapters are."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Any) -> Any:
        return 1.5 * self.of(x)


@every_mixer
@pytest.mark.parametrize("how", ["adapter", "hook"])
def test_layers_around_or_on_the_projections(name: str, how: str) -> None:
    """A layer that does more than a product is not bypassed."""
    models = make(name), accelerate(make(name))
    plain = in_parts([models[1]])[0]
    for model in models:
        mixer = model.get_submodule(MIXERS[name])
        for key, layer in list(mixer.named_children()):
            if not isinstance(layer, torch.nn.Linear) or key == "dt_proj":  # transformers reads its weight, too
                continue
            if how == "adapter":
                setattr(mixer, key, Scaled(layer))
            else:
                layer.register_forward_hook(lambda module, args, output: 1.5 * output)
    expected, found = (in_parts([model])[0] for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - plain).norm() > 1e-3 * plain.norm()


@every_mixer
def test_a_forward_with_other_code(name: str) -> None:
    """Only its functions are then replaced, and the report says so."""
    model = make(name)
    mixer = model.get_submodule(MIXERS[name])

    class Other(type(mixer)):
        def forward(self, *args: Any, **options: Any) -> Any:
            return 2 * super().forward(*args, **options)

    x = tokens(1, 20)
    mixer.__class__ = Other
    expected = model(x).logits
    report = accelerate(model, return_report=True)[1]
    assert MIXERS[name] not in report.accelerated or "as a whole" not in report.accelerated[MIXERS[name]]
    torch.testing.assert_close(model(x).logits, expected, rtol=1e-4, atol=1e-5)


@every_mixer
def test_mixed_precision_and_past_recording(name: str) -> None:
    """The original code handles calls that ours does not support."""
    theirs, ours, x = make(name), accelerate(make(name)), tokens(2, 20)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected, found = theirs(x).logits, ours(x).logits
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)
    results = []
    for model in (theirs, ours):
        with torch.no_grad():
            cache = model(x, use_cache=True).cache
            for layer in cache.layers:
                if hasattr(layer, "activate_past_recording"):
                    layer.activate_past_recording()
            logits = [model(x[:, i : i + 1], use_cache=True, cache=cache).logits for i in range(2)]
        results.append([*logits, *states_of(cache)])
    for a, e in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
