"""Checks of the tiers of a Boltzmann machine and of their observed variables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...._check import count, type_name
from .coupling import Map, Tier


def checked_tiers(name: str, tiers: Any, kernel: int) -> tuple[Tier, ...]:
    """Return the tiers; refuse sizes that are not multiples of their neighbours', or below the kernel's."""
    if not isinstance(tiers, (tuple, list)):
        raise TypeError(f"{name}: tiers must be a sequence of (groups, states, ...), got {type_name(tiers)}")
    if not tiers:
        raise ValueError(f"{name}: tiers must hold at least one, got none")
    result = []
    for i, tier in enumerate(tiers):
        if not isinstance(tier, (tuple, list)) or len(tier) not in (2, 4):
            raise ValueError(f"{name}: tiers[{i}] must be (groups, states) or (groups, states, H, W), got {tier!r}")
        groups, states, *size = (count(name, f"tiers[{i}][{at}]", x, 1) for at, x in enumerate(tier))
        result.append(Tier(groups, states, (size[0], size[1]) if size else None))
    for i, (one, other) in enumerate(pairwise(result)):
        if one.size is None or other.size is None:
            if other.size is not None:
                raise ValueError(f"{name}: tiers must have images before the others, got an image at {i + 1}")
            continue
        stride = one.size[0] // other.size[0]
        if one.size != (stride * other.size[0], stride * other.size[1]):
            raise ValueError(f"{name}: tiers[{i + 1}] must have the size {one.size} by a divisor, got {other.size}")
        if min(other.size) < kernel:
            raise ValueError(f"{name}: tiers[{i + 1}] must be as large as the kernel, {kernel}, got {other.size}")
    return tuple(result)


def checked_features(name: str, features: Any, tiers: Sequence[Tier]) -> list[int]:
    """Return the number of rows for each pair of tiers, or for the only tier."""
    pairs = max(len(tiers) - 1, 1)
    if features is None:
        others = tiers[1:] or tiers
        return [tier.channels for tier in others]
    if not isinstance(features, (tuple, list)):
        raise TypeError(f"{name}: features must be a sequence of int or None, got {type_name(features)}")
    if len(features) != pairs:
        raise ValueError(f"{name}: features must have {pairs} numbers, one for each pair of tiers, got {len(features)}")
    return [count(name, f"features[{i}]", x, 1) for i, x in enumerate(features)]


def linked_maps(tiers: Sequence[Tier], i: int) -> tuple[Map, Map | None]:
    """Return the maps by which the rows of A between tier i and the next one act on both."""
    one = tiers[i]
    if i + 1 == len(tiers):
        return Map(one), None
    other = tiers[i + 1]
    if one.size is None or other.size is None:
        return Map(one), Map(other)
    return Map(one, one.size[0] // other.size[0]), Map(other, 1)


def checked_observed(
    name: str, tiers: Sequence[Tier], observed: Any, mask: Any, like: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return each tier's distributions (B, *shape) and the mask (B, groups, 1, ...) of its observed variables."""
    for argument, value in (("observed", observed), ("mask", mask)):
        if value is None and argument == "mask":
            continue
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name}: {argument} must be a sequence of tensors or None, got {type_name(value)}")
        if len(value) != len(tiers):
            raise ValueError(f"{name}: {argument} must have {len(tiers)} parts, one for each tier, got {len(value)}")
    masks = [None] * len(tiers) if mask is None else mask
    first = next((x for x in observed if isinstance(x, Tensor)), None)
    if first is None or first.dim() == 0:
        raise ValueError(f"{name}: observed must hold at least one tensor (B, ...), which sets the batch, got none")
    result = []
    for i, (tier, x, known) in enumerate(zip(tiers, observed, masks, strict=True)):
        shape = (len(first), *tier.shape)
        if x is None:
            if known is not None:
                raise ValueError(f"{name}: mask[{i}] must be None if observed[{i}] is, got {type_name(known)}")
            x, known = like.new_zeros(shape), torch.zeros((), dtype=torch.bool, device=like.device)
        _check_part(name, f"observed[{i}]", x, shape, like.dtype, like)
        if known is None:
            known = torch.ones((), dtype=torch.bool, device=like.device)
        if isinstance(known, Tensor) and known.dim() == 0:
            known = known.expand(shape[:2] + shape[3:])
        _check_part(name, f"mask[{i}]", known, shape[:2] + shape[3:], torch.bool, like)
        result.append((x, known.unsqueeze(2)))
    return result


def _check_part(name: str, argument: str, x: Any, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: {argument} must be a torch.Tensor or None, got {type_name(x)}")
    if x.dtype != dtype:
        raise TypeError(f"{name}: {argument} must have dtype {dtype}, got {x.dtype}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: {argument} must have shape {shape}, got {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name}: {argument} must be on device {like.device}, got {x.device}")
