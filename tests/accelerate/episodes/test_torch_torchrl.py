"""accelerate on the recurrent modules of torchrl: rows of episodes in one call, the same results and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
modules = pytest.importorskip("torchrl.modules")

from tensordict import TensorDict  # noqa: E402

from fastiter.torch import accelerate, replace  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

FEATURES, WIDTH = 3, 4
STATES = {"lstm": ["h", "c"], "gru": ["h"]}


def make(layer: str, **options: Any) -> Any:
    """Return a module with random weights, the same ones every time."""
    torch.manual_seed(0)
    of = modules.LSTMModule if layer == "lstm" else modules.GRUModule
    names = STATES[layer]
    keys = {"in_keys": ["x", *names], "out_keys": ["y", *(("next", name) for name in names)]}
    return of(input_size=FEATURES, hidden_size=WIDTH, **keys, **{"default_recurrent_mode": True, **options})


def data(module: Any, shape: tuple[int, ...], has_states: bool = True) -> Any:
    """Return rows of steps; episodes start at random, and in some rows at the first step."""
    random = torch.Generator().manual_seed(1)
    layer = "lstm" if hasattr(module, "lstm") else "gru"
    rnn, dtype = getattr(module, layer), next(module.parameters()).dtype
    starts = torch.rand(*shape, 1, generator=random) < 0.25
    starts.view(-1, *starts.shape[-2:])[1:, 0] = True
    result = {"x": torch.randn(*shape, FEATURES, generator=random).to(dtype), "is_init": starts}
    states = (rnn.num_layers * (1 + rnn.bidirectional), WIDTH)
    for name in STATES[layer] if has_states else []:
        result[name] = torch.randn(*shape, *states, generator=random).to(dtype)
    leaves = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in result.items()}
    return TensorDict(leaves, shape)


def run(module: Any, given: Any) -> dict[Any, Any]:
    """Return a module's outputs, and the gradients of its inputs and parameters."""
    out = module(given.copy())
    random, results = torch.Generator().manual_seed(2), {key: out[key] for key in module.out_keys}
    leaves = {name: x for name, x in given.items() if x.requires_grad} | dict(module.named_parameters())
    loss = sum((y * torch.randn(y.shape, generator=random)).sum() for y in results.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return results | dict(zip(leaves, gradients, strict=True))


def are_equal(found: dict[Any, Any], expected: dict[Any, Any]) -> bool:
    return all(torch.equal(found[name], x) for name, x in expected.items())


@pytest.mark.parametrize(
    ("options", "shape", "has_states"),
    [
        ({}, (3, 8), True),
        ({}, (9,), True),
        ({}, (2, 2, 7), False),
        ({"num_layers": 2, "bidirectional": True, "bias": False}, (3, 8), True),
    ],
    ids=["rows", "one row", "more axes, no states", "two layers, both directions"],
)
@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_rows_of_episodes(layer: str, options: dict[str, Any], shape: tuple[int, ...], has_states: bool) -> None:
    exact = make(layer, **options).double()
    exact = run(exact, data(exact, shape, has_states))
    module = make(layer, **options)
    given = data(module, shape, has_states)
    assert given["is_init"][..., 1:, :].any()
    theirs = run(module, given)
    by = f"{layer.upper()}Module, forward by fastiter.torch.nn.{layer.upper()}"
    assert report_of(accelerate, module).accelerated[""] == by
    ours = run(module, given)
    assert not are_equal(ours, run(replace(make(layer, **options)), given))
    for name, x in exact.items():
        bound = 3 * (theirs[name] - x).norm() + 2 * shape[-1] * torch.finfo(torch.float32).eps * x.norm()
        assert ours[name].shape == x.shape and (ours[name] - x).norm() <= bound, name
    assert are_equal(run(copy.deepcopy(module), given), ours)
    assert sorted(restored_names(module)) == ["", layer] and are_equal(run(module, given), theirs)


def test_tensors_instead_of_a_tensordict() -> None:
    module = make("lstm")
    given = data(module, (3, 8))
    arguments = [given[name] for name in module.in_keys]
    expected = module(*arguments)
    for found, x in zip(accelerate(module)(*arguments), expected, strict=True):
        torch.testing.assert_close(found, x)


def without_starts(module: Any, given: Any) -> None:
    given["is_init"][..., 1:, :] = False


def with_hook(module: Any, given: Any) -> None:
    module.lstm.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, without_starts),
        ({}, with_hook),
        ({"num_layers": 2, "dropout": 0.5}, None),
        ({"default_recurrent_mode": False}, None),
    ],
    ids=["no starts", "hooks", "dropout", "single steps"],
)
def test_where_the_original_runs(options: dict[str, Any], change: Any) -> None:
    results = []
    for module in (replace(make("lstm", **options)), accelerate(make("lstm", **options))):
        given = data(module, (3, 8))
        if change is not None:
            change(module, given)
        torch.manual_seed(3)
        results.append(run(module, given))
    assert are_equal(*results)


def test_another_module_of_this_name_is_left_alone() -> None:
    class LSTMModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(FEATURES, WIDTH)

        def forward(self, x: Any) -> Any:
            return self.lstm(x)[0]

    report = report_of(accelerate, LSTMModule())
    assert sorted(report.accelerated) == ["lstm"] and not report.left
