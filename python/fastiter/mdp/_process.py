"""A validated decision process: rows, terminal states, discounts, and their compiled model."""

from __future__ import annotations

import math
import numbers
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._check import fits_float, integers, type_name
from ._layouts import Rows, permuted_rows

Array = npt.NDArray[Any]

#: The errors that _core.mdp.check reports
_POINTERS, _NEXT, _WEIGHT, _SUM, _REWARD = 1, 2, 3, 4, 5
#: The tolerance of the sum of a row's probabilities
SUM_TOLERANCE = {"float32": 1e-6, "float64": 1e-10}

#: Maximum number of sweeps over all rows in the search for those on which a policy can stay
_ROUNDS = 100


class Process:
    """Rows that have passed all checks.

    Attributes
    ----------
    rows : Rows
        The rows; weights are probabilities, times the row's discount in a semi-Markov process.
    discount : float or None
        The factor of every weight; 1 in a semi-Markov process, None where no discount was given.
    sums : (float, float)
        Bounds on the exact row sums of the weights, without transitions to terminal states.
    doubt, base : float
        For corrections to given values: a bound on the error of the rewards, and the largest of the absolute values.
    inexact : float
        The relative error of an operator on these rows beyond the rounding of sums.
    """

    doubt = base = inexact = 0.0

    def __init__(self, rows: Rows, discount: float | None, sums: tuple[float, float]) -> None:
        self.rows, self.discount, self.sums = rows, discount, sums
        self.bits, self.dtype, self.states = rows.weight.itemsize * 8, rows.weight.dtype, len(rows.row) - 1
        #: How the automatic choice begins, made when it is first needed
        self.opening: Any = None
        self.arrays = rows.arrays
        self.model = _core.mdp.model(self.bits, self.states, self.arrays)

    def __reduce__(self) -> tuple[type[Process], tuple[Rows, float | None, tuple[float, float]]]:
        """Copy and pickle the rows; the compiled model is rebuilt."""
        return Process, (self.rows, self.discount, self.sums)

    def modulus(self, discount: float) -> tuple[float, float]:
        """Return the smallest and the largest factor by which T multiplies a constant added to all values."""
        return discount * self.sums[0], discount * self.sums[1]

    def accuracy(self, discount: float, largest_reward: float | None = None, longest: int | None = None) -> Any:
        """Return the size of the rounding errors of a sweep, from which bounds follow."""
        reward = self.largest_reward if largest_reward is None else largest_reward
        longest = self.longest if longest is None else longest
        result = _core.mdp.Accuracy(self.bits == 64, discount, *self.sums, reward, longest)
        result.doubt, result.base, result.inexact = self.doubt, self.base, self.inexact
        return result

    @cached_property
    def is_terminal(self) -> npt.NDArray[np.bool_]:
        """Whether each state has no actions."""
        result: npt.NDArray[np.bool_] = np.diff(self.rows.row) == 0
        return result

    @cached_property
    def has_terminal(self) -> bool:
        """Whether any state has no actions."""
        return bool(self.is_terminal.any())

    @cached_property
    def longest(self) -> int:
        """The maximum number of entries in a row."""
        return int(np.diff(self.rows.entry).max(initial=0))

    @cached_property
    def largest_reward(self) -> float:
        """The largest absolute reward of a row."""
        return float(max(self.rows.reward.max(initial=0), -self.rows.reward.min(initial=0)))

    @cached_property
    def smallest_best(self) -> float:
        """The minimum over states with actions of the largest reward of an action; inf without such states."""
        rewards, first = self.rows.reward, self.rows.row[:-1][~self.is_terminal]
        if not len(first):
            return math.inf
        if len(first) == self.states and self.rows.row[1] * self.states == len(rewards):
            counts = np.diff(self.rows.row)
            if (counts == counts[0]).all():  # column by column, which is much faster than reduceat
                best = rewards[:: counts[0]].copy()
                for a in range(1, int(counts[0])):
                    np.maximum(best, rewards[a :: counts[0]], out=best)
                return float(best.min())
        return float(np.maximum.reduceat(rewards, first).min())

    @cached_property
    def predecessors(self) -> tuple[Array, Array]:
        """The predecessors of each state s, before[start[s]:start[s + 1]]."""
        start = np.empty(self.states + 1, np.int64)
        count = _core.mdp.predecessors(self.bits, self.states, self.arrays, start, None)
        before = np.empty(count, np.int32)
        _core.mdp.predecessors(self.bits, self.states, self.arrays, start, before)
        return start, before

    @cached_property
    def absorbing(self) -> npt.NDArray[np.bool_]:
        """A mask of the absorbing states, which no action leaves; includes terminal states."""
        return self._absorbing(False)

    def _absorbing(self, idle: bool) -> npt.NDArray[np.bool_]:
        result = np.empty(self.states, np.bool_)
        _core.mdp.absorbing(self.bits, self.states, self.arrays, idle, result.view(np.uint8))
        return result

    @cached_property
    def endless_is_costly(self) -> bool:
        """Whether all policies that never end have the value -inf, because each row on which they can stay has a cost.

        Without a discount, T V <= V then implies V* <= V, and T V >= V the opposite.
        """
        if (self.rows.reward < 0).all():
            return True
        result = self._staying(self.may_last)
        return result is not None and bool((self.rows.reward[result] < 0).all())

    @cached_property
    def has_free_cycle(self) -> bool:
        """Whether a policy can stay forever on undiscounted rows that earn nothing, so that V = T V is not unique."""
        result = self._staying((self.rows.reward == 0) & self.may_last)
        return result is not None and bool(result.any())

    @property
    def row_sums(self) -> Array:
        """The sum of the weights of each row, or of each pair's row."""
        rows = self.rows
        owner = np.repeat(np.arange(rows.height), np.diff(rows.entry))
        sums = np.bincount(owner, weights=rows.weight, minlength=rows.height)
        return sums if rows.pair is None else sums[rows.pair]

    @property
    def may_last(self) -> npt.NDArray[np.bool_]:
        """Whether each row never ends the episode by itself: its weights sum to 1."""
        result: npt.NDArray[np.bool_] = self.row_sums > 1 - SUM_TOLERANCE[self.dtype.name]
        return result

    def _staying(self, usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
        """Return the subset of rows on which a policy can stay forever; None if the search takes too long."""
        row, count = self.rows.row, self.rows.height
        owner = np.repeat(np.arange(count), np.diff(self.rows.entry))
        state = np.repeat(np.arange(self.states), np.diff(row))
        possible, result = self.rows.weight > 0, usable.copy()
        for _ in range(_ROUNDS):
            inside = np.bincount(state[result], minlength=self.states) > 0
            leaves = np.bincount(owner[possible & ~inside[self.rows.next]], minlength=count) > 0
            leaves = leaves if self.rows.pair is None else leaves[self.rows.pair]
            if not (result & leaves).any():
                return result
            result &= ~leaves
        return None

    def order_from(self, goals: Array) -> tuple[Array, int]:
        """Return the states sorted by distance to the nearest goal, and the number of states that reach one."""
        order = np.empty(self.states, np.int32)
        start, before = self.predecessors
        return order, _core.mdp.order_from(self.states, start, before, goals.view(np.uint8), order)

    def label(self, action: Array) -> Array:
        """Return the numbers of actions (..., S) that are given as positions within their states, -1 for none."""
        chosen = action.astype(np.int64)
        if self.rows.label is not None:
            has = chosen >= 0
            first = np.broadcast_to(self.rows.row[:-1], chosen.shape)
            chosen[has] = self.rows.label[first[has] + chosen[has]]
        return chosen

    def place(self, function: str, policy: Any) -> npt.NDArray[np.int32]:
        """Return a policy (states) as positions within the states; raise for actions that a state does not have."""
        actions = integers(function, "policy", policy)
        if actions.shape != (self.states,):
            raise ValueError(f"{function}: policy must have shape (S,) = ({self.states},), got {actions.shape}")
        counts, label = np.diff(self.rows.row), self.rows.label
        place = np.where(counts == 0, -1, actions)
        if label is not None:
            owner = np.repeat(np.arange(self.states), counts)
            match = label == actions[owner]
            place = np.where(counts == 0, -1, counts)
            np.minimum.at(place, owner[match], np.flatnonzero(match) - self.rows.row[owner[match]])
        wrong = (counts > 0) & ((place < 0) | (place >= counts))
        if wrong.any():
            s = int(np.argmax(wrong))
            raise ValueError(f"{function}: policy must have an action of each state, got {actions[s]} in state {s}")
        return place.astype(np.int32)


def has_one_class(rows: Rows, place: Array) -> bool:
    """Return whether the chain of a policy, given as positions within the states, has a single recurrent class."""
    S = rows.states
    chain = permuted_rows(rows.matrix, rows.at(rows.row[:-1] + place))
    owner, to = (x[chain.value > 0] for x in (np.repeat(np.arange(S), np.diff(chain.start)), chain.column))
    after, before = _neighbours(owner, to, S), _neighbours(to, owner, S)
    s, order = 0, np.empty(S, np.int32)
    while True:
        goal = np.zeros(S, np.uint8)
        goal[s] = 1
        into = order[: _core.mdp.order_from(S, *before, goal, order)].copy()
        out = order[: _core.mdp.order_from(S, *after, goal, order)]
        leads_to_s = np.zeros(S, np.bool_)
        leads_to_s[into] = True
        leaving = out[~leads_to_s[out]]  # states from which the chain does not come back to s
        if not len(leaving):  # s is recurrent: the class is the only one if every state leads to it
            return len(into) == S
        s = int(leaving[-1])


def _neighbours(owner: Array, to: Array, states: int) -> tuple[Array, Array]:
    """Return the successors of each state s, to[start[s]:start[s + 1]]."""
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owner, minlength=states))])
    return start, to[np.argsort(owner, kind="stable")].astype(np.int32)


