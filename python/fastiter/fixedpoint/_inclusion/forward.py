"""Methods that evaluate a single-valued operator: forward-backward and its kin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..._call.iterate import Callback, Limits
from ..._docs import documented
from .docs import PARTS
from .solve import (
    InclusionSolution,
    Iterate,
    Operator,
    Point,
    Resolvent,
    checked_call,
    norm,
    point,
    relaxed,
    solved,
    step_size,
)

_RATIO = 0.9  # maximum of t norm(B z - B x) / norm(z - x) in the search for t
_RISE = 1.05  # growth factor of t per step
_SMALLEST = 1e-30  # the search gives up below this t: B is not Lipschitz, or not finite


class _Trials:
    """Trial points z = (I + t A)^-1 (x - t B x), with a given step or one found by search."""

    def __init__(self, function: str, operators: tuple[Resolvent, Operator], x0: Any, size: tuple[float, bool]) -> None:
        self.x = point(function, "x0", x0)
        self.resolvent = checked_call(function, "resolvent", operators[0], self.x)
        self._forward = checked_call(function, "forward", operators[1], self.x)
        self.t, self._is_searched = size
        self.evaluations = 0
        self._has_given_up = False

    def forward(self, x: Any) -> Any:
        """Return B x, counted."""
        self.evaluations += 1
        return self._forward(x)

    def __call__(self, x: Any, Bx: Any, needs_Bz: bool) -> tuple[Any, Any]:
        """Return z and B z, which may be None if neither the method nor the search needs it."""
        if not self._is_searched:
            z = self.resolvent(x - self.t * Bx, self.t)
            return z, self.forward(z) if needs_Bz else None
        self.t *= _RISE
        while True:
            z = self.resolvent(x - self.t * Bx, self.t)
            distance = norm(z - x)
            if distance == 0 and self.t < 1:  # x solves it, or rounding hides so small a step: one of 1 tells
                self._has_given_up, self.t = True, 1.0
                z = self.resolvent(x - Bx, 1.0)
                return z, self.forward(z)
            Bz = self.forward(z)
            difference = norm(Bz - Bx)
            if not self.t * difference > _RATIO * distance:  # NaN ends the search, too: the driver reports it
                return z, Bz
            if self.t < _SMALLEST:
                self._has_given_up = math.isfinite(difference)
                return z, Bz
            self.t /= 2

    def iterate(self, z: Any, change: Any) -> Iterate:
        """Return the step for the driver; its change is divided by a t below 1, as a small t makes any change small."""
        return Iterate(z, norm(change) / min(self.t, 1.0), norm(z), self.evaluations, self.t, self._has_given_up)


@documented(PARTS)
def forward_backward(
    resolvent: Resolvent,
    forward: Operator,
    x0: Point,
    *,
    step: float | None = None,
    lipschitz: float | None = None,
    relaxation: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B)(x) by z = (I + t A)^-1 (x - t B x), x <- x + relaxation (z - x): the proximal gradient method.

    It converges for cocoercive B, such as gradients of convex functions with Lipschitz constant L, if t < 2 / L, and
    for B that is strongly monotone with constant m, if t < 2 m / L^2.

    Parameters
    ----------
    %(resolvent)s
    %(forward)s
    %(x0)s
    %(steps)s 0.9
    relaxation : float
        The relaxation factor, below 2; above 1 it is over-relaxation.
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    forward_backward_forward : For B that is only monotone and Lipschitz.
    davis_yin : With a second resolvent.

    References
    ----------
    Lions and Mercier, "Splitting algorithms for the sum of two nonlinear operators" (1979).

    Examples
    --------
    The lasso:

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> A, b = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]), np.array([3.0, 1.0, 0.1])
    >>> found = monotone.forward_backward(
    ...     lambda y, t: prox.prox_l1(y, 0.5 * t), lambda x: A.T @ (A @ x - b), np.zeros(2), lipschitz=6.0
    ... )
    >>> found.value.round(4)
    array([0. , 1.3])
    """
    function = "forward_backward"
    trials = _Trials(function, (resolvent, forward), x0, step_size(function, step, lipschitz, 1.0))
    rate = relaxed(function, relaxation)

    def steps() -> Iterator[Iterate]:
        x, Bx = trials.x, trials.forward(trials.x)
        while True:
            z, Bz = trials(x, Bx, rate == 1)
            change = z - x
            yield trials.iterate(z, change)
            x = z if rate == 1 else x + rate * change
            Bx = Bz if rate == 1 else trials.forward(x)

    return solved(function, steps(), Limits(rtol, atol, max_steps, callback, throw), trials.x.dtype)


