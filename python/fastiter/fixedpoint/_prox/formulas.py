"""Proximal operators in closed form, in the operations that NumPy and torch share.

``xp`` is the module of the arrays, numpy or torch; thresholds are numbers, or arrays that broadcast with y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def soft_threshold(xp: Any, y: Any, t: Any) -> Any:
    """Return sign(y) max(|y| - t, 0)."""
    return xp.where(abs(y) > t, y - t * xp.sign(y), 0 * y)


def largest_magnitude(y: Any, axis: int) -> Any:
    """Return max |y| along an axis, which is kept, as a constant; 1 where it is 0."""
    constant = y.detach() if hasattr(y, "detach") else y
    if y.shape[axis] == 0:
        return 1.0
    top = abs(constant).amax(axis, keepdim=True) if hasattr(y, "detach") else abs(y).max(axis=axis, keepdims=True)
    return top + (top == 0)


def norm(xp: Any, y: Any, axis: int) -> tuple[Any, Any]:
    """Return two factors of |y| along an axis, which is kept: max |y|, as a constant, and the norm of y divided by it.

    The gradient of the second is 0 where y is 0.
    """
    top = largest_magnitude(y, axis)
    scaled = y / top
    square = xp.sum(scaled * scaled, axis, keepdims=True)
    root = xp.sqrt(xp.where(square == 0, square + 1, square))
    return top, xp.where(square == 0, square, root)


def shrunk(xp: Any, y: Any, t: float, axis: int) -> Any:
    """Return y max(1 - t / |y|, 0), the block soft threshold."""
    top, root = norm(xp, y, axis)
    outside = top * root > t
    rest = xp.where(outside, 1 - t / top / xp.where(outside, root, root * 0 + 1), root * 0)
    return xp.where(root == root, rest, root) * y


def shrunk_groups(xp: Any, y: Any, t: float, sizes: Sequence[int], axis: int) -> Any:
    """Return the block soft threshold of consecutive groups of these sizes along an axis."""
    parts, start = [], 0
    for size in sizes:
        index = [slice(None)] * y.ndim
        index[axis] = slice(start, start + size)
        parts.append(shrunk(xp, y[tuple(index)], t, axis) if size else y[tuple(index)])
        start += size
    return xp.concatenate(parts, axis) if parts else y


def onto_l2_ball(xp: Any, y: Any, radius: float, axis: int) -> Any:
    """Return y min(radius / |y|, 1)."""
    top, root = norm(xp, y, axis)
    outside = top * root > radius
    scaled = y / top * (radius / xp.where(outside, root, root * 0 + 1))
    return xp.where(outside, scaled, y + 0 * root)


def onto_halfspace(xp: Any, y: Any, a: Any, b: float) -> Any:
    """Return y - max(<a, y> - b, 0) a / |a|^2 for a along the last axis, both divided by max |a|."""
    top = largest_magnitude(a, -1)
    normal = a / top
    excess = xp.sum(y * normal, -1, keepdims=True) - b / top
    beyond = xp.where(excess > 0, excess, 0 * excess)
    return y - beyond * (normal / xp.sum(normal * normal, -1, keepdims=True))


def log_barrier(xp: Any, y: Any, t: float) -> Any:
    """Return the positive root of x^2 - y x - t, without cancellation or overflow."""
    smallest = t**0.5 if t**0.5 <= float(xp.finfo(y.dtype).max) else math.inf  # the root at y = 0
    larger = xp.hypot(y / 2, xp.full_like(y, smallest)) + abs(y) / 2
    return xp.where(y > 0, larger, smallest * (smallest / larger) if smallest < math.inf else larger)


def huber(xp: Any, y: Any, t: float, delta: float) -> Any:
    """Return y / (1 + t) near 0, and y - t delta sign(y) beyond (1 + t) delta."""
    return xp.where(abs(y) <= (1 + t) * delta, y / (1 + t), y - t * delta * xp.sign(y))


def leaky_relu(xp: Any, y: Any, alpha: float, slope: float) -> Any:
    """Return y above 0, and below it y / (1 + alpha (1 / slope - 1))."""
    return xp.where(y > 0, y, y * (slope / (slope + alpha * (1 - slope))))
