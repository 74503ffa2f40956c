"""The methods of solutions by name, and their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._check import check_choice, check_flag, count, integers, positive
from . import _methods, _policies
from ._process import Process
from ._result import Limits
from ._work import Method

Array = npt.NDArray[Any]

METHODS = ("auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated")
ORDERS = ("ascending", "descending", "symmetric", "bfs")
#: Methods that need a discount below 1
_DISCOUNTED = ("pi", "ipi", "anchored", "deflated")
#: The discount from which policies are evaluated by a Krylov method, as sweeps of them converge slowly
_SLOW = 0.995
#: Windows of Gauss-Seidel sweeps, the least states of one, the states that are looked at, and the share of the
#: probability that has to stay within a quarter of a window
_WINDOWS, _SMALLEST, _SAMPLE, _NEAR = 24, 32, 500, 0.99


class Choice(NamedTuple):
    """A method and its options, as `MDP.solve` takes them."""

    method: Any = "auto"
    order: Any = "bfs"
    exact_diag: Any = True
    omega: Any = 1.0
    policy_sweeps: Any = 5
    alpha: Any = 0.01
    window: Any = 5

    def made(self, process: Process, limits: Limits) -> Method:
        """Return the method for a process with a discount; refuse wrong options."""
        check_choice("solve", "method", self.method, METHODS)
        makers: dict[str, Callable[[], Method]] = {
            "vi": _methods.ValueIteration,
            "gs": lambda: self._gauss_seidel(process, limits),
            "ps": lambda: _methods.Prioritized(process, limits),
            "pi": _policies.PolicyIteration,
            "mpi": lambda: _methods.ModifiedPolicyIteration(count("solve", "policy_sweeps", self.policy_sweeps)),
            "ipi": lambda: _policies.InexactPolicyIteration(_fraction(self.alpha)),
            "anderson": lambda: _policies.AndersonIteration(count("solve", "window", self.window, 1)),
            "anchored": _methods.Anchored,
            "deflated": _methods.Deflated,
        }
        return makers[_named(process, self.method)]()

    def _gauss_seidel(self, process: Process, limits: Limits) -> Method:
        order, omega, exact = order_of(process, self.order), _factor(self.omega), _flag(self.exact_diag)
        is_outwards = isinstance(order, np.ndarray) and not isinstance(self.order, np.ndarray)
        window = _window(process, order) if is_outwards and omega == 1 else 0
        return _methods.GaussSeidel(order, omega, exact, limits, window)


def _named(process: Process, method: str) -> str:
    """Return the method's name; refuse one that does not converge for this process."""
    assert process.discount is not None  # for the type checker: MDP.solve has checked it
    low, high = process.modulus(process.discount)
    if method == "auto":
        if high >= 1 or process.absorbing.any():
            return "gs"
        return "ipi" if high > _SLOW else "mpi"
    if high >= 1 and method in _DISCOUNTED:
        allowed = ", ".join(repr(each) for each in METHODS if each not in _DISCOUNTED)
        raise ValueError(f"solve: method must be one of {allowed} where gamma is 1, got {method!r}")
    has_end = bool((np.diff(process.rows.row) == 0).any())
    if method == "deflated" and (has_end or high - low > 1e-6 * (1 - high)):
        raise ValueError("solve: method 'deflated' needs one discount and no terminal states, got others")
    return method


def order_of(process: Process, order: object) -> str | Array:
    """Return the order of sweeps: a word, or each state once."""
    if isinstance(order, np.ndarray):
        given = integers("solve", "order", order)
        if given.ndim != 1 or not np.array_equal(np.sort(given), np.arange(process.states)):
            raise ValueError(f"solve: order must have each state once, got {len(given)} others")
        return given.astype(np.int32)
    check_choice("solve", "order", order, ORDERS)
    if order != "bfs":
        return str(order)
    goals = process.absorbing
    return process.order_from(goals)[0] if goals.any() else "ascending"


def _window(process: Process, order: Any) -> int:
    """Return the states of a window of the order; 0 where too few steps stay within one, as in random graphs."""
    rows, n = process.rows, process.states
    window = n // _WINDOWS
    if window < _SMALLEST:
        return 0
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    some = np.arange(0, n, max(n // _SAMPLE, 1))
    some = some[np.diff(rows.row)[some] > 0]
    first = rows.row[some]  # the first action of each
    counts = rows.entry[first + 1] - rows.entry[first]
    entries = np.repeat(rows.entry[first] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    distance = np.abs(place[rows.next[entries]] - np.repeat(place[some], counts))
    near = rows.weight[entries] @ (distance < window // 4)
    return window if near >= _NEAR * rows.weight[entries].sum() else 0


def _factor(omega: object) -> float:
    value = positive("solve", "omega", omega, zero=False)
    if value >= 2:
        raise ValueError(f"solve: omega must be below 2, got {omega}")
    return value


def _flag(exact: object) -> bool:
    check_flag("solve", "exact_diag", exact)
    return bool(exact)


def _fraction(alpha: object) -> float:
    value = positive("solve", "alpha", alpha, zero=False)
    if value >= 1:
        raise ValueError(f"solve: alpha must be below 1, got {alpha}")
    return value
