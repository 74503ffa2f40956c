"""Policy iteration that counts policies as pymdptoolbox and QuantEcon do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._mdp import MDP
from .._solvers.krylov import Chain

Array = npt.NDArray[Any]

#: The relative improvement above which an action counts as better
_BETTER = 1e-12


class Improved(NamedTuple):
    """The values of the last policy, the policy, the number of policies, and whether no action is better."""

    value: Array
    policy: Array
    steps: int
    is_best: bool


def howard(function: str, problem: MDP, policy: Any, max_steps: int) -> Improved:
    """Evaluate policies, beginning with the given one (S,), until no action is better than the policy's.

    An action has to be better by more than rounding, so that equal ones are not exchanged forever.
    """
    process = problem._process
    discount, place = problem._discount(function), process.place("evaluate", policy)
    w, action, steps = np.empty(problem.S, problem.dtype), np.empty(problem.S, np.int32), 0
    while True:
        steps += 1
        value = problem._policy_values(function, place)
        process.model.backup(value, w, action, 1, discount, None)
        error = np.abs(Chain(process.model.chain(place), discount, value).residual(value)).max(initial=0)
        better = w - value > np.maximum(_BETTER * np.maximum(np.abs(w), 1), 2 * error)
        if steps == max_steps or not better.any():
            return Improved(value, process.label(place), steps, not bool(better.any()))
        place = np.where(better, action, place).astype(np.int32)