def checked(function: str, rows: Rows, gamma: Any, terminal: Any, renormalize: bool, sign: int = 1) -> Process:
    """Check rows with rewards R times ``sign``, discounts and terminal states; messages name state and action."""
    if rows.states == 0:
        raise ValueError(f"{function}: P must have at least one state, got none")
    process = prepared(function, rows, gamma, terminal, renormalize, sign)
    if process.discount is not None and process.modulus(process.discount)[1] >= 1:
        _check_reaches(function, process)
    return process


def prepared(function: str, rows: Rows, gamma: Any, terminal: Any, renormalize: bool, sign: int = 1) -> Process:
    """Check everything except that terminal states are reached; the result has no rows for terminal states."""
    discount, own = _discounts(function, gamma, rows.height)
    rows, own = rows.compact(own)
    tolerance = SUM_TOLERANCE[rows.weight.dtype.name]
    sums = _check(function, rows, -1 if renormalize else tolerance, sign)
    if renormalize:
        rows = rows._replace(weight=_normalized(function, rows))
        sums = _check(function, rows, tolerance)
    is_terminal = _terminal_states(function, terminal, rows.states)
    _check_actions(function, rows, is_terminal)
    has_ends = rows.ends is not None
    rows = _without_ends(rows)
    is_terminal |= rows.is_over if has_ends else False
    if own is not None:
        rows = rows._replace(weight=rows.weight * np.repeat(own, np.diff(rows.entry)).astype(rows.weight.dtype))
    if discount == 1 and (own is None or own.max(initial=0) == 1):
        is_terminal |= Process(rows, 1.0, sums)._absorbing(True)
    changed = own is not None or has_ends or bool((np.diff(rows.row)[is_terminal] > 0).any())
    rows = _without(rows, is_terminal)
    return Process(rows, discount, _check(function, rows, -1) if changed else sums)


