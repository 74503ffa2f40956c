"""Checks shared by all recurrences, for arrays and tensors alike: states, lengths, cu_seqlens and reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ._array_like import as_flags
from ._check import Array, integers, type_name

Shape = tuple[int, ...]
Result = TypeVar("Result")


class Sequences(NamedTuple):
    """The checked division of B rows of T steps into sequences; each field is None if it is not given."""

    reset: Array | None
    lengths: Array | None
    cu_seqlens: Array | None

    def count(self, batch: int) -> int:
        """Return the number of sequences."""
        return batch if self.cu_seqlens is None else len(self.cu_seqlens) - 1


_WHOLE_ROWS = Sequences(None, None, None)


def checked_sequences(
    function: str,
    batch: int,
    time: int,
    reset: object,
    lengths: npt.ArrayLike | None,
    cu_seqlens: npt.ArrayLike | None,
    steps: str = "x",
) -> Sequences:
    """Check the arguments that divide the steps of an array, the argument ``steps``, into sequences."""
    if reset is None and lengths is None and cu_seqlens is None:
        return _WHOLE_ROWS
    flags, whole, bounds = None, None, None
    if reset is not None:
        reset = as_flags(function, "reset", reset)
        if not isinstance(reset, np.ndarray) or reset.dtype != np.bool_:
            got = f"dtype {reset.dtype}" if isinstance(reset, np.ndarray) else type_name(reset)
            raise TypeError(f"{function}: reset must be a NumPy array of bool, got {got}")
        check_reset_shape(function, reset.shape, batch, time)
        flags = reset
    if cu_seqlens is not None:
        check_packing(function, batch, lengths, steps)
        bounds = integers(function, "cu_seqlens", cu_seqlens)
        first, last = (int(bounds[0]), int(bounds[-1])) if bounds.ndim == 1 and bounds.size else (0, 0)
        falls = bounds.ndim == 1 and bool((bounds[1:] < bounds[:-1]).any())
        check_bounds(function, bounds.shape, first, last, falls, time)
    elif lengths is not None:
        whole = integers(function, "lengths", lengths)
        check_lengths(function, whole.shape, int(whole.min(initial=0)), int(whole.max(initial=0)), batch, time)
    return Sequences(flags, whole, bounds)


def in_reverse(sequences: Sequences, time: int, *arrays: Any) -> tuple[Any, ...]:
    """Return arrays (B, T, ...) with the steps of each sequence reversed; padding stays in place, None stays None."""
    _, lengths, bounds = sequences
    t = np.arange(time)
    if bounds is not None:
        ends = np.repeat(bounds[1:] + bounds[:-1], np.diff(bounds))
        return tuple([None if x is None else x[:, ends - 1 - t] for x in arrays])
    if lengths is None:
        return tuple([None if x is None else x[:, ::-1] for x in arrays])
    index = np.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    rows = np.arange(len(lengths))[:, None]
    return tuple([None if x is None else x[rows, index] for x in arrays])


def backwards(
    run: Callable[[Sequence[Any], Sequences, Array], Result],
    arrays: Sequence[Array | None],
    cut: Sequences,
    out: Array,
) -> Result:
    """Call ``run`` with the steps of each sequence of arrays (B, T, ...) and of ``out`` in reversed order.

    Whole rows are views, except those with contiguous time, which kernels read and write fast only forwards.
    """
    batch, time = out.shape[:2]
    flags = None if cut.reset is None else np.broadcast_to(cut.reset, (batch, time))
    *turned, flags = in_reverse(cut, time, *arrays, flags)
    turned = [x.copy("K") if x is not None and x.strides[1] == -x.itemsize else x for x in turned]
    is_view = cut.lengths is None and cut.cu_seqlens is None and out.strides[1] != out.itemsize
    target = out[:, ::-1] if is_view else np.empty_like(out)
    result = run(turned, cut._replace(reset=flags), target)
    if not is_view:
        (out[...],) = in_reverse(cut, time, target)
    return result


def as_parts(cell_states: Sequence[str], state: Any) -> Any:
    """Wrap the state of a cell with a single part in a tuple if it is not in one; return any other state unchanged."""
    return (state,) if len(cell_states) == 1 and (hasattr(state, "shape") or _is_nested(state)) else state


def as_part(state: Any) -> Any:
    """Return the only part of a tuple or list of one part; return any other state unchanged."""
    return state[0] if isinstance(state, (tuple, list)) and len(state) == 1 and not _is_nested(state) else state


def _is_nested(state: Any) -> bool:
    """Return whether a list is a nested list of numbers rather than a list of the parts of a state."""
    return isinstance(state, list) and bool(state) and isinstance(state[0], (list, int, float, complex))


def check_lengths(function: str, shape: Shape, shortest: int, longest: int, batch: int, time: int) -> None:
    """Check the shape of the lengths of ``batch`` rows, and the shortest and the longest of them."""
    if shape != (batch,):
        raise ValueError(f"{function}: lengths must have shape (B,) = ({batch},), got {tuple(shape)}")
    if shortest < 0 or longest > time:
        raise ValueError(
            f"{function}: lengths must be from 0 to T = {time}, got {shortest if shortest < 0 else longest}"
        )


def check_reset_shape(function: str, reset: Shape, batch: int, time: int, time_major: bool = False) -> None:
    """Check that reset has one flag per step: for each row, in the layout of the steps, or for all rows together."""
    letters, expected = ("T, B", (time, batch)) if time_major else ("B, T", (batch, time))
    if tuple(reset) not in (expected, (time,)):
        raise ValueError(f"{function}: reset must have shape ({letters}) = {expected} or (T,), got {tuple(reset)}")


def check_absent(function: str, input: str, **arguments: object) -> None:
    """Check that arguments that do not apply to this kind of input are None."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{function}: {name} must be None for {input}, got {name}")


def check_packing(function: str, batch: int, lengths: object, steps: str = "x") -> None:
    """Check that ``cu_seqlens`` may be combined with the other arguments."""
    if lengths is not None:
        raise ValueError(f"{function}: lengths must be None if cu_seqlens is given, got both")
    if batch != 1:
        raise ValueError(f"{function}: {steps} must have B = 1 if cu_seqlens is given, got B = {batch}")


def check_bounds(function: str, shape: Shape, first: int, last: int, falls: bool, time: int) -> None:
    """Check the shape of cu_seqlens and its ends ``first`` and ``last``; ``falls``: whether it decreases anywhere."""
    check_bounds_shape(function, shape)
    if first != 0 or last != time or falls:
        got = "falling values" if first == 0 and last == time else f"{first} to {last}"
        raise ValueError(f"{function}: cu_seqlens must rise from 0 to T = {time}, got {got}")


def check_bounds_shape(function: str, shape: Shape) -> None:
    """Check that cu_seqlens has one axis and at least one element."""
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"{function}: cu_seqlens must have shape (S + 1,), got {tuple(shape)}")
