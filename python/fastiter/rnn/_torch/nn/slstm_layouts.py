"""Layouts of the recurrent kernel and the bias of an sLSTM in xlstm's backends.

| layout | kernel | bias |
|---|---|---|
| "cuda" | (N, D in, 4 D out) | (N 4 D) |
| "vanilla" | (N, 4 D out, D in) | (4 N D) |

The gates are i, f, z, o in both. The layout of the flat bias follows from the shape of the kernel.
"""

from __future__ import annotations

from torch import Tensor

LAYOUTS = ("cuda", "vanilla")


def shapes_in(layout: str, heads: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of kernel and bias."""
    kernel = (heads, width, 4 * width) if layout == "cuda" else (heads, 4 * width, width)
    return kernel, (4 * heads * width,)


def recurrence_of(kernel: Tensor, bias: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Return r (4, N, D out, D in) and b (4, N, D), as views."""
    if kernel.shape == (heads, 4 * width, width):
        return kernel.unflatten(1, (4, width)).transpose(0, 1), bias.view(4, heads, width)
    r = kernel.reshape(heads, width, 4, width).permute(2, 0, 3, 1)
    return r, bias.reshape(heads, 4, width).transpose(0, 1)


def in_layout(layout: str, r: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return kernel and bias in a layout; the inverse of :func:`recurrence_of`."""
    if layout == "cuda":
        return r.permute(1, 3, 0, 2).flatten(2), b.transpose(0, 1).flatten()
    return r.transpose(0, 1).flatten(1, 2), b.flatten()