def like(function: str, process: Process, weight: Array | None, reward: Array | None, sign: int) -> Process:
    """Return a process with the sparsity pattern, discount and terminal states of another, and new, checked numbers."""
    rows = process.rows
    rows = rows._replace(
        weight=rows.weight if weight is None else weight, reward=rows.reward if reward is None else reward
    )
    sums = _check(function, rows, -1 if weight is None else SUM_TOLERANCE[rows.weight.dtype.name], sign)
    result = Process(rows, process.discount, sums)
    if weight is not None and process.discount is not None and result.modulus(process.discount)[1] >= 1:
        _check_reaches(function, result)
    return result


def finite_number(function: str, name: str, x: object) -> float:
    """Return ``x`` as a float; raise for anything but a finite number."""
    if isinstance(x, bool) or not isinstance(x, numbers.Real):
        raise TypeError(f"{function}: {name} must be a number, got {type_name(x)}")
    if not fits_float(x) or not math.isfinite(x):
        raise ValueError(f"{function}: {name} must be finite, got {x if fits_float(x) else 'a larger number'}")
    return float(x)


def _discounts(function: str, gamma: Any, rows: int) -> tuple[float | None, Array | None]:
    """Return the common discount, and the discounts of the rows or None."""
    if gamma is None:
        return None, None
    gamma = as_array(function, "gamma", gamma) if isinstance(gamma, (list, tuple)) else gamma
    if isinstance(gamma, np.ndarray) and gamma.ndim:
        if gamma.shape != (rows,):
            expected = f"a number or shape (rows,) = ({rows},)"
            raise ValueError(f"{function}: gamma must be {expected}, got {gamma.shape}")
        wrong = ~((gamma >= 0) & (gamma <= 1))
        if wrong.any():
            j = int(np.argmax(wrong))
            raise ValueError(f"{function}: gamma must be from 0 to 1, got {gamma[j]} in row {j}")
        return 1.0, gamma.astype(np.float64)
    if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real):
        raise TypeError(f"{function}: gamma must be a number, an array or None, got {type_name(gamma)}")
    value = float(gamma) if fits_float(gamma) else math.inf
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{function}: gamma must be from 0 to 1, got {gamma}")
    return value, None


