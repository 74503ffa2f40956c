"""The result of a solver: the answer, and how each part of it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The result of a solver: the x of a system A x = b, or all states of a recurrence.

    Linear systems (:mod:`fastiter.relax`) have value to method, history, reason and omega: numbers if b is one column,
    else one number for each column, or for each system of a batch. Recurrences h[t] = f(h[t-1], x[t])
    (:func:`fastiter.torch.solve_recurrence`) have value to lyapunov; B is their batch.

    Attributes
    ----------
    value
        x, or the states of all steps: (B, T, ...), or a tuple of these if the state has several parts.
    converged
        True where ``||b - A x|| <= rtol ||b|| + atol``. Or (B,) bool: true where every state is finite and is either
        the loop's or satisfies the tolerances ``|h[t] - f(h[t-1], x[t])| <= atol + rtol |h[t]|``, and the next
        correction is small too. Sequences that did not converge were run as a loop, so False means that the loop's own
        answer has an infinity or a NaN.
    steps
        The sweeps until it converged, or the sweeps done. Or (B,) integers: how often all steps of a window were
        evaluated at once, summed over the windows; 0 if the loop did everything.
    residual
        ``||b - A x||`` of the value, computed from A, b and x. Or (B,) the largest ``|h[t] - f(h[t-1], x[t])|``,
        measured before the last correction, which makes it smaller still; 0 if the loop did everything, as its
        states are the function's values themselves.
    method
        The method that ran. For recurrences ``"sequential"``, ``"newton"``, ``"quasi"`` or ``"elk"``, also where
        ``"auto"`` chose it.
    last
        The states after the last step, (B, ...) each: the initial state for the steps that follow.
    jacobian
        ``"diagonal"``, ``"block K"``, ``"dense"`` or ``"quasi"``: the part of the Jacobians that was used; None if none
        was evaluated.
    window
        The number of steps that were solved at once.
    sequential
        (B, windows) bool. True where a window was run as a loop: all windows with the method ``"sequential"``, with the
        other methods those that did not converge.
    lyapunov
        (B,) an estimate of the largest Lyapunov exponent, the mean logarithm by which a step stretches a small
        difference between two states, from the last Jacobians along the iterates; below 0 the recurrence forgets its
        past, and far above 0 only a loop can follow it. NaN where no Jacobian was evaluated.
    history
        ``||b - A x||`` before the first step and at each check: (checks + 1,), or with the columns as its second axis.
        Columns that converge early are swept on with the others; their value and residual are those of their own end.
    reason
        The reason for ending: "converged", "max_steps", "diverged" or "stagnated"; a tuple of them for several columns.
    omega
        The relaxation factor at the end; with ``"auto"`` it is found during the solution.
    """

    value: Any
    converged: Any
    steps: Any
    residual: Any
    method: str
    last: Any = None
    jacobian: str | None = None
    window: int = 0
    sequential: Any = None
    lyapunov: Any = None
    history: Any = None
    reason: Any = None
    omega: float | None = None
