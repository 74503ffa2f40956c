"""Average rewards: relative value iteration, Howard's policy iteration, optimism within confidence sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._array_like import as_array
from .._call.iterate import Limits, Progress, Record, Step, iterate
from .._check import check_array, check_choice, check_entries, positive, type_name
from .._solution import judged
from ._layouts import Rows
from ._mdp import MDP
from ._process import Process, finite_number, has_one_class
from ._result import AverageSolution
from ._robust import Ambiguity, inexact, operator
from ._solvers.krylov import Chain, bicgstab, norm
from ._solvers.state import Operator, largest_of

Array = npt.NDArray[Any]

METHODS = ("rvi", "howard")
#: The relative improvement above which an action counts as better
_BETTER = 1e-12
#: Steps of relative value iteration between two checks for stagnation
_PERIOD = 16
#: The maximum number of states of a chain that is solved by elimination if BiCGSTAB fails, as on long cycles
_DENSE = 2000


def average(
    problem: MDP,
    method: Literal["rvi", "howard"] = "rvi",
    *,
    tau: float = 1.0,
    sojourn: Array | None = None,
    value0: Array | None = None,
    atol: float = 1e-6,
    max_steps: int = 100_000,
    callback: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> AverageSolution:
    """Return the largest average reward g and the bias h, g + h(s) = max_a r(s, a) + P(s, a) h.

    Parameters
    ----------
    problem : MDP
        A process without terminal states whose policies have one recurrent class each (unichain); its discount is
        ignored and may be None.
    method : {"rvi", "howard"}
        "rvi": relative value iteration, h <- h + tau (T h - h) minus its value in state 0. "howard": policy iteration,
        where each policy's g + h = r + P h is solved.
    tau : float
        In (0, 1]: the damping factor of each step. Below 1 it also converges for periodic chains.
    sojourn : (rows,)
        The mean time that each action takes, positive, for semi-Markov processes: the gain is then per unit of time.
        Not for pairs that share rows of P.
    value0 : (S,)
        The initial h, 0 by default, in the dtype of P.
    atol : float
        The width of the bounds on the gain at which it has converged.
    max_steps : int
        The maximum number of sweeps or policies.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each policy, and after sweeps when the bounds have been computed,
        every 16 sweeps or once they may be close; ``gain_bounds`` is one of its numbers. If it returns True, the
        iteration ends.
    throw : bool
        Raise an error if it does not converge, instead of a warning.

    Returns
    -------
    AverageSolution
        The gain with its bounds, the bias and a policy.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    extended_value_iteration : The most optimistic of all processes near an estimate.
    MDP.solve : Discounted rewards.

    Examples
    --------
    >>> from fastiter import mdp
    >>> round(mdp.average(mdp.examples.forest(3, None), atol=1e-9).gain, 9)
    3.24
    """
    function = "average"
    check_choice(function, "method", method, METHODS)
    limits = Limits(None, atol, max_steps, callback, throw).checked(function, smallest_max=1, zero=False)
    process = _unending(function, problem)
    tau = positive(function, "tau", tau, zero=False)
    if tau > 1:
        raise ValueError(f"{function}: tau must be at most 1, got {tau:g}")
    h = np.zeros(process.states, process.dtype) if value0 is None else problem._values(function, "value0", value0)
    scale = 1.0
    if sojourn is not None:
        process, scale = _per_unit_of_time(function, process, sojourn)
        h /= h.dtype.type(scale)

    def backup(v: Array, w: Array, action: Array) -> tuple[float, float]:
        return process.model.backup(v, w, action, 1, 1.0, None)

    run = _Run(process, backup, limits, scale, problem._negated)
    record = run.relative(h, tau) if method == "rvi" else run.howard(h)
    if record.reason == "max_steps" and not has_one_class(process.rows, run.action):
        run.is_multichain, record.reason = True, "stagnated"  # more steps do not help
    return judged(function, run.solution(method, record), throw)


class _Run:
    """The iteration: the last bias h, up to a constant, actions and bounds on the gain.

    ``scale`` is the factor for the bias of a transformed process, ``negated`` whether its rewards are costs.
    """

    def __init__(
        self, process: Process, backup: Operator, limits: Limits, scale: float = 1.0, negated: bool = False
    ) -> None:
        self.process, self._operator, self._limits = process, backup, limits
        self._scale, self._negated = scale, negated
        self._accuracy = process.accuracy(1.0)
        self._defect = max(abs(total - 1) for total in process.sums)
        self.h = np.zeros(0)
        self.action = np.empty(process.states, np.int32)
        self.bounds, self.is_multichain = (-np.inf, np.inf), False

    def _backup(self, h: Array, w: Array, steps: int, period: int = 1) -> Step | None:
        """Set w to T h; every ``period`` steps or once they may be close, set the bounds and return a step to check."""
        low, high = self._operator(h, w, self.action)
        if high - low > self._limits.atol and steps % period and steps < self._limits.max_steps:
            return None
        # The errors of rows that do not sum to 1 exactly, of the sweep, and of the changes and bounds
        size = largest_of(h)
        rounding = self._defect * size + self._accuracy.sweep_error(size, largest_of(w))
        rounding += 2.0**-51 * max(abs(low), abs(high))
        self.bounds = low - rounding, high + rounding
        width = self.bounds[1] - self.bounds[0]
        return Step(steps, width, self._limits.atol, self._bias, self._numbers, stagnated=high - low <= 2 * rounding)

    def _bias(self) -> Array:
        sign = -1 if self._negated else 1
        bias: Array = sign * (self.h - self.h[0]) * self.h.dtype.type(self._scale)
        return bias

    def _numbers(self) -> dict[str, tuple[float, float]]:
        low, high = self.bounds
        return {"gain_bounds": (-high, -low) if self._negated else (low, high)}

    def relative(self, h: Array, tau: float) -> Record:
        """Iterate h <- h + tau (T h - h) minus its value in state 0."""
        return iterate(self._relative_steps(h, tau), self._limits, Record(overflows=True))

    def _relative_steps(self, h: Array, tau: float) -> Iterator[Step]:
        w, steps = np.empty_like(h), 0
        while True:
            steps += 1
            step = self._backup(h, w, steps, _PERIOD)
            if step is not None:
                self.h = w
                yield step
            if tau != 1:
                w *= w.dtype.type(tau)
                w += w.dtype.type(1 - tau) * h
            h, w = w, h
            h -= h[0]

    def howard(self, h: Array) -> Record:
        """Iterate h <- the bias of the policy, then replace actions by better ones."""
        return iterate(self._policy_steps(h), self._limits, Record(overflows=True))

    def _policy_steps(self, h: Array) -> Iterator[Step]:
        w, steps = np.empty_like(h), 0
        self._backup(h, w, steps)  # it only finds the initial policy
        self.h, policy = h, self.action.copy()
        while True:
            chain = Chain(self.process.model.chain(policy), 1.0, h)
            h, noise, is_solved = _bias(chain, h)
            if not is_solved and not has_one_class(self.process.rows, policy):
                self.is_multichain = True  # the bias and the bounds stay those of the last policy
                yield self._at(steps)
                return
            steps, self.h = steps + 1, h
            step = self._backup(h, w, steps)
            assert step is not None  # for the type checker: each step is checked
            gain = -chain.residual(h)  # the old policy's gain, up to rounding
            threshold = _BETTER * np.maximum(np.abs(w), self.process.largest_reward)
            better = (w - h) + gain > np.maximum(threshold, 2 * noise)
            policy = np.where(better, self.action, policy)
            yield step._replace(stagnated=step.stagnated or not better.any())

    def _at(self, steps: int) -> Step:
        """Return a step to end at, without another backup."""
        width = self.bounds[1] - self.bounds[0]
        return Step(steps, width, self._limits.atol, self._bias, self._numbers, can_converge=False, stagnated=True)

    def solution(self, method: str, record: Record) -> AverageSolution:
        """Return the result."""
        low, high = bounds = self._numbers()["gain_bounds"]
        return AverageSolution(
            value=self._bias(),
            converged=record.reason == "converged",
            steps=record.last.steps,
            residual=high - low,
            method=method,
            reason=record.reason,
            gain=low / 2 + high / 2,
            gain_bounds=bounds,
            policy=self.process.label(self.action),
            tolerance=self._limits.atol,
            multichain=self.is_multichain,
        )


class _BiasOperator(Chain):
    """The operator x - P x + x(0): with right-hand side r, x(0) is the gain and x - x(0) the bias."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def multiply(self, x: Array) -> Array:
        product: Array = self._chain.multiply(x) + x[0]
        return product


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # the equations of several classes have no solution
def _bias(chain: Chain, h: Array) -> tuple[Array, float, bool]:
    """Return the bias of a policy, the largest deviation of r + P h - h from a constant, and whether that is rounding.

    With several recurrent classes it is not, unless their gains are equal.
    """
    reward = chain.residual(np.zeros_like(h))
    equations = _BiasOperator(chain)
    x = h.copy()
    remaining = reward - equations.multiply(x)
    for _ in range(20):
        size = norm(remaining)
        if size == 0:
            break
        trial = x + bicgstab(equations, remaining, 1e-14 * size)
        after = reward - equations.multiply(trial)
        if norm(after) < size:  # False for NaN
            x, remaining = trial, after
        if not norm(after) < size / 2:
            break
    eps = float(np.finfo(h.dtype).eps)
    rounding = 1e3 * eps * (norm(reward) + norm(x))
    if norm(remaining) > rounding and len(h) <= _DENSE:
        x = _directly(equations, reward, x, norm(remaining))
    # nearly singular equations are solved by huge x
    is_solved = norm(reward - equations.multiply(x)) <= min(rounding, 1e5 * eps * norm(reward))
    h = x - x[0]
    change = chain.residual(h)
    return h, float(change.max() - change.min()), is_solved


