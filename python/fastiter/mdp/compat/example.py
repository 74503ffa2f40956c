"""pymdptoolbox's example processes: a pair of transitions (A, S, S) and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import check_flag, count, positive, type_name
from ..._public import publish
from .. import examples
from ._base import asserted

Array = npt.NDArray[Any]

__all__ = ["forest", "rand", "small"]


def forest(S: int = 3, r1: float = 4, r2: float = 2, p: float = 0.1, is_sparse: bool = False) -> tuple[Any, Array]:
    """Return the transitions (2, S, S) and rewards (S, 2) of :func:`fastiter.mdp.examples.forest`.

    Parameters
    ----------
    S : int
        The number of ages.
    r1, r2 : float
        The rewards of waiting and of cutting in the oldest age, above 0.
    p : float
        The probability of a fire.
    is_sparse : bool
        Whether to return the transitions as a list of two SciPy CSR matrices.

    Returns
    -------
    transitions : (2, S, S) float64, or a list
        The probabilities of each action.
    rewards : (S, 2) float64
        The rewards of each state and action.

    Raises
    ------
    TypeError, ValueError
        If is_sparse is no bool; if S is no int of at least 2, a reward not above 0 or p no probability, by an
        exception that is an AssertionError too.

    See Also
    --------
    fastiter.mdp.examples.forest : The same process as an MDP, and as a semi-Markov process.

    Examples
    --------
    >>> from fastiter.mdp.compat import example
    >>> transitions, rewards = example.forest()
    >>> rewards.tolist()
    [[0.0, 0.0], [0.0, 1.0], [4.0, 2.0]]
    """
    check_flag("forest", "is_sparse", is_sparse)
    with asserted():
        for name, reward in (("r1", r1), ("r2", r2)):
            positive("forest", name, reward, zero=False)
        problem = examples.forest(S, None, r1=r1, r2=r2, p=p)
    weight, target, entry = problem.transitions
    rows = np.zeros((2 * S, S))
    np.add.at(rows, (np.repeat(np.arange(2 * S), np.diff(entry)), target), weight)
    transitions, rewards = np.ascontiguousarray(rows.reshape(S, 2, S).swapaxes(0, 1)), problem.rewards.reshape(S, 2)
    if not is_sparse:
        return transitions, rewards
    import scipy.sparse as sp

    return [sp.csr_matrix(each) for each in transitions], rewards


def rand(S: int, A: int, is_sparse: bool = False, mask: Any = None) -> tuple[Any, Any]:
    """Return random transitions and rewards, with numpy.random's global state as pymdptoolbox draws them.

    Parameters
    ----------
    S, A : int
        The numbers of states and actions, at least 2.
    is_sparse : bool
        Whether to return lists of SciPy CSR matrices.
    mask : (S, S) or (A, S, S), optional
        Not 0 where transitions are possible, an array or a sparse matrix; by default random. A row without any gets a
        random one.

    Returns
    -------
    transitions : (A, S, S) float64, or a list
        The probabilities of each action.
    rewards : (A, S, S) float64, or a list
        Rewards in [-1, 1) of possible transitions.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    fastiter.mdp.examples.garnet : Random processes of any size, with a seed.

    Examples
    --------
    >>> from fastiter.mdp.compat import example
    >>> transitions, rewards = example.rand(4, 2)
    >>> transitions.shape, bool(abs(rewards).max() <= 1)
    ((2, 4, 4), True)
    """
    check_flag("rand", "is_sparse", is_sparse)
    with asserted():
        S, A = count("rand", "S", S, 2), count("rand", "A", A, 2)
        possible = _mask(mask, S, A)
    P, R = np.zeros((A, S, S)), np.zeros((A, S, S))
    for a in range(A):
        for s in range(S):
            if possible is not None:
                to = possible[s] if possible.ndim == 2 else possible[a, s]
            else:
                drawn = np.random.random(S)  # noqa: NPY002
                to = drawn > (2 / 3 if is_sparse else np.random.random())  # noqa: NPY002
            (states,) = np.nonzero(to)
            if not len(states):
                states = np.array([np.random.randint(0, S)])  # noqa: NPY002
            # dense matrices take one number for each state, sparse ones for each possible state
            p, r = (np.random.random(len(states) if is_sparse else S) for _ in range(2))  # noqa: NPY002
            chosen = slice(None) if is_sparse else states
            P[a, s, states], R[a, s, states] = p[chosen], 2 * r[chosen] - 1
    P /= P.sum(axis=2, keepdims=True)
    if not is_sparse:
        return P, R
    import scipy.sparse as sp

    return [sp.csr_matrix(each) for each in P], [sp.csr_matrix(each) for each in R]


def _mask(mask: Any, S: int, A: int) -> Array | None:
    if mask is None:
        return None
    if not hasattr(mask, "shape"):
        raise TypeError(f"rand: mask must be an array or a sparse matrix, got {type_name(mask)}")
    if tuple(mask.shape) not in ((S, S), (A, S, S)):
        raise ValueError(f"rand: mask must have shape {(S, S)} or {(A, S, S)}, got {tuple(mask.shape)}")
    dense: Array = mask.toarray() if hasattr(mask, "toarray") else np.asarray(mask)
    return dense


def small() -> tuple[Array, Array]:
    """Return the transitions (2, 2, 2) and rewards (2, 2) of a process with two states.

    Returns
    -------
    transitions : (2, 2, 2) float64
        The probabilities of each action.
    rewards : (2, 2) float64
        The rewards of each state and action.

    See Also
    --------
    forest : A process of any size.

    Examples
    --------
    >>> from fastiter.mdp.compat import example
    >>> transitions, rewards = example.small()
    >>> rewards.tolist()
    [[5.0, 10.0], [-1.0, 2.0]]
    """
    return np.array([[[0.5, 0.5], [0.8, 0.2]], [[0.0, 1.0], [0.1, 0.9]]]), np.array([[5.0, 10.0], [-1.0, 2.0]])


publish(globals())
