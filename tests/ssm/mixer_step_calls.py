"""Arguments of one step of a whole mixer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

MIXERS = ("mamba", "mamba2")


class Step(NamedTuple):
    """The arguments of the kernels in _core.ssm; the sizes of Mamba-2 come last."""

    x: Any
    layers: tuple[Any, ...]
    weights: tuple[Any, ...]
    conv_state: Any
    state: Any
    sizes: tuple[Any, ...] = ()

    def copy(self) -> Step:
        """A copy with its own states and inputs."""
        return self._replace(x=self.x.clone(), conv_state=self.conv_state.clone(), state=self.state.clone())


def mixer_step(
    kind: str,
    rows: int,
    size: tuple[int, int, int, int, int],
    dtype: str,
    of_states: str,
    *,
    bare: bool = False,
    seed: int = 0,
) -> Step:
    """size: (inputs, channels, states, rank, taps), or for Mamba-2 (inputs, heads, states, width, taps).

    bare: without the optional biases. Mamba-2 has two groups of heads and of the norm if the number of heads is even.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, channels, states, last, taps = size

    def normal(*shape: int, over: int = 1, stored: str = dtype) -> Any:
        return (torch.randn(shape, generator=generator) / over**0.5).to(getattr(torch, stored))

    def bias(count: int) -> Any:
        return None if bare else normal(count)

    if kind == "mamba":
        through, projected, inner = channels, 2 * channels, channels
        ranks = normal(last + 2 * states, channels, over=channels), normal(channels, last, over=last)
        weights = (*ranks, normal(channels), normal(channels, states), normal(channels))
        state, sizes = (rows, channels, states), ()
    else:
        groups = 2 if channels % 2 == 0 else 1
        inner = channels * last
        through = inner + 2 * groups * states
        projected = inner + through + channels
        weights = (*(normal(channels) for _ in range(3)), normal(inner))
        state, sizes = (rows, channels, last, states), ((groups, inner // groups, 1e-5),)
    layers = (
        *(normal(projected, inputs, over=inputs), bias(projected)),
        *(normal(through, 1, taps), bias(through)),
        *(normal(inputs, inner, over=inner), bias(inputs)),
    )
    of_conv = normal(rows, through, taps, stored=of_states)
    return Step(normal(rows, 1, inputs), layers, weights, of_conv, normal(*state, stored=of_states), sizes)
