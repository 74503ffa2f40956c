"""Plans of models: each step against transformers' own, caches in both directions, and models that have no plan."""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from fastiter.decode import reference  # noqa: E402
from fastiter.decode._torch.cache import bind, cache_of, is_bound, length_of, new_cache, new_states, states_of  # noqa: E402
from fastiter.decode._torch.plans import plan_of  # noqa: E402
from fastiter.decode.plan import Attention  # noqa: E402
from tests.decode.models import MAIN, OPTIONS, exact, make, tokens  # noqa: E402
from tests.support.scripts import run_script  # noqa: E402

STEPS = 20
#: Rows and lengths of prompts; other variants of an architecture have the first
PROMPTS = [(3, 5), (1, 0), (3, 1), (1, 70)]
EACH = pytest.mark.parametrize(("name", "variant"), OPTIONS, ids=lambda x: x)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


def arrays(model: Any) -> dict[str, Any]:
    return {name: x.numpy() for name, x in model.state_dict().items()}


def one_step(model: Any, cache: Any, token: Any, position: int) -> Any:
    """Return the logits (rows, vocabulary) of a model's own step, with the position, as generate calls it."""
    knows_positions = "position_ids" in inspect.signature(model.forward).parameters
    where = {"position_ids": torch.full_like(token, position)} if knows_positions else {}
    return model(token, cache=cache, use_cache=True, **where).logits[:, 0].numpy()


def filled(model: Any, rows: int, prompt: int) -> Any:
    """Return a model's cache after a prompt."""
    cache = new_cache(model.config, rows, torch.float64)
    if prompt:
        model(tokens(rows, prompt), cache=cache, use_cache=True)
    return cache


def kept(plan: Any, key: str, state: Any) -> Any:
    """Return what a cache keeps of a state: of keys and values of a window, those of the next token."""
    windows = {
        name: step.window
        for step in plan.steps
        if isinstance(step, Attention) and step.window is not None
        for name in (step.keys.name, step.values.name)
    }
    return state[:, :, 1 - windows[key] :] if key in windows else state


@pytest.mark.parametrize(
    ("name", "variant", "rows", "prompt"),
    [(*each, *given) for each in OPTIONS for given in (PROMPTS if each in MAIN else PROMPTS[:1])],
)
def test_steps_after_prompts(name: str, variant: str, rows: int, prompt: int) -> None:
    model = make(name, variant)
    plan, parameters, following = plan_of(model), arrays(model), tokens(rows, STEPS)
    assert plan.prompts == ("limits" not in variant)
    prompt = prompt if plan.prompts else max(prompt, 1)
    with torch.no_grad(), exact(model):
        cache = filled(model, rows, prompt)
        states = {key: x.numpy() for key, x in states_of(plan, cache, rows, torch.float64, model=model).items()}
        for i in range(STEPS):
            expected = one_step(model, cache, following[:, i : i + 1], prompt + i)
            positions = np.full(rows, prompt + i)
            logits, states = reference.step(plan, parameters, states, following[:, i].numpy(), positions)
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-10 * abs(expected).max())
        for key, x in states_of(plan, cache, rows, torch.float64, model=model).items():
            ours, theirs = kept(plan, key, states[key]), kept(plan, key, x)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * max(1, float(abs(x).max())))


def replace_tensors(cache: Any) -> None:
    """Replace the tensors of a cache by equal ones, as a beam search does."""
    if hasattr(cache, "reorder_cache"):
        cache.reorder_cache(torch.arange(2))
    else:
        cache.rnn_state = {layer: tuple(x.clone() for x in states) for layer, states in cache.rnn_state.items()}


