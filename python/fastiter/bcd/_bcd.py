"""Block coordinate descent: the loop of updates and checks around the compiled solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import check_array, check_choice, type_name
from .._solution import judged
from ._blocks import Partitioned
from ._gap import duality_gap, has_gap
from ._problem import LOSSES, Problem
from ._result import PATIENCE, BCDProgress, BCDSolution, Limits, Progress, reached

Array = npt.NDArray[Any]
RULES = ("cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq")
GREEDY = ("gs", "gsl", "gsd", "gsq")
UPDATES = ("gradient", "matrix", "newton", "two-metric")
#: Number of sweeps, or of greedy updates, between two checks
_SWEEPS, _UPDATES = 5, 10

Rule = Literal["cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq"]


def bcd(
    problem: Problem,
    x0: Array | None = None,
    *,
    blocks: Any = 1,
    rule: Rule = "cyclic",
    update: Literal["gradient", "matrix", "newton", "two-metric"] = "gradient",
    rtol: float = 1e-6,
    stop: Literal["slope", "gap"] = "slope",
    max_steps: int = 10_000_000,
    check_every: int | None = None,
    rng: Any = None,
    throw: bool = False,
    callback: Callable[[BCDProgress], Any] | None = None,
) -> BCDSolution:
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
    rtol : float
        Converged if the residual is at most ``rtol`` times that of x = 0: the largest entry of the gradient of the
        losses at 0, or the objective there for "gap".
    stop : {"slope", "gap"}
        The residual: the largest entry of the minimum-norm subgradient, or the duality gap, which requires l1, l2 or
        two bounds on each coordinate.
    max_steps : int
        The maximum number of updates.
    check_every : int, optional
        The number of updates between two checks: five sweeps, or ten updates of a greedy rule, by default.
    rng : numpy.random.Generator or int, optional
        The source of random numbers for the rules "random" and "lipschitz"; an int is a seed, and None is the seed 0.
    throw : bool
        Raise if it does not converge, instead of a warning.
    callback : callable, optional
        Called with a :class:`BCDProgress` at each check; True ends the solution.

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
        remedy = "; fastiter.torch.bcd solves it" if type(problem).__module__ == "fastiter.torch" else ""
        raise TypeError(f"{function}: problem must be {expected}, got {type_name(problem)}{remedy}")
    check_choice(function, "rule", rule, RULES)
    check_choice(function, "update", update, UPDATES)
    limits = Limits(rtol, stop, max_steps, check_every, callback, throw).checked(function)
    if stop == "gap" and not has_gap(problem):
        expected = "'slope' for a quadratic, or where a coordinate has neither l1, l2 nor two bounds"
        raise ValueError(f"{function}: stop must be {expected}, got 'gap'")
    x = _start(function, problem, x0)
    parts = Partitioned(function, problem, blocks)
    _check_choices(function, problem, parts, rule, update)
    sequence = _Sequence(function, parts, rule, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        found = _Run(problem, parts, x, (rule, update), sequence, limits).solution()
    return judged(function, found, throw)


def _start(function: str, problem: Problem, x0: Any) -> Array:
    if x0 is None:
        x = np.zeros(len(problem._curvature))
    else:
        x0 = as_array(function, "x0", x0, problem.dtype)
        check_array(function, "x0", x0)
        if x0.shape != problem.shape or x0.dtype != problem.dtype:
            expected = f"{problem.shape} and dtype {problem.dtype}"
            raise ValueError(f"{function}: x0 must have shape {expected}, got {x0.shape} and {x0.dtype}")
        if not np.isfinite(x0).all():
            raise ValueError(f"{function}: x0 must be finite, got NaN or infinity")
        x = np.array(x0, np.float64).ravel()
    return np.ascontiguousarray(np.clip(x, *problem._separable[2:]))


def _check_choices(function: str, problem: Problem, parts: Partitioned, rule: str, update: str) -> None:
    if parts.variable and rule not in GREEDY:
        raise ValueError(f"{function}: rule must be one of {', '.join(GREEDY)} for variable blocks, got {rule!r}")
    l1, _, lower, upper = problem._separable
    if update == "two-metric" and ((l1 > 0) & ~((lower >= 0) | (upper <= 0))).any():
        raise ValueError(
            f"{function}: update must not be 'two-metric' for l1 without a bound at 0, got l1 {l1.max():g}"
        )


class _Sequence:
    """The numbers of the blocks that come next; None for greedy rules."""

    def __init__(self, function: str, parts: Partitioned, rule: str, rng: Any) -> None:
        if not (rng is None or isinstance(rng, (int, np.integer, np.random.Generator))) or isinstance(rng, bool):
            raise TypeError(f"{function}: rng must be a numpy.random.Generator, an int or None, got {type_name(rng)}")
        if isinstance(rng, (int, np.integer)) and rng < 0:
            raise ValueError(f"{function}: rng must be at least 0, got {rng}")
        self._rng = np.random.default_rng(0 if rng is None else rng)
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
        if self.rule in GREEDY:
            return None
        if self.rule == "cyclic":
            found = (self._at + np.arange(count)) % self.blocks
            self._at = (self._at + count) % self.blocks
        elif self.rule == "random":
            found = self._rng.integers(0, self.blocks, count)
        else:
            found = np.searchsorted(self._ends, self._rng.random(count) * self._ends[-1], side="right")
        return np.minimum(found, self.blocks - 1).astype(np.int32)


class _Run:
    """The updates of one call, with the residuals at the checks."""

    def __init__(
        self, problem: Problem, parts: Partitioned, x: Array, how: tuple[str, str], sequence: _Sequence, limits: Limits
    ) -> None:
        rule, update = how
        self.problem, self.x, self.how, self.sequence, self.limits = problem, x, how, sequence, limits
        self.parts, self.is_single = parts, parts.count == len(x) and rule not in GREEDY
        if self.is_single:  # each coordinate is the block with its number
            self._names = parts.member
            own = np.arange(len(x) + 1)
            self._blocks: tuple[Any, ...] = (own, own.astype(np.int32), problem._curvature, None)
        else:
            self._names = None
            needs = parts.count and (update == "gradient" or rule == "gsl")
            sums = parts.sums() if parts.variable and rule == "gsl" else None
            self._blocks = (parts.start, parts.member, parts.bounds() if needs else None, sums)
        self.solver, self.begun, self.identified = self._solver(x, rule), 0, 0  # begun: at this step
        every = limits.check_every
        sweeps = _SWEEPS * parts.count if parts.count > 1 else 1  # an update of a single block costs as much as a check
        self.every = every or (_UPDATES if parts.variable or rule in GREEDY else sweeps)

    def _solver(self, x: Array, rule: str) -> Any:
        problem, parts, update = self.problem, self.parts, self.how[1]
        kinds = (
            *(LOSSES.index(problem._loss), problem._classes, problem._is_smooth),
            *(GREEDY.index(rule) + 1 if rule in GREEDY else 0, UPDATES.index(update)),
        )
        data, own = (problem._b, problem._weights), problem._data
        matrix = own.matrix_with_rows if rule in GREEDY else own.matrix
        separable = (*problem._separable, problem._curvature)
        return _core.bcd.solver(matrix, kinds, data, separable, self._blocks, parts.variable or parts.count, x)

    def solution(self) -> BCDSolution:
        g, slopes = np.empty((2, len(self.x)))
        tolerance = self.limits.rtol * (self._scale() or self._scale(self.x.copy()))
        history, objectives, steps, seen = [], [], 0, Progress(self.sequence.patience)
        reason = "max_steps"
        while True:
            objective = self.solver.state(g, slopes, len(self.x), False)
            gap = self._gap(objective, g) if self.limits.stop == "gap" else np.inf
            residual = gap if self.limits.stop == "gap" else float(np.abs(slopes).max(initial=0.0))
            history.append(residual)
            objectives.append(objective)
            is_rounding = seen.has_ended(objective, steps)
            if residual <= tolerance and self._is_true(g, slopes, tolerance, steps):
                reason = reached(residual, self._value())
            elif not np.isfinite(objective) or not np.isfinite(self.x).all():
                reason = "diverged"
            elif is_rounding:
                reason = "stagnated"
            elif self.limits.ends(BCDProgress(steps, residual, tolerance, objective, self._value)):
                reason = "callback"
            elif steps < self.limits.max_steps:
                count = min(self.every, self.limits.max_steps - steps)
                named = self.sequence.next(count)
                if named is not None and self._names is not None:
                    named = self._names[named]
                steps += self.solver.run(named, count)
                continue
            break
        return self._solution(reason, steps, (residual, tolerance), (g, slopes), (history, objectives))

    def _is_true(self, g: Array, slopes: Array, tolerance: float, steps: int) -> bool:
        """Return whether the maintained gradient, which accumulates rounding errors, agrees with that at x."""
        if self.sequence.rule not in GREEDY or self.limits.stop == "gap":
            return True
        self.solver.state(g, slopes, len(self.x), True)
        if float(np.abs(slopes).max(initial=0.0)) <= tolerance:
            return True
        self.begun, self.identified = steps, self._last_change()
        self.solver = self._solver(self.x, self.how[0])  # starts from a fresh gradient
        return False

    def _last_change(self) -> int:
        """Return the step that last changed the active set."""
        own = self.solver.last_change()
        return self.begun + int(own) if own else self.identified

    def _scale(self, at: Array | None = None) -> float:
        """Return the residual at 0, or at another point."""
        zero = np.zeros_like(self.x) if at is None else at
        is_begun = at is None and not self.x.any()
        solver = self.solver if is_begun else self._solver(zero, "cyclic" if self.parts.count else self.how[0])
        g, slopes = np.empty((2, len(zero)))
        objective = solver.state(g, slopes, len(zero), False)
        return float(abs(objective) if self.limits.stop == "gap" else np.abs(g).max(initial=0.0))

    def _gap(self, objective: float, g: Array) -> float:
        u = np.empty((self.problem._classes, self.problem._data.shape[0]))
        self.solver.derivative(u)
        return duality_gap(self.problem, objective, u, g)

    def _value(self) -> Array:
        return self.x.reshape(self.problem.shape).astype(self.problem.dtype)

    def _solution(
        self,
        reason: str,
        steps: int,
        numbers: tuple[float, float],
        gradients: tuple[Array, Array],
        history: tuple[list[float], list[float]],
    ) -> BCDSolution:
        g, slopes = gradients
        objective = self.solver.state(g, slopes, len(self.x), True)
        l1, _, lower, upper = self.problem._separable
        active = ((self.x == 0) & (l1 > 0)) | (self.x <= lower) | (self.x >= upper)
        return BCDSolution(
            value=self._value(),
            converged=reason == "converged",
            steps=steps,
            residual=numbers[0],
            method=f"bcd, {self.how[0]}, {self.how[1]}",
            reason=reason,
            objective=objective,
            gap=self._gap(objective, g),
            active=active.reshape(self.problem.shape),
            identified=self._last_change(),
            tolerance=numbers[1],
            history=np.array(history[0]),
            objectives=np.array(history[1]),
        )
