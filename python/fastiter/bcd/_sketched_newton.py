"""Optimisation with equality constraints: inexact Newton steps by sketches, and an exact augmented Lagrangian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._call.iterate import Callback, Limits, Record, Step, iterate
from .._check import check_array, check_choice, positive, type_name
from .._solution import Solution, Value, judged, plural
from ._arguments import generator_of

Array = npt.NDArray[Any]
#: Constants of the method: the merit function, the accuracy of steps, the required decrease, and the factor of changes
_ETA, _DELTA, _XI, _BETA, _NU, _THETA = (1.0, 0.1), 0.1, 0.1, 0.1, 1.5, 1.0
_SINGULAR, _MIN_DELTA, _MAX_INNER, _CHUNK = 1e-2, 1e-6, 100_000, 4096
#: The causes for which no further step helps
_SINGULAR_CONSTRAINTS = "the constraints are linearly dependent"
_INACCURATE = "the linear system was not solved accurately enough"
_NO_DECREASE = "no step along the direction decreases the merit function"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConstrainedSolution(Solution[Value]):
    """A point that satisfies the first-order conditions of a problem with equality constraints.

    Attributes
    ----------
    value : (n,)
        The point.
    converged : bool
        Whether the conditions hold.
    steps : int
        The number of Newton steps.
    residual : float
        The norm of (f' + c'^T multipliers, c).
    method, reason : str
        "sketched_newton" with the sketch; "converged", "max_steps", "stagnated", "callback", or where a function or a
        derivative is not finite "diverged" or "nan".
    tolerance : float
        The residual at which it converges.
    cause : str
        A sentence about why it has stagnated, as by linearly dependent constraints; else empty.
    multipliers : (k,)
        The multipliers of the constraints.
    objective : float
        The objective.
    projections : int
        The number of projections of the linear solver.

    See Also
    --------
    sketched_newton : Returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import sketched_newton
    >>> def f(x):
    ...     return x @ x / 2, x, np.eye(2)
    >>> def c(x, multipliers):
    ...     return np.array([x.sum() - 2]), np.ones((1, 2)), np.zeros((2, 2))
    >>> sketched_newton(f, c, np.zeros(2)).multipliers.round(3)
    array([-1.])
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    tolerance: float
    cause: str
    multipliers: Value
    objective: float
    projections: int

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        why = f": {self.cause}" if self.cause else ""
        got = f"got {self.residual:.2g} after {plural(self.steps)} ({self.reason!r}{why})"
        return f"the residual must fall to {self.tolerance:.2g}, {got}"


class _Point(NamedTuple):
    """The functions at a point, with its multipliers; H: second derivatives of the Lagrangian."""

    x: Array
    lam: Array
    f: float
    g: Array
    H_f: Array
    c: Array
    G: Array
    H: Array

    @property
    def slope(self) -> Array:
        return np.asarray(self.g + self.G.T @ self.lam)

    @property
    def residual(self) -> Array:
        return np.concatenate([self.slope, self.c])


def sketched_newton(
    objective: Callable[[Array], tuple[float, Array, Array]],
    constraints: Callable[[Array, Array], tuple[Array, Array, Array]],
    x0: Any,
    *,
    multipliers0: Any = None,
    sketch: Literal["kaczmarz", "gaussian"] = "kaczmarz",
    atol: float = 1e-4,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    rng: Any = None,
) -> ConstrainedSolution[Array]:
    """Minimise f(x) with c(x) = 0 by inexact Newton steps on the first-order conditions.

    Parameters
    ----------
    objective : callable
        ``objective(x)`` returns f, its gradient (n,) and its second derivatives (n, n).
    constraints : callable
        ``constraints(x, multipliers)`` returns c (k,), its Jacobian (k, n), and the sum of the second derivatives of
        each c_i times its multiplier, (n, n); the multipliers may be an empty array if only c is needed.
    x0 : (n,) array
        The starting point, float64.
    multipliers0 : (k,) array, optional
        The first multipliers, 0 by default.
    sketch : {"kaczmarz", "gaussian"}
        The method for the linear systems: projections onto single rows, or onto random normal combinations of them.
    atol : float
        Converged if the norm of (f' + c'^T multipliers, c) is at most this; above 0.
    max_steps : int
        The maximum number of Newton steps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` before each step, which has the ``objective`` and the ``multipliers``;
        True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    rng : numpy.random.Generator or int, optional
        The source of sketches; an int is a seed, and None is 0.

    Returns
    -------
    ConstrainedSolution
        The point, its multipliers, and the residual.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    sketch_solve : The linear solver.
    bcd : Bounds on each coordinate.

    References
    ----------
    I. Hong, S. Na, M. W. Mahoney, M. Kolar: Constrained optimization via exact augmented Lagrangian and randomized
    iterative sketching. ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import sketched_newton
    >>> def f(x):
    ...     return x @ x / 2, x, np.eye(3)
    >>> def c(x, multipliers):  # a plane
    ...     return np.array([x @ [1.0, 2.0, 2.0] - 9]), np.array([[1.0, 2.0, 2.0]]), np.zeros((3, 3))
    >>> sketched_newton(f, c, np.zeros(3)).value.round(3)
    array([1., 2., 2.])
    """
    function = "sketched_newton"
    for name, f in (("objective", objective), ("constraints", constraints)):
        if not callable(f):
            raise TypeError(f"{function}: {name} must be callable, got {type_name(f)}")
    check_choice(function, "sketch", sketch, ("kaczmarz", "gaussian"))
    positive(function, "atol", atol, zero=False)
    limits = Limits(0.0, atol, max_steps, callback, throw).checked(function)
    x = _start(function, "x0", x0)
    if multipliers0 is None:
        values = _three(function, "constraints", constraints(x.copy(), np.zeros(0)))[0]
        if np.ndim(values) != 1:
            raise ValueError(f"{function}: the constraints must have shape (k,), got {np.shape(values)}")
        lam = np.zeros(len(values))
    else:
        lam = _start(function, "multipliers0", multipliers0)
    run = _Run(function, objective, constraints, generator_of(function, rng), sketch)
    with np.errstate(over="ignore", invalid="ignore"):
        return judged(function, run.solution(run.at(x, lam), limits), throw)


