"""Robust decision processes: the best policy against the worst probabilities of a set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._call.iterate import Limits, Progress
from .._check import check_array, check_choice, check_flag, fits_float
from .._solution import judged
from ._layouts import Rows, keep_rows
from ._mdp import MDP
from ._process import Process, sums_of
from ._result import MDPSolution
from ._solvers.certificate import refined
from ._solvers.methods import ValueIteration
from ._solvers.state import Operator, Work
from ._solvers.steps import quietly

Array = npt.NDArray[Any]
SetName = Literal["l1", "linf", "interval", "kl", "chi2", "contamination", "s-l1"]

SETS = ("l1", "linf", "interval", "kl", "chi2", "contamination", "s-l1")
_CODES = {"l1": 0, "linf": 1, "interval": 1, "kl": 2, "chi2": 3, "contamination": 4}
#: The error of the search of "kl", relative to the values
_SEARCH = 2e-13


class Ambiguity(NamedTuple):
    """A checked set of probabilities: its kind, radii (rows) or (S,), limits of each entry, and where mass may go."""

    kind: str
    radius: Array
    low: Array | None = None
    high: Array | None = None
    anywhere: bool = False
    best: bool = False


def robust(
    problem: MDP,
    kind: SetName,
    radius: float | Array | None = None,
    *,
    limits: tuple[Array, Array] | None = None,
    support: bool = True,
    optimistic: bool = False,
    policy: Any = None,
    value0: Array | None = None,
    atol: float = 1e-6,
    max_steps: int = 100_000,
    callback: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> MDPSolution[Array]:
    """Return V = max_a min over q near P of r + gamma q V, by value iteration with bounds.

    Parameters
    ----------
    problem : MDP
        The nominal process, with probabilities P and a discount below 1. For costs the worst q has the largest ones.
    kind : {"l1", "linf", "interval", "kl", "chi2", "contamination", "s-l1"}
        The uncertainty set of each state and action, with P its row of probabilities:

        - "l1": sum |q - P| <= radius, twice the total variation;
        - "linf": |q - P| <= radius for each next state;
        - "interval": low <= q <= high, given as ``limits``;
        - "kl": sum q ln(q / P) <= radius;
        - "chi2": sum (q - P)^2 / P <= radius;
        - "contamination": q = (1 - radius) P + radius times any distribution;
        - "s-l1": the actions of a state share one radius, the sum over a of sum |q_a - P_a| <= radius; the best policy
          is then randomised.
    radius : float, (rows,) or (S,)
        One for all, or one per row of P; for "s-l1" one per state.
    limits : ((entries,), (entries,))
        For "interval": the least and the largest probability of each entry, in the order of ``problem.transitions``.
    support : bool
        Whether q is 0 where P is 0. If False, "l1", "linf" and "contamination" move mass to any state; for "linf" this
        takes memory for all S next states of each row.
    optimistic : bool
        Use the best q instead of the worst; not for "s-l1".
    policy : (S,) integers
        Return the worst-case values of this policy instead of the best policy's.
    value0, atol, max_steps, callback, throw : (S,), float, int, callable, bool
        As for :meth:`MDP.solve`.

    Returns
    -------
    MDPSolution
        Bounds on the robust values, and a policy whose worst-case values are at least ``lower``. For "s-l1" the policy
        is the probability of each row, float64 (rows,).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    MDP.solve : The nominal process.
    fastiter.experimental.iwocs : Sets that are given as models.
    extended_value_iteration : The best process of a set, for average rewards.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.robust(mdp.examples.forest(3, 0.9), "l1", 0.2, atol=1e-9).value.round(3)
    array([20.736, 23.616, 27.616])
    """
    _check_kind(kind)
    process, negated = checked_problem("robust", problem)
    if kind == "linf" and support is False:
        process = _everywhere(process)
    options = Limits(None, atol, max_steps, callback, throw).checked("robust", smallest_max=1, zero=False)
    start = problem._start("robust", value0)
    uncertainty = ambiguity("robust", process, kind, radius, limits, support, optimistic)
    process = _with_free_mass(process)
    if policy is not None:
        process, uncertainty = restricted(process, uncertainty, process.place("robust", policy))
    process.inexact = inexact(process, uncertainty)
    mixture = np.zeros(len(process.rows.reward)) if kind == "s-l1" else None

    def once(process: Process, start: Array, limits: Limits) -> MDPSolution[Array]:
        work = Work(process, start, _discount(process), operator(process, uncertainty, mixture))
        solution = quietly(work, ValueIteration(), limits, negated)
        return solution if mixture is None else replace(solution, policy=mixture.copy())

    solution = refined(process, once(process, start, options), options, negated, once, by_constants=True)
    return judged("robust", solution, options.throw)


def inexact(process: Process, ambiguity: Ambiguity) -> float:
    """Return the error of a worst case beyond that of a sum over its entries, relative to the largest |value|.

    docs/mdp/bounds.md derives it for each set.
    """
    count = 8.0 * process.longest + 64
    if ambiguity.kind == "s-l1":
        count *= 1 + float(np.diff(process.rows.row).max(initial=0))
    if ambiguity.kind == "chi2":
        count *= 1 + float(np.sqrt(ambiguity.radius.max(initial=0)))
    error = count * 2.0**-53 + (_SEARCH if ambiguity.kind == "kl" else 0)
    if ambiguity.kind == "linf" and process.bits == 32:  # limits are rounded to the dtype
        error += 4 * process.longest * 2.0**-24
    return error


def _check_kind(kind: object) -> None:
    if isinstance(kind, str) and kind in ("l2", "lp"):
        expected = (
            f"one of {', '.join(map(repr, SETS))}, as balls of other norms have no closed form among probabilities"
        )
        raise ValueError(f"robust: kind must be {expected}; 'chi2' is a weighted l2, got {kind!r}")
    check_choice("robust", "kind", kind, SETS)


def _everywhere(process: Process) -> Process:
    """Return the process with an entry for every next state in each row, 0 for new entries."""
    rows, S = process.rows, process.states
    count = rows.height
    owner = np.repeat(np.arange(count), np.diff(rows.entry))
    weight = np.bincount(owner * S + rows.next, weights=rows.weight, minlength=count * S).astype(rows.weight.dtype)
    start, target = np.arange(count + 1, dtype=np.int64) * S, np.tile(np.arange(S, dtype=np.int32), count)
    rows = rows._replace(entry=start, next=target, weight=weight)
    return Process(rows, process.discount, sums_of(rows, process.is_terminal) if count else process.sums)


def checked_problem(function: str, problem: object) -> tuple[Process, bool]:
    """Return the process of an MDP with probabilities and a discount below 1, and whether its rewards are negated."""
    if not isinstance(problem, MDP):
        raise TypeError(f"{function}: problem must be an MDP, got {type(problem).__name__}")
    process = problem._process
    discount = problem._discount(function)
    if process.modulus(discount)[1] >= 1:
        raise ValueError(f"{function}: gamma must be below 1, got {discount:g}")
    if problem._is_semi:
        raise ValueError(f"{function}: gamma must be one number for all rows, got an array")
    if problem._has_ends:
        raise ValueError(f"{function}: P must have no transitions with done, got some")
    return process, problem._negated


def _with_free_mass(process: Process) -> Process:
    """Return the process with row sums that allow the worst q to put any mass on terminal states."""
    rows = process.rows
    if (np.diff(rows.row) > 0).all():
        return process
    highest = sums_of(rows, np.zeros(process.states, np.bool_))[1]
    return Process(rows, process.discount, (0.0, max(highest, 0.0)))


def _discount(process: Process) -> float:
    assert process.discount is not None  # for the type checker: checked_problem has checked it
    return process.discount


def ambiguity(
    function: str, process: Process, kind: str, radius: Any, limits: Any, support: bool, optimistic: bool
) -> Ambiguity:
    """Check the arguments that describe a set."""
    check_flag(function, "support", support)
    check_flag(function, "optimistic", optimistic)
    if not support and kind not in ("l1", "linf", "contamination"):
        raise ValueError(f"{function}: support must be True for {kind!r}, got False")
    if optimistic and kind == "s-l1":
        raise ValueError(f"{function}: optimistic must be False for 's-l1', got True")
    rows = process.rows
    count = process.states if kind == "s-l1" else rows.height
    if kind == "interval":
        if radius is not None:
            raise TypeError(f"{function}: radius must be None for 'interval', got {type(radius).__name__}")
        low, high = _limits(function, process, limits)
        return Ambiguity(kind, np.zeros(count), low, high, best=optimistic)
    if limits is not None:
        raise TypeError(f"{function}: limits must be None for {kind!r}, got {type(limits).__name__}")
    radii = _radii(function, radius, count, 1.0 if kind == "contamination" else np.inf)
    if kind == "linf":
        return Ambiguity(kind, radii, *_limits_around(rows, radii, anywhere=not support), best=optimistic)
    return Ambiguity(kind, radii, anywhere=not support, best=optimistic)


def _limits_around(rows: Rows, radii: Array, *, anywhere: bool) -> tuple[Array, Array]:
    """Return limits of all entries around P; for duplicate entries in a row, the first has the limits of their sum.

    Entries that are 0 stay at 0, unless mass may go ``anywhere``.
    """
    owner = np.repeat(np.arange(rows.height), np.diff(rows.entry))
    _, first, place = np.unique(owner * rows.states + rows.next, return_index=True, return_inverse=True)
    total = np.bincount(place.reshape(-1), weights=rows.weight)
    low, high = np.zeros_like(rows.weight), np.zeros_like(rows.weight)
    around = radii[owner[first]]
    low[first] = np.maximum(total - around, 0)
    high[first] = np.where((total > 0) | anywhere, np.minimum(total + around, 1), 0)
    return low, high


def _radii(function: str, radius: Any, count: int, highest: float) -> Array:
    radius = as_array(function, "radius", radius) if isinstance(radius, (list, tuple)) else radius
    if isinstance(radius, np.ndarray) and radius.ndim:
        check_array(function, "radius", radius)
        if radius.shape != (count,):
            raise ValueError(f"{function}: radius must be a number or have shape ({count},), got {radius.shape}")
        radii = np.ascontiguousarray(radius, np.float64)
    else:
        if isinstance(radius, bool) or not isinstance(radius, (int, float, np.floating, np.integer)):
            raise TypeError(f"{function}: radius must be a number or an array, got {type(radius).__name__}")
        radii = np.full(count, float(radius) if fits_float(radius) else np.inf)
    wrong = ~((radii >= 0) & (radii <= highest)) | np.isinf(radii)
    if wrong.any():
        expected = "finite and at least 0" if np.isinf(highest) else f"from 0 to {highest:g}"
        raise ValueError(f"{function}: radius must be {expected}, got {radii[wrong][0]:g}")
    return radii


def _limits(function: str, process: Process, limits: Any) -> tuple[Array, Array]:
    rows = process.rows
    if not isinstance(limits, tuple) or len(limits) != 2:
        raise TypeError(f"{function}: limits must be (low, high) for 'interval', got {type(limits).__name__}")
    arrays = []
    for name, x in zip(("low", "high"), limits, strict=True):
        x = as_array(function, f"limits, {name},", x, rows.weight.dtype)
        check_array(function, f"limits, {name},", x, (rows.weight.dtype.name,))
        if x.shape != rows.weight.shape:
            raise ValueError(f"{function}: limits, {name}, must have shape {rows.weight.shape}, got {x.shape}")
        arrays.append(np.ascontiguousarray(x))
    low, high = arrays
    owner = np.repeat(np.arange(rows.height), np.diff(rows.entry))
    lowest, highest = (np.bincount(owner, weights=x, minlength=rows.height) for x in arrays)
    tiny = 1e-6 if rows.weight.dtype == np.float32 else 1e-10
    bad = (lowest > 1 + tiny) | (highest < 1 - tiny)
    if not (low >= 0).all() or not (low <= high).all() or bad.any():
        expected = "0 <= low <= high with sums on both sides of 1 in each row"
        where = f" in row {int(np.argmax(bad))}" if bad.any() else ""
        raise ValueError(f"{function}: limits must have {expected}, got others{where}")
    return low, high


def restricted(process: Process, ambiguity: Ambiguity, place: Array) -> tuple[Process, Ambiguity]:
    """Return the process with only a policy's rows, and their set."""
    rows = process.rows
    has = place >= 0
    chosen = rows.row[:-1][has] + place[has]
    row = np.concatenate([np.zeros(1, np.int64), np.cumsum(has, dtype=np.int64)])
    label = place[has].astype(np.int64) if rows.label is None else rows.label[chosen]
    keep = np.zeros(rows.height, bool)
    keep[rows.at(chosen)] = True
    entries = np.repeat(keep, np.diff(rows.entry))
    selected = keep_rows(rows.matrix, keep)
    own = Rows(row, selected.start, selected.column, selected.value, rows.reward[chosen], label)
    if rows.pair is not None:
        own = own._replace(pair=(np.cumsum(keep) - 1)[rows.pair[chosen]].astype(np.int32))
    low, high = (None if x is None else x[entries] for x in (ambiguity.low, ambiguity.high))
    radius = ambiguity.radius if ambiguity.kind == "s-l1" else ambiguity.radius[keep]
    return Process(own, process.discount, process.sums), ambiguity._replace(radius=radius, low=low, high=high)


def operator(process: Process, ambiguity: Ambiguity, mixture: Array | None = None) -> Operator:
    """Return the robust Bellman operator."""
    discount = _discount(process)

    def backup(v: Array, w: Array, action: Array) -> tuple[float, float]:
        head = process.bits, process.states, process.arrays
        if ambiguity.kind == "s-l1":
            return _core.mdp.shared(*head, (v, w, mixture), discount, ambiguity.radius)
        shape = ambiguity.radius, ambiguity.low, ambiguity.high
        code = _CODES[ambiguity.kind]
        return _core.mdp.robust(*head, (v, w, action), discount, code, shape, ambiguity.best, ambiguity.anywhere)

    return backup