def _directly(equations: _BiasOperator, reward: Array, x: Array, size: float) -> Array:
    """Return the solution by elimination, or x if its residual, ``size``, is smaller."""
    identity = np.eye(len(x), dtype=x.dtype)
    matrix = np.stack([equations.multiply(column) for column in identity], axis=1)
    try:
        solution: Array = np.linalg.solve(matrix, reward)
    except np.linalg.LinAlgError:  # several recurrent classes
        return x
    return solution if norm(reward - equations.multiply(solution)) < size else x


def _unending(function: str, problem: Any) -> Process:
    if not isinstance(problem, MDP):
        raise TypeError(f"{function}: problem must be an MDP, got {type_name(problem)}")
    if problem._is_semi:
        raise ValueError(f"{function}: gamma must be one number or None, got an array")
    if problem._has_ends:
        raise ValueError(f"{function}: P must have no transitions with done, got some")
    process = problem._process
    if process.has_terminal:
        got = f"state {int(process.is_terminal.argmax())}"
        raise ValueError(f"{function}: problem must have no terminal states, got {got}")
    return process


def _per_unit_of_time(function: str, process: Process, sojourn: Array) -> tuple[Process, float]:
    """Return Schweitzer's transformation, r / t and (1 - f / t) I + f / t P, and f, below t / (1 - P(s | s, a))."""
    rows = process.rows
    if rows.pair is not None:
        raise ValueError(f"{function}: sojourn must be None for pairs that share rows of P, got times")
    check_array(function, "sojourn", sojourn := as_array(function, "sojourn", sojourn))
    if sojourn.shape != rows.reward.shape:
        raise ValueError(f"{function}: sojourn must have shape (rows,) = {rows.reward.shape}, got {sojourn.shape}")
    check_entries(function, "sojourn", sojourn, np.isfinite(sojourn) & (sojourn > 0), "be finite and above 0")
    time = sojourn.astype(np.float64)
    lengths = np.diff(rows.entry)
    owner = np.repeat(np.arange(process.states), np.diff(rows.row)).astype(np.int32)
    row = np.repeat(np.arange(len(time)), lengths)
    stays = np.bincount(row, weights=rows.weight * (rows.next == owner[row]), minlength=len(time))
    leaves = np.maximum(1 - stays, 0)
    factor = 0.5 * float((time / np.maximum(leaves, 1e-300)).min(initial=1.0 / 1e-300))
    factor = min(factor, float(time.min()))
    place = np.arange(len(rows.next)) + row
    target, weight = (np.empty(len(rows.next) + len(time), x.dtype) for x in (rows.next, rows.weight))
    target[place], weight[place] = rows.next, (rows.weight * (factor / time)[row]).astype(rows.weight.dtype)
    last = rows.entry[1:] + np.arange(len(time))
    target[last], weight[last] = owner, (1 - factor / time).astype(rows.weight.dtype)
    entry = rows.entry + np.arange(len(rows.entry))
    reward = (rows.reward / time).astype(rows.reward.dtype)
    compact = Process(Rows(rows.row, entry, target, weight, reward, rows.label), None, process.sums)
    compact.inexact = 2.0**-50 + (2.0**-22 if process.bits == 32 else 0)  # rounded weights and rewards
    return compact, factor


