"""Hints in shape errors for arguments in the layout of torch.nn's recurrent layers."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def torch_features_hint(name: str, shape: Shape, gates: int, *, heads: bool) -> str:
    """Return a hint for adding an axis of gates to pre-activations (B, T, G H), as torch.nn's weights give them."""
    if len(shape) != 3 or shape[2] == 0 or shape[2] % gates != 0:
        return ""
    inner = ", ".join(map(str, (gates, 1, shape[2] // gates) if heads else (gates, shape[2] // gates)))
    return f"; torch.nn's {gates} H features are {name}.reshape({shape[0]}, {shape[1]}, {inner})"


def torch_weight_hint(shape: Shape, expected: Shape) -> str:
    """Return a hint for reshaping torch.nn's weights (G H, H) or bias (G H,), which have one head."""
    gates, heads, width = expected[:3]
    if heads != 1 or shape != (gates * width, width)[: len(expected) - 2]:
        return ""
    return f"; torch.nn's is .reshape{expected}"


def torch_state_hint(shape: Shape, expected: Shape) -> str:
    """Return a hint for indexing one layer of torch.nn's state (layers, B, H)."""
    rows, *inner = expected
    if len(shape) != 3 or shape[1:] != (rows, math.prod(inner)):
        return ""
    return f"; torch.nn's are (layers, B, H), of which one layer is [0]{'[:, None]' if len(inner) == 2 else ''}"
