"""Solvers whose steps are in Python: steps of a method until the bounds are close enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits, Record, Step, iterate
from .._result import MDPSolution
from .certificate import enclosed
from .state import Method, Work

Array = npt.NDArray[Any]


def quietly(work: Work, method: Method, limits: Limits, negated: bool) -> MDPSolution[Array]:
    """Take steps until the method ends."""
    record = Record(overflows=True)
    with np.errstate(over="ignore", invalid="ignore"):
        iterate(_steps(work, method, limits.atol, negated, record), limits, record)
        if not work.is_backed_up:
            method.update(work)
            work.backup()
        return _solution(work, method, record, negated)


def _steps(work: Work, method: Method, atol: float, negated: bool, record: Record) -> Iterator[Step]:
    """Yield the steps of a method until it leaves the rest to others; bounds are those of a backup."""

    def value() -> Array:
        if not work.is_backed_up:
            method.update(work)
        current = work.w if work.is_backed_up else work.v
        return -current if negated else current.copy()

    smallest, without_progress = np.inf, 0
    while not method.leaves(record.history, atol):
        work.is_backed_up = is_backup = method.step(work)
        residual = _residual(work, method.stop) if is_backup else method.residual
        if residual < smallest or method.moved:
            smallest, without_progress = residual, 0
        else:
            without_progress += 1
        is_finite = not is_backup or work.is_finite()
        is_stuck = without_progress > method.patience
        if is_backup and residual > atol:
            is_stuck |= work.is_rounding(residual, without_progress)
        yield Step(work.steps, residual, atol, value, dict, is_backup and is_finite, is_stuck, not is_finite)


def _residual(work: Work, stop: str) -> float:
    """Return the width of the bounds; for "sup" that of symmetric bounds; without a discount the largest change."""
    if work.modulus[1] >= 1:
        return work.error()
    width = work.bounds.width
    if stop == "span":
        return width
    return max(width, float(work.accuracy.symmetric(work.error())) + 2 * work.bounds.rounding)


def _solution(work: Work, method: Method, record: Record, negated: bool) -> MDPSolution[Array]:
    """Return the midpoint of the bounds, and the bounds."""
    numbers = np.array([[*work.change, *work.bounds[:3]]])
    arrays = enclosed([work.process], work.discount, work.w[None], numbers, negated)
    value, lower, upper, residual = (x[0] for x in arrays)
    return MDPSolution(
        value=value,
        policy=work.process.label(work.action),
        lower=lower,
        upper=upper,
        converged=record.reason == "converged",
        steps=work.steps,
        residual=work.everywhere(float(residual)),
        tolerance=record.last.tolerance,
        history=np.array(record.history),
        method=method.name,
        reason=record.reason,
    )