@documented(PARTS)
def forward_backward_forward(
    resolvent: Resolvent,
    forward: Operator,
    x0: Point,
    *,
    step: float | None = None,
    lipschitz: float | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B)(x) by z = (I + t A)^-1 (x - t B x), x <- z - t (B z - B x): Tseng's method.

    It converges for monotone B with Lipschitz constant L if t < 1 / L; with ``lipschitz``, t = 0.9 / L. A step takes
    one resolvent and two evaluations of B.

    Parameters
    ----------
    %(resolvent)s
    %(forward)s
    %(x0)s
    %(steps)s 0.9
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    extragradient : The same with a second resolvent, and points that stay in the domain of A.

    References
    ----------
    Tseng, "A modified forward-backward splitting method for maximal monotone mappings" (2000).

    Examples
    --------
    The saddle point of x y with x in [1, 2]: B is a rotation, on which forward-backward does not converge.

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> low, high = np.array([1.0, -9.0]), np.array([2.0, 9.0])
    >>> found = monotone.forward_backward_forward(
    ...     lambda y, t: prox.project_box(y, low, high), lambda z: np.array([z[1], -z[0]]), np.ones(2)
    ... )
    >>> found.value.round(6)
    array([1., 9.])
    """
    function = "forward_backward_forward"
    trials = _Trials(function, (resolvent, forward), x0, step_size(function, step, lipschitz, 0.9))

    def steps() -> Iterator[Iterate]:
        x = trials.x
        while True:
            Bx = trials.forward(x)
            z, Bz = trials(x, Bx, True)
            yield trials.iterate(z, z - x)
            x = z - trials.t * (Bz - Bx)

    return solved(function, steps(), Limits(rtol, atol, max_steps, callback, throw), trials.x.dtype)


@documented(PARTS)
def extragradient(
    resolvent: Resolvent,
    forward: Operator,
    x0: Point,
    *,
    step: float | None = None,
    lipschitz: float | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B)(x) by z = (I + t A)^-1 (x - t B x), x <- (I + t A)^-1 (x - t B z): Korpelevich's method.

    It converges for monotone B with Lipschitz constant L if t < 1 / L and A is the normal cone of a set; with
    ``lipschitz``, t = 0.9 / L.

    Parameters
    ----------
    %(resolvent)s
    %(forward)s
    %(x0)s
    %(steps)s 0.9
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    forward_backward_forward : One resolvent per step.
    mirror_prox : The same with the entropy in place of the Euclidean distance.

    References
    ----------
    Korpelevich, "The extragradient method for finding saddle points and other problems" (1976).

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> found = monotone.extragradient(
    ...     lambda y, t: prox.project_l2_ball(y, 2.0), lambda z: np.array([z[1] - 1, 1 - z[0]]), np.zeros(2), step=0.9
    ... )
    >>> found.value.round(6)
    array([1., 1.])
    """
    function = "extragradient"
    trials = _Trials(function, (resolvent, forward), x0, step_size(function, step, lipschitz, 0.9))

    def steps() -> Iterator[Iterate]:
        x = trials.x
        while True:
            z, Bz = trials(x, trials.forward(x), True)
            yield trials.iterate(z, z - x)
            x = trials.resolvent(x - trials.t * Bz, trials.t)

    return solved(function, steps(), Limits(rtol, atol, max_steps, callback, throw), trials.x.dtype)