def _start(function: str, name: str, x: Any) -> Array:
    x = as_array(function, name, x, np.dtype(np.float64))
    check_array(function, name, x, ("float64",))
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"{function}: {name} must be a finite vector, got shape {x.shape}")
    return np.array(x)


def _three(function: str, name: str, returned: Any) -> tuple[Any, Any, Any]:
    """Return the three results of a function of the problem, checked."""
    if not isinstance(returned, (tuple, list)) or len(returned) != 3:
        got = len(returned) if isinstance(returned, (tuple, list)) else type_name(returned)
        raise TypeError(f"{function}: {name} must return a value and its first and second derivatives, got {got}")
    return returned[0], returned[1], returned[2]


def _verdict(p: _Point) -> dict[str, Any]:
    """Return the fields of a step at a point where the functions and their derivatives may not be finite."""
    numbers = (np.asarray(p.f), p.G, p.H)
    if any(np.isnan(x).any() for x in numbers):
        return {"residual": math.nan}
    return {"diverged": any(np.isinf(x).any() for x in numbers)}


class _Run:
    """The steps of one call, and the parameters of the merit function and of the accuracy that they change."""

    def __init__(self, function: str, objective: Any, constraints: Any, rng: np.random.Generator, sketch: str) -> None:
        self._function, self._objective, self._constraints = function, objective, constraints
        self._rng, self._sketch, self.projections = rng, sketch, 0
        self.eta, self.delta, self._cause = _ETA, _DELTA, ""
        self._p: _Point

    def at(self, x: Array, lam: Array) -> _Point:
        """Evaluate the functions at a point, and check their shapes."""
        n, k = len(x), len(lam)
        f, g, H_f = _three(self._function, "objective", self._objective(x.copy()))
        c, G, H_c = _three(self._function, "constraints", self._constraints(x.copy(), lam.copy()))
        arrays = {"gradient": (g, (n,)), "second derivatives": (H_f, (n, n)), "constraints": (c, (k,))}
        arrays |= {"Jacobian": (G, (k, n)), "second derivatives of the constraints": (H_c, (n, n))}
        for name, (array, shape) in arrays.items():
            if np.shape(array) != shape:
                raise ValueError(f"{self._function}: the {name} must have shape {shape}, got {np.shape(array)}")
        g, H_f, c, G, H_c = (np.asarray(array, np.float64) for array in (g, H_f, c, G, H_c))
        return _Point(x, lam, float(f), g, H_f, c, G, H_f + H_c)

    def merit(self, p: _Point) -> float:
        """Return the exact augmented Lagrangian."""
        slope = p.slope
        return float(p.f + p.lam @ p.c + self.eta[0] / 2 * (p.c @ p.c) + self.eta[1] / 2 * (slope @ slope))

    def merit_gradient(self, p: _Point) -> Array:
        """Return its gradient, with the objective's second derivatives in place of those of the Lagrangian."""
        slope, (one, two) = p.slope, self.eta
        in_x = slope + two * (p.H_f @ slope) + one * (p.G.T @ p.c)
        return np.concatenate([in_x, p.c + two * (p.G @ slope)])

    def solution(self, p: _Point, limits: Limits) -> ConstrainedSolution[Array]:
        """Take all steps from a point."""
        self._p = p
        results = iterate(self._steps(limits), limits, Record()).results()
        return ConstrainedSolution(
            value=self._p.x,
            method=f"{self._function}, {self._sketch}",
            cause=self._cause,
            multipliers=self._p.lam,
            objective=self._p.f,
            projections=self.projections,
            **results,
        )

    def _steps(self, limits: Limits) -> Iterator[Step]:
        done = 0
        while True:
            p = self._p
            residual = float(np.linalg.norm(p.residual))
            numbers = {"objective": p.f, "multipliers": p.lam}
            step = Step(done, residual, limits.atol, partial(np.copy, p.x), partial(dict, numbers))
            if residual > limits.atol:
                step = step._replace(**_verdict(p))
            yield step
            z, self._cause = self._direction(p)
            if not self._cause:
                self._p, self._cause = self._search(p, z)
            if self._cause:
                yield step._replace(stagnated=True)
            done += 1

    def _direction(self, p: _Point) -> tuple[Array, str]:
        """Return a step that the merit function accepts, and why there is none."""
        n, k = len(p.x), len(p.lam)
        xi, largest = (float(x) for x in np.linalg.eigvalsh(p.G @ p.G.T)[[0, -1]]) if k else (np.inf, np.inf)
        if not (largest > 0 and xi >= _SINGULAR * min(largest, 1.0)):  # whatever the units of the constraints
            return np.zeros(0), _SINGULAR_CONSTRAINTS
        size = float(np.linalg.norm(p.H, 2))
        null = np.linalg.svd(p.G)[2][k:].T if k else np.eye(n)
        reduced = null.T @ p.H @ null
        is_convex = k >= n or float(np.linalg.eigvalsh(reduced)[0]) >= 1e-6
        B = p.H + (0.0 if is_convex else _XI + size) * np.eye(n)
        K = np.block([[B, p.G.T], [p.G, np.zeros((k, k))]])
        psi = 20 * max(float((B * B).sum()), 1.0) / (min(xi, 1.0) * min(_XI, 1.0))
        upsilon = max(float(np.linalg.norm(p.G, 2)) if k else 0.0, size, 1.0)
        self._lower_delta(self.delta, upsilon * psi)
        target, norm = p.residual, float(np.linalg.norm(K, 2))
        length = float(np.linalg.norm(target))
        system = _System(K, target)
        while True:
            bound = _THETA * self.delta * length / (norm * psi)
            self.projections += system.reduce(bound, self._sketch, self._rng)
            z = system.z()
            if self.merit_gradient(p) @ z <= -self.eta[1] / 2 * length**2:
                return z, ""
            if self.eta[0] > 1e8 or self.eta[1] < 1e-8:
                is_exact = float(np.linalg.norm(K @ z + target)) <= 2 * bound + 1e-13 * norm * float(np.linalg.norm(z))
                return z, "" if is_exact else _INACCURATE
            self.eta = self.eta[0] * _NU**2, self.eta[1] / _NU
            self._lower_delta(self.delta / _NU**4, upsilon * psi)

    def _lower_delta(self, delta: float, scale: float) -> None:
        trial = (0.5 - _BETA) * self.eta[1] / ((1 + sum(self.eta)) * scale * scale)
        self.delta = max(min(delta, trial), _MIN_DELTA)

    def _search(self, p: _Point, z: Array) -> tuple[_Point, str]:
        """Halve the step until the merit function falls by enough."""
        before, slope, n, alpha = self.merit(p), float(self.merit_gradient(p) @ z), len(p.x), 1.0
        rounding = 1e-15 * abs(before)
        while alpha > 1e-12:
            ahead = self.at(p.x + alpha * z[:n], p.lam + alpha * z[n:])
            if self.merit(ahead) <= before + _BETA * alpha * slope + rounding:
                return ahead, ""
            alpha /= 2
        return p, _NO_DECREASE


class _System:
    """K z = -target, by projections: z = -K' y."""

    def __init__(self, K: Array, target: Array) -> None:
        self.K, self.gram = K, np.ascontiguousarray(K @ K.T)
        self.target, self.r, self.y = target, target.copy(), np.zeros(len(target))

    def z(self) -> Array:
        return np.asarray(-(self.K.T @ self.y))

    def reduce(self, bound: float, sketch: str, rng: np.random.Generator) -> int:
        """Take steps until |r| <= bound; return their number."""
        n, done = len(self.r), 0
        while done < _MAX_INNER:
            if sketch == "kaczmarz":
                order = rng.integers(0, n, _CHUNK).astype(np.int32)
                some = _core.bcd.kaczmarz_residual(n, self.gram, self.r, self.y, order, _CHUNK, bound)
                done += some
                if some < _CHUNK:
                    break
                self.r = self.target - self.gram @ self.y  # without the accumulated rounding
            elif float(np.linalg.norm(self.r)) <= bound:
                break
            else:
                s = rng.standard_normal(n)
                image = self.gram @ s
                c = float(s @ self.r) / float(s @ image)
                self.y += c * s
                self.r -= c * image
                done += 1
        return done
