"""Methods with two resolvents, and with a linear operator between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from ..._call.iterate import Callback, Limits
from ..._check import positive
from ..._docs import documented
from .docs import PARTS
from .solve import (
    InclusionSolution,
    Iterate,
    Operator,
    Point,
    Resolvent,
    blocks,
    checked_call,
    norm,
    point,
    relaxed,
    solved,
)

#: The dual point, whose shape may differ from the primal one's
Other = TypeVar("Other")


def _reflected(
    function: str, resolvents: tuple[Resolvent, Resolvent], x0: Point, step: float, rate: float, limits: Limits
) -> InclusionSolution[Point]:
    """Iterate u <- u + rate (v - z), z = J_A u, v = J_B (2 z - u)."""
    u0, t = point(function, "x0", x0), positive(function, "step", step, zero=False)
    first = checked_call(function, "resolvent_a", resolvents[0], u0)
    second = checked_call(function, "resolvent_b", resolvents[1], u0)

    def steps() -> Iterator[Iterate]:
        u = u0
        while True:
            z = first(u, t)
            v = second(2 * z - u, t)
            change = v - z
            yield Iterate(z, norm(change) / min(t, 1.0), norm(z), 0, t)
            u = u + rate * change

    return solved(function, steps(), limits, u0.dtype)


@documented(PARTS)
def peaceman_rachford(
    resolvent_a: Resolvent,
    resolvent_b: Resolvent,
    x0: Point,
    *,
    step: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B)(x) by u <- (2 J_B - I)(2 J_A - I) u, x = J_A u, with the resolvents J_A and J_B.

    It converges for every step if one of the operators is strongly monotone and Lipschitz, such as I - W of a monotone
    equilibrium network; :func:`douglas_rachford` requires neither.

    Parameters
    ----------
    resolvent_a, resolvent_b : callable
        ``resolvent(y, t)`` returns (I + t A)^-1 y, or the same with B.
    x0 : array or tensor, float32 or float64
        The first u. Gradients do not flow through the solution.
    %(t)s
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    douglas_rachford : The averaged iteration, which always converges.
    forward_backward : With evaluations of B in place of its resolvent.

    References
    ----------
    Lions and Mercier, "Splitting algorithms for the sum of two nonlinear operators" (1979); Winston and Kolter,
    "Monotone operator equilibrium networks" (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> M, b = np.array([[2.0, 1.0], [-1.0, 2.0]]), np.array([1.0, -3.0])
    >>> found = monotone.peaceman_rachford(
    ...     lambda y, t: prox.project_nonnegative(y),
    ...     lambda y, t: np.linalg.solve(np.eye(2) + t * M, y + t * b),
    ...     np.zeros(2),
    ... )
    >>> found.value.round(6)
    array([0.5, 0. ])
    """
    limits = Limits(rtol, atol, max_steps, callback, throw)
    return _reflected("peaceman_rachford", (resolvent_a, resolvent_b), x0, step, 2.0, limits)


@documented(PARTS)
def douglas_rachford(
    resolvent_a: Resolvent,
    resolvent_b: Resolvent,
    x0: Point,
    *,
    step: float = 1.0,
    relaxation: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B)(x) by u <- u + relaxation (J_B(2 x - u) - x), x = J_A u: half of a Peaceman-Rachford step.

    It converges for all maximally monotone A and B whose sum has a zero, and for every step.

    Parameters
    ----------
    resolvent_a, resolvent_b : callable
        ``resolvent(y, t)`` returns (I + t A)^-1 y, or the same with B.
    x0 : array or tensor, float32 or float64
        The first u. Gradients do not flow through the solution.
    %(t)s
    relaxation : float
        The relaxation factor, below 2, the value for Peaceman-Rachford; above 1 it is over-relaxation.
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    peaceman_rachford : Without averaging.
    davis_yin : With a third operator, which is evaluated.

    References
    ----------
    Eckstein and Bertsekas, "On the Douglas-Rachford splitting method and the proximal point algorithm" (1992).

    Examples
    --------
    A point of a line in the simplex:

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> A, b = np.array([[1.0, -1.0, 0.0]]), np.array([0.5])
    >>> found = monotone.douglas_rachford(
    ...     lambda y, t: prox.project_simplex(y), lambda y, t: prox.project_affine(y, A, b), np.zeros(3)
    ... )
    >>> found.value.round(4), found.converged
    (array([0.5833, 0.0833, 0.3333]), True)
    """
    function = "douglas_rachford"
    limits = Limits(rtol, atol, max_steps, callback, throw)
    return _reflected(function, (resolvent_a, resolvent_b), x0, step, relaxed(function, relaxation), limits)


@documented(PARTS)
def davis_yin(
    resolvent_a: Resolvent,
    resolvent_b: Resolvent,
    forward: Operator,
    x0: Point,
    *,
    step: float,
    relaxation: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in (A + B + C)(x) by x = J_A u, v = J_B(2 x - u - t C x), u <- u + relaxation (v - x): three operators.

    It converges for cocoercive C with Lipschitz constant L if t < 2 / L.

    Parameters
    ----------
    resolvent_a, resolvent_b : callable
        ``resolvent(y, t)`` returns (I + t A)^-1 y, or the same with B.
    forward : callable
        ``forward(x)`` returns C x, in the shape and dtype of x.
    x0 : array or tensor, float32 or float64
        The first u. Gradients do not flow through the solution.
    step : float
        The step size t.
    relaxation : float
        The relaxation factor; above 1 it is over-relaxation, and below 2 - t L / 2 the method converges.
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    douglas_rachford : Without C.
    forward_backward : Without B.

    References
    ----------
    Davis and Yin, "A three-operator splitting scheme and its optimization applications" (2017).

    Examples
    --------
    Least squares on the simplex, below a bound:

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> found = monotone.davis_yin(
    ...     lambda y, t: prox.project_simplex(y),
    ...     lambda y, t: prox.project_box(y, -1.0, 0.5),
    ...     lambda x: x - np.array([2.0, 1.0, 0.0]),
    ...     np.zeros(3),
    ...     step=1.0,
    ... )
    >>> found.value.round(6)
    array([0.5, 0.5, 0. ])
    """
    function = "davis_yin"
    u0, t = point(function, "x0", x0), positive(function, "step", step, zero=False)
    first = checked_call(function, "resolvent_a", resolvent_a, u0)
    second = checked_call(function, "resolvent_b", resolvent_b, u0)
    operator, rate = checked_call(function, "forward", forward, u0), relaxed(function, relaxation)

    def steps() -> Iterator[Iterate]:
        u, count = u0, 0
        while True:
            x, count = first(u, t), count + 1
            change = second(2 * x - u - t * operator(x), t) - x
            yield Iterate(x, norm(change) / min(t, 1.0), norm(x), count, t)
            u = u + rate * change

    return solved(function, steps(), Limits(rtol, atol, max_steps, callback, throw), u0.dtype)


