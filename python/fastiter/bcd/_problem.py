"""Problems: a loss of A x, or a quadratic, with l1, l2 and bounds on each coordinate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .._check import count, integers
from .._docs import documented_by
from ._arguments import penalty, row_count, sample_weights, spread, vector
from ._data import Data

Array = npt.NDArray[Any]
LOSSES = ("squares", "logistic", "softmax", "quadratic")

PARTS = {
    "A": """
        A : (n, m) array or sparse matrix
            The data, float32 or float64: an array in any order, or CSR or CSC. Its columns belong to the unknowns. An
            array in Fortran's order is used without a copy, so that it may not change later.
        """,
    "l1": """
        l1 : float or (m,) array
            Weights >= 0 of the magnitudes, the same for each coordinate or one for each.
        """,
    "l2": """
        l2 : float or (m,) array
            Weights >= 0 of the halved squares.
        """,
    "lower": """
        lower : float or (m,) array, optional
            Lower bounds, without limit by default; 0 for non-negative solutions.
        """,
    "upper": """
        upper : float or (m,) array, optional
            Upper bounds, without limit by default.
        """,
    "weights": """
        weights : (n,) array, optional
            Weights >= 0 of the samples, 1 by default.
        """,
}
TARGETS = {
    **PARTS,
    "b": """
        b : (n,) array
            The targets.
        """,
    "y": """
        y : (n,) array
            The labels: 0 and 1, or -1 and 1.
        """,
}
CLASSES = {
    **PARTS,
    "y": """
        y : (n,) array of int
            The classes, from 0.
        """,
    "classes": """
        classes : int, optional
            The number of classes, by default one more than the largest.
        """,
}
SYMMETRIC = {
    **PARTS,
    "A": """
        A : (m, m) array or sparse matrix
            The symmetric matrix, float32 or float64: an array, or CSR or CSC.
        """,
    "b": """
        b : (m,) array
            The linear part.
        """,
}

AnyClass = TypeVar("AnyClass", bound=type[Any])


def described(parts: Mapping[str, str]) -> Callable[[AnyClass], AnyClass]:
    """Return a decorator that fills ``%(parameters)s`` of a problem's docstring from its constructor's signature."""

    def decorate(problem: AnyClass) -> AnyClass:
        make: Any = problem.__init__
        make.__doc__ = problem.__doc__
        problem.__doc__ = documented_by({"self": "", **parts})(make).__doc__
        make.__doc__ = None
        return problem

    return decorate


class Separable(NamedTuple):
    """The penalties and bounds of each coordinate."""

    l1: Array
    l2: Array
    lower: Array
    upper: Array


class Losses(NamedTuple):
    """The other parts of a problem, for the kernels."""

    loss: int
    classes: int
    b: Array
    weights: Array | None
    curvature: Array
    is_smooth: bool


class Problem:
    """A convex problem in the form that the solvers take."""

    _loss: str
    #: The solver that error messages name; unless it is bcd, those about the problem's own arguments name it, too
    _solver = "bcd"
    _classes = 1
    _separable: Separable
    _curvature: Array

    @classmethod
    def _function(cls) -> str:
        """Return the name in errors about the arguments."""
        return cls.__name__ if cls._solver == "bcd" else cls._solver

    def _begin(self, data: Data, b: Array, weights: Array | None, own: tuple[Any, Any, Any, Any]) -> None:
        function = self._function()
        self._data, self._b, self._weights = data, b, weights
        columns = data.shape[1]
        lower, upper = (-np.inf if own[2] is None else own[2]), (np.inf if own[3] is None else own[3])
        parts = [
            penalty(function, "l1", own[0], columns),
            penalty(function, "l2", own[1], columns),
            spread(function, "lower", lower, columns),
            spread(function, "upper", upper, columns),
        ]
        wrong = np.flatnonzero(~(parts[2] <= parts[3]) | (parts[2] == np.inf) | (parts[3] == -np.inf))
        if len(wrong):
            got = f"{parts[2][wrong[0]]:g} and {parts[3][wrong[0]]:g} at {wrong[0]}"
            raise ValueError(f"{function}: lower must be at most upper, and neither NaN, got {got}")
        self._separable = Separable(*(np.repeat(part, self._classes) for part in parts))
        if self._loss != "quadratic":
            data.check_scale(function)
        curvature = np.repeat(self._own_curvature(), self._classes) + self._separable.l2
        self._curvature = np.where(curvature > 0, curvature, 1.0)

    def _own_curvature(self) -> Array:
        factor = 1.0 if self._loss == "squares" else 0.25
        return factor * self._data.squares(self._weights)

    @property
    def _is_smooth(self) -> bool:
        l1, _, lower, upper = self._separable
        return not l1.any() and not np.isfinite(lower).any() and not np.isfinite(upper).any()

    @property
    def _losses(self) -> Losses:
        loss = LOSSES.index(self._loss)
        return Losses(loss, self._classes, self._b, self._weights, self._curvature, self._is_smooth)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        m = self._data.shape[1]
        return (m, self._classes) if self._loss == "softmax" else (m,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of x, that of the data."""
        return self._data.dtype

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        n, m = self._data.shape
        kind = "dense" if self._data.sparse is None else "sparse"
        return f"{type(self).__name__}({n} x {m} {kind} {self.dtype})"


