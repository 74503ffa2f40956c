"""A sequence of systems, each solved with the omega that a tuner predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Callback, Limits, Progress
from ..._check import check_flag, type_name
from ..._solution import ConvergenceError, Solution, judged
from .._solvers import eisenstat, functions
from .._solvers.result import LinearSolution
from .._sweeps.matrix import Batch
from .._sweeps.order import Order
from .._sweeps.stencil import Stencil

Array = npt.NDArray[Any]

METHODS = ("sor", "ssor_cg")


class Tuner(Protocol):
    """The interface of tuners for :func:`solve_sequence`: those of this module, or your own."""

    def predict(self, context: float | None = None) -> float:
        """Return the omega for a system with this context."""

    def update(self, iterations: float) -> None:
        """Learn from the number of iterations."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SequenceSolution(Solution[tuple[Array, ...]]):
    """The result of :func:`solve_sequence`.

    Attributes
    ----------
    value : tuple of arrays
        x of each system.
    converged : (T,) bool
        Whether each system converged.
    steps : (T,)
        The steps of each solution: ``max_steps`` if it did not converge.
    residual : (T,)
        ``||b - A x||`` of each system.
    method : str
        The method that ran.
    reason : tuple of str
        The reason for ending of each solution.
    solutions : tuple of LinearSolution
        The solution of each system.
    omegas : (T,)
        The omega of each solution.

    See Also
    --------
    solve_sequence : The function that returns it.
    LinearSolution : The solution of one system.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import TsallisINF, solve_sequence
    >>> A = 2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)
    >>> found = solve_sequence([(A, np.ones(20))] * 3, TsallisINF([1.5], rng=0))
    >>> found.omegas, found.steps, found.reason
    (array([1.5, 1.5, 1.5]), array([263, 263, 263]), ('converged', 'converged', 'converged'))
    """

    converged: Array
    steps: Array
    residual: Array
    reason: tuple[str, ...]
    solutions: tuple[LinearSolution[Array], ...]
    omegas: Array

    def _failure(self) -> str | None:
        failures = [solution._failure() for solution in self.solutions]
        failed = [t for t, failure in enumerate(failures) if failure is not None]
        if not failed:
            return None
        return (
            f"in {len(failed)} of {len(failures)} systems, the first of them system {failed[0]}, {failures[failed[0]]}"
        )

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        steps = f"{int(self.steps.sum())} steps in all"
        return f"SequenceSolution({int(self.converged.sum())} of {len(self.solutions)} systems converged, {steps})"