@documented(PARTS)
def primal_dual(
    resolvent: Resolvent,
    resolvent_dual: Resolvent,
    operators: tuple[Operator, Operator],
    x0: tuple[Point, Other],
    *,
    norm_bound: float,
    ratio: float = 1.0,
    relaxation: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[tuple[Point, Other]]:
    """0 in A x + K^T B K x, such as min f(x) + g(K x), by Chambolle and Pock's primal-dual iteration.

    x' = J_A(x - tau K^T y), y' = (I + sigma B^-1)^-1 (y + sigma K (2 x' - x)), with tau sigma norm(K)^2 < 1; both are
    then over-relaxed. By Moreau's decomposition, the dual resolvent follows from that of g: y - sigma prox(y / sigma)
    with g's weight 1 / sigma.

    Parameters
    ----------
    %(resolvent)s
    resolvent_dual : callable
        ``resolvent_dual(y, sigma)`` returns (I + sigma B^-1)^-1 y: the proximal operator of sigma times g's conjugate.
    operators : tuple of callable
        ``(K, K_T)``: ``K(x)`` and its transpose ``K_T(y)``.
    x0 : tuple of two arrays or tensors, float32 or float64
        The first x and y. Gradients do not flow through the solution.
    norm_bound : float
        An upper bound of the norm of K: tau = 0.99 ratio / norm_bound, sigma = 0.99 / (ratio norm_bound).
    ratio : float
        The square root of tau / sigma, above 0.
    relaxation : float
        The relaxation factor, below 2; above 1 it is over-relaxation.
    %(limits)s

    Returns
    -------
    InclusionSolution
        (x, y), whether it converged, why it ended, the residuals; the step is tau.

    %(raises)s

    See Also
    --------
    douglas_rachford : With the identity for K.

    References
    ----------
    Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to imaging" (2011).

    Examples
    --------
    Total variation: min norm(x - b)^2 / 2 + sum abs(x[i + 1] - x[i]).

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> b = np.array([0.0, 0.4, 5.0, 5.4])
    >>> found = monotone.primal_dual(
    ...     lambda y, t: (y + t * b) / (1 + t),
    ...     lambda y, s: prox.project_box(y, -1.0, 1.0),
    ...     (np.diff, lambda y: -np.diff(y, prepend=0, append=0)),
    ...     (b, np.zeros(3)),
    ...     norm_bound=2.0,
    ... )
    >>> found.value[0].round(4)
    array([0.7, 0.7, 4.7, 4.7])
    """
    function = "primal_dual"
    x1, y1 = _pair(function, x0)
    bound, root = (
        positive(function, "norm_bound", norm_bound, zero=False),
        positive(function, "ratio", ratio, zero=False),
    )
    tau, sigma, rate = 0.99 * root / bound, 0.99 / (root * bound), relaxed(function, relaxation)
    if not isinstance(operators, tuple) or len(operators) != 2:
        raise TypeError(f"{function}: operators must be a tuple (K, K_T), got {type(operators).__name__}")
    first, second = (
        checked_call(function, "resolvent", resolvent, x1),
        checked_call(function, "resolvent_dual", resolvent_dual, y1),
    )
    K, K_T = (
        checked_call(function, "operators", operators[0], y1),
        checked_call(function, "operators", operators[1], x1),
    )

    def steps() -> Iterator[Iterate]:
        x, y, count = x1, y1, 0
        while True:
            to_x = first(x - tau * K_T(y), tau)
            to_y, count = second(y + sigma * K(2 * to_x - x), sigma), count + 2
            dx, dy = to_x - x, to_y - y
            residual = norm((dx / min(tau, 1.0), dy / min(sigma, 1.0)))
            yield Iterate((to_x, to_y), residual, norm((to_x, to_y)), count, tau)
            x, y = x + rate * dx, y + rate * dy

    return solved(function, steps(), Limits(rtol, atol, max_steps, callback, throw), x1.dtype)


def _pair(function: str, x0: Any) -> tuple[Any, Any]:
    parts = blocks(function, "x0", x0, "a tuple (x, y) of two points")
    if len(parts) != 2:
        raise TypeError(f"{function}: x0 must be a tuple (x, y) of two points, got {len(parts)}")
    return parts[0], parts[1]
