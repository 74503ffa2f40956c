"""Non-negative least squares as a function, like SciPy's."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .._call.iterate import Callback
from ._bcd import bcd
from ._problem import LeastSquares
from ._result import BCDSolution

Array = npt.NDArray[Any]


class NonNegative(LeastSquares):
    """The problem of nnls, which its error messages name."""

    _solver = "nnls"


def nnls(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> BCDSolution[Array]:
    """Minimise ||A x - b|| over x >= 0.

    Parameters
    ----------
    A : (n, m) array or sparse matrix
        The data, float32 or float64: an array in any order, or CSR or CSC.
    b : (n,) array
        The targets.
    x0 : (m,) array, optional
        The starting point, 0 by default, in the dtype of A.
    rtol : float
        Converged if the largest entry of the minimum-norm subgradient is at most ``rtol`` times that of A' b, plus
        ``atol``.
    atol : float
        A tolerance in the units of A' b.
    max_steps : int
        The maximum number of updates of a coordinate.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, which has the ``objective``; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.

    Returns
    -------
    BCDSolution
        Its value is x; ||A x - b|| is ``(2 * objective) ** 0.5``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    bcd : Other losses, bounds and penalties.
    NNLS : The interface of scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import nnls
    >>> found = nnls(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([2.0, 1.0, -1.0]))
    >>> found.value, round((2 * found.objective) ** 0.5, 4)
    (array([1.5, 0. ]), 1.2247)
    """
    limits: Any = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "callback": callback, "throw": throw}
    return bcd(NonNegative(A, b, lower=0.0), x0, **limits)
