"""The loop of all solvers: steps of a method until the bounds are close enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._certificate import enclosed
from ._result import Limits, MDPProgress, MDPSolution
from ._work import Method, Work

Array = npt.NDArray[Any]


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
            if not np.isfinite(residual) or (is_backup and not work.is_finite()):
                reason = "diverged"
            elif is_backup and residual <= limits.tol:
                reason = "converged"
            elif (is_backup and work.is_rounding(residual, since)) or since > method.patience:
                reason = "stagnated"
            elif limits.ends(_progress(work, method, (residual, limits.tol), is_backup, negated)):
                reason = "callback"
            elif work.steps < limits.max_steps and not method.leaves(history, limits.tol):
                continue
            break
        if not is_backup:
            method.update(work)
            work.backup()
        return _solution(work, method, limits, negated, (reason, history))


def _residual(work: Work, limits: Limits) -> float:
    """Return the width of the bounds; for "sup" that of symmetric bounds; without a discount the largest change."""
    if work.modulus[1] >= 1:
        return work.error()
    width = work.bounds.width
    if limits.stop == "span":
        return width
    return max(width, float(work.accuracy.symmetric(work.error())) + 2 * work.bounds.rounding)


def _progress(work: Work, method: Method, numbers: tuple[float, float], is_backup: bool, negated: bool) -> MDPProgress:
    def value() -> Array:
        if not is_backup:
            method.update(work)
        current = work.w if is_backup else work.v
        return -current if negated else current.copy()

    return MDPProgress(work.steps, *numbers, value)


def _solution(work: Work, method: Method, limits: Limits, negated: bool, end: tuple[str, list[float]]) -> MDPSolution:
    """Return the midpoint of the bounds, and the bounds."""
    reason, history = end
    numbers = np.array([[*work.change, *work.bounds[:3]]])
    arrays = enclosed([work.process], work.discount, work.w[None], numbers, negated)
    value, lower, upper, residual = (x[0] for x in arrays)
    return MDPSolution(
        value=value,
        policy=work.process.label(work.action),
        lower=lower,
        upper=upper,
        converged=reason == "converged",
        steps=work.steps,
        residual=work.everywhere(float(residual)),
        tolerance=limits.tol,
        history=np.array(history),
        method=method.name,
        reason=reason,
    )
