"""The kernels' solver loop: for one process, and for many small processes with one pattern, divided among threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._call.iterate import Limits
from .._process import Process
from .._result import MDPSolution, alone, together
from .certificate import Solver, enclosed, refined
from .methods import GaussSeidel, ModifiedPolicyIteration, ValueIteration
from .options import SMALLEST_WINDOW, WINDOWS, Choice
from .state import MAX_STEPS, PIECE, Judgement, Method, Work
from .steps import quietly

Array = npt.NDArray[Any]

#: Numbers of entries and rows from which on a process's own sweeps may use more than one thread
_LARGE = 2**15
#: Maximum number of sweeps of a policy between two polls for signals
_MAX_POLICY_SWEEPS = 1000
_KINDS: dict[type[Method], int] = {ValueIteration: 0, ModifiedPolicyIteration: 1, GaussSeidel: 2}
_REASONS = np.array(["converged", "diverged", "stagnated", "max_steps"], object)
_ORDERS = ("ascending", "descending", "symmetric")
_OWN_ORDER = 3


class Results(NamedTuple):
    """The last changes and bounds of each model (B, 5), and its number of steps with that of the reason (B, 2)."""

    numbers: Array
    counts: Array


def solve_one(
    function: str, process: Process, choice: Choice, start: Array, limits: Limits, negated: bool
) -> MDPSolution[Array]:
    """Return a solution, whether converged or not."""
    solver = _solver(function, choice, negated)
    return refined(process, solver(process, start, limits), limits, negated, solver)


def _solver(function: str, choice: Choice, negated: bool) -> Solver:
    """Return the function that solves a process by a method, without corrections."""

    def solver(process: Process, start: Array, limits: Limits) -> MDPSolution[Array]:
        method = choice.new_method(function, process, limits)
        if limits.callback is None and has_loop(method):
            return alone(by_kernels([process], [method], start[None], limits, negated))
        return quietly(Work(process, start, process.discount or 0.0), method, limits, negated)

    return solver


def solve_each(
    function: str, processes: Sequence[Process], choice: Choice, starts: Array | None, limits: Limits, negated: bool
) -> MDPSolution[Array] | None:
    """Return all solutions, each with the same bits as when solved alone; None if they have to be solved one by one.

    ``starts`` (B, S) is overwritten; by default each starts from its own lower bound.
    """
    solution = loops_of_each(function, processes, choice, starts, limits, negated)
    if solution is None or "stagnated" not in solution.reason:
        return solution
    first = processes[0]
    each, solver = [_checked(alone(solution, m)) for m in range(len(processes))], _solver(function, choice, negated)
    pairs = zip(processes, each, strict=True)
    return together([refined(p, one, limits, negated, solver) for p, one in pairs], first.states, first.dtype, limits)


def loops_of_each(
    function: str,
    processes: Sequence[Process],
    choice: Choice,
    starts: Array | None,
    limits: Limits,
    negated: bool,
    judgement: Judgement | None = None,
) -> MDPSolution[Array] | None:
    """Return the solutions by the kernels' loop without corrections, or None.

    The latter is the case if processes are large enough for several threads or for windows, and if a method has no loop
    in the kernels.
    """
    first = processes[0]
    if len(first.rows.next) + len(first.rows.reward) >= _LARGE or first.states // WINDOWS >= SMALLEST_WINDOW:
        return None
    is_shared = all(each.rows.weight is first.rows.weight for each in processes)
    methods = [choice.new_method(function, each, limits) for each in (processes[:1] if is_shared else processes)]
    if not all(has_loop(each) for each in methods):
        return None
    methods[0].judgement = judgement
    return by_kernels(processes, methods * (len(processes) if is_shared else 1), starts, limits, negated)


def _checked(solution: MDPSolution[Array]) -> MDPSolution[Array]:
    """Return a solution that has stagnated, whose residuals are therefore finite, without NaN after its last check."""
    return (
        replace(solution, history=solution.history[~np.isnan(solution.history)])
        if solution.reason == "stagnated"
        else solution
    )


def has_loop(method: Method) -> bool:
    """Whether the kernels implement the loop of a method without a callback."""
    if isinstance(method, ModifiedPolicyIteration):
        return method.sweeps <= _MAX_POLICY_SWEEPS
    if isinstance(method, GaussSeidel):
        return method.window == 0 and (isinstance(method.order, str) or len(method.order) <= PIECE)
    return isinstance(method, ValueIteration)


def by_kernels(
    processes: Sequence[Process], methods: list[Method], starts: Array | None, limits: Limits, negated: bool
) -> MDPSolution[Array]:
    """Return the solutions (B, S) by the kernels' loop; a single process uses all threads for its sweeps."""
    first, models, kinds, numbers = processes[0], [], bytearray(), []
    for process, method in zip(processes, methods, strict=True):
        models.append(process.model)
        kinds.append(_KINDS[type(method)])
        numbers.append((*process.sums, 0.0 if starts is None else process.largest_reward, first.doubt, first.base))
    extremes = np.array(numbers)
    if starts is None:
        rewards = np.stack([each.rows.reward for each in processes])
        extremes[:, 2] = np.maximum(rewards.max(1, initial=0), -rewards.min(1, initial=0))
        v = lower_bounds(first, rewards, extremes)
    else:
        v = starts
    w, action = np.empty_like(v), np.full(v.shape, -1, np.int32)
    options, orders = _options(first, methods, limits)
    options.is_many = len(models) > 1
    loops = _core.mdp.loops(models, v, w, action, orders, extremes, np.frombuffer(kinds, np.uint8), options)
    while not loops.run():
        pass  # lets Python handle signals
    results = Results(np.empty((len(models), 5)), np.empty((len(models), 2), np.int64))
    history = np.empty((len(models), loops.checks()))
    loops.copy(results.numbers, results.counts, history)
    return _solution(processes, w, action, results, history, limits.atol, methods[0].name, negated)


