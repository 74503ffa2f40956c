"""The kernels' solver loop: for one process, and for many small processes with one pattern, divided among threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ._certificate import Solver, enclosed, refined
from ._choice import SMALLEST_WINDOW, WINDOWS, Choice
from ._methods import GaussSeidel, ModifiedPolicyIteration, ValueIteration
from ._process import Process
from ._result import Limits, MDPSolution, alone, together
from ._solve import quietly
from ._work import MOST, PIECE, Judgement, Method, Work

Array = npt.NDArray[Any]

#: Numbers of entries and rows from which on a process's own sweeps may use more than one thread
_LARGE = 2**15
#: Maximum number of sweeps of a policy between two polls for signals
_MOST_POLICY_SWEEPS = 1000
_KINDS: dict[type[Method], int] = {ValueIteration: 0, ModifiedPolicyIteration: 1, GaussSeidel: 2}
_REASONS = np.array(["converged", "diverged", "stagnated", "max_steps"], object)
_ORDERS = ("ascending", "descending", "symmetric")


def solve_one(function: str, process: Process, how: Choice, start: Array, limits: Limits, negated: bool) -> MDPSolution:
    """Return a solution, whether converged or not."""
    solver = _solver(function, how, negated)
    return refined(process, solver(process, start, limits), limits, negated, solver)


def _solver(function: str, how: Choice, negated: bool) -> Solver:
    """Return the function that solves a process by a method, without corrections."""

    def solver(process: Process, start: Array, limits: Limits) -> MDPSolution:
        method = how.made(function, process, limits)
        if limits.callback is None and has_loop(method):
            return alone(by_kernels([process], [method], start[None], limits, negated))
        return quietly(Work(process, start, process.discount or 0.0), method, limits, negated)

    return solver


def solve_each(
    function: str, processes: Sequence[Process], how: Choice, starts: Array | None, limits: Limits, negated: bool
) -> MDPSolution | None:
    """Return all solutions, each with the same bits as when solved alone; None if they have to be solved one by one.

    ``starts`` (B, S) is overwritten; by default each starts from its own lower bound.
    """
    found = loops_of_each(function, processes, how, starts, limits, negated)
    if found is None or "stagnated" not in found.reason:
        return found
    first = processes[0]
    each, solver = [_checked(alone(found, m)) for m in range(len(processes))], _solver(function, how, negated)
    pairs = zip(processes, each, strict=True)
    return together([refined(p, one, limits, negated, solver) for p, one in pairs], first.states, first.dtype, limits)


def loops_of_each(
    function: str,
    processes: Sequence[Process],
    how: Choice,
    starts: Array | None,
    limits: Limits,
    negated: bool,
    judgement: Judgement | None = None,
) -> MDPSolution | None:
    """Return the solutions by the kernels' loop without corrections, or None.

    The latter is the case if processes are large enough for several threads or for windows, and if a method has no loop
    in the kernels.
    """
    first = processes[0]
    if len(first.rows.next) + len(first.rows.reward) >= _LARGE or first.states // WINDOWS >= SMALLEST_WINDOW:
        return None
    is_shared = all(each.rows.weight is first.rows.weight for each in processes)
    methods = [how.made(function, each, limits) for each in (processes[:1] if is_shared else processes)]
    if not all(has_loop(each) for each in methods):
        return None
    methods[0].judgement = judgement
    return by_kernels(processes, methods * (len(processes) if is_shared else 1), starts, limits, negated)


def _checked(found: MDPSolution) -> MDPSolution:
    """Return a solution that has stagnated, whose residuals are therefore finite, without NaN after its last check."""
    return replace(found, history=found.history[~np.isnan(found.history)]) if found.reason == "stagnated" else found


def has_loop(method: Method) -> bool:
    """Whether the kernels implement the loop of a method without a callback."""
    if isinstance(method, ModifiedPolicyIteration):
        return method.sweeps <= _MOST_POLICY_SWEEPS
    if isinstance(method, GaussSeidel):
        return method.window == 0 and (isinstance(method.order, str) or len(method.order) <= PIECE)
    return isinstance(method, ValueIteration)


def by_kernels(
    processes: Sequence[Process], methods: list[Method], starts: Array | None, limits: Limits, negated: bool
) -> MDPSolution:
    """Return the solutions (B, S) by the kernels' loop; a single process uses all threads for its sweeps."""
    first = processes[0]
    numbers = np.empty((len(processes), 5))
    numbers[:, :2] = [each.sums for each in processes]
    numbers[:, 3:] = first.doubt, first.base
    if starts is None:
        rewards = np.stack([each.rows.reward for each in processes])
        numbers[:, 2] = np.maximum(rewards.max(1, initial=0), -rewards.min(1, initial=0))
        v = lower_bounds(first, rewards, numbers)
    else:
        numbers[:, 2], v = [each.largest_reward for each in processes], starts
    w, action = np.empty_like(v), np.full(v.shape, -1, np.int32)
    kinds = np.array([_KINDS[type(each)] for each in methods], np.uint8)
    models = [each.model for each in processes]
    rule, orders = _rule(first, methods, limits)
    vectors = (v, w, action, orders)
    several = _core.mdp.several(first.bits, models, vectors, numbers, kinds, rule, len(processes) > 1)
    while not several.run():
        pass  # lets Python handle signals
    found, counts = np.empty((len(models), 5)), np.empty((len(models), 2), np.int64)
    history = np.empty((len(models), several.checks()))
    several.copy(found, counts, history)
    return _solution(processes, (w, action), (found, counts, history), (methods[0].name, limits, negated))


