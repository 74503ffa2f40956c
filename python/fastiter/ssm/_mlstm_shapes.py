"""Checks of the arguments of mLSTM, for arrays and tensors alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .._check import fits_float, type_name
from ._attention_shapes import AttentionSizes, Shape, check_attention_shapes, checked_scale

#: The names of the state's parts in messages
PARTS = ("C", "n", "m")


def parts_of(function: str, state: object) -> tuple[Any, ...]:
    """Return the parts of the initial state, each None if it is not given."""
    if state is None:
        return (None,) * 3
    if not isinstance(state, (tuple, list)) or len(state) != 3:
        got = f"{len(state)} parts" if isinstance(state, (tuple, list)) else type_name(state)
        raise TypeError(f"{function}: state must be a tuple (C, n, m), got {got}")
    return tuple(state)


def named_state(parts: tuple[Any, ...]) -> dict[str, Any]:
    """Return the parts by their names in messages."""
    return {f"state[{i}]": x for i, x in enumerate(parts)}


def check_mlstm_shapes(function: str, shapes: Mapping[str, Shape]) -> AttentionSizes:
    """Return the sizes if the shapes of q, k, v, i and f are consistent."""
    sizes = check_attention_shapes(function, shapes)
    expected = (sizes.batch, sizes.time, sizes.heads)
    for name in ("i", "f"):
        if tuple(shapes[name]) != expected:
            raise ValueError(f"{function}: {name} must have shape (B, T, N) = {expected}, got {tuple(shapes[name])}")
    return sizes


def check_mlstm_state(function: str, shapes: Mapping[str, Shape], count: int, sizes: AttentionSizes) -> None:
    """Check the shapes of the parts of the initial state, by name, for ``count`` sequences."""
    full = sizes.states(count)
    wanted = {"C": full, "n": full[:3], "m": full[:2]}
    letters = {"C": "N, K, V", "n": "N, K", "m": "N"}
    for (name, shape), part in zip(shapes.items(), PARTS, strict=True):
        if tuple(shape) != wanted[part]:
            raise ValueError(
                f"{function}: {name}, {part}, must have shape (sequences, {letters[part]}) = {wanted[part]}, "
                f"got {tuple(shape)}"
            )


def checked_numbers(function: str, scale: object, eps: object, keys: int, double: bool) -> tuple[float, float]:
    """Return the scale, by default 1 / sqrt(K), and eps as floats."""
    if not isinstance(eps, Real) or isinstance(eps, bool):
        raise TypeError(f"{function}: eps must be a number, got {type_name(eps)}")
    if not fits_float(eps) or not 0 <= float(eps) < math.inf:
        raise ValueError(f"{function}: eps must be finite and not negative, got {eps}")
    return keys**-0.5 if scale is None else checked_scale(function, scale, double), float(eps)