def extended_value_iteration(
    problem: MDP,
    probability_radius: Array | float,
    reward_radius: Array | float = 0.0,
    *,
    largest_reward: float = 1.0,
    value0: Array | None = None,
    atol: float = 1e-6,
    max_steps: int = 100_000,
    callback: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> AverageSolution:
    """Return the largest average reward of all processes near a given one: UCRL2's optimistic policy.

    Parameters
    ----------
    problem : MDP
        The estimated process, without terminal states; its discount is ignored.
    probability_radius, reward_radius : float or (rows,)
        |q - P|_1 <= ``probability_radius``, with mass on any state; |rewards - R| <= ``reward_radius``. If pairs share
        rows of P, the former has one number for each row of P.
    largest_reward : float
        The largest possible reward, which limits optimism; no reward may exceed it.
    value0, atol, max_steps, callback, throw : (S,), float, int, callable, bool
        As for :func:`average`; UCRL2 stops at atol = 1 / sqrt(t).

    Returns
    -------
    AverageSolution
        The optimistic gain with its bounds, the bias and the policy.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    average : The given process itself.
    robust : The worst process near it.

    References
    ----------
    P. Auer, T. Jaksch, R. Ortner, Near-optimal regret bounds for reinforcement learning, 2008.

    Examples
    --------
    >>> from fastiter import mdp
    >>> round(mdp.extended_value_iteration(mdp.examples.riverswim(6), 0.2).gain, 4)
    0.6
    """
    function = "extended_value_iteration"
    process = _unending(function, problem)
    if problem._negated:
        raise ValueError(f"{function}: problem must have sense 'max', got 'min'")
    limits = Limits(None, atol, max_steps, callback, throw).checked(function, smallest_max=1, zero=False)
    largest_reward = finite_number(function, "largest_reward", largest_reward)
    rows = process.rows
    wide = _radius(function, "probability_radius", probability_radius, rows.height)
    bonus = _radius(function, "reward_radius", reward_radius, len(rows.reward))
    best = float(rows.reward.max(initial=-np.inf))
    if best > largest_reward + 1e-6 * max(1.0, abs(largest_reward)):  # means of rewards may round up
        expected = "largest_reward must be at least the largest reward"
        raise ValueError(f"{function}: {expected}, got {largest_reward:g} and a reward of {best:g}")
    reward = np.minimum(rows.reward + bonus, largest_reward).astype(rows.reward.dtype)
    optimistic = Process(rows._replace(reward=reward), 1.0, process.sums)
    h = np.zeros(process.states, process.dtype) if value0 is None else problem._values(function, "value0", value0)
    around = Ambiguity("l1", wide, anywhere=True, best=True)
    optimistic.inexact = inexact(optimistic, around) + float(np.finfo(optimistic.dtype).eps)  # that of the rewards
    run = _Run(optimistic, operator(optimistic, around), limits)
    return judged(function, run.solution("evi", run.relative(h, 1.0)), throw)


def _radius(function: str, name: str, x: Any, rows: int) -> Array:
    if isinstance(x, (np.ndarray, list, tuple)):
        check_array(function, name, x := as_array(function, name, x))
    radius = np.asarray(x if isinstance(x, np.ndarray) else positive(function, name, x), np.float64)
    if radius.shape not in ((), (rows,)):
        raise ValueError(f"{function}: {name} must be a number or have shape (rows,) = ({rows},), got {radius.shape}")
    check_entries(function, name, radius, np.isfinite(radius) & (radius >= 0), "be finite and at least 0")
    return np.ascontiguousarray(np.broadcast_to(radius, (rows,)))
