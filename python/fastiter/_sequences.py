"""Checks that all recurrences share, for arrays and tensors alike: states, lengths, cu_seqlens and reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Shape = tuple[int, ...]


def as_parts(cell_states: Sequence[str], state: Any) -> Any:
    """Return a state of a single part that is not in a tuple as a tuple of it, any other unchanged."""
    return (state,) if len(cell_states) == 1 and hasattr(state, "shape") else state


def as_part(state: Any) -> Any:
    """Return the part of a tuple or list with a single part, any other state unchanged."""
    return state[0] if isinstance(state, (tuple, list)) and len(state) == 1 else state


def check_lengths(function: str, shape: Shape, least: int, most: int, batch: int, time: int) -> None:
    """Check the lengths of ``batch`` rows by their smallest and largest value, ``least`` and ``most``."""
    if shape != (batch,):
        raise ValueError(f"{function}: lengths must have shape (B,) = ({batch},), got {tuple(shape)}")
    if least < 0 or most > time:
        raise ValueError(f"{function}: lengths must be from 0 to T = {time}, got {least if least < 0 else most}")


def check_reset_shape(function: str, reset: Shape, batch: int, time: int) -> None:
    """Check that reset has one flag a step, for each row or for all rows."""
    if tuple(reset) not in ((batch, time), (time,)):
        raise ValueError(f"{function}: reset must have shape (B, T) = {(batch, time)} or (T,), got {tuple(reset)}")


def check_packing(function: str, batch: int, lengths: object, steps: str = "x") -> None:
    """Check that ``cu_seqlens`` may be combined with the other arguments."""
    if lengths is not None:
        raise ValueError(f"{function}: lengths must be None where cu_seqlens is given, got both")
    if batch != 1:
        raise ValueError(f"{function}: {steps} must have B = 1 where cu_seqlens is given, got B = {batch}")


def check_bounds(function: str, shape: Shape, first: int, last: int, falls: bool, time: int) -> None:
    """Check cu_seqlens by its ends ``first`` and ``last``; ``falls`` says whether it decreases anywhere."""
    check_bounds_shape(function, shape)
    if first != 0 or last != time or falls:
        got = "falling values" if first == 0 and last == time else f"{first} to {last}"
        raise ValueError(f"{function}: cu_seqlens must rise from 0 to T = {time}, got {got}")


def check_bounds_shape(function: str, shape: Shape) -> None:
    """Check that cu_seqlens has one axis and at least one number."""
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"{function}: cu_seqlens must have shape (S + 1,), got {tuple(shape)}")
