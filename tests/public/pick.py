"""Random choices from which calls are generated: by a seed, or by Hypothesis, which shrinks a failing call."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tests.support.cases import Array

Value = TypeVar("Value")


class Pick:
    """Choices that all come from one source of integers, ``integer(low, high)``, including both ends."""

    def __init__(self, integer: Callable[[int, int], int]) -> None:
        self.integer = integer

    def one_of(self, values: Sequence[Value]) -> Value:
        """Return one of the values; the first is the simplest."""
        return values[self.integer(0, len(values) - 1)]

    def flag(self) -> bool:
        """Return False or True."""
        return bool(self.integer(0, 1))

    def generator(self) -> np.random.Generator:
        """Return a generator of numbers; only its seed is a choice."""
        return np.random.default_rng(self.integer(0, 2**32 - 1))

    def normal(self, *shape: int, dtype: npt.DTypeLike = np.float64) -> Array:
        """Return numbers ~ N(0, 1)."""
        return self.generator().standard_normal(shape).astype(dtype)


def seeded(seed: int) -> Pick:
    """Return choices that depend only on the seed."""
    return Pick(random.Random(seed).randint)


def subset(pick: Pick, options: dict[str, Any]) -> dict[str, Any]:
    """Return some of the options."""
    return {name: value for name, value in options.items() if pick.flag()}