def lower_bounds(first: Process, rewards: Array, numbers: Array) -> Array:
    """Return the initial values (B, S): the value of earning the minimum over states of the best reward forever."""
    has, start = ~first.is_terminal, np.zeros((len(rewards), first.states), first.dtype)
    if not has.any():
        return start
    least = np.maximum.reduceat(rewards, first.rows.row[:-1][has], axis=1).min(1).astype(np.float64)
    low, high = (first.discount or 0.0) * numbers[:, 0], (first.discount or 0.0) * numbers[:, 1]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        bound = (least / (1 - np.where(least < 0, high, low))).astype(first.dtype)
    start[:, has] = np.where(np.isfinite(bound) & (high < 1), bound, 0)[:, None]
    return start


def _rule(first: Process, methods: list[Method], limits: Limits) -> tuple[tuple[Any, ...], Array | None]:
    """Return the data that all models share, and the models' own orders (B, S) of in-place sweeps."""
    sweeps, omega, exact, order, orders = 0, 1.0, True, 0, None
    for m, each in enumerate(methods):
        if isinstance(each, ModifiedPolicyIteration):
            sweeps = each.sweeps
        elif isinstance(each, GaussSeidel):
            omega, exact = each.omega, each.exact
            if isinstance(each.order, str):  # ascending, if others have their own orders
                order = _ORDERS.index(each.order) if orders is None else order
                continue
            if orders is None:
                orders = np.tile(np.arange(first.states, dtype=np.int32), (len(methods), 1))
            orders[m], order = each.order, 3
    when = (limits.tol, limits.stop == "sup", min(limits.max_steps, MOST), methods[0].patience)
    return (first.discount, *when, sweeps, omega, exact, order, first.longest, methods[0].judgement), orders


def _solution(
    processes: Sequence[Process],
    vectors: tuple[Array, Array],
    numbers: tuple[Array, Array, Array],
    how: tuple[str, Limits, bool],
) -> MDPSolution:
    """Return the solutions (B, S), as `_solve._solution` does for one."""
    (w, action), (found, counts, history), (name, limits, negated) = vectors, numbers, how
    with np.errstate(over="ignore", invalid="ignore"):
        arrays = enclosed(processes, processes[0].discount or 0.0, w, found, negated)
    value, lower, upper, residual = arrays
    return MDPSolution(
        value=value,
        policy=processes[0].label(action),
        lower=lower,
        upper=upper,
        converged=counts[:, 1] == 0,
        steps=counts[:, 0].copy(),
        residual=residual,
        tolerance=limits.tol,
        history=history,
        method=name,
        reason=tuple(_REASONS[counts[:, 1]].tolist()),
    )
