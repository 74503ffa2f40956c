"""Random decision processes, and their values by a linear program."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse

from fastiter.mdp import MDP

Array = npt.NDArray[Any]


def random_process(S: int, A: int, seed: int, *, unequal: bool = True) -> tuple[Array, Array]:
    """Return dense P (S, A, S) with some zeros and R (S, A), -inf for actions that a state does not have."""
    rng = np.random.default_rng([seed, S, A])
    P = rng.random((S, A, S)) * (rng.random((S, A, S)) < 0.4)
    P[np.arange(S), :, rng.integers(0, S, S)] += 0.1
    P /= P.sum(axis=2, keepdims=True)
    R = rng.standard_normal((S, A))
    if unequal:
        R[rng.random((S, A)) < 0.3] = -np.inf
        R[np.arange(S), rng.integers(0, A, S)] = 0.5
    return P, R


def linear_program(P: Array, R: Array, gamma: float) -> Array:
    """Return V*, the smallest V with V(s) >= R(s, a) + gamma P(s, a) V for all actions."""
    S = len(P)
    s, a = np.nonzero(-np.inf < R)
    below = gamma * P[s, a] - np.eye(S)[s]
    found = optimize.linprog(
        np.ones(S),
        A_ub=below,
        b_ub=-R[s, a],
        bounds=(None, None),
        method="highs",
        options={"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10},
    )
    assert found.success
    return np.array(found.x)


def pairs(P: Array, R: Array, dtype: str = "float64") -> tuple[Any, Array, Array, Array]:
    """Return the rows of the existing actions: a CSR matrix, rewards, states and actions."""
    s, a = np.nonzero(-np.inf < R)
    matrix = sparse.csr_array(P[s, a].astype(dtype))
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int64)
    return matrix, R[s, a].astype(dtype), s, a


def mdp_of(P: Array, R: Array, gamma: float, dtype: str = "float64", **more: Any) -> MDP:
    matrix, reward, states, actions = pairs(P, R, dtype)
    return MDP(matrix, reward, gamma, states=states, actions=actions, **more)
