"""Latent decision processes: one of M contexts is drawn for an episode and stays hidden.

With unnormalized weights w of the contexts, values are piecewise linear in w,

    W_h(s, w) = max_a sum_m w_m R_m(s, a) + sum_o W_(h-1)(next(s, a, o), w * L_m(o | s, a))

where o is the observation of a step, with the likelihood L in each context and the next state.
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._array_like import as_array
from ..._backend import BackendError
from ..._check import check_array, check_entries, check_finite, count, integers, type_name

Array = npt.NDArray[Any]

#: Differences that count as rounding: of values, relative to the largest, and of beliefs
_TINY = 1e-12
#: The same for linear programs
_TINY_PROGRAM = 1e-9


class LatentMDP(NamedTuple):
    """A process with M hidden contexts.

    Attributes
    ----------
    likelihood : (M, S, A, O) float64
        The probability of each observation of a step, in each context. Observations are next states, or pairs of next
        state and reward.
    reward : (M, S, A) float64
        The expected reward in each context.
    next : (S, A, O) int64
        The next state of each observation.

    See Also
    --------
    belief_tree, alpha_vectors : Its values.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import experimental
    >>> arms = experimental.LatentMDP.bandit(np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> arms.likelihood.shape, arms.reward.tolist()
    ((2, 1, 2, 2), [[[0.9, 0.1]], [[0.1, 0.9]]])
    """

    likelihood: Array
    reward: Array
    next: Array

    @classmethod
    def of(cls, transitions: Array, rewards: Array) -> LatentMDP:
        """Return the process with kernels (M, S, A, S) and rewards (M, S, A) in which only the next state is observed.

        Parameters
        ----------
        transitions : float64 (M, S, A, S)
            The probabilities of the next states, for each context.
        rewards : float64 (M, S, A)
            The expected rewards.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape; if probabilities are negative or do not sum to 1, or a reward is not finite.
        """
        transitions = as_array("LatentMDP.of", "transitions", transitions)
        rewards = as_array("LatentMDP.of", "rewards", rewards)
        check_array("LatentMDP.of", "transitions", transitions, ("float64",))
        if transitions.ndim != 4 or 0 in transitions.shape or transitions.shape[1] != transitions.shape[3]:
            raise ValueError(f"LatentMDP.of: transitions must have shape (M, S, A, S), got {transitions.shape}")
        target = np.broadcast_to(np.arange(transitions.shape[3]), transitions.shape[1:])
        return _checked("LatentMDP.of", cls(transitions, rewards, np.array(target)), ("transitions", "rewards"))

    @classmethod
    def bandit(cls, means: Array) -> LatentMDP:
        """Return a bandit whose arms have observed rewards of 0 or 1 with the means (M, A).

        Parameters
        ----------
        means : float64 (M, A)
            The mean reward of each arm in each context, from 0 to 1.

        Raises
        ------
        TypeError, ValueError
            If means are not float64 (M, A) from 0 to 1.
        """
        means = as_array("LatentMDP.bandit", "means", means)
        check_array("LatentMDP.bandit", "means", means, ("float64",))
        if means.ndim != 2 or 0 in means.shape or not ((means >= 0) & (means <= 1)).all():
            raise ValueError(f"LatentMDP.bandit: means must be (M, A) from 0 to 1, got shape {means.shape}")
        likelihood = np.stack([1 - means, means], axis=2)[:, None]
        return cls(likelihood, means[:, None].copy(), np.zeros((1, means.shape[1], 2), np.int64))


def _checked(function: str, process: Any, names: tuple[str, str] = ("likelihood", "reward")) -> LatentMDP:
    """Return a process with contiguous arrays; ``names`` are the names of its first two arrays in messages."""
    if not isinstance(process, LatentMDP):
        raise TypeError(f"{function}: process must be a LatentMDP, got {type_name(process)}")
    likelihood, reward, target = process
    first, second = names
    check_array(function, first, likelihood, ("float64",))
    check_array(function, second, reward, ("float64",))
    if likelihood.ndim != 4 or 0 in likelihood.shape:
        raise ValueError(f"{function}: {first} must have shape (M, S, A, O), got {likelihood.shape}")
    if reward.shape != likelihood.shape[:3]:
        raise ValueError(
            f"{function}: {second} must have shape {likelihood.shape[:3]} like {first}, got {reward.shape}"
        )
    own = integers(function, "next", target)
    if own.shape != likelihood.shape[1:] or (own < 0).any() or (own >= likelihood.shape[1]).any():
        raise ValueError(f"{function}: next must be states of shape {likelihood.shape[1:]}, got shape {own.shape}")
    check_entries(function, first, likelihood, likelihood >= 0, "be at least 0")
    sums = likelihood.sum(axis=3)
    check_entries(function, first, sums, np.abs(sums - 1) <= 1e-10, "sum to 1 over observations")
    check_finite(function, second, reward)
    return LatentMDP(np.ascontiguousarray(likelihood), np.ascontiguousarray(reward), own)


def belief_tree(process: LatentMDP, state: int, weights: Array, horizon: int) -> float:
    """Return W_H(s, w) by expanding all observations: exact, and exponential in the horizon.

    Parameters
    ----------
    process : LatentMDP
        The process.
    state : int
        The initial state.
    weights : (M,) float64
        The prior of the contexts, at least 0.
    horizon : int
        H.

    Returns
    -------
    float
        The best expected sum of rewards.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    alpha_vectors : All weights at once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import experimental
    >>> arms = experimental.LatentMDP.bandit(np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> round(experimental.belief_tree(arms, 0, np.array([0.5, 0.5]), 3), 12)
    2.14
    """
    function = "belief_tree"
    process = _checked(function, process)
    w = _weights(function, process, weights)
    if count(function, "state", state) >= len(process.next):
        raise ValueError(f"{function}: state must be from 0 to {len(process.next) - 1}, got {state}")
    return _expand(process, int(state), w, count(function, "horizon", horizon))


def _weights(function: str, process: LatentMDP, weights: Any) -> Array:
    weights = as_array(function, "weights", weights)
    check_array(function, "weights", weights, ("float64",))
    if weights.shape != process.likelihood.shape[:1]:
        raise ValueError(f"{function}: weights must have shape {process.likelihood.shape[:1]}, got {weights.shape}")
    check_entries(function, "weights", weights, np.isfinite(weights) & (weights >= 0), "be finite and at least 0")
    return np.ascontiguousarray(weights)


def _expand(process: LatentMDP, s: int, w: Array, horizon: int) -> float:
    if horizon == 0 or not w.any():
        return 0.0
    best = -np.inf
    for a in range(process.next.shape[1]):
        value = float(w @ process.reward[:, s, a])
        for o, to in enumerate(process.next[s, a]):
            value += _expand(process, int(to), w * process.likelihood[:, s, a, o], horizon - 1)
        best = max(best, value)
    return best


def alpha_vectors(process: LatentMDP, horizon: int, *, beliefs: Array | None = None) -> list[list[Array]]:
    """Return the values of the policy trees that are optimal for some weights: W_h(s, w) = max over alpha of alpha w.

    Parameters
    ----------
    process : LatentMDP
        The process.
    horizon : int
        H.
    beliefs : (B, M) float64
        Keep the best vector for each of these beliefs: a lower bound, exact for them if all successor beliefs are also
        included. By default all vectors that are optimal anywhere: for two contexts by the upper envelope of lines, for
        more by linear programs, which need SciPy and a small horizon.

    Returns
    -------
    list of H + 1 lists of S arrays (n, M)
        ``[h][s]`` has the vectors with h steps to go.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    BackendError
        If SciPy is needed and missing.

    See Also
    --------
    belief_tree : A single prior, by expanding all observations.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import experimental
    >>> arms = experimental.LatentMDP.bandit(np.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> vectors = experimental.alpha_vectors(arms, 3)[3][0]
    >>> round(float((vectors @ [0.5, 0.5]).max()), 12)
    2.14
    """
    function = "alpha_vectors"
    process = _checked(function, process)
    M, S, A, O = process.likelihood.shape
    if beliefs is None and M > 2 and find_spec("scipy") is None:
        raise BackendError(
            f"{function}: SciPy solves linear programs for {M} contexts and is not installed, got no beliefs"
        )
    if beliefs is not None:
        beliefs = as_array(function, "beliefs", beliefs)
        check_array(function, "beliefs", beliefs, ("float64",))
        if beliefs.ndim != 2 or beliefs.shape[1] != M or len(beliefs) == 0:
            raise ValueError(f"{function}: beliefs must have shape (B, {M}), got {beliefs.shape}")
        check_entries(function, "beliefs", beliefs, np.isfinite(beliefs) & (beliefs >= 0), "be finite and at least 0")
        beliefs = np.ascontiguousarray(beliefs)
    tables = [[np.zeros((1, M)) for _ in range(S)]]
    for _ in range(count(function, "horizon", horizon)):
        now = []
        for s in range(S):
            vectors = []
            for a in range(A):
                trees = process.reward[:, s, a][None]
                for o in range(O):
                    after = tables[-1][process.next[s, a, o]] * process.likelihood[:, s, a, o]
                    trees = _pruned((trees[:, None] + after[None]).reshape(-1, M), beliefs)
                vectors.append(trees)
            now.append(_pruned(np.concatenate(vectors), beliefs))
        tables.append(now)
    return tables


def _pruned(vectors: Array, beliefs: Array | None) -> Array:
    """Return the vectors that are optimal for some weights of two contexts, or for one of the beliefs."""
    if beliefs is not None:
        best: Array = vectors[np.unique(np.argmax(beliefs @ vectors.T, axis=1))]
        return best
    if vectors.shape[1] != 2:
        return _undominated(vectors)
    # The upper envelope of the lines x + b (y - x) over the belief b of the second context in [0, 1]
    tiny = _TINY * float(np.abs(vectors).max())
    order = np.lexsort((vectors[:, 0], vectors[:, 1] - vectors[:, 0]))
    hull: list[Array] = []
    for line in vectors[order]:
        slope = line[1] - line[0]
        if hull and slope - (hull[-1][1] - hull[-1][0]) <= tiny:
            if line[0] <= hull[-1][0]:
                continue  # parallel and not above
            hull.pop()
        while hull and _hides(hull, line, tiny):
            hull.pop()
        hull.append(line)
    lines = np.array(hull)
    return lines[_within(lines)]


def _undominated(vectors: Array) -> Array:
    """Return the vectors that are optimal for some belief, each found by a linear program: Lark's algorithm."""
    tiny = _TINY_PROGRAM * float(np.abs(vectors).max())
    waiting = np.unique(vectors, axis=0)[::-1]
    hull = waiting[:0]
    while len(waiting):
        belief = _advantage(waiting[0], hull, tiny)
        if belief is None:
            waiting = waiting[1:]
            continue
        values = waiting @ belief
        best = int(np.argmax(values > values.max() - tiny))  # in a tie, the first in the reversed order of np.unique
        hull, waiting = np.concatenate([hull, waiting[best][None]]), np.delete(waiting, best, axis=0)
    return hull


def _advantage(vector: Array, others: Array, tiny: float) -> Array | None:
    """Return the belief at which a vector exceeds all others by the most; None if it exceeds them nowhere."""
    M = len(vector)
    if len(others) == 0:
        return np.full(M, 1 / M)
    if M == 1:
        return np.ones(1) if float(vector[0]) > others.max() + tiny else None
    from scipy.optimize import linprog

    # Variables are the belief and d: maximize d subject to (vector - other) belief >= d for each other vector
    above = np.concatenate([others - vector, np.ones((len(others), 1))], axis=1)
    program = linprog(
        np.r_[np.zeros(M), -1.0],
        A_ub=above,
        b_ub=np.zeros(len(others)),
        A_eq=np.r_[np.ones(M), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * M + [(None, None)],
    )
    return np.array(program.x[:M]) if -program.fun > tiny else None


def _crossing(one: Array, other: Array) -> float:
    """Return the belief at which the second line, which is steeper, crosses the first."""
    return float((one[0] - other[0]) / ((other[1] - other[0]) - (one[1] - one[0])))


def _hides(hull: list[Array], line: Array, tiny: float) -> bool:
    """Return whether the last line is, up to rounding, nowhere above both its neighbours."""
    if len(hull) < 2:
        return False
    at = _crossing(hull[-2], line)
    middle, outer = (one[0] + at * (one[1] - one[0]) for one in (hull[-1], line))
    return bool(middle <= outer + tiny)


def _within(lines: Array) -> Array:
    """Return a mask of the lines of an envelope that are optimal somewhere in [0, 1]."""
    crossings = [_crossing(one, other) for one, other in pairwise(lines)]
    first, last = np.array([-np.inf, *crossings]), np.array([*crossings, np.inf])
    return (last > _TINY) & (first < 1 - _TINY)
