"""The loop of all solvers: steps of a method until the bounds are close enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._solution import judged
from ._result import Limits, MDPProgress, MDPSolution
from ._work import Method, Work

Array = npt.NDArray[Any]


def run(function: str, work: Work, method: Method, limits: Limits, negated: bool) -> MDPSolution:
    """Take steps until the method ends, and warn or raise without convergence."""
    return judged(function, quietly(work, method, limits, negated), limits.throw)


def quietly(work: Work, method: Method, limits: Limits, negated: bool) -> MDPSolution:
    """Take steps until the method ends."""
    history: list[float] = []
    reason, least, since = "max_steps", np.inf, 0
    with np.errstate(over="ignore", invalid="ignore"):
        while True:
            is_backup = method.step(work)
            residual = _residual(work, limits) if is_backup else method.residual
            history.append(residual)
            least, since = (residual, 0) if residual < least or method.moved else (least, since + 1)
            if is_backup and residual < limits.tol:
                reason = "converged"
            elif not np.isfinite(residual) or (is_backup and not work.is_finite()):
                reason = "diverged"
            elif (is_backup and residual <= 2 * work.rounding()) or since > method.patience:
                reason = "stagnated"
            elif limits.ends(_progress(work, method, (residual, limits.tol), is_backup, negated)):
                reason = "callback"
            elif work.steps < limits.max_steps:
                continue
            break
        if not is_backup:
            method.update(work)
            work.backup()
            residual = _residual(work, limits)
        return _solution(work, method, limits, negated, (reason, residual, history))


def _residual(work: Work, limits: Limits) -> float:
    """Return the width of the bounds; for "sup" that of symmetric bounds; without a discount the largest change."""
    factor = work.modulus[1]
    if factor >= 1:
        return work.error()
    return work.bounds().gap if limits.stop == "span" else 2 * work.error() * factor / (1 - factor)


def _progress(work: Work, method: Method, numbers: tuple[float, float], is_backup: bool, negated: bool) -> MDPProgress:
    def value() -> Array:
        if not is_backup:
            method.update(work)
        current = work.w if is_backup else work.v
        return -current if negated else current.copy()

    return MDPProgress(work.steps, *numbers, value)


def _solution(
    work: Work, method: Method, limits: Limits, negated: bool, end: tuple[str, float, list[float]]
) -> MDPSolution:
    """Return the midpoint of the bounds, and the bounds widened by their rounding errors."""
    reason, residual, history = end
    bounds, rounding = work.bounds(), work.rounding()
    wide = work.w.astype(np.float64)
    lower, upper = wide + (bounds.low - rounding), wide + (bounds.high + rounding)
    middle = wide + (bounds.low + bounds.high) / 2 if np.isfinite(bounds.gap) else wide
    for x in (lower, upper, middle):
        x[work.process.is_terminal] = 0
    if negated:
        lower, upper, middle = -upper, -lower, -middle
    return MDPSolution(
        value=middle.astype(work.w.dtype),
        policy=work.process.label(work.action),
        lower=lower,
        upper=upper,
        converged=reason == "converged",
        steps=work.steps,
        residual=residual,
        tolerance=limits.tol,
        history=np.array(history),
        method=method.name,
        reason=reason,
    )