def _terminal_states(function: str, terminal: Any, states: int) -> npt.NDArray[np.bool_]:
    result = np.zeros(states, np.bool_)
    if terminal is None:
        return result
    if isinstance(terminal, np.ndarray) and terminal.dtype == np.bool_:
        if terminal.shape != (states,):
            raise ValueError(f"{function}: terminal must have shape (S,) = ({states},), got {terminal.shape}")
        return terminal.copy()
    which = np.atleast_1d(integers(function, "terminal", terminal))
    wrong = (which < 0) | (which >= states)
    if wrong.any():
        got = which[wrong][0]
        raise ValueError(f"{function}: terminal must be states from 0 to {states - 1}, got {got}")
    result[which] = True
    return result


def _place(rows: Rows, row: int, is_pair: bool = False) -> str:
    """Return the state and action in words of a row, or of the first pair that uses a shared one; or of a pair."""
    if rows.pair is not None and not is_pair:
        return f"{_place(rows, int(np.argmax(rows.pair == row)), True)}, row {row} of P"
    state = int(np.searchsorted(rows.row, row, side="right") - 1)
    action = row - int(rows.row[state]) if rows.label is None else int(rows.label[row])
    return f"state {state}, action {action} ({'row' if rows.pair is None else 'pair'} {row})"


