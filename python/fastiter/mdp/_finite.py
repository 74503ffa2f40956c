"""Decision processes over a finite horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._check import count
from ._mdp import MDP

Array = npt.NDArray[Any]


class FiniteHorizon(NamedTuple):
    """Optimal values and policies of each step.

    It is no :class:`fastiter.Solution`: it takes exactly H backups, so that nothing has to converge.

    Attributes
    ----------
    value : (H + 1, S)
        ``value[h]`` with the steps h .. H - 1 to go; ``value[H]`` is the terminal value.
    policy : (H, S) int64
        The best action in each step, -1 in terminal states.

    See Also
    --------
    finite_horizon : The function that returns it.

    Examples
    --------
    >>> from fastiter import mdp
    >>> value, policy = mdp.finite_horizon(mdp.examples.forest(3, None), 2)
    >>> value.shape, policy
    ((3, 3), array([[0, 0, 0],
           [0, 1, 0]]))
    """

    value: Array
    policy: Array


def finite_horizon(
    problem: MDP | Sequence[MDP], horizon: int | None = None, value: Array | None = None
) -> FiniteHorizon:
    """Return V_h = max_a r_h + gamma P_h V_(h + 1) for h = H - 1 .. 0, from V_H = ``value``.

    Parameters
    ----------
    problem : MDP or sequence of H MDPs
        One process for all steps, or one per step, all with the same states, dtype and sense. A discount of None is 1.
    horizon : int
        H, for a single process.
    value : (S,)
        The terminal values, 0 by default; those of the last step's terminal states are 0.

    Returns
    -------
    FiniteHorizon
        Values and policies.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    MDP.solve : An infinite horizon.
    average : The long-run average reward per step.

    Examples
    --------
    >>> from fastiter import mdp
    >>> mdp.finite_horizon(mdp.examples.forest(3, None), 2).value
    array([[0.9, 3.6, 7.6],
           [0. , 1. , 4. ],
           [0. , 0. , 0. ]])
    """
    problems = _steps(problem, horizon)
    first = problems[0]
    values = np.zeros((len(problems) + 1, first.S), first.dtype)
    actions = np.empty((len(problems), first.S), np.int32)
    if value is not None:
        values[-1] = problems[-1]._values("finite_horizon", "value", value)
    for h in range(len(problems) - 1, -1, -1):
        process = problems[h]._process
        discount = 1.0 if process.discount is None else process.discount
        process.model.backup(values[h + 1], values[h], actions[h], 1, discount, None)
    policy = np.stack([p._process.label(a) for p, a in zip(problems, actions, strict=True)])
    return FiniteHorizon(-values if first._negated else values, policy)


def _steps(problem: Any, horizon: Any) -> list[MDP]:
    function = "finite_horizon"
    if isinstance(problem, MDP):
        if horizon is None:
            raise TypeError(f"{function}: horizon must be an int for one MDP, got None")
        return [problem] * count(function, "horizon", horizon, 1)
    if not isinstance(problem, (list, tuple)) or not problem or not all(isinstance(p, MDP) for p in problem):
        raise TypeError(f"{function}: problem must be an MDP or a sequence of MDPs, got {type(problem).__name__}")
    if horizon is not None:
        raise TypeError(f"{function}: horizon must be None for a sequence of MDPs, got {type(horizon).__name__}")
    first = problem[0]
    for h, p in enumerate(problem):
        if (p.S, p.dtype, p._negated) != (first.S, first.dtype, first._negated):
            raise ValueError(
                f"{function}: problem must have the same states, dtype and sense at each step, got others at {h}"
            )
    return list(problem)
