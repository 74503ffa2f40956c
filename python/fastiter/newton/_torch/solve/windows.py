"""Sequences in windows: each window is solved in parallel, and run as a loop if that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...._call.iterate import Progress, Reason, Record, Step, iterate, unbounded
from ...._solution import ConvergenceError
from .cell import Cell, Layout, Structure
from .newton import Options, Outcome, newton

#: Units of all states in a window, times the block size: on a CPU they fit in a core's cache, on a GPU they saturate
#: the device.
_UNITS, _GPU_UNITS = 1 << 17, 1 << 24


@dataclass
class Answer:
    """The states of all steps (B, T, n), and how each row was solved."""

    value: Tensor
    converged: Tensor
    reason: tuple[Reason, ...]
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
            *_judged(value),
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


def _judged(value: Tensor) -> tuple[Tensor, tuple[Reason, ...]]:
    """Return for each row whether all of its elements are finite, and the reason for ending."""
    converged: Reason = "converged"
    if value.numel() == 0:
        return value.new_ones(len(value), dtype=torch.bool), (converged,) * len(value)
    smallest, largest = value.flatten(1).aminmax(dim=1)
    size = torch.maximum(largest, -smallest)
    is_finite = size.isfinite()
    if bool(is_finite.all()):
        return is_finite, (converged,) * len(value)
    rows = zip(is_finite.tolist(), size.tolist(), strict=True)
    return is_finite, tuple([converged if fine else unbounded(number) for fine, number in rows])


def solve_windows(
    cell: Cell, structure: Structure, first: Tensor, x: Sequence[Tensor], window: int, options: Options
) -> Answer:
    """Solve window by window; a row that does not converge in a window is run as a loop from the state before it.

    The steps of this loop are the windows, of which none remains after the last.
    """
    record = _Windows(cell.layout, first, x[0].shape[1], window, options)
    limits = options.limits._replace(max_steps=record.sequential.shape[1])
    return iterate(_windows(cell, structure, first, x, window, options, record), limits, record).answer()


class _Windows(Record):
    """The record of the windows: their states, how each was solved, and its rows that were run as a loop."""

    def __init__(self, layout: Layout, first: Tensor, total: int, window: int, options: Options) -> None:
        super().__init__()
        self._layout, self._time, self._total, self._options = layout, 0, total, options
        self.values: list[Tensor] = []
        self.outcomes: list[Outcome] = []
        self.sequential = first.new_zeros((len(first), -(-total // window)), dtype=torch.bool)

    def add(self, value: Tensor) -> None:
        """Record the states of further steps."""
        self.values.append(value)
        self._time += value.shape[1]

    def value(self, windows: int) -> Any:
        """Return a copy of the states of the first windows, in the form of the result."""
        parts = self._layout.unpack_steps(torch.cat(self.values[:windows], 1).clone())
        return parts[0] if self._layout.single else parts

    def check(self, step: Step) -> bool:
        """Return whether all windows have been solved."""
        return self._time == self._total

    def stop(self, reason: Reason) -> None:
        """End before the remaining windows."""
        super().stop(reason)
        self.sequential = self.sequential[:, : len(self.values)]

    def progress(self, step: Step) -> Progress:
        """Return the argument of the callback: all rows continue, as those that are not finite remain so."""
        last, steps = self.outcomes[-1], int(self._steps().max())
        size = last.value.abs().flatten(1).amax(1)
        numbers = {"time": self._time, "total": self._total, "sequential": self.sequential[:, step.steps - 1].clone()}
        tolerance = self._options.atol + self._options.rtol * size
        rows = torch.arange(len(size), device=size.device)
        return Progress(steps, step.residual.clone(), tolerance, rows, numbers, step.value)

    def _steps(self) -> Tensor:
        return torch.stack([outcome.steps for outcome in self.outcomes]).sum(0)

    def answer(self) -> Answer:
        """Return the states, and the sums or largest numbers over the windows."""
        outcomes, value = self.outcomes, torch.cat(self.values, 1)
        is_finite, reasons = _judged(value)
        if self.reason is not None:  # the callback has stopped the solver
            reasons = tuple([self.reason if reason == "converged" else reason for reason in reasons])
        return Answer(
            value,
            is_finite,
            reasons,
            self._steps(),
            torch.stack([outcome.residual for outcome in outcomes]).amax(0),
            self.sequential,
            torch.stack([outcome.lyapunov for outcome in outcomes]).nanmean(0),
        )


def _windows(
    cell: Cell,
    structure: Structure,
    first: Tensor,
    x: Sequence[Tensor],
    window: int,
    options: Options,
    record: _Windows,
) -> Iterator[Step]:
    sequential = record.sequential
    for i, start in enumerate(range(0, x[0].shape[1], window)):
        if options.contracting and i and bool(sequential[:, i - 1].all()):
            sequential[:, i:] = True
            record.add(loop(cell, first, [part[:, start:] for part in x]))
        else:
            part_of_x = [part[:, start : start + window] for part in x]
            outcome = newton(cell, structure, first, part_of_x, options)
            left = ~outcome.converged
            if bool(left.any()):
                if options.limits.throw:
                    raise ConvergenceError(_message(left, i, sequential.shape[1], options.limits.max_steps))
                sequential[:, i] = left
                # run with all rows, as the rounding of a matrix product may depend on their number
                outcome.value[left] = loop(cell, first, part_of_x)[left]
            record.outcomes.append(outcome)
            record.add(outcome.value)
            first = outcome.value[:, -1]
        yield Step(i + 1, record.outcomes[-1].residual, None, partial(record.value, i + 1))


def _message(left: Tensor, window: int, windows: int, max_steps: int) -> str:
    return (
        f"solve_recurrence: the method must converge on every window if throw is True, "
        f"got {int(left.sum())} of {len(left)} sequences that did not within max_steps = {max_steps} "
        f"on window {window} of {windows}"
    )
