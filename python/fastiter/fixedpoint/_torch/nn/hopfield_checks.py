"""Checks of the inputs of Hopfield layers: a mask of another size or kind would be broadcast, or added to products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...._check import type_name

_NAMES = ("stored patterns", "state patterns", "pattern projections")


def parts_of(name: str, values: Any, number: int, expected: str) -> tuple[Tensor, ...]:
    """Return the input of a layer as a tuple; a single tensor serves as all parts.

    Parameters
    ----------
    name : str
        The layer's name.
    given : Tensor or sequence of Tensor
        The input.
    number : int
        The required number of parts.
    expected : str
        The description of a valid input in messages.
    """
    parts = (values,) * number if isinstance(values, Tensor) else values
    if not isinstance(parts, (tuple, list)):
        raise TypeError(f"{name}: input must be {expected}, got {type_name(values)}")
    if len(parts) != number or not all(isinstance(x, Tensor) for x in parts):
        raise TypeError(f"{name}: input must be {expected}, got other parts")
    return tuple(parts)


def check_patterns(stored: Tensor, state: Tensor, projection: Tensor) -> int:
    """Return B, after checking that (B, S, .), (B, L, .) and (B, S, .) match; a batch of 1 serves all rows."""
    others = [x.shape[0] for x in (stored, state, projection) if x.shape[0] != 1]
    batch = max(others) if others else 1
    for name, x in zip(_NAMES, (stored, state, projection), strict=True):
        if x.shape[0] not in (1, batch):
            raise ValueError(f"Hopfield: {name} must have a batch of 1 or {batch} like the others, got {x.shape[0]}")
    if projection.shape[1] != stored.shape[1]:
        got = projection.shape[1]
        raise ValueError(f"Hopfield: pattern projections must be {stored.shape[1]} like stored patterns, got {got}")
    return batch


def check_masks(padding: Any, mask: Any, sizes: Sequence[int]) -> None:
    """Check the masks of patterns that are not retrieved.

    Parameters
    ----------
    padding : bool Tensor (B, S) or None
        The mask of stored patterns.
    mask : bool or float Tensor (L, S) or (B H, L, S), or None
        The mask of each query.
    sizes : (B, H, L, S)
        Rows, heads, queries, and stored patterns.
    """
    batch, heads, queries, patterns = sizes
    for name, x, floats, shapes in (
        ("stored_pattern_padding_mask", padding, False, [(batch, patterns)]),
        ("association_mask", mask, True, [(queries, patterns), (batch * heads, queries, patterns)]),
    ):
        if x is None:
            continue
        kinds = "a tensor of bool or floats" if floats else "a tensor of bool"
        if not isinstance(x, Tensor):
            raise TypeError(f"Hopfield: {name} must be {kinds}, got {type_name(x)}")
        if x.dtype != torch.bool and not (floats and x.is_floating_point()):
            raise TypeError(f"Hopfield: {name} must be {kinds}, got {x.dtype}")
        if tuple(x.shape) not in shapes:
            listed = " or ".join(map(str, shapes))
            raise ValueError(f"Hopfield: {name} must have shape {listed}, got {tuple(x.shape)}")