@EACH
def test_states_and_caches_are_views_of_each_other(name: str, variant: str) -> None:
    """A cache of views continues as the original one, and is told from one whose tensors somebody replaced."""
    model, other, rows, prompt = make(name, variant), make(name, variant), 2, 5
    plan, following = plan_of(model), tokens(rows, 2)
    where: dict[str, Any] = {"model": model}
    with torch.no_grad(), exact(model):
        first, second = filled(model, rows, prompt), filled(other, rows, prompt)
        length = length_of(plan, first)
        assert length == (prompt if any(state.kind == "keys" for state in plan.states) else 0)
        states = states_of(plan, first, rows, torch.float64, capacity=9, **where)
        assert not is_bound(plan, states, first, length, **where)
        bind(plan, states, first, length, **where)
        again = cache_of(plan, states, model.config, length, **where)
        assert is_bound(plan, states, first, length, **where) and is_bound(plan, states, again, length, **where)
        replace_tensors(again)
        assert not is_bound(plan, states, again, length, **where)
        for key, x in states_of(plan, again, rows, torch.float64, capacity=9, **where).items():
            assert torch.equal(x, states[key]), key
        for i in range(2):
            token = following[:, i : i + 1]
            logits = one_step(model, first, token, prompt + i)
            expected = one_step(other, second, token, prompt + i)
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * abs(expected).max())


@EACH
def test_an_empty_cache_has_zeros(name: str, variant: str) -> None:
    model = make(name, variant)
    plan, cache = plan_of(model), filled(model, 2, 0)
    states = states_of(plan, cache, 2, torch.float64, model=model)
    expected = reference.initial_states(plan, 2)
    assert states.keys() == expected.keys() and not length_of(plan, cache)
    for key, x in states.items():
        np.testing.assert_array_equal(x, expected[key])
    assert not is_bound(plan, new_states(plan, 2, torch.float64, 4), cache, 0, model=model)


def test_a_cache_of_another_shape_is_refused() -> None:
    model = make("Mamba")
    cache = filled(model, 2, 3)
    with pytest.raises(
        ValueError, match=r"conv of layer 0 of the cache must have shape \(3, 40, 3\), got \(2, 40, 3\)"
    ):
        states_of(plan_of(model), cache, 3, torch.float64)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *[("Mamba", ""), ("Mamba2", ""), ("Qwen3_5", ""), ("Lfm2", ""), ("GraniteMoeHybrid", "experts")],
        *[("FalconH1", ""), ("OlmoHybrid", "positions"), ("KimiLinear", ""), ("RecurrentGemma", "")],
    ],
)
def test_prompts_with_padding(name: str, variant: str) -> None:
    """Rows of a batch have prompts of different lengths, padded at the left: positions and first keys differ."""
    model, lengths, prompt, steps = make(name, variant), torch.tensor([6, 2, 5]), 6, 3
    plan, parameters, given = plan_of(model), arrays(model), tokens(3, prompt + steps)
    firsts = prompt - lengths
    mask = torch.arange(prompt + steps) >= firsts[:, None]
    where = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = inspect.signature(model.forward).parameters
    with torch.no_grad(), exact(model):
        cache = new_cache(model.config, 3, torch.float64)
        for start, stop in ((0, prompt), *((i, i + 1) for i in range(prompt, prompt + steps))):
            how = {"position_ids": where[:, start:stop]} if "position_ids" in inputs else {}
            if start == 0 or "position_ids" in inputs:  # models without attention need no mask for single tokens
                how["attention_mask"] = mask[:, :stop].long()
            if start:
                before = {key: x.numpy() for key, x in states_of(plan, cache, 3, torch.float64, model=model).items()}
                token, position = given[:, start].numpy(), where[:, start].numpy()
                logits, _ = reference.step(plan, parameters, before, token, position, firsts.numpy())
            expected = model(given[:, start:stop], cache=cache, use_cache=True, **how).logits[:, -1].numpy()
            if start:
                np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-10 * abs(expected).max())


@pytest.mark.skipif(not list(metadata.distributions(name="xlstm")), reason="xlstm is not installed")
def test_modules_of_the_package_xlstm() -> None:
    run_script("tests.decode.xlstm_package")