def solve_sequence(
    systems: Iterable[Any],
    tuner: Tuner,
    *,
    method: Literal["sor", "ssor_cg"] = "sor",
    order: Order = "natural",
    warm_start: bool = False,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> SequenceSolution:
    """Solve A_t x_t = b_t for t = 0, 1, ...: each with the omega of ``tuner``, which learns from the iterations.

    Parameters
    ----------
    systems : iterable of tuples
        Pairs ``(A, b)``, or triples ``(A, b, context)`` for a contextual tuner; an iterator is consumed one system at a
        time. b is one column (n,), or has the shape of the grid of a :class:`Stencil`.
    tuner : Tuner
        :class:`TsallisINF`, :class:`ContextualTsallisINF`, :class:`ChebCB`, or any object with their ``predict`` and
        ``update``; it continues from what it has already learned.
    method : str
        "sor" or "ssor_cg".
    order : str or (n,) array of int
        As in :func:`sor`.
    warm_start : bool
        Start from the previous solution instead of 0; all systems must then have one size.
    rtol, atol, max_steps : float, float, int
        As in :func:`sor`; the residual is checked after every step, so that each step counts. A system that did not
        converge, for whatever reason, counts as ``max_steps`` iterations.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each system: its steps, residual, tolerance and value, and as
        further attributes ``system``, its number, ``omega`` and ``solution``. If it returns True, the sequence ends.
    throw : bool
        Raise at the first system that does not converge. By default a single warning at the end reports their number.

    Returns
    -------
    SequenceSolution
        The solutions, omegas and steps of the systems up to the end, or up to the callback's True.

    Raises
    ------
    TypeError, ValueError
        If an argument or a system is not as described.
    ConvergenceError
        If ``throw`` is True and a system does not converge.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and a system does not converge.

    See Also
    --------
    TsallisINF : The best single omega.
    ChebCB : The best omega as a function of a context.

    References
    ----------
    Khodak, Chow, Balcan and Talwalkar, Learning to Relax, ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import TsallisINF, solve_sequence
    >>> A = 2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)
    >>> found = solve_sequence([(A, np.ones(20))] * 300, TsallisINF([1.0, 1.4, 1.74], rng=0))
    >>> found.steps.shape, float(np.median(found.omegas[-100:]))
    ((300,), 1.74)
    """
    function = "solve_sequence"
    if not isinstance(systems, Iterable):
        raise TypeError(f"{function}: systems must be an iterable of tuples (A, b), got {type_name(systems)}")
    if not all(callable(getattr(tuner, name, None)) for name in ("predict", "update")):
        raise TypeError(f"{function}: tuner must have the methods predict and update, got {type_name(tuner)}")
    if not isinstance(method, str):
        raise TypeError(f"{function}: method must be a str, got {type_name(method)}")
    if method not in METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    check_flag(function, "warm_start", warm_start)
    limits = Limits(rtol, atol, max_steps, callback, throw).checked(function)
    own_limits = limits._replace(callback=None)
    solutions: list[LinearSolution[Array]] = []
    omegas, steps = [], []
    for t, system in enumerate(systems):
        A, b, context = _parts(function, t, system)
        start = solutions[-1].value if warm_start and solutions else None
        omega = tuner.predict(context)
        solution = _solve(method, (A, b, start), own_limits, omega, order)
        failure = solution._failure()
        if throw and failure is not None:
            raise ConvergenceError(f"{function}: in system {t} {failure}", solution)
        count = int(solution.steps) if solution.converged else limits.max_steps
        tuner.update(count)
        solutions.append(solution)
        omegas.append(omega)
        steps.append(count)
        if limits.stops(partial(_progress, t, omega, solution)):
            break
    return judged(function, _solution(method, solutions, omegas, steps), throw)


def _progress(t: int, omega: float, solution: LinearSolution[Array]) -> Progress:
    numbers = {"system": t, "omega": omega, "solution": solution}
    return Progress(
        int(solution.steps), solution.residual, solution.tolerance, None, numbers, lambda: solution.value.copy()
    )


def _solution(
    method: str, solutions: list[LinearSolution[Array]], omegas: list[float], steps: list[int]
) -> SequenceSolution:
    return SequenceSolution(
        value=tuple(solution.value for solution in solutions),
        converged=np.array([solution.converged for solution in solutions], np.bool_),
        steps=np.array(steps, np.int64),
        residual=np.array([solution.residual for solution in solutions], np.float64),
        method=method,
        reason=tuple(solution.reason for solution in solutions),
        solutions=tuple(solutions),
        omegas=np.array(omegas, np.float64),
    )


def _solve(method: str, system: tuple[Any, Array, Array | None], limits: Limits, omega: float, order: Any) -> Any:
    if method == "sor":
        return functions.solve(method, *system, limits, omega=omega, order=order)
    return eisenstat.solve("ssor_cg", *system, limits, omega=omega, order=order)


def _parts(function: str, t: int, system: Any) -> tuple[Any, Array, float | None]:
    if not isinstance(system, tuple) or len(system) not in (2, 3):
        raise TypeError(f"{function}: system {t} must be a tuple (A, b) or (A, b, context), got {type_name(system)}")
    A, b, *context = system
    single = len(A.grid) if isinstance(A, Stencil) else 1
    if isinstance(A, Batch):
        raise TypeError(f"{function}: systems must be of one matrix each, got a Batch as system {t}")
    if getattr(b, "ndim", single) != single:
        raise ValueError(f"{function}: b of system {t} must be one column (n,), got shape {b.shape}")
    return A, b, context[0] if context else None
