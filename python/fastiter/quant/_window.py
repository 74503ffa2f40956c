"""The window of a convolution: its arguments, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .._check import type_name


class Window(NamedTuple):
    """The part of x that contributes to an output of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def output(self, function: str, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, int]:
        """Return the rows and columns of the output."""
        sizes = []
        for axis in range(2):
            seen = self.dilation[axis] * (w[2 + axis] - 1) + 1
            room = x[2 + axis] + 2 * self.padding[axis] - seen
            if w[2 + axis] < 1 or room < 0:
                raise ValueError(f"{function}: w must fit into x {x} with its padding {self.padding}, got shape {w}")
            sizes.append(room // self.stride[axis] + 1)
        padded = x[0] * x[1] * (x[2] + 2 * self.padding[0]) * (x[3] + 2 * self.padding[1])
        if max(padded, x[0] * w[0] * sizes[0] * sizes[1]) >= 2**60:  # in elements of 8 bytes
            raise ValueError(f"{function}: padding must leave arrays that can be addressed, got {self.padding}")
        return sizes[0], sizes[1]


def read_window(
    function: str,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    x: tuple[int, ...],
    w: tuple[int, ...],
) -> Window:
    """Check the arguments against the shapes of x and w."""
    return Window(
        _pair(function, "stride", stride, 1),
        _pair(function, "padding", padding, 0),
        _pair(function, "dilation", dilation, 1),
        _groups(function, groups, x, w),
    )


def _pair(function: str, name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    values = (value, value) if isinstance(value, (int, np.integer)) else value
    if isinstance(value, bool) or not isinstance(values, (tuple, list)):
        raise TypeError(f"{function}: {name} must be an int or two, got {type_name(value)}")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, np.integer)):
            raise TypeError(f"{function}: {name} must be an int or two, got {type_name(v)}")
    if len(values) != 2:
        raise ValueError(f"{function}: {name} must be an int or two, got {len(values)}")
    if min(values) < least:
        raise ValueError(f"{function}: {name} must be at least {least}, got {min(values)}")
    if max(values) >= 2**31:
        raise ValueError(f"{function}: {name} must be below 2**31, got {max(values)}")
    return int(values[0]), int(values[1])


def _groups(function: str, groups: object, x: tuple[int, ...], w: tuple[int, ...]) -> int:
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)):
        raise TypeError(f"{function}: groups must be an int, got {type_name(groups)}")
    if groups < 1 or w[0] % groups:
        raise ValueError(f"{function}: groups must be at least 1 and divide O = {w[0]}, got {groups}")
    if x[1] != w[1] * groups:
        raise ValueError(f"{function}: w must have C / groups = {x[1]} / {groups} channels, got shape {w}")
    return int(groups)