def lower_bounds(first: Process, rewards: Array, numbers: Array) -> Array:
    """Return the initial values (B, S): the value of earning the minimum over states of the best reward forever."""
    has, start = ~first.is_terminal, np.zeros((len(rewards), first.states), first.dtype)
    if not has.any():
        return start
    lowest = np.maximum.reduceat(rewards, first.rows.row[:-1][has], axis=1).min(1).astype(np.float64)
    low, high = (first.discount or 0.0) * numbers[:, 0], (first.discount or 0.0) * numbers[:, 1]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        bound = (lowest / (1 - np.where(lowest < 0, high, low))).astype(first.dtype)
    start[:, has] = np.where(np.isfinite(bound) & (high < 1), bound, 0)[:, None]
    return start


def _options(first: Process, methods: list[Method], limits: Limits) -> tuple[Any, Array | None]:
    """Return the options that all models share, and the models' own orders (B, S) of in-place sweeps."""
    options, method = _core.mdp.Options(), methods[0]
    options.discount, options.atol, options.sup = first.discount or 0.0, limits.atol, method.stop == "sup"
    options.max_steps, options.patience = min(limits.max_steps, MAX_STEPS), method.patience
    options.longest = first.longest
    if method.judgement is not None:
        options.judgement = method.judgement
    orders = None
    for m, each in enumerate(methods):
        if isinstance(each, ModifiedPolicyIteration):
            options.policy_sweeps = each.sweeps
        elif isinstance(each, GaussSeidel):
            options.omega, options.exact = each.omega, each.exact
            if isinstance(each.order, str):  # ascending, if others have their own orders
                options.order = _ORDERS.index(each.order) if orders is None else options.order
                continue
            if orders is None:
                orders = np.tile(np.arange(first.states, dtype=np.int32), (len(methods), 1))
            orders[m], options.order = each.order, _OWN_ORDER
    return options, orders


def _solution(
    processes: Sequence[Process],
    w: Array,
    action: Array,
    results: Results,
    history: Array,
    atol: float,
    name: str,
    negated: bool,
) -> MDPSolution[Array]:
    """Return the solutions (B, S), as `steps._solution` does for one."""
    with np.errstate(over="ignore", invalid="ignore"):
        value, lower, upper, residual = enclosed(processes, processes[0].discount or 0.0, w, results.numbers, negated)
    steps, reasons = results.counts.T
    return MDPSolution(
        value=value,
        policy=processes[0].label(action),
        lower=lower,
        upper=upper,
        converged=reasons == 0,
        steps=steps.copy(),
        residual=residual,
        tolerance=atol,
        history=history,
        method=name,
        reason=tuple(_REASONS[reasons].tolist()),
    )
