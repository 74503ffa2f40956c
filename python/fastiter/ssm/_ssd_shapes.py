"""Checks of the arguments of Mamba-2's scan, for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

from .._check import fits_float, type_name
from ._attention_shapes import Shape


def check_ssd_shapes(function: str, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Return (B, T) if the shapes of the given arguments, by name, are consistent."""
    x, B = tuple(shapes["x"]), tuple(shapes["B"])
    if len(x) != 4 or x[2] < 1 or x[3] < 1:
        raise ValueError(f"{function}: x must have shape (B, T, H, P), got {x}")
    batch, time, heads = x[:3]
    if len(B) != 4 or (B[0], B[1]) != (batch, time) or B[2] < 1 or heads % B[2] or B[3] < 1:
        raise ValueError(
            f"{function}: B must have shape (B, T, G, N) = ({batch}, {time}, G, N) with G a divisor of H = {heads}, "
            f"got {B}"
        )
    expected = {"dt": x[:3], "C": B, "z": x, "A": (heads,), "dt_bias": (heads,), "D": (heads,)}
    letters = {"dt": "B, T, H", "C": "B, T, G, N", "z": "B, T, H, P", "A": "H,", "dt_bias": "H,", "D": "H,"}
    for name, wanted in expected.items():
        if name not in shapes or tuple(shapes[name]) == wanted or (name == "D" and tuple(shapes[name]) == x[2:]):
            continue
        either = f" or (H, P) = {x[2:]}" if name == "D" else ""
        raise ValueError(
            f"{function}: {name} must have shape ({letters[name]}) = {wanted}{either}, got {tuple(shapes[name])}"
        )
    return batch, time


def check_ssd_state(
    function: str, shape: Shape, sequences: int, shapes: Mapping[str, Shape], name: str = "state"
) -> None:
    """Check the shape of the initial states, the argument called ``name``."""
    expected = (sequences, *shapes["x"][2:], shapes["B"][3])
    if tuple(shape) != expected:
        raise ValueError(f"{function}: {name} must have shape (sequences, H, P, N) = {expected}, got {tuple(shape)}")


def checked_limits(function: str, limits: object) -> tuple[float, float]:
    """Return the bounds of the step sizes as floats."""
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise TypeError(f"{function}: dt_limit must be a pair of numbers, got {type_name(limits)}")
    for limit in limits:
        if not isinstance(limit, Real) or isinstance(limit, bool):
            raise TypeError(f"{function}: dt_limit must be a pair of numbers, got {type_name(limit)} in it")
        if not fits_float(limit):
            raise ValueError(f"{function}: dt_limit must be numbers that a float can hold, got {limit}")
    low, high = float(limits[0]), float(limits[1])
    if not low <= high:
        raise ValueError(f"{function}: dt_limit must be (low, high) with low <= high, got {(low, high)}")
    return low, high
