"""Block coordinate descent: the loop of updates and checks around the compiled solver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._call.iterate import Callback, Limits, Step, iterate
from .._check import check_choice, type_name
from .._solution import judged
from ._arguments import generator_of, start
from ._blocks import BlockArrays, Partitioned
from ._gap import duality_gap, has_gap
from ._problem import Problem
from ._result import PATIENCE, BCDSolution, Checks, Stalled, step_of

Array = npt.NDArray[Any]
STOPS = ("slope", "gap")
RULES = ("cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq")
GREEDY = ("gs", "gsl", "gsd", "gsq")
UPDATES = ("gradient", "matrix", "newton", "two-metric")
#: Number of sweeps, or of greedy updates, between two checks
_SWEEPS, _UPDATES = 5, 10

Rule = Literal["cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq"]
Update = Literal["gradient", "matrix", "newton", "two-metric"]


class Method(NamedTuple):
    """The choice of the next block, its update, and the residual."""

    rule: str = "cyclic"
    update: str = "gradient"
    stop: str = "slope"

    def check(self, function: str) -> None:
        """Refuse unknown choices."""
        check_choice(function, "rule", self.rule, RULES)
        check_choice(function, "update", self.update, UPDATES)
        check_choice(function, "stop", self.stop, STOPS)

    @property
    def is_greedy(self) -> bool:
        """Whether the next block depends on the gradient."""
        return self.rule in GREEDY

    def __str__(self) -> str:
        """Return the words of ``BCDSolution.method``."""
        return f"bcd, {self.rule}, {self.update}"


def bcd(
    problem: Problem,
    x0: Array | None = None,
    *,
    blocks: Any = 1,
    rule: Rule = "cyclic",
    update: Update = "gradient",
    stop: Literal["slope", "gap"] = "slope",
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 10_000_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int | None = None,
    rng: Any = None,
) -> BCDSolution[Array]:
    """Minimise f(x) + sum_j h_j(x_j), a block of coordinates in each step.

    Parameters
    ----------
    problem : LeastSquares, Logistic, Softmax or Quadratic
        The problem.
    x0 : (m,) or (m, classes)
        The starting point, 0 by default, in the dtype of the data; it is projected into the bounds.
    blocks : int, Blocks, or list of lists of int
        The size of blocks of consecutive coordinates, another partition, or the blocks themselves; class k of column j
        is coordinate ``j * classes + k``.
    rule : {"cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq"}
        The choice of the next block. "cyclic": one after the other. "random": uniformly; "lipschitz": with a
        probability proportional to L_b, the largest eigenvalue of H_b. Greedy rules take the block with the largest
        score, where s_b is the minimum-norm subgradient in a block: "gs" |s_b|^2, "gsl" |s_b|^2 / L_b, "gsd" sum of
        s_i^2 / L_i, "gsq" s_b H_b^-1 s_b. A variable block has the coordinates with the largest s_i^2, divided by the
        bound sum_j |H_ij| for "gsl" and by L_i for "gsd"; for "gsq" it is chosen by ten steps of hard thresholding.
    update : {"gradient", "matrix", "newton", "two-metric"}
        The step in a block. "gradient": to the minimiser of the upper bound with L_b, a projected or proximal gradient
        step. "matrix": to that of the bound with the matrix H_b, which is exact for squares and quadratics. "newton": a
        line search towards the minimiser of the model with the second derivatives; large blocks of logistic losses need
        no matrix. "two-metric": Newton's step in the coordinates that are not held at a bound and a gradient step in
        the others, with a search along the projected path; l1 then requires a bound at 0.
    stop : {"slope", "gap"}
        The residual: the largest entry of the minimum-norm subgradient, or the duality gap, which requires l1, l2 or
        two bounds on each coordinate.
    rtol : float
        Converged if the residual is at most ``rtol`` times that of x = 0 plus ``atol``: the largest entry of the
        gradient of the losses at 0, or the objective there for "gap".
    atol : float
        A tolerance in the units of the residual.
    max_steps : int
        The maximum number of updates.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, which has the ``objective``; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    check_every : int, optional
        The number of updates between two checks: five sweeps, or ten updates of a greedy rule, by default.
    rng : numpy.random.Generator or int, optional
        The source of random numbers for the rules "random" and "lipschitz"; an int is a seed, and None is the seed 0.

    Returns
    -------
    BCDSolution
        The minimiser, with the active set and the step from which it has not changed.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    LeastSquares, Logistic, Softmax, Quadratic : The problems.
    Blocks : Partitions and variable blocks.

    References
    ----------
    J. Nutini, I. Laradji, M. Schmidt: Let's make block coordinate descent converge faster. JMLR 23(131), 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import LeastSquares, bcd
    >>> A, b = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]]), np.array([3.0, 1.0, 1.0])
    >>> found = bcd(LeastSquares(A, b, lower=0), rule="gs", update="matrix", blocks=2)
    >>> found.value, found.converged
    (array([2., 1.]), True)
    """
    function = problem._solver if isinstance(problem, Problem) else "bcd"
    if not isinstance(problem, Problem):
        expected = "a LeastSquares, Logistic, Softmax or Quadratic"
        remedy = "; fastiter.torch.bcd.bcd solves it" if type(problem).__module__ == "fastiter.torch.bcd" else ""
        raise TypeError(f"{function}: problem must be {expected}, got {type_name(problem)}{remedy}")
    method = Method(rule, update, stop)
    method.check(function)
    every = 1 if check_every is None else check_every
    limits = Limits(rtol, atol, max_steps, callback, throw, every).checked(function)
    if stop == "gap" and not has_gap(problem):
        expected = "'slope' for a quadratic, or where a coordinate has neither l1, l2 nor two bounds"
        raise ValueError(f"{function}: stop must be {expected}, got 'gap'")
    x = start(function, x0, problem.shape, problem.dtype).ravel()
    x = np.ascontiguousarray(np.clip(x, problem._separable.lower, problem._separable.upper))
    parts = Partitioned(function, problem, blocks)
    _check_choices(function, problem, parts, method)
    sequence = Sequence(function, parts, rule, rng)
    if check_every is None:
        limits = limits._replace(check_every=default_interval(parts, method))
    with np.errstate(over="ignore", invalid="ignore"):
        return judged(function, Descent(problem, parts, x, method, sequence, limits).solution(), throw)


def default_interval(parts: Partitioned, method: Method) -> int:
    """Return the number of updates between two checks."""
    if parts.variable or method.is_greedy:
        return _UPDATES
    return _SWEEPS * parts.count if parts.count > 1 else 1  # an update of a single block costs as much as a check


def _check_choices(function: str, problem: Problem, parts: Partitioned, method: Method) -> None:
    if parts.variable and not method.is_greedy:
        raise ValueError(
            f"{function}: rule must be one of {', '.join(GREEDY)} for variable blocks, got {method.rule!r}"
        )
    l1, _, lower, upper = problem._separable
    if method.update == "two-metric" and ((l1 > 0) & ~((lower >= 0) | (upper <= 0))).any():
        raise ValueError(
            f"{function}: update must not be 'two-metric' for l1 without a bound at 0, got l1 {l1.max():g}"
        )


class Sequence:
    """The numbers of the blocks that come next; None for greedy rules."""

    def __init__(self, function: str, parts: Partitioned, rule: str, rng: Any) -> None:
        if rng is not None or rule in ("random", "lipschitz"):  # making one takes as long as a small problem
            self._rng = generator_of(function, rng)
        self.rule, self.blocks, self._at = rule, parts.count, 0
        self._ends = np.zeros(0)
        if rule == "lipschitz" and self.blocks:
            bounds = parts.bounds()
            self._ends = np.cumsum(bounds)
        #: The number of updates after which each block has been drawn many times, whatever its probability
        self.patience = float(PATIENCE * (parts.count if rule not in GREEDY else 0))
        if len(self._ends):
            self.patience = PATIENCE * float(self._ends[-1] / bounds.min())

    def next(self, count: int) -> Array | None:
        """Return the next ``count`` of them."""
        if self.rule in GREEDY:
            return None
        if self.rule == "cyclic":
            numbers = (self._at + np.arange(count)) % self.blocks
            self._at = (self._at + count) % self.blocks
        elif self.rule == "random":
            numbers = self._rng.integers(0, self.blocks, count)
        else:
            numbers = np.searchsorted(self._ends, self._rng.random(count) * self._ends[-1], side="right")
        return np.minimum(numbers, self.blocks - 1).astype(np.int32)


class Descent:
    """The updates of one call."""

    def __init__(
        self, problem: Problem, parts: Partitioned, x: Array, method: Method, sequence: Sequence, limits: Limits
    ) -> None:
        self.problem, self.x, self.method, self.sequence, self.limits = problem, x, method, sequence, limits
        self.parts, self.is_single = parts, parts.count == len(x) and not method.is_greedy
        if self.is_single:  # each coordinate is the block with its number
            self._names = parts.member
            own = np.arange(len(x) + 1)
            self._blocks = BlockArrays(own, own.astype(np.int32), problem._curvature, None, parts.count, 0)
        else:
            self._names = None
            needs = parts.count and (method.update == "gradient" or method.rule == "gsl")
            sums = parts.sums() if parts.variable and method.rule == "gsl" else None
            bounds = parts.bounds() if needs else None
            self._blocks = BlockArrays(parts.start, parts.member, bounds, sums, parts.count, parts.variable)
        #: The step at which this solver has begun, and that of the last change of the active set before
        self.begun, self.identified = 0, 0
        self.solver = self._solver(x, method.rule)
        self._g, self._slopes = np.empty((2, len(x)))

    def _solver(self, x: Array, rule: str) -> Any:
        problem = self.problem
        matrix = problem._data.matrix_with_rows if rule in GREEDY else problem._data.matrix
        numbers = GREEDY.index(rule) + 1 if rule in GREEDY else 0, UPDATES.index(self.method.update)
        return _core.bcd.solver(matrix, problem._losses, problem._separable, self._blocks, *numbers, x)

    def solution(self) -> BCDSolution[Array]:
        """Take all steps."""
        record = iterate(self._steps(), self.limits, Checks())
        objective = self.solver.state(self._g, self._slopes, len(self.x), True)
        l1, _, lower, upper = self.problem._separable
        active = ((self.x == 0) & (l1 > 0)) | (self.x <= lower) | (self.x >= upper)
        return BCDSolution(
            value=self._value(),
            method=str(self.method),
            objective=objective,
            gap=self._gap(objective, self._g),
            active=active.reshape(self.problem.shape),
            identified=self._last_change(),
            **record.results(),
        )

    def _steps(self) -> Iterator[Step]:
        limits, stalled, done = self.limits, Stalled(self.sequence.patience), 0
        assert limits.rtol is not None  # as bcd has a default
        tolerance = limits.rtol * (self._scale() or self._scale(self.x.copy())) + limits.atol
        while True:
            objective = self.solver.state(self._g, self._slopes, len(self.x), False)
            residual = self._gap(objective, self._g) if self.method.stop == "gap" else self._largest_slope()
            is_finite = math.isfinite(objective) and bool(np.isfinite(self.x).all())
            can_converge = not residual <= tolerance or self._is_true(tolerance, done)
            numbers, is_stalled = (residual, tolerance, objective), stalled.check(objective, done)
            yield step_of(done, numbers, self._value, is_finite, is_stalled, can_converge)
            count = min(limits.check_every, limits.max_steps - done)
            blocks = self.sequence.next(count)
            if blocks is not None and self._names is not None:
                blocks = self._names[blocks]
            done += self.solver.run(blocks, count)

    def _largest_slope(self) -> float:
        return float(np.abs(self._slopes).max(initial=0.0))

    def _is_true(self, tolerance: float, steps: int) -> bool:
        """Return whether the maintained gradient, which accumulates rounding errors, agrees with that at x."""
        if not self.method.is_greedy or self.method.stop == "gap":
            return True
        self.solver.state(self._g, self._slopes, len(self.x), True)
        if self._largest_slope() <= tolerance:
            return True
        self.begun, self.identified = steps, self._last_change()
        self.solver = self._solver(self.x, self.method.rule)  # starts from a fresh gradient
        return False

    def _last_change(self) -> int:
        """Return the step that last changed the active set."""
        own = self.solver.last_change()
        return self.begun + int(own) if own else self.identified

    def _scale(self, at: Array | None = None) -> float:
        """Return the residual at 0, or at another point."""
        zero = np.zeros_like(self.x) if at is None else at
        is_begun = at is None and not self.x.any()
        solver = self.solver if is_begun else self._solver(zero, "cyclic" if self.parts.count else self.method.rule)
        g, slopes = np.empty((2, len(zero)))
        objective = solver.state(g, slopes, len(zero), False)
        return float(abs(objective) if self.method.stop == "gap" else np.abs(g).max(initial=0.0))

    def _gap(self, objective: float, g: Array) -> float:
        u = np.empty((self.problem._classes, self.problem._data.shape[0]))
        self.solver.derivative(u)
        return duality_gap(self.problem, objective, u, g)

    def _value(self) -> Array:
        return self.x.reshape(self.problem.shape).astype(self.problem.dtype)
