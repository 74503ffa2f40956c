"""What a solver found out: the answer, and how much of it was found in which way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Solution:
    """The states h[t] = f(h[t-1], x[t]) of a recurrence that was solved for all t at once, and how it was solved.

    Attributes
    ----------
    value
        The states of all steps: (B, T, ...), or a tuple of such where the state has several parts.
    last
        The states after the last step, (B, ...) each: the initial state of what follows.
    converged
        (B,) bool. True where every state is finite and is either the loop's or satisfies the tolerances
        ``|h[t] - f(h[t-1], x[t])| <= atol + rtol |h[t]|``, and the next correction is small too. Sequences that did not
        converge were run as a loop, so False means that the loop's own answer has an infinity or a NaN.
    steps
        (B,) integers. How often all steps of a window were evaluated at once, summed over the windows; 0 where
        the loop did everything.
    residual
        (B,) the largest ``|h[t] - f(h[t-1], x[t])|``, measured before the last correction, which makes it smaller
        still; 0 where the loop did everything, as its states are the function's values themselves.
    method
        ``"sequential"``, ``"newton"``, ``"quasi"`` or ``"elk"``: what was used, which ``"auto"`` has chosen.
    jacobian
        ``"diagonal"``, ``"block K"``, ``"dense"`` or ``"quasi"``: the part of the Jacobians that was used, and None
        where none was evaluated.
    window
        The number of steps that were solved at once.
    sequential
        (B, windows) bool. True where a window was run as a loop: all are in the method ``"sequential"``; in the
        other methods those that did not converge.
    lyapunov
        (B,) an estimate of the largest Lyapunov exponent, the mean logarithm by which a step stretches a small
        difference between two states, from the last Jacobians along the iterates; below 0 the recurrence forgets its
        past, and far above 0 only a loop can follow it. NaN where no Jacobian was evaluated.
    """

    value: Any
    last: Any
    converged: Any
    steps: Any
    residual: Any
    method: str
    jacobian: str | None
    window: int
    sequential: Any
    lyapunov: Any
