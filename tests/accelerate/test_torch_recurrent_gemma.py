"""accelerate on RecurrentGemma's RG-LRU: outputs and states have the original's bits where operations overwrite."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import RecurrentGemmaConfig  # noqa: E402
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru  # noqa: E402

from fastiter.torch import accelerate, restore  # noqa: E402

B, T = 2, 9


def layers(heads: int, dtype: Any = torch.float32) -> tuple[Any, Any]:
    """Return a layer of width 6 with random weights, and its accelerated copy."""
    theirs = RecurrentGemmaRglru(RecurrentGemmaConfig(lru_width=6, num_attention_heads=heads))
    generator = torch.Generator().manual_seed(heads)
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=generator).to(dtype)
    return theirs, accelerate(copy.deepcopy(theirs))


def inputs(time: int = T, dtype: Any = torch.float32) -> tuple[Any, Any]:
    """Return activations that are not contiguous, and positions of which a row begins anew in the middle."""
    x = torch.randn(B, 6, time, generator=torch.Generator().manual_seed(time)).to(dtype).transpose(1, 2)
    positions = torch.arange(time).expand(B, time).clone()
    positions[1] = (torch.arange(time) - time // 2) % (time + 1)
    return x, positions


def assert_same_bits(theirs: Any, ours: Any, x: Any, positions: Any) -> None:
    before = x.clone()
    for layer in (theirs, ours):
        layer.recurrent_states = torch.full((B, 6), 0.5)
    for _ in range(2):  # the second call begins with the state of the first
        expected, found = theirs(x, positions), ours(x, positions)
        assert found.dtype == expected.dtype and torch.equal(bits(found), bits(expected))
        assert torch.equal(bits(ours.recurrent_states), bits(theirs.recurrent_states))
    assert torch.equal(bits(x), bits(before))


def bits(x: Any) -> Any:
    """Return the bits of numbers, with the same ones for every NaN."""
    return x.masked_fill(x.isnan(), torch.nan).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


@pytest.mark.parametrize("time", [0, 1, 2, T])
@pytest.mark.parametrize("heads", [1, 3])
def test_sequences(heads: int, time: int) -> None:
    with torch.no_grad():
        assert_same_bits(*layers(heads), *inputs(time))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: Any) -> None:
    with torch.no_grad():
        assert_same_bits(*layers(2, dtype), *inputs(dtype=dtype))


def test_extreme_values() -> None:
    theirs, ours = layers(2)
    x, positions = inputs()
    x[0, 2, 1], x[0, 5, 3], x[1, 1, 0], x[1, 4] = torch.nan, torch.inf, 1e38, 1e-42
    with torch.no_grad():
        # Without resets: the original multiplies a state by 0 there, and NaN stays, where linear_scan leaves it out.
        assert_same_bits(theirs, ours, x, positions + 1)
        for layer in (theirs, ours):
            layer.recurrent_param.fill_(-200)  # softplus rounds to 0, so that a is 1 and the inputs are scaled by 0
        assert_same_bits(theirs, ours, *inputs())


def test_mixed_precision_and_gradients_run_the_original() -> None:
    theirs, ours = layers(2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(theirs, ours, *inputs())
    with torch.no_grad():
        for layer in (theirs, ours):
            layer.recurrent_param.data = layer.recurrent_param.double()
        assert_same_bits(theirs, ours, *inputs())
    theirs, ours = layers(2)
    x, positions = inputs()
    gradients = []
    for layer in (theirs, ours):
        given = x.detach().requires_grad_()
        layer(given, positions).square().sum().backward()
        gradients.append([given.grad, *(p.grad for p in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_compiled_and_restored() -> None:
    theirs, ours = layers(2)
    x, positions = inputs()
    with torch.no_grad():
        expected = theirs(x, positions)
        compiled = torch.compile(ours, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x, positions), expected)
    assert type(restore(ours)) is RecurrentGemmaRglru
