"""Heads with matrix states run together, each for a tile of time: they have the bits of heads that run alone."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402

BATCH, KEY_HEADS, SHARED, SIZE = 2, 3, 3, 64
HEADS = KEY_HEADS * SHARED
FUNCTIONS = {
    "linear_attention": (fastiter.torch.ssm.linear_attention, ("decay",)),
    "linear_attention with a bonus": (fastiter.torch.ssm.linear_attention, ("decay", "bonus")),
    "dplr_delta_rule": (fastiter.torch.ssm.dplr_delta_rule, ("a", "b", "decay")),
    "mlstm": (fastiter.torch.ssm.mlstm, ("i", "f")),
}


def inputs(names: tuple[str, ...], time: int) -> dict[str, Any]:
    """Heads with states of 32 KB: eight run together forward, four backward, which divides heads that share q and k."""
    rng = torch.Generator().manual_seed(time)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=rng, dtype=torch.float64) / SIZE**0.5

    tensors = {
        "q": normal(BATCH, time, KEY_HEADS, SIZE),
        "k": normal(BATCH, time, KEY_HEADS, SIZE),
        "v": normal(BATCH, time, HEADS, SIZE),
        "a": -normal(BATCH, time, HEADS, SIZE),
        "b": normal(BATCH, time, HEADS, SIZE),
        "decay": normal(BATCH, time, HEADS, SIZE).sigmoid(),
        "bonus": normal(HEADS, SIZE),
        "i": normal(BATCH, time, HEADS),
        "f": normal(BATCH, time, HEADS) + 2,
    }
    return {name: tensors[name] for name in ("q", "k", "v", *names)}


def heads_of(x: Any, key_head: int) -> Any:
    """The slice of a tensor that belongs to a head of q and k."""
    if x.dim() == 2:
        return x[key_head * SHARED : (key_head + 1) * SHARED]
    each = x.shape[2] // KEY_HEADS
    return x[:, :, key_head * each : (key_head + 1) * each]


def run(function: Any, tensors: dict[str, Any], lengths: Any) -> dict[str, Any]:
    given = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    o = function(**given, lengths=lengths)[0]
    gradients = torch.autograd.grad((o * o).sum(), list(given.values()))
    return {"o": o.detach(), **dict(zip(given, gradients, strict=True))}


@pytest.mark.parametrize("time", [20, 100], ids=["one tile", "three tiles"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_heads_have_the_bits_that_they_have_alone(name: str, time: int) -> None:
    function, names = FUNCTIONS[name]
    tensors, lengths = inputs(names, time), torch.tensor([time, time * 2 // 3])
    fastiter.set_num_threads(1)
    together = run(function, tensors, lengths)
    for head in range(KEY_HEADS):
        alone = run(function, {n: heads_of(x, head) for n, x in tensors.items()}, lengths)
        for n, x in together.items():
            assert_same_bits(heads_of(x, head).contiguous().numpy(), alone[n].numpy())
    fastiter.set_num_threads(3)
    shared = run(function, tensors, lengths)
    for n, x in together.items():
        assert_same_bits(shared[n].numpy(), x.numpy())
