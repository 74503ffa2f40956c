"""Average rewards: relative value iteration, Howard's policy iteration, optimism within confidence sets."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._array_like import as_array
from .._check import check_array, check_choice, check_entries, check_flag, count, positive, type_name
from .._solution import judged
from ._krylov import Chain, bicgstab, norm
from ._layouts import Rows
from ._mdp import MDP
from ._process import Process, finite_number, has_one_class
from ._result import AverageSolution
from ._robust import Ambiguity, inexact, operator
from ._work import Operator, largest_of

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
    tol: float = 1e-6,
    max_steps: int = 100_000,
    value0: Array | None = None,
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
    tol : float
        The width of the bounds on the gain at which it has converged.
    max_steps : int
        The maximum number of sweeps or policies.
    value0 : (S,)
        The initial h, 0 by default, in the dtype of P.
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
    >>> round(mdp.average(mdp.examples.forest(3, None), tol=1e-9).gain, 9)
    3.24
    """
    function = "average"
    check_choice(function, "method", method, METHODS)
    check_flag(function, "throw", throw)
    process = _unending(function, problem)
    tau = positive(function, "tau", tau, zero=False)
    if tau > 1:
        raise ValueError(f"{function}: tau must be at most 1, got {tau:g}")
    tol, max_steps = positive(function, "tol", tol, zero=False), count(function, "max_steps", max_steps, 1)
    h = np.zeros(process.states, process.dtype) if value0 is None else problem._values(function, "value0", value0)
    scale = 1.0
    if sojourn is not None:
        process, scale = _per_unit_of_time(function, process, sojourn)
        h /= h.dtype.type(scale)

    def backup(v: Array, w: Array, action: Array) -> tuple[float, float]:
        return process.model.backup(v, w, action, 1, 1.0, None)

    run = _Run(process, backup, tol, max_steps)
    found = run.relative(h, tau) if method == "rvi" else run.howard(h)
    if found.reason == "max_steps" and not has_one_class(process.rows, found.action):
        found.reason = "multichain"
    return judged(function, found.solution(method, scale, problem._negated), throw)


