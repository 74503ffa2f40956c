"""pymdptoolbox's checks of transitions and rewards: A matrices (S, S), dense or sparse, and rewards in any layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import type_name
from ..._public import publish
from .._process import SUM_TOLERANCE
from .error import InvalidError, NonNegativeError, SquareError, StochasticError

Array = npt.NDArray[Any]

__all__ = ["check", "checkSquareStochastic", "getSpan", "isNonNegative", "isSquare", "isStochastic"]


def _shape(x: Any) -> tuple[int, ...]:
    """Return the shape of an array, a sparse matrix or nested sequences; () if there is none."""
    shape = getattr(x, "shape", None)
    try:
        return tuple(np.shape(x) if shape is None else shape)
    except ValueError:  # a ragged sequence
        return ()


def _numbers(function: str, matrix: Any) -> Any:
    """Return a sparse matrix itself, and anything else as an array."""
    x = matrix if hasattr(matrix, "tocsr") else np.asarray(matrix)
    if x.dtype.kind not in "biuf" or x.ndim != 2:
        raise TypeError(f"{function}: matrix must be numbers (S, S), got {type_name(matrix)} of shape {_shape(matrix)}")
    return x


def isSquare(matrix: Any) -> bool:
    """Return whether a matrix has as many rows as columns.

    Parameters
    ----------
    matrix : (S, S)
        An array, a sparse matrix or nested sequences.

    Returns
    -------
    bool
        False also for other types.

    See Also
    --------
    checkSquareStochastic : Raises an error instead.

    Examples
    --------
    >>> from fastiter.mdp.compat import util
    >>> util.isSquare([[1, 0], [0, 1]]), util.isSquare([[1, 0]])
    (True, False)
    """
    shape = _shape(matrix)
    return len(shape) == 2 and shape[0] == shape[1]


def isStochastic(matrix: Any) -> bool:
    """Return whether each row sums to 1, within 1e-10 (float32: 1e-6).

    Parameters
    ----------
    matrix : (S, S)
        An array, a sparse matrix or nested sequences.

    Returns
    -------
    bool
        Whether they do.

    Raises
    ------
    TypeError
        If it is not a matrix of numbers.

    See Also
    --------
    checkSquareStochastic : Raises an error instead.

    Examples
    --------
    >>> from fastiter.mdp.compat import util
    >>> util.isStochastic([[0.5, 0.5], [0, 1]])
    True
    """
    x = _numbers("isStochastic", matrix)
    sums = np.asarray(x.sum(axis=1)).reshape(-1)
    return bool((np.abs(sums - 1) <= SUM_TOLERANCE.get(x.dtype.name, 1e-10)).all())


def isNonNegative(matrix: Any) -> bool:
    """Return whether no entry is negative.

    Parameters
    ----------
    matrix : (S, S)
        An array, a sparse matrix or nested sequences.

    Returns
    -------
    bool
        False for NaN.

    Raises
    ------
    TypeError
        If it is not a matrix of numbers.

    See Also
    --------
    checkSquareStochastic : Raises an error instead.

    Examples
    --------
    >>> from fastiter.mdp.compat import util
    >>> util.isNonNegative([[1.5, -0.5], [0, 1]])
    False
    """
    x = _numbers("isNonNegative", matrix)
    return bool(((x.tocsr().data if hasattr(x, "tocsr") else x) >= 0).all())


def checkSquareStochastic(matrix: Any) -> None:
    """Check that a matrix is square, that its rows sum to 1 and that no entry is negative.

    Parameters
    ----------
    matrix : (S, S)
        An array, a sparse matrix or nested sequences.

    Raises
    ------
    SquareError, StochasticError, NonNegativeError
        If it is not; all are ValueErrors.

    See Also
    --------
    check : Checks transitions and rewards.

    Examples
    --------
    >>> from fastiter.mdp.compat import util
    >>> util.checkSquareStochastic([[0.5, 0.5], [0, 1]])
    """
    if not isSquare(matrix):
        raise SquareError(f"checkSquareStochastic: matrix must have shape (S, S), got {_shape(matrix)}")
    if not isStochastic(matrix):
        raise StochasticError("checkSquareStochastic: matrix must have rows that sum to 1, got others")
    if not isNonNegative(matrix):
        raise NonNegativeError("checkSquareStochastic: matrix must have entries of at least 0, got others")


def check(P: Any, R: Any) -> None:
    """Check that transitions and rewards define a process.

    Parameters
    ----------
    P : (A, S, S), or A matrices (S, S)
        The probabilities, dense or sparse; the matrices in a list, a tuple, an array of objects or a dict.
    R : (S,), (S, A), (A, S, S), or A matrices (S, S)
        The rewards.

    Raises
    ------
    InvalidError, SquareError, StochasticError, NonNegativeError
        If they do not; all are ValueErrors.

    See Also
    --------
    fastiter.mdp.MDP : Takes these layouts and others, and names the state and the action of a wrong number.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, util
    >>> util.check(*example.forest())
    """
    shapes = _shapes_of_matrices(P)
    if not shapes or len(set(shapes)) > 1 or 0 in shapes[0]:
        got = f"matrices of {sorted(set(shapes))}" if shapes else f"shape {_shape(P)}"
        raise InvalidError(f"check: P must have shape (A, S, S), or A matrices (S, S), got {got}")
    (S, _), A = shapes[0], len(shapes)
    rewards = _shapes_of_matrices(R)
    if _shape(R) not in ((S,), (S, A), (A, S, S)) and (len(rewards) != A or set(rewards) != {(S, S)}):
        expected = f"({S},), ({S}, {A}), {(A, S, S)}, or {A} matrices {(S, S)}"
        raise InvalidError(f"check: R must have shape {expected} to go with P, got {rewards or _shape(R)}")
    for a in range(A):
        checkSquareStochastic(P[a])


def _shapes_of_matrices(x: Any) -> list[tuple[int, ...]]:
    """Return the shapes of the matrices of (A, S, S) or of a sequence or dict of matrices; none for anything else."""
    if getattr(x, "ndim", 1) not in (1, 3) or not hasattr(x, "__len__") or hasattr(x, "tocsr"):
        return []
    try:
        shapes = [_shape(x[a]) for a in range(len(x)) if hasattr(x[a], "shape")]
    except (KeyError, TypeError):
        return []
    return shapes if len(shapes) == len(x) and all(len(shape) == 2 for shape in shapes) else []


def getSpan(W: Array) -> Any:
    """Return the largest minus the smallest element.

    Parameters
    ----------
    W : array
        The values.

    Returns
    -------
    float
        The span.

    See Also
    --------
    numpy.ptp : The same along an axis.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp.compat import util
    >>> float(util.getSpan(np.array([1.0, 4.5])))
    3.5
    """
    return W.max() - W.min()


publish(globals())
