"""Hints for messages about shapes, where an argument has the layout of torch.nn's recurrent layers."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def torch_features_hint(name: str, shape: Shape, gates: int, *, heads: bool) -> str:
    """Return how pre-activations (B, T, G H), which torch.nn's weights give, are viewed with an axis of gates."""
    if len(shape) != 3 or shape[2] == 0 or shape[2] % gates != 0:
        return ""
    inner = ", ".join(map(str, (gates, 1, shape[2] // gates) if heads else (gates, shape[2] // gates)))
    return f"; torch.nn's {gates} H features are {name}.reshape({shape[0]}, {shape[1]}, {inner})"


def torch_weight_hint(shape: Shape, expected: Shape) -> str:
    """Return how weights (G H, H) or a bias (G H,) of torch.nn, whose layers have one head, are viewed."""
    gates, heads, width = expected[:3]
    if heads != 1 or shape != (gates * width, width)[: len(expected) - 2]:
        return ""
    return f"; torch.nn's is .reshape{expected}"


def torch_state_hint(shape: Shape, expected: Shape) -> str:
    """Return how one layer of a state (layers, B, H) of torch.nn is viewed."""
    rows, *inner = expected
    if len(shape) != 3 or shape[1:] != (rows, math.prod(inner)):
        return ""
    return f"; torch.nn's are (layers, B, H), of which one layer is [0]{'[:, None]' if len(inner) == 2 else ''}"