def _check(function: str, rows: Rows, tolerance: float, sign: int = 1) -> tuple[float, float]:
    """Check all rows, and return the least and the largest sum of their weights."""
    counts = rows.height if rows.pair is not None else len(rows.reward), len(rows.weight)
    if len(rows.entry) != counts[0] + 1 or len(rows.next) < counts[1]:
        raise ValueError(f"{function}: P must have one value for each entry of its rows, got other lengths")
    entries = int(rows.entry[-1]) if 0 <= rows.entry[-1] <= counts[1] else counts[1]
    bits = rows.weight.itemsize * 8
    sizes = counts[0], len(rows.reward), entries
    fault, row, value, low, high = _core.mdp.check(bits, rows.states, rows.arrays, *sizes, tolerance)
    if fault == 0:
        return (low, high) if counts[0] else (0.0, 0.0)
    remedy = "(renormalize=True divides by the sum)" if function == "MDP" else "in each row"
    messages = {
        _POINTERS: "P must have row pointers that rise from 0 to the number of entries, got others",
        _NEXT: f"P must have next states from 0 to {rows.states - 1}, got {value:.0f}",
        _WEIGHT: f"P must have finite probabilities of at least 0, got {value:g}",
        _SUM: f"P must sum to 1 {remedy}, got {value:.12g}",
        _REWARD: f"R must be finite, got {sign * value:g}",
    }
    where = "" if fault == _POINTERS else f" in {_place(rows, row, fault == _REWARD)}"
    raise ValueError(f"{function}: {messages[fault]}{where}")


def sums_of(rows: Rows, is_terminal: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the smallest and largest row sum without transitions to terminal states; inf, -inf without rows.

    ``is_terminal`` covers all states that ``next`` refers to, of which only the first have rows here.
    """
    count = rows.height
    has_rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(~is_terminal, dtype=np.int64)])
    arrays = has_rows, *rows.arrays[1:]
    bits, entries = rows.weight.itemsize * 8, int(rows.entry[-1])
    low, high = _core.mdp.check(bits, len(is_terminal), arrays, count, 0, entries, -1)[3:]
    return (low, high) if count else (math.inf, -math.inf)


def _normalized(function: str, rows: Rows) -> Array:
    row = np.repeat(np.arange(rows.height), np.diff(rows.entry))
    sums = np.bincount(row, weights=rows.weight, minlength=rows.height)
    if (sums == 0).any():
        where = _place(rows, int(np.argmax(sums == 0)))
        raise ValueError(f"{function}: P must have a positive probability in each row, got none in {where}")
    return (rows.weight / sums[row]).astype(rows.weight.dtype)


def _check_actions(function: str, rows: Rows, is_terminal: npt.NDArray[np.bool_]) -> None:
    empty = (np.diff(rows.row) == 0) & ~is_terminal
    if empty.any():
        s = int(np.argmax(empty))
        expected = "an action for each state that is not terminal"
        raise ValueError(f"{function}: P must have {expected}, got none in state {s}")


def _without(rows: Rows, is_terminal: npt.NDArray[np.bool_]) -> Rows:
    """Return the rows of states that are not terminal."""
    counts = np.diff(rows.row)
    if not (counts[is_terminal] > 0).any():
        return rows
    return rows.kept(~np.repeat(is_terminal, counts))


def _without_ends(rows: Rows) -> Rows:
    """Return the rows without the entries that end the episode: after them nothing is earned.

    Their rows sum to less than 1. The state that such an entry leads to is not terminal by itself, as other entries may
    lead to it, too.
    """
    if rows.ends is None:
        return rows
    stays = ~rows.ends
    entry = np.concatenate([np.zeros(1, np.int64), np.cumsum(stays, dtype=np.int64)])[rows.entry]
    return rows._replace(entry=entry, next=rows.next[stays], weight=rows.weight[stays], ends=None)


def _check_reaches(function: str, process: Process) -> None:
    """Raise for an undiscounted process in which some state reaches no terminal state, nor a row that may end."""
    rows = process.rows
    may_end = np.flatnonzero(~process.may_last)
    goals = process.is_terminal.copy()
    goals[np.searchsorted(rows.row, may_end, side="right") - 1] = True
    order, reached = process.order_from(goals)
    if reached < process.states:
        expected = "a path to a terminal state from every state if gamma is 1"
        raise ValueError(f"{function}: P must have {expected}, got none from state {order[reached]}")
