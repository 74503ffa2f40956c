"""Speeds up the specification, which computes in rational numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fastiter.quant.reference import arrays


def number_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a number with its last results remembered; 0.0 and -0.0 differ."""
    remembered = lru_cache(1 << 14)(lambda x, sign, *rest: function(x, *rest))

    def once(x: Any, *rest: Any) -> Any:
        return remembered(x, 0.0 if isinstance(x, (int, Fraction)) else math.copysign(1.0, x), *rest)

    return once


def block_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a block with its last results remembered, by the bits of its numbers."""

    @lru_cache(1 << 10)
    def remembered(part: bytes, fmt: Any, compute: type[Any], g: float, random: tuple[int, ...]) -> Any:
        return function(np.frombuffer(part).tolist(), fmt, compute, compute(g), random)

    def once(part: list[float], fmt: Any, compute: type[Any], g: Any, random: list[int]) -> Any:
        return remembered(np.array(part, float).tobytes(), fmt, compute, float(g), tuple(random))

    return once


@pytest.fixture(autouse=True, scope="session")
def specified_once() -> Iterator[None]:
    """Let the specification round each element and block once: most tests ask for its number and for its code.

    Numbers of few bits also recur.
    """
    numbers = {name: getattr(arrays, name) for name in ("_element", "_rounded", "float_code")}
    blocks = dict(arrays._BLOCKS)
    for name, function in numbers.items():
        setattr(arrays, name, number_once(function))
    arrays._BLOCKS.update({name: block_once(function) for name, function in blocks.items()})
    yield
    for name, function in numbers.items():
        setattr(arrays, name, function)
    arrays._BLOCKS.update(blocks)
