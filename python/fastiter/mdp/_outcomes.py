"""Processes as lists of outcomes, and the process whose states are augmented by a stock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import check_entries, check_finite, type_name
from ._layouts import Rows
from ._mdp import MDP

Array = npt.NDArray[Any]
#: outcomes[s][a]: a list of (probability, reward, next state) for action a in state s
Outcomes = Sequence[Sequence[Sequence[tuple[float, float, int]]]]
#: The same with an array (outcomes, 3) per action
Listed = list[list[Array]]


def checked(function: str, outcomes: Any) -> Listed:
    """Return the outcomes of each action as an array (outcomes, 3)."""
    S = len(_sequence(function, "outcomes", outcomes, "state"))
    result = []
    for s, actions in enumerate(outcomes):
        name = f"outcomes[{s}]"
        each = enumerate(_sequence(function, name, actions, "action"))
        result.append([_of_action(function, f"{name}[{a}]", listed, S) for a, listed in each])
    return result


def _sequence(function: str, name: str, x: Any, what: str) -> Any:
    if not isinstance(x, (list, tuple, np.ndarray)) or getattr(x, "ndim", 1) == 0:
        raise TypeError(f"{function}: {name} must be a list with one element for each {what}, got {type_name(x)}")
    if len(x) == 0:
        raise ValueError(f"{function}: {name} must have at least one {what}, got none")
    return x


def _of_action(function: str, name: str, listed: Any, S: int) -> Array:
    expected = "(probability, reward, next state) of each outcome"
    try:
        array = np.asarray(listed)
        numbers = array.astype(np.float64) if array.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is None:
        raise TypeError(f"{function}: {name} must be {expected}, got a ragged or other sequence")
    if numbers.ndim != 2 or numbers.shape[1] != 3:
        raise ValueError(f"{function}: {name} must be {expected}, got shape {numbers.shape}")
    p, _, to = numbers.T
    check_finite(function, name, numbers)
    is_state = (to >= 0) & (to < S) & (to == np.floor(to))
    check_entries(function, name, to, is_state, f"have next states below {S}")
    if (p < 0).any() or abs(p.sum() - 1) > 1e-10:
        raise ValueError(f"{function}: {name} must have probabilities that sum to 1, got the sum {p.sum():.12g}")
    return numbers


def augmented(outcomes: Listed, stocks: Array, gamma: float, discount: float | None) -> MDP:
    """Return the process whose state is s C + c, with two next stocks for each outcome."""
    C = len(stocks)
    row, lengths, targets, weights = [0], [], [], []
    for actions in outcomes:
        places = []
        for p, reward, to in (listed.T for listed in actions):
            stock = np.clip((stocks[:, None] + reward) / gamma, stocks[0], stocks[-1])  # (C, outcomes)
            below = np.clip(np.searchsorted(stocks, stock, side="right") - 1, 0, C - 2)
            share = (stock - stocks[below]) / (stocks[below + 1] - stocks[below])
            both = np.stack([to * C + below, to * C + below + 1], axis=2).reshape(C, -1)
            places.append((both, np.stack([p * (1 - share), p * share], axis=2).reshape(C, -1)))
        for c in range(C):
            for target, weight in places:
                targets.append(target[c])
                weights.append(weight[c])
                lengths.append(len(target[c]))
            row.append(row[-1] + len(places))
    entry = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    parts = np.concatenate(targets).astype(np.int32), np.concatenate(weights)
    return MDP._of(Rows(np.array(row), entry, *parts, np.zeros(len(lengths))), discount)


def stays(outcomes: Listed, horizon: int, stocks: Array, gamma: float) -> Array:
    """Return a mask of the initial stocks from which no sequence of rewards leaves the grid."""
    rewards = np.concatenate([listed[:, 1] for actions in outcomes for listed in actions])
    low, high, inside = stocks, stocks, np.ones(len(stocks), bool)
    for _ in range(horizon):
        low, high = (low + rewards.min()) / gamma, (high + rewards.max()) / gamma
        inside &= (low >= stocks[0]) & (high <= stocks[-1])
    return inside
