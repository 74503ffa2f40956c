"""pymdptoolbox's example processes: a pair of transitions (A, S, S) and rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import check_flag
from ..._public import publish
from .. import examples

Array = npt.NDArray[Any]

__all__ = ["forest", "small"]


def forest(S: int = 3, r1: float = 4, r2: float = 2, p: float = 0.1, is_sparse: bool = False) -> tuple[Any, Array]:
    """Return the transitions (2, S, S) and rewards (S, 2) of :func:`fastiter.mdp.examples.forest`.

    Parameters
    ----------
    S : int
        The number of ages.
    r1, r2 : float
        The rewards of waiting and of cutting in the oldest age.
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
    problem = examples.forest(S, None, r1=r1, r2=r2, p=p)
    weight, target, entry = problem.transitions
    rows = np.zeros((2 * S, S))
    np.add.at(rows, (np.repeat(np.arange(2 * S), np.diff(entry)), target), weight)
    transitions, rewards = np.ascontiguousarray(rows.reshape(S, 2, S).swapaxes(0, 1)), problem.rewards.reshape(S, 2)
    if not is_sparse:
        return transitions, rewards
    import scipy.sparse as sp

    return [sp.csr_array(each) for each in transitions], rewards


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