class _Run:
    """The iteration: the last h, T h, actions and bounds on the gain."""

    def __init__(self, process: Process, backup: Operator, tol: float, max_steps: int) -> None:
        self.process, self._operator, self.tol, self._most = process, backup, tol, max_steps
        self._accuracy = process.accuracy(1.0)
        self._defect = max(abs(total - 1) for total in process.sums)
        self.h = np.zeros(0)
        self.action = np.empty(process.states, np.int32)
        self.bounds, self.steps, self.reason = (-np.inf, np.inf), 0, "max_steps"

    def _backup(self, h: Array, w: Array, period: int = 1) -> None:
        """Set w to T h, every ``period`` steps or once they may be close the bounds, and the reason for ending."""
        low, high = self._operator(h, w, self.action)
        self.steps += 1
        if high - low > self.tol and self.steps % period and self.steps < self._most:
            return
        # The errors of rows that do not sum to 1 exactly, of the sweep, and of the changes and bounds
        size = largest_of(h)
        rounding = self._defect * size + self._accuracy.sweep_error(size, largest_of(w))
        rounding += 2.0**-51 * max(abs(low), abs(high))
        self.bounds = low - rounding, high + rounding
        if self.bounds[1] - self.bounds[0] <= self.tol:
            self.reason = "converged"
        elif high - low <= 2 * rounding:
            self.reason = "stagnated"

    @property
    def _has_ended(self) -> bool:
        return self.reason != "max_steps" or self.steps >= self._most

    def relative(self, h: Array, tau: float) -> _Run:
        """Iterate h <- h + tau (T h - h) minus its value in state 0."""
        w = np.empty_like(h)
        while True:
            self._backup(h, w, _PERIOD)
            if tau != 1 and not self._has_ended:
                w *= w.dtype.type(tau)
                w += w.dtype.type(1 - tau) * h
            h, w = w, h
            h -= h[0]
            if self._has_ended:
                self.h = h
                return self

    def howard(self, h: Array) -> _Run:
        """Iterate h <- the bias of the policy, then replace actions by better ones."""
        w = np.empty_like(h)
        self._backup(h, w)
        self.h, self.steps, self.reason = h, 0, "max_steps"  # it only finds the initial policy
        policy = self.action.copy()
        while True:
            chain = Chain(self.process.model.chain(policy), 1.0, h)
            h, noise, is_solved = _bias(chain, h)
            if not is_solved and not has_one_class(self.process.rows, policy):
                self.reason = "multichain"  # the bias and the bounds stay those of the last policy
                return self
            self.h = h
            self._backup(h, w)
            gain = -chain.residual(h)  # the old policy's gain, up to rounding
            least = _BETTER * np.maximum(np.abs(w), self.process.largest_reward)
            better = (w - h) + gain > np.maximum(least, 2 * noise)
            policy = np.where(better, self.action, policy)
            if not self._has_ended and not better.any():
                self.reason = "stagnated"
            if self._has_ended:
                return self

    def solution(self, method: str, scale: float, negated: bool) -> AverageSolution:
        """Return the result; ``scale`` is the factor for the bias of a transformed process."""
        (low, high), sign = self.bounds, -1 if negated else 1
        bounds = (-high, -low) if negated else (low, high)
        return AverageSolution(
            value=sign * self.h * self.h.dtype.type(scale),
            converged=self.reason == "converged",
            steps=self.steps,
            residual=high - low,
            method=method,
            reason=self.reason,
            gain=bounds[0] / 2 + bounds[1] / 2,
            gain_bounds=bounds,
            policy=self.process.label(self.action),
            tolerance=self.tol,
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
        found: Array = np.linalg.solve(matrix, reward)
    except np.linalg.LinAlgError:  # several recurrent classes
        return x
    return found if norm(reward - equations.multiply(found)) < size else x


def _unending(function: str, problem: Any) -> Process:
    if not isinstance(problem, MDP):
        raise TypeError(f"{function}: problem must be an MDP, got {type_name(problem)}")
    if problem._is_semi:
        raise ValueError(f"{function}: gamma must be one number or None, got an array")
    if problem._has_ends:
        raise ValueError(f"{function}: P must have no transitions with done, got some")
    process = problem._process
    ends = np.diff(process.rows.row) == 0
    if ends.any():
        raise ValueError(f"{function}: problem must have no terminal states, got state {int(np.argmax(ends))}")
    return process


def _per_unit_of_time(function: str, process: Process, sojourn: Array) -> tuple[Process, float]:
    """Return Schweitzer's transformation, r / t and (1 - f / t) I + f / t P, and f, below t / (1 - P(s | s, a))."""
    rows = process.rows
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
    made = Process(Rows(rows.row, entry, target, weight, reward, rows.label), None, process.sums)
    made.inexact = 2.0**-50 + (2.0**-22 if process.bits == 32 else 0)  # rounded weights and rewards
    return made, factor


def extended_value_iteration(
    problem: MDP,
    probability_radius: Array | float,
    reward_radius: Array | float = 0.0,
    *,
    most: float = 1.0,
    tol: float = 1e-6,
    max_steps: int = 100_000,
    value0: Array | None = None,
    throw: bool = False,
) -> AverageSolution:
    """Return the largest average reward of all processes near a given one: UCRL2's optimistic policy.

    Parameters
    ----------
    problem : MDP
        The estimated process, without terminal states; its discount is ignored.
    probability_radius, reward_radius : float or (rows,)
        |q - P|_1 <= ``probability_radius``, with mass on any state; |rewards - R| <= ``reward_radius``.
    most : float
        The largest possible reward, which limits optimism; no reward may exceed it.
    tol, max_steps, value0, throw : float, int, (S,), bool
        As for :func:`average`; UCRL2 stops at tol = 1 / sqrt(t).

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
    check_flag(function, "throw", throw)
    most = finite_number(function, "most", most)
    rows = process.rows
    wide = _radius(function, "probability_radius", probability_radius, len(rows.reward))
    bonus = _radius(function, "reward_radius", reward_radius, len(rows.reward))
    if rows.reward.max(initial=-np.inf) > most + 1e-6 * max(1.0, abs(most)):  # means of rewards may round up
        got = f"{rows.reward.max():g}"
        raise ValueError(f"{function}: most must be at least the largest reward, got {most:g} and a reward of {got}")
    reward = np.minimum(rows.reward + bonus, most).astype(rows.reward.dtype)
    optimistic = Process(rows._replace(reward=reward), 1.0, process.sums)
    tol, max_steps = positive(function, "tol", tol, zero=False), count(function, "max_steps", max_steps, 1)
    h = np.zeros(process.states, process.dtype) if value0 is None else problem._values(function, "value0", value0)
    around = Ambiguity("l1", wide, anywhere=True, best=True)
    optimistic.inexact = inexact(optimistic, around) + float(np.finfo(optimistic.dtype).eps)  # that of the rewards
    backup = operator(optimistic, around)
    found = _Run(optimistic, backup, tol, max_steps).relative(h, 1.0)
    return judged(function, found.solution("evi", 1.0, False), throw)


def _radius(function: str, name: str, x: Any, rows: int) -> Array:
    if isinstance(x, (np.ndarray, list, tuple)):
        check_array(function, name, x := as_array(function, name, x))
    radius = np.asarray(x if isinstance(x, np.ndarray) else positive(function, name, x), np.float64)
    if radius.shape not in ((), (rows,)):
        raise ValueError(f"{function}: {name} must be a number or have shape (rows,) = ({rows},), got {radius.shape}")
    check_entries(function, name, radius, np.isfinite(radius) & (radius >= 0), "be finite and at least 0")
    return np.ascontiguousarray(np.broadcast_to(radius, (rows,)))
