"""A sequence of systems, each solved with the omega that a tuner predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._check import type_name
from .._solution import Solution
from ._matrix import Batch
from ._vectors import count, positive
from .eisenstat import ssor_cg
from .solvers import sor
from .stencil import Stencil

Array = npt.NDArray[Any]

SOLVERS = {"sor": sor, "ssor_cg": ssor_cg}


class Tuner(Protocol):
    """The interface of tuners for :func:`solve_sequence`: those of this module, or your own."""

    def predict(self, context: float | None = None) -> float:
        """Return the omega for a system with this context."""

    def update(self, iterations: float) -> None:
        """Learn from the number of iterations."""


@dataclass(frozen=True)
class SequenceSolution:
    """The result of :func:`solve_sequence`.

    Attributes
    ----------
    solutions
        The :class:`fastiter.Solution` of each system.
    omegas : (T,)
        The omega of each solution.
    iterations : (T,)
        The steps of each solution: ``max_steps`` if it did not converge.
    """

    solutions: tuple[Solution, ...]
    omegas: Array
    iterations: Array


def solve_sequence(
    systems: Iterable[Any],
    tuner: Tuner,
    *,
    method: str = "sor",
    order: Any = "natural",
    warm_start: bool = False,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
) -> SequenceSolution:
    """Solve A_t x_t = b_t for t = 0, 1, ...: each with the omega of ``tuner``, which learns from the iterations.

    Parameters
    ----------
    systems
        Pairs ``(A, b)``, or triples ``(A, b, context)`` for a tuner with contexts; an iterator is consumed one system
        at a time. b is one column (n,), or has the shape of the grid of a :class:`Stencil`.
    tuner
        :class:`TsallisINF`, :class:`ContextualTsallisINF`, :class:`ChebCB`, or any object with their ``predict`` and
        ``update``; it keeps what it has learned before.
    method
        "sor" or "ssor_cg".
    order
        As in :func:`sor`.
    warm_start
        Start from the previous solution instead of 0; all systems must then have one size.
    rtol, atol, max_steps
        As in :func:`sor`; the residual is checked after every step, so that each step counts. A system that did not
        converge, for whatever reason, counts as ``max_steps`` iterations.

    Raises
    ------
    TypeError, ValueError
        If an argument or a system is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import TsallisINF, solve_sequence
    >>> A = 2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)
    >>> found = solve_sequence([(A, np.ones(20))] * 300, TsallisINF([1.0, 1.4, 1.74], seed=0))
    >>> found.iterations.shape, float(np.median(found.omegas[-100:]))
    ((300,), 1.74)

    References
    ----------
    Khodak, Chow, Balcan and Talwalkar, Learning to Relax, ICLR 2024.
    """
    function = "solve_sequence"
    if not isinstance(systems, Iterable):
        raise TypeError(f"{function}: systems must be an iterable of tuples (A, b), got {type_name(systems)}")
    if not all(callable(getattr(tuner, name, None)) for name in ("predict", "update")):
        raise TypeError(f"{function}: tuner must have the methods predict and update, got {type_name(tuner)}")
    if not isinstance(method, str):
        raise TypeError(f"{function}: method must be a str, got {type_name(method)}")
    if method not in SOLVERS:
        raise ValueError(f"{function}: method must be one of {', '.join(map(repr, SOLVERS))}, got {method!r}")
    if not isinstance(warm_start, bool):
        raise TypeError(f"{function}: warm_start must be a bool, got {type_name(warm_start)}")
    rtol, atol = positive(function, "rtol", rtol), positive(function, "atol", atol)
    max_steps = count(function, "max_steps", max_steps)
    solutions: list[Solution] = []
    omegas, iterations = [], []
    for t, system in enumerate(systems):
        A, b, context = _parts(function, t, system)
        start = solutions[-1].value if warm_start and solutions else None
        omega = tuner.predict(context)
        options = {"order": order, "rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": 1}
        solution = SOLVERS[method](A, b, start, omega=omega, **options)
        steps = int(solution.steps) if solution.converged else max_steps
        tuner.update(steps)
        solutions.append(solution)
        omegas.append(omega)
        iterations.append(steps)
    return SequenceSolution(tuple(solutions), np.array(omegas, np.float64), np.array(iterations, np.int64))


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