@described(TARGETS)
class LeastSquares(Problem):
    """||A x - b||^2 / 2 + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type, dtype or shape; for infinities or NaN in A, b or weights; for negative
        weights or penalties; if a lower bound is above its upper bound.

    See Also
    --------
    bcd : Solves it.
    Logistic, Softmax, Quadratic : Other losses.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import LeastSquares, bcd
    >>> A, b = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([3.0, 1.0, 1.0])
    >>> bcd(LeastSquares(A, b, l1=1.0)).value
    array([2.  , 0.25])
    """

    _loss = "squares"

    def __init__(
        self, A: Any, b: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None, weights: Any = None
    ) -> None:
        function = self._function()
        n = row_count(A)
        weights = sample_weights(function, weights, n) if n >= 0 else None  # anything but a matrix is refused below
        root = None if weights is None else np.sqrt(weights)
        data = Data(function, "A", A, root)
        b = vector(function, "b", b, data.shape[0])
        self._begin(data, b if root is None else root * b, None, (l1, l2, lower, upper))


@described(TARGETS)
class Logistic(Problem):
    """The sum of log(1 + exp(z_i)) - y_i z_i, z = A x, + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`LeastSquares`; if y has values other than 0 and 1, or -1 and 1.

    See Also
    --------
    bcd : Solves it.
    Softmax : More than two classes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import Logistic, bcd
    >>> A, y = np.array([[1.0], [1.0], [1.0], [1.0]]), np.array([1, 1, 1, 0])
    >>> round(float(bcd(Logistic(A, y)).value[0]), 4), round(float(np.log(3)), 4)
    (1.0986, 1.0986)
    """

    _loss = "logistic"

    def __init__(
        self, A: Any, y: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None, weights: Any = None
    ) -> None:
        function = "Logistic"
        data = Data(function, "A", A)
        weights = sample_weights(function, weights, data.shape[0])
        y = vector(function, "y", y, data.shape[0])
        if not (np.isin(y, (0, 1)).all() or np.isin(y, (-1, 1)).all()):
            wrong = y[~np.isin(y, (-1, 0, 1))]
            got = f"{wrong[0]:g}" if len(wrong) else "both -1 and 0"
            raise ValueError(f"{function}: y must be 0 or 1, or -1 or 1, got {got}")
        self._begin(data, (y > 0).astype(np.float64), weights, (l1, l2, lower, upper))


