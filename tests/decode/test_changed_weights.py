"""accelerate(decode=): weights that change afterwards are those of the next sequence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from fastiter.torch import accelerate, restore  # noqa: E402
from tests.decode.models import make, tokens  # noqa: E402

NEW = 4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


def generated(model: Any) -> Any:
    """Return the logits of a prompt and of steps."""
    found = model.generate(
        tokens(1, 12),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.stack(found.logits)


def changed_in_place(model: Any) -> None:
    with torch.no_grad():
        model.backbone.layers[1].mixer.out_proj.weight.mul_(1.5)


def optimized(model: Any) -> None:
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(tokens(1, 12)).logits.square().mean().backward()
    optimizer.step()


def loaded(model: Any) -> None:
    model.load_state_dict({key: 0.9 * x for key, x in model.state_dict().items()})


def assigned(model: Any) -> None:
    model.load_state_dict({key: 0.9 * x for key, x in model.state_dict().items()}, assign=True)


def replaced_data(model: Any) -> None:
    for x in model.parameters():
        x.data = x.data * 0.9


def replaced_data_twice(model: Any) -> None:
    """The second time, memory with the first address may be in use."""
    replaced_data(model)
    replaced_data(model)


def replaced_module(model: Any) -> None:
    layer = model.backbone.layers[0].mixer.in_proj
    own = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
    with torch.no_grad():
        own.weight.copy_(layer.weight.flip(0))
    model.backbone.layers[0].mixer.in_proj = own


def a_vector(model: Any) -> None:
    with torch.no_grad():
        model.backbone.layers[0].mixer.D.add_(1)


CHANGES = [
    *(changed_in_place, optimized, loaded, assigned, replaced_data, replaced_data_twice, replaced_module, a_vector)
]


@pytest.mark.parametrize(
    ("weights", "change"),
    [*(("int8", change) for change in CHANGES), (True, changed_in_place)],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_changes(weights: Any, change: Callable[[Any], None]) -> None:
    model = accelerate(make("Mamba").float(), decode=weights)
    before = generated(model)
    change(model)
    found = generated(model)
    fresh = accelerate(restore(copy.deepcopy(model)), decode=weights)
    assert torch.equal(found, generated(fresh))
    assert not torch.allclose(found, before, rtol=1e-3)


def test_what_has_not_changed_is_not_packed_again() -> None:
    model = accelerate(make("Mamba").float(), decode="int8")
    decoder = model._fastiter_steps.decoder
    first = generated(model)
    copied = copy.deepcopy(model)
    for each in (model, copied):
        assert torch.equal(generated(each), first)
        assert each._fastiter_steps.decoder is decoder
    changed_in_place(copied)
    assert not torch.equal(generated(copied), first)
    assert torch.equal(generated(model), first)


def test_a_copy_of_a_model_that_has_changed() -> None:
    model = accelerate(make("Mamba").float(), decode="int8")
    changed_in_place(model)
    copied = copy.deepcopy(model)
    assert torch.equal(generated(copied), generated(model))


def test_states_in_modules_go_on() -> None:
    """RecurrentGemma holds its states in modules, with a format in those of the decoder's copy."""
    model = accelerate(make("RecurrentGemma").float(), decode="int8")
    generated(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    fresh = accelerate(restore(copy.deepcopy(model)), decode="int8")
    assert torch.equal(generated(model), generated(fresh))


def test_restore_after_a_change() -> None:
    model = make("Mamba").float()
    plain = copy.deepcopy(model)
    accelerate(model, decode="int8")
    for each in (model, plain):
        changed_in_place(each)
    generated(model)
    assert torch.equal(restore(model)(tokens(1, 12)).logits, plain(tokens(1, 12)).logits)
