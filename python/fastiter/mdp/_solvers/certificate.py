"""Bounds that hold in floating-point arithmetic: those of the last sweep, and corrections beyond its rounding errors.

With base values b, V* = b + E*, where E* are the optimal values of the same process with the rewards r + gamma P b - b.
These are computed with about twice the precision of float64, so that the rounding errors of a solver's sweeps are
relative to E* instead of V*. docs/mdp/bounds.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._call.iterate import Limits, Progress
from .._process import Process
from .._result import MDPSolution

Array = npt.NDArray[Any]

#: Widths of bounds, relative to the values, that are as small as the rounding of the bounds and of the values allows
_ENOUGH = {"float32": 2.0**-21, "float64": 2.0**-49}
#: The factor by which a correction has to reduce the width for another one
_PAYS = 0.5

#: (process, initial values, limits): the solution of a process with other rewards
Solver = Callable[[Process, Array, Limits], MDPSolution[Array]]


def enclosed(
    processes: Sequence[Process], discount: float, w: Array, numbers: Array, negated: bool
) -> tuple[Array, Array, Array, Array]:
    """Return the values in the dtype of w (B, S), lower and upper bounds in float64, and the residuals (B,).

    ``numbers`` (B, 5) are the least and the largest change of the last sweep, and the first three of its
    :class:`Bounds`. The residual is the largest difference of the bounds; without a discount, the largest change.
    """
    wide, low, high, rounding = w.astype(np.float64), numbers[:, 2:3], numbers[:, 3:4], numbers[:, 4:]
    lower, upper, middle = wide + (low - rounding), wide + (high + rounding), wide + (low + high) / 2
    endless = [m for m, process in enumerate(processes) if process.modulus(discount)[1] >= 1]
    for m in endless:
        lower[m], upper[m] = _undiscounted(processes[m], wide[m], numbers[m])
        middle[m] = wide[m]
    if processes[0].has_terminal:
        for x in (lower, upper, middle):
            x[:, processes[0].is_terminal] = 0
    residual = (upper - lower).max(axis=1, initial=0)
    if not np.isfinite(residual).all():  # values have overflowed
        lower[np.isnan(lower)], upper[np.isnan(upper)] = -np.inf, np.inf
    if endless:
        residual[endless] = np.abs(numbers[endless, :2]).max(axis=1)
    value = middle.astype(w.dtype)
    return (-value, -upper, -lower, residual) if negated else (value, lower, upper, residual)


def _undiscounted(process: Process, w: Array, numbers: Array) -> tuple[Array, Array]:
    """Return bounds without a discount, infinite where none are known.

    They need that policies which never end have the value -inf. Then T v <= v makes w an upper bound, and T v >= v a
    lower one. If all rewards are at most -c < 0, w scaled by a little is such a v: docs/mdp/bounds.md.
    """
    rounding, infinite = float(numbers[4]), np.full_like(w, np.inf)
    above, below = float(numbers[1]) + rounding, rounding - float(numbers[0])
    if not process.endless_is_costly:
        return -infinite, infinite
    cost = -float(process.rows.reward.max(initial=-np.inf))
    upper = w if above <= 0 else w * (cost / (cost + above)) if cost > 0 else infinite
    lower = w if below <= 0 else w * (cost / (cost - below)) if cost > below else -infinite
    wide = 2 * rounding + 2.0**-50 * np.abs(w)
    return lower - 2 * wide, upper + wide


def refined(
    process: Process,
    solution: MDPSolution[Array],
    limits: Limits,
    negated: bool,
    solver: Solver,
    *,
    by_constants: bool = False,
) -> MDPSolution[Array]:
    """Return a solution, continued by corrections as long as only rounding keeps it from the tolerance.

    ``by_constants``: corrections to constant values, for operators that only constants pass through, as those of
    :func:`robust`.
    """
    if by_constants and process.has_terminal:
        return solution
    while solution.reason == "stagnated":
        base = solution.lower / 2 + solution.upper / 2
        size = float(np.abs(base).max())
        if by_constants:
            base = np.full_like(base, base.min() / 2 + base.max() / 2)
        if solution.residual <= _ENOUGH[process.dtype.name] * size:
            break
        reach = np.inf if by_constants else _reach(solution, base)
        corrected = _corrected(process, -base if negated else base, reach)
        if corrected is None:
            break
        left = limits.max_steps - solution.steps
        if left < 1:
            return replace(solution, reason="max_steps")
        rounding = 2.0**-51 * (size + solution.residual)  # by which rounding may widen the bounds of the sum
        own = limits._replace(atol=limits.atol - rounding, max_steps=left)
        own = own.with_callback(partial(_whole, solution, limits.atol, base))
        with np.errstate(over="ignore", invalid="ignore"):
            correction = solver(corrected, np.zeros(process.states, process.dtype), own)
        before, solution = solution, _sum(process, base, solution, correction)
        if by_constants or not solution.residual <= _PAYS * before.residual:
            break
    return solution


def _reach(solution: MDPSolution[Array], base: Array) -> float:
    """Return the largest |V* - base|."""
    return float(np.maximum(solution.upper - base, base - solution.lower).max())


def _corrected(process: Process, base: Array, reach: float) -> Process | None:
    """Return the process of the corrections, which are at most ``reach``; None if they are out of range."""
    assert process.discount is not None  # for the type checker: checked by MDP.solve
    info, bound = np.finfo(process.dtype), reach
    if process.modulus(process.discount)[1] >= 1 or not np.isfinite(base).all():
        return None
    if np.isfinite(reach):
        if not 4 * float(info.tiny) < reach < float(info.max) / 16:
            return None
        bound = float(np.ldexp(1.0, int(np.frexp(reach)[1]) + 2))
    reward = np.empty_like(process.rows.reward)
    arrays = process.bits, process.states, process.arrays, process.discount
    doubt = _core.mdp.corrections(*arrays, base, bound, reward)
    shifted = Process(process.rows._replace(reward=reward), process.discount, process.sums)
    shifted.doubt, shifted.base, shifted.inexact = doubt, float(np.abs(base).max()), process.inexact
    return shifted


def _whole(solution: MDPSolution[Array], atol: float, base: Array, progress: Progress) -> Progress:
    """Return the progress of a correction as that of the whole solution."""

    def value() -> Array:
        both: Array = (base + progress.value).astype(solution.value.dtype)
        return both

    return replace(progress, steps=solution.steps + progress.steps, tolerance=atol, _value=value)


def _sum(
    process: Process, base: Array, solution: MDPSolution[Array], correction: MDPSolution[Array]
) -> MDPSolution[Array]:
    """Return the solution base + correction if its bounds are closer, with the steps of both."""
    lower, upper = base + correction.lower, base + correction.upper
    residual = float((upper - lower).max())
    reason = correction.reason if correction.reason != "diverged" else "stagnated"
    both = replace(
        solution,
        converged=reason == "converged",
        steps=solution.steps + correction.steps,
        history=np.concatenate([solution.history, correction.history]),
        reason=reason,
    )
    if not residual < solution.residual:
        return both
    value = (base + (correction.lower / 2 + correction.upper / 2)).astype(solution.value.dtype)
    return replace(both, value=value, policy=correction.policy, lower=lower, upper=upper, residual=residual)