@described(CLASSES)
class Softmax(Problem):
    """The sum of log(sum_k exp z_ik) - z_iy, z = A x, + sum l1_j |x_jk| + l2_j x_jk^2 / 2; x is (m, classes).

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`LeastSquares`; if y has other values than integers from 0 to classes - 1, or classes is below
        2.

    See Also
    --------
    bcd : Solves it.
    Logistic : Two classes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import Softmax, bcd
    >>> problem = Softmax(np.ones((4, 1)), np.array([0, 1, 1, 2]), 3, l2=1e-9)
    >>> x = bcd(problem, max_steps=10_000).value
    >>> (np.exp(x[0]) / np.exp(x[0]).sum()).round(3)
    array([0.25, 0.5 , 0.25])
    """

    _loss = "softmax"

    def __init__(
        self,
        A: Any,
        y: Any,
        classes: int | None = None,
        *,
        l1: Any = 0.0,
        l2: Any = 0.0,
        lower: Any = None,
        upper: Any = None,
        weights: Any = None,
    ) -> None:
        function = "Softmax"
        data = Data(function, "A", A)
        weights = sample_weights(function, weights, data.shape[0])
        y = integers(function, "y", y)
        if y.shape != (data.shape[0],):
            raise ValueError(f"{function}: y must have shape (n,) = ({data.shape[0]},), got {y.shape}")
        needed = int(y.max(initial=0)) + 1
        self._classes = max(needed, 2) if classes is None else count(function, "classes", classes, 2)
        if y.min(initial=0) < 0 or needed > self._classes:
            wrong = int(y.min(initial=0)) if y.min(initial=0) < 0 else needed - 1
            raise ValueError(f"{function}: y must be from 0 to classes - 1 = {self._classes - 1}, got {wrong}")
        self._begin(data, y.astype(np.float64), weights, (l1, l2, lower, upper))


@described(SYMMETRIC)
class Quadratic(Problem):
    """x' A x / 2 - b' x + sum_j l1_j |x_j| + l2_j x_j^2 / 2 with lower <= x <= upper; A is positive semidefinite.

    Parameters
    ----------
    %(parameters)s

    Raises
    ------
    TypeError, ValueError
        As for :class:`LeastSquares`; if A is not square and symmetric, or a diagonal entry or a minor of two rows
        shows that it is not positive semidefinite.

    See Also
    --------
    bcd : Solves it.
    LeastSquares : A is a product of the data with its transpose.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import Quadratic, bcd
    >>> A, b = np.array([[2.0, -1.0], [-1.0, 2.0]]), np.array([1.0, -3.0])
    >>> bcd(Quadratic(A, b, lower=0)).value
    array([0.5, 0. ])
    """

    _loss = "quadratic"

    def __init__(self, A: Any, b: Any, *, l1: Any = 0.0, l2: Any = 0.0, lower: Any = None, upper: Any = None) -> None:
        function = "Quadratic"
        data = Data(function, "A", A)
        n, m = data.shape
        if n != m:
            raise ValueError(f"{function}: A must be square, got shape {data.shape}")
        whole: Any = data.sparse if data.dense is None else data.dense
        apart = float(abs(whole - whole.T).max()) if n else 0.0
        if apart > 8 * float(np.finfo(data.dtype).eps) * float(abs(whole).max() if n else 0.0):
            raise ValueError(f"{function}: A must be symmetric, got entries that differ by {apart:.2g}")
        self._diagonal = np.asarray(whole.diagonal(), np.float64)
        if (self._diagonal < 0).any():
            raise ValueError(
                f"{function}: A must be positive semidefinite, got {self._diagonal.min():g} on its diagonal"
            )
        _check_pairs(function, whole, self._diagonal)
        self._begin(data, vector(function, "b", b, n), None, (l1, l2, lower, upper))

    def _own_curvature(self) -> Array:
        return self._diagonal


def _check_pairs(function: str, A: Any, diagonal: Array) -> None:
    """Refuse entries that a positive semidefinite matrix cannot have: |a_ij|^2 > a_ii a_jj."""
    root = np.sqrt(diagonal) * (1 + 2.0**12 * float(np.finfo(A.dtype).eps))
    if isinstance(A, np.ndarray):
        row, column = np.nonzero(np.abs(A) > root[:, None] * root)
        value = A[row, column]
    else:
        entries = A.tocoo()
        wrong = np.abs(entries.data) > root[entries.row] * root[entries.col]
        row, column, value = entries.row[wrong], entries.col[wrong], entries.data[wrong]
    if len(value):
        got = f"{value[0]:g} beside {diagonal[row[0]]:g} and {diagonal[column[0]]:g} on its diagonal"
        raise ValueError(f"{function}: A must be positive semidefinite, got {got}")
