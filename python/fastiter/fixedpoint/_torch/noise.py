"""Maps that draw random numbers, such as dropout: the same numbers in each evaluation of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class FixedNoise:
    """Run each evaluation of a map from the same state of torch's random generators, that of the first evaluation.

    A map that draws no random numbers is called unchanged. The generators continue from their state after an
    evaluation, so that the next call draws other numbers.

    Parameters
    ----------
    compact : bool
        Whether the map may receive fewer rows, which would draw other numbers; a map that draws any is then refused.
    """

    def __init__(self, compact: bool) -> None:
        self._compact = compact
        self._first: list[Any] | None = None
        self._draws = False
        self._device: torch.device | None = None

    def __call__(self, name: str, x: Any, function: Callable[[], Any]) -> Any:
        """Return the function's value at the state x."""
        if self._first is None:
            for leaf in pytree.tree_leaves(x):
                if isinstance(leaf, Tensor) and leaf.is_cuda:
                    self._device = leaf.device
                    break
            self._first = self._states()
            result = function()
            self._draws = not all(map(torch.equal, self._first, self._states()))
            if self._draws and self._compact:
                raise ValueError(
                    f"{name}: compact must be False if f draws random numbers, which have to be the same in all "
                    "steps, got True"
                )
            return result
        if not self._draws:
            return function()
        now = self._states()
        self._set(self._first)
        try:
            return function()
        finally:
            self._set(now)

    def _states(self) -> list[Any]:
        states = [torch.get_rng_state()]
        return states if self._device is None else [*states, torch.cuda.get_rng_state(self._device)]

    def _set(self, states: list[Any]) -> None:
        torch.set_rng_state(states[0])
        if self._device is not None:
            torch.cuda.set_rng_state(states[1], self._device)
