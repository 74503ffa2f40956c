"""Solution methods by name, and their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits
from ..._check import check_choice, check_flag, count, integers, positive, type_name
from .._process import Process
from . import methods, policies
from .state import Method

Array = npt.NDArray[Any]

METHODS = ("auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated")
ORDERS = ("ascending", "descending", "symmetric", "bfs")
#: The methods' options: their defaults, and the method that takes each
OPTIONS: dict[str, tuple[Any, str]] = {
    "order": ("bfs", "gs"),
    "exact_diag": (True, "gs"),
    "omega": (1.0, "gs"),
    "policy_sweeps": (5, "mpi"),
    "alpha": (0.01, "ipi"),
    "window": (5, "anderson"),
}
#: Methods that need a discount below 1
_DISCOUNTED = ("pi", "ipi", "anchored", "deflated")
#: For windows of Gauss-Seidel sweeps: their number, the minimum number of states of one, the number of states that are
#: sampled, and the fraction of the probability that has to stay within a quarter of a window
WINDOWS, SMALLEST_WINDOW, _SAMPLE, _NEAR = 24, 32, 500, 0.99


class Choice(NamedTuple):
    """A method and its options, as passed to `MDP.solve`; None stands for an option's default."""

    method: Any = "auto"
    stop: Any = "span"
    order: Any = None
    exact_diag: Any = None
    omega: Any = None
    policy_sweeps: Any = None
    alpha: Any = None
    window: Any = None

    def is_free(self, process: Process) -> bool:
        """Whether methods are tried: an option, or the lack of a discount, determines the method."""
        assert process.discount is not None  # for the type checker: checked by MDP.solve
        for option in OPTIONS:
            if getattr(self, option) is not None:
                return False
        return self.method == "auto" and process.modulus(process.discount)[1] < 1

    def new_method(self, function: str, process: Process, limits: Limits) -> Method:
        """Return the method for a process with a discount; raise for invalid options and those of other methods."""
        check_choice(function, "method", self.method, METHODS)
        name = _named(function, process, self.method)
        self._refuse_others(function, name)
        complete = self._replace(**{option: x for option, (x, _) in OPTIONS.items() if getattr(self, option) is None})
        makers: dict[str, Callable[[], Method]] = {
            "vi": methods.ValueIteration,
            "gs": lambda: complete._gauss_seidel(function, process, limits),
            "ps": lambda: methods.Prioritized(process, limits),
            "pi": policies.PolicyIteration,
            "mpi": lambda: methods.ModifiedPolicyIteration(count(function, "policy_sweeps", complete.policy_sweeps)),
            "ipi": lambda: policies.InexactPolicyIteration(_fraction(function, complete.alpha)),
            "anderson": lambda: policies.AndersonIteration(count(function, "window", complete.window, 1), limits),
            "anchored": methods.Anchored,
            "deflated": methods.Deflated,
        }
        method = makers[name]()
        method.stop = self.stop
        return method

    def _refuse_others(self, function: str, name: str) -> None:
        for option, (_, method) in OPTIONS.items():
            value = getattr(self, option)
            if value is None or name == method:
                continue
            chosen = repr(name) if self.method == name else f"{name!r}, which 'auto' has chosen"
            got = value if isinstance(value, (str, int, float)) else type_name(value)
            expected = f"None for {chosen}, as only {method!r} takes it"
            raise ValueError(f"{function}: {option} must be {expected}, got {got!r}")

    def _gauss_seidel(self, function: str, process: Process, limits: Limits) -> Method:
        order, omega = order_of(function, process, self.order), _factor(function, self.omega)
        check_flag(function, "exact_diag", self.exact_diag)
        exact = bool(self.exact_diag)
        is_outwards = isinstance(order, np.ndarray) and not isinstance(self.order, np.ndarray)
        window = _window(process, order) if is_outwards and omega == 1 else 0
        return methods.GaussSeidel(order, omega, exact, limits, window)


def _named(function: str, process: Process, method: str) -> str:
    """Return the method's name; raise for a method that does not converge for this process."""
    assert process.discount is not None  # for the type checker: checked by MDP.solve
    low, high = process.modulus(process.discount)
    if method == "auto":
        if high >= 1 or process.absorbing.any():
            return "gs"
        return "mpi"
    if high >= 1 and method in _DISCOUNTED:
        allowed = ", ".join(repr(each) for each in METHODS if each not in _DISCOUNTED)
        raise ValueError(f"{function}: method must be one of {allowed} if gamma is 1, got {method!r}")
    if method == "deflated":
        needs = f"{function}: method 'deflated' needs"
        if process.is_terminal.any():
            raise ValueError(
                f"{needs} a process without terminal states, got state {int(process.is_terminal.argmax())}"
            )
        if high - low > 1e-6 * (1 - high):
            expected = f"rows whose discounted sums differ by at most 1e-6 (1 - gamma) = {1e-6 * (1 - high):.2g}"
            raise ValueError(f"{needs} {expected}, got {high - low:.2g}")
    return method


def order_of(function: str, process: Process, order: object) -> str | Array:
    """Return the order of sweeps: a word, or a permutation of the states."""
    if isinstance(order, (np.ndarray, list, tuple)):
        value = integers(function, "order", order)
        if value.ndim != 1 or not np.array_equal(np.sort(value), np.arange(process.states)):
            raise ValueError(f"{function}: order must have each state once, got {len(value)} others")
        return value.astype(np.int32)
    check_choice(function, "order", order, ORDERS)
    if order != "bfs":
        return str(order)
    goals = process.absorbing
    return process.order_from(goals)[0] if goals.any() else "ascending"


def _window(process: Process, order: Any) -> int:
    """Return the window size for an order of states; 0 if too few steps stay within a window, as in random graphs."""
    rows, n = process.rows, process.states
    window = n // WINDOWS
    if window < SMALLEST_WINDOW:
        return 0
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    some = np.arange(0, n, max(n // _SAMPLE, 1))
    some = some[np.diff(rows.row)[some] > 0]
    first = rows.at(rows.row[some])  # the row of the first action of each
    counts = rows.entry[first + 1] - rows.entry[first]
    entries = np.repeat(rows.entry[first] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    distance = np.abs(place[rows.next[entries]] - np.repeat(place[some], counts))
    near = rows.weight[entries] @ (distance < window // 4)
    return window if near >= _NEAR * rows.weight[entries].sum() else 0


def _factor(function: str, omega: object) -> float:
    value = positive(function, "omega", omega, zero=False)
    if value >= 2:
        raise ValueError(f"{function}: omega must be below 2, got {omega}")
    return value


def _fraction(function: str, alpha: object) -> float:
    value = positive(function, "alpha", alpha, zero=False)
    if value >= 1:
        raise ValueError(f"{function}: alpha must be below 1, got {alpha}")
    return value
