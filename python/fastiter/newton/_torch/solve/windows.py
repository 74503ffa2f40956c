"""Sequences in windows: each window is solved in parallel, and run as a loop if that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...._solution import ConvergenceError
from .cell import Cell, Structure
from .newton import Options, Outcome, newton

#: Units of all states in a window, times the block size: on a CPU they fit in a core's cache, on a GPU they saturate
#: the device.
_UNITS, _GPU_UNITS = 1 << 17, 1 << 24


@dataclass
class Answer:
    """The states of all steps (B, T, n), and how each row was solved."""

    value: Tensor
    converged: Tensor
    steps: Tensor
    residual: Tensor
    sequential: Tensor
    lyapunov: Tensor

    @classmethod
    def of_loop(cls, value: Tensor) -> Answer:
        """Return the result of a loop over all steps."""
        batch = len(value)
        return cls(
            value,
            _is_finite(value),
            value.new_zeros(batch, dtype=torch.int64),
            value.new_zeros(batch),
            value.new_ones((batch, 1), dtype=torch.bool),
            value.new_full((batch,), torch.nan),
        )


def window_for(structure: Structure | None, batch: int, time: int, width: int, on_gpu: bool = False) -> int:
    """Return the default number of steps that are solved at once."""
    if structure is None:
        return max(time, 1)
    units = _GPU_UNITS if on_gpu else _UNITS
    return min(max(units // max(batch * width * structure.size, 1), 16), max(time, 1))


def loop(cell: Cell, first: Tensor, x: Sequence[Tensor]) -> Tensor:
    """Return the states after each step (B, T, n), computed sequentially."""
    parts: Sequence[Tensor] = [part.contiguous() for part in cell.layout.unpack(first)]
    states = []
    with torch.no_grad():
        for step in zip(*[part.unbind(1) for part in x], strict=True):
            parts = cell.step(parts, step)
            states.append(parts)
    if not states:
        return first.new_empty((len(first), 0, first.shape[1]))
    return cell.layout.pack_steps([torch.stack(part, 1) for part in zip(*states, strict=True)])


def _is_finite(value: Tensor) -> Tensor:
    """Return for each row whether all of its elements are finite."""
    if value.numel() == 0:
        return value.new_ones(len(value), dtype=torch.bool)
    least, most = value.flatten(1).aminmax(dim=1)
    return least.isfinite() & most.isfinite()


#: (states and outcomes of the windows so far, mask of the last one's rows that were run as a loop) -> whether to stop
Report = Callable[[list[Tensor], list[Outcome], Tensor], bool]


def solve_windows(
    cell: Cell,
    structure: Structure,
    first: Tensor,
    x: Sequence[Tensor],
    window: int,
    options: Options,
    ends: Report | None = None,
) -> Answer:
    """Solve window by window; a row that does not converge in a window is run as a loop from the state before it.

    ``ends`` returns after each window whether to omit the remaining ones.
    """
    batch, time = x[0].shape[:2]
    starts = range(0, time, window)
    values, outcomes = [], []
    sequential = first.new_zeros((batch, len(starts)), dtype=torch.bool)
    for i, start in enumerate(starts):
        if options.contracting and i and bool(sequential[:, i - 1].all()):
            sequential[:, i:] = True
            values.append(loop(cell, first, [part[:, start:] for part in x]))
            break
        part_of_x = [part[:, start : start + window] for part in x]
        outcome = newton(cell, structure, first, part_of_x, options)
        left = ~outcome.converged
        if bool(left.any()):
            if options.throw:
                raise ConvergenceError(_message(left, i, len(starts), options))
            sequential[:, i] = left
            # run with all rows, as the rounding of a matrix product may depend on their number
            outcome.value[left] = loop(cell, first, part_of_x)[left]
        outcomes.append(outcome)
        values.append(outcome.value)
        first = outcome.value[:, -1]
        if ends is not None and ends(values, outcomes, sequential[:, i]):
            sequential = sequential[:, : i + 1]
            break
    stretching = torch.stack([outcome.lyapunov for outcome in outcomes])
    value = torch.cat(values, 1)
    return Answer(
        value,
        _is_finite(value),
        torch.stack([outcome.steps for outcome in outcomes]).sum(0),
        torch.stack([outcome.residual for outcome in outcomes]).amax(0),
        sequential,
        stretching.nanmean(0),
    )


def _message(left: Tensor, window: int, windows: int, options: Options) -> str:
    return (
        f"solve_recurrence: the method must converge on every window if throw is True, "
        f"got {int(left.sum())} of {len(left)} sequences that did not within max_steps = {options.max_steps} "
        f"on window {window} of {windows}"
    )
