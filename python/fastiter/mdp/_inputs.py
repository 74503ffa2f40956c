"""Reads transition probabilities and rewards in any layout; those in lists and dicts are converted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .._check import integers, type_name
from ._layouts import Rows, Sparse, by_action, cube, pairs, plain, starts, wrong_rewards

Array = npt.NDArray[Any]

_LAYOUTS = (
    "an array (S, A, S) or (A, S, S), a list of A matrices (S, S), a matrix (rows, S) with states=, lists P[s][a] of "
    "(next, p), or a dict P[s][a] of lists of (p, next, reward, done)"
)
#: An action's outcomes in Gymnasium's tables, env.unwrapped.P
_OUTCOMES = "a list of (p, next, reward, done)"


def read(
    function: str,
    P: Any,
    R: Any,
    states: Any,
    actions: Any,
    shared: Any = None,
    *,
    is_part: bool = False,
    impossible: float = -np.inf,
) -> Rows:
    """Return P and R as rows; a CSR matrix in the order of its states is not copied.

    ``is_part``: P has fewer states than columns, and its layouts are an array (n, A, S), matrices (n, S) and (rows, S).
    ``impossible``: the entry of R (S, A) that removes an action. ``shared``: the row of P of each pair.
    """
    if shared is not None and states is None:
        raise TypeError(f"{function}: states must be the state of each of the rows= of P, got None")
    if isinstance(P, Mapping) and states is None and actions is None and not is_part:
        if R is not None:
            raise TypeError(f"{function}: R must be None for P with rewards, {_OUTCOMES}, got {type_name(R)}")
        return _outcomes(function, P)
    if R is None:
        raise TypeError(f"{function}: R must be the rewards, unless P[s][a] is {_OUTCOMES}, got None")
    P, R = plain(function, "P", P), plain(function, "R", R)
    if states is not None:
        return pairs(function, P, R, states, actions, shared)
    if actions is not None:
        raise TypeError(f"{function}: actions must be None unless states says whose rows of P they are, got actions")
    if isinstance(P, np.ndarray) and P.ndim == 3:
        return cube(function, P, R, is_part, impossible)
    if isinstance(P, (list, tuple)) and not isinstance(P, Sparse) and len(P):
        if isinstance(P[0], (list, tuple)) and not isinstance(P[0], Sparse) and not is_part:
            return _nested(function, P, R)
        return by_action(function, P, R, is_part, impossible)
    _refuse(function, P)


def _refuse(function: str, P: object) -> NoReturn:
    shape = (P.rows, P.columns) if isinstance(P, Sparse) else getattr(P, "shape", None)
    if isinstance(P, Sparse):
        raise TypeError(f"{function}: P must be {_LAYOUTS}, got a sparse matrix {shape} without states")
    got = type_name(P) if shape is None else f"{type_name(P)} of shape {tuple(shape)}"
    raise TypeError(f"{function}: P must be {_LAYOUTS}, got {got}")


def _nested(function: str, P: Sequence[Any], R: Any) -> Rows:
    """Return P[s][a] = (next states, probabilities), or the probabilities of all states."""
    S = len(P)
    column: list[Array] = []
    value: list[Array] = []
    for s, actions in enumerate(P):
        if not isinstance(actions, (list, tuple)):
            raise TypeError(f"{function}: P[{s}] must be a list of actions like P[0], got {type_name(actions)}")
        for a, one in enumerate(actions):
            name = f"P[{s}][{a}]"
            if not isinstance(one, (list, tuple, np.ndarray)):
                raise TypeError(f"{function}: {name} must be (next, p) or {S} probabilities, got {type_name(one)}")
            if len(one) == 2 and all(isinstance(part, (list, tuple, np.ndarray)) for part in one):
                to, p = integers(function, name, one[0]), _numbers(function, name, one[1])
                if to.ndim != 1 or to.shape != p.shape:
                    raise ValueError(f"{function}: {name} must be (next, p) of one length, got {to.shape}, {p.shape}")
            else:
                p = _numbers(function, name, one)
                if p.shape != (S,):
                    expected = f"(next, p) or {S} probabilities"
                    raise ValueError(f"{function}: {name} must be {expected}, got shape {p.shape}")
                to, p = np.flatnonzero(p), p[p != 0]
            column.append(to.clip(-1, 2**31 - 1).astype(np.int32))
            value.append(p)
    counts = np.array([len(actions) for actions in P])
    reward = _nested_rewards(function, R, counts)
    none_i, none_f = [np.zeros(0, np.int32)], [np.zeros(0)]
    return Rows(
        starts(counts),
        starts(np.array([len(p) for p in value], np.int64)),
        np.concatenate(none_i + column),
        np.concatenate(none_f + value),
        reward,
    )


def _numbers(function: str, name: str, x: Any) -> Array:
    try:
        return np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: {name} must be numbers, got {type_name(x)} with others") from None


def _nested_rewards(function: str, R: Any, counts: Array) -> Array:
    S = len(counts)
    if isinstance(R, np.ndarray) and R.shape == (S,):
        return np.repeat(R.astype(np.float64), counts)
    if isinstance(R, (list, tuple, np.ndarray)) and len(R) == S:
        rewards = [np.atleast_1d(_numbers(function, f"R[{s}]", r)) for s, r in enumerate(R)]
        wrong = [s for s in range(S) if rewards[s].shape != (counts[s],)]
        if wrong:
            s = wrong[0]
            raise ValueError(f"{function}: R[{s}] must have shape ({counts[s]},) like P[{s}], got {rewards[s].shape}")
        return np.concatenate([np.zeros(0), *rewards])
    wrong_rewards(function, f"({S},) or R[s][a]", R)


def _outcomes(function: str, P: Mapping[Any, Any]) -> Rows:
    """Return P[s][a] = list of (p, next, reward, done), a dict or a list of dicts or lists, with expected rewards."""
    actions = [_numbered(function, f"P[{s}]", outcomes) for s, outcomes in enumerate(_numbered(function, "P", P)[1])]
    outcomes = [
        (f"P[{s}][{a}]", one) for s, (keys, each) in enumerate(actions) for a, one in zip(keys, each, strict=True)
    ]
    for name, one in outcomes:
        if not isinstance(one, (list, tuple)) or not all(isinstance(x, (list, tuple)) and len(x) == 4 for x in one):
            raise TypeError(f"{function}: {name} must be {_OUTCOMES}, got {type_name(one)} with others")
        wrong = [done for *_, done in one if not isinstance(done, (bool, np.bool_))]
        if wrong:
            raise TypeError(f"{function}: {name} must have a bool as done, got {type_name(wrong[0])}")
    numbers = [_numbers(function, name, [(x[0], x[2]) for x in one]).reshape(-1, 2) for name, one in outcomes]
    to = [integers(function, name, [x[1] for x in one]) for name, one in outcomes]
    weight, reward = np.concatenate([np.zeros((0, 2)), *numbers]).T
    lengths = np.array([len(one) for _, one in outcomes], np.int64)
    expected = np.bincount(
        np.repeat(np.arange(len(outcomes)), lengths), weights=weight * reward, minlength=len(outcomes)
    )
    labels = np.array([a for keys, _ in actions for a in keys], np.int64)
    ends = np.array([done for _, one in outcomes for *_, done in one], np.bool_)
    return Rows(
        starts(np.array([len(keys) for keys, _ in actions], np.int64)),
        starts(lengths),
        np.concatenate([np.zeros(0, np.int64), *to]).clip(-1, 2**31 - 1).astype(np.int32),
        np.ascontiguousarray(weight),
        expected,
        labels,
        ends if ends.any() else None,
    )


def _numbered(function: str, name: str, listed: Any) -> tuple[list[int], list[Any]]:
    """Return the keys of a dict in increasing order, or the positions of a list, with the elements."""
    if isinstance(listed, (list, tuple)):
        return list(range(len(listed))), list(listed)
    if not isinstance(listed, Mapping):
        raise TypeError(f"{function}: {name} must be a dict or a list of actions, got {type_name(listed)}")
    keys = sorted(int(key) for key in listed if isinstance(key, (int, np.integer)) and key >= 0)
    if len(keys) < len(listed) or (name == "P" and keys != list(range(len(keys)))):
        expected = "the states from 0 on" if name == "P" else "numbers of actions"
        raise ValueError(f"{function}: {name} must have {expected} as keys, got others")
    return keys, [listed[key] for key in keys]
