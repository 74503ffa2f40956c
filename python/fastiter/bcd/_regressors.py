"""Regression with the interface of scikit-learn: lasso, elastic net, non-negative least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._docs import documented
from .._solution import warn
from ._centring import centred
from ._data import Data
from ._estimators import Estimator, with_ones, without_last
from ._gap import has_gap
from ._path import WorkingSets
from ._problem import LeastSquares, Problem
from ._result import is_in_range
from ._scikit_learn import RegressorMixin, check_is_fitted

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[Any]

_PARTS = {
    "alpha": """
        alpha : float
            The weight of the penalty.
        """,
    "options": """
        fit_intercept : bool
            Whether there is an intercept c; it has no penalty.
        positive : bool
            Whether coefficients are constrained to be non-negative.
        warm_start : bool
            Whether ``fit`` starts from the last coefficients.
        max_iter : int
            The maximum number of working sets, or of sweeps.
        tol : float
            The duality gap at which it ends, as a fraction of ||y||^2 / 2; without a gap, that of the gradient at 0.
        """,
    "coefficients": """
        coef_ : (m,)
            The coefficients.
        intercept_ : float
            The intercept.
        """,
    "end": """
        n_iter_ : int
            The number of working sets, or of sweeps if l1 is 0.
        gap_ : float
            The duality gap at the end; without a penalty it is infinite or large, and not the criterion for
            convergence.
        """,
}


class _Regressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """Least squares with l1, l2 and bounds, on centred columns if there is an intercept."""

    coef_: Array
    intercept_: float
    gap_: float
    _total: float
    fit_intercept: bool
    warm_start: bool
    max_iter: int
    tol: float

    def _penalties(self, total: float) -> tuple[float, float]:
        """Return l1 and l2 for the total weight of the samples."""
        raise NotImplementedError

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model, and return it.

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.
        y : (n,)
            The targets.
        sample_weight : (n,), optional
            A weight for each sample, ones by default.

        Returns
        -------
        estimator
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter of the estimator is of a wrong type or out of its range; for X, y or sample_weight that
            scikit-learn's validation refuses, or negative weights.
        """
        X, y = self._read(X, y, y_numeric=True)
        y, m = np.asarray(y, np.float64), X.shape[1]
        weights = self._weights(sample_weight, X)
        self._total = float(len(y) if weights is None else weights.sum())
        l1, l2 = self._penalties(self._total)
        means, mean = np.zeros(m), 0.0
        if self.fit_intercept:
            mean = float(np.average(y, weights=weights))
            X, means = centred(X, weights)
        start = self.coef_.astype(np.float64) if self.warm_start and len(getattr(self, "coef_", ())) == m else None
        if m and l1 > 0:
            root = None if weights is None else np.sqrt(weights)
            b = (y - mean) if root is None else root * (y - mean)
            ones = None
            if self.fit_intercept and hasattr(X, "tocsc"):
                ones = np.ones(len(y)) if root is None else root
            data = Data(type(self).__name__, "X", X, root, is_checked=True)
            x = self._by_working_sets(data, b, (l1, l2), ones, start)
        elif self.fit_intercept and hasattr(X, "tocsc"):
            parts = without_last({"l1": l1, "l2": l2, "lower": self._lower}, m, True)
            problem = LeastSquares(with_ones(X), y - mean, weights=weights, **parts)
            if start is not None:
                start = np.append(start, self.intercept_ - mean)
            x = self._by_sweeps(problem, start)
            mean, means, x = mean + float(x[m]), np.zeros(m), x[:m].copy()
        else:
            problem = LeastSquares(X, y - mean, l1=l1, l2=l2, lower=self._lower, weights=weights)
            x = self._by_sweeps(problem, start)
        self.coef_ = x
        with np.errstate(invalid="ignore"):
            self.intercept_ = float(mean - means @ x.astype(np.float64))
        return self

    @property
    def _lower(self) -> float | None:
        return 0.0 if getattr(self, "positive", False) else None

    def _by_working_sets(
        self, data: Data, b: Array, weights: tuple[float, float], ones: Array | None, start: Array | None
    ) -> Array:
        """Return the solution for l1 > 0; with ``ones``, of the centred columns."""
        name = type(self).__name__
        data.check_scale(name)
        sets = WorkingSets(data, b, weights[1], self._lower is not None, ones)
        if start is not None:
            sets.start(start)
        with np.errstate(over="ignore"):
            tolerance = self.tol * float(b @ b) / 2
        self.gap_, _, self.n_iter_ = sets.solve(weights[0], tolerance, self.max_iter)
        x = sets.solution()
        if not (self.gap_ <= tolerance and is_in_range(self.gap_, x)):
            expected = f"{tolerance:.2g}, got {self.gap_:.2g}"
            warn(f"{name}: the duality gap must fall to {expected}; try a larger max_iter or tol")
        return x

    def _by_sweeps(self, problem: Problem, start: Array | None) -> Array:
        m = problem.shape[0]
        stop: Any = "gap" if has_gap(problem) else "slope"
        start = None if start is None else start.astype(problem.dtype)
        solution = self._minimised(problem, start, stop=stop, max_steps=self.max_iter * max(m, 1))
        self.n_iter_, self.gap_ = -(-solution.steps // max(m, 1)) or 1, solution.gap
        return np.asarray(solution.value)

    def predict(self, X: Any) -> Array:
        """Return the predictions for the rows of X.

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.

        Returns
        -------
        ndarray (n,)
            The predictions, in float32 where X and the data of the fit are, else in float64.
        """
        return self._scores(X)


class _Penalised(_Regressor):
    """The two estimators whose penalty has a weight and an l1 ratio."""

    l1_ratio = 1.0
    alpha: float

    @property
    def dual_gap_(self) -> float:
        """The duality gap in units of the objective: ``gap_`` divided by n, or by the sum of the samples' weights."""
        check_is_fitted(self)
        return self.gap_ / self._total

    @property
    def sparse_coef_(self) -> Any:
        """The coefficients as a sparse array in CSR, (1, m)."""
        import scipy.sparse as sp

        check_is_fitted(self)
        return sp.csr_array(self.coef_[None])

    def _penalties(self, total: float) -> tuple[float, float]:
        return self.alpha * self.l1_ratio * total, self.alpha * (1 - self.l1_ratio) * total


@documented(_PARTS)
class ElasticNet(_Penalised):
    """||y - X w - c||^2 / (2 n) + alpha (l1_ratio ||w||_1 + (1 - l1_ratio) ||w||^2 / 2), with scikit-learn's interface.

    It also has the properties of scikit-learn's estimator: ``sparse_coef_``, the coefficients in CSR (1, m), and
    ``dual_gap_``, which is ``gap_`` divided by n, or by the sum of the samples' weights.

    Parameters
    ----------
    %(alpha)s
    l1_ratio : float
        The fraction of ||w||_1 in the penalty.
    %(options)s

    Attributes
    ----------
    %(coefficients)s
    %(end)s

    See Also
    --------
    Lasso : Only the penalty ||w||_1.
    bcd : The solver.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import ElasticNet
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
    >>> ElasticNet(alpha=0.0).fit(X, y).coef_.round(6)
    array([2.])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        positive: bool = False,
        warm_start: bool = False,
        max_iter: int = 10_000,
        tol: float = 1e-6,
    ) -> None:
        self.alpha, self.l1_ratio, self.fit_intercept, self.positive = alpha, l1_ratio, fit_intercept, positive
        self.warm_start, self.max_iter, self.tol = warm_start, max_iter, tol


@documented(_PARTS)
class Lasso(_Penalised):
    """||y - X w - c||^2 / (2 n) + alpha ||w||_1, with scikit-learn's interface.

    It also has the properties of scikit-learn's estimator: ``sparse_coef_``, the coefficients in CSR (1, m), and
    ``dual_gap_``, which is ``gap_`` divided by n, or by the sum of the samples' weights.

    Parameters
    ----------
    %(alpha)s
    %(options)s

    Attributes
    ----------
    %(coefficients)s
    %(end)s

    See Also
    --------
    ElasticNet : Also the penalty ||w||^2.
    bcd : The solver.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import Lasso
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
    >>> model = Lasso(alpha=0.1).fit(X, y)
    >>> model.coef_.round(6), round(model.intercept_, 6)
    (array([1.85]), 1.15)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        positive: bool = False,
        warm_start: bool = False,
        max_iter: int = 10_000,
        tol: float = 1e-6,
    ) -> None:
        self.alpha, self.fit_intercept, self.positive = alpha, fit_intercept, positive
        self.warm_start, self.max_iter, self.tol = warm_start, max_iter, tol


@documented(_PARTS)
class NNLS(_Regressor):
    """||y - X w||^2 with w >= 0, non-negative least squares with scikit-learn's interface.

    Parameters
    ----------
    fit_intercept : bool
        Whether there is an intercept, of any sign.
    warm_start : bool
        Whether ``fit`` starts from the last coefficients.
    max_iter : int
        The maximum number of sweeps.
    tol : float
        The largest entry of the minimum-norm subgradient at which it ends, as a fraction of that of the gradient at 0.

    Attributes
    ----------
    %(coefficients)s
    n_iter_ : int
        The sweeps.
    gap_ : float
        The duality gap at the end; usually it is not known, and infinite or large.

    See Also
    --------
    Lasso : Takes ``positive``.
    bcd : The solver.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import NNLS
    >>> NNLS().fit(np.eye(2), np.array([1.0, -1.0])).coef_
    array([1., 0.])
    """

    positive = True

    def __init__(
        self, *, fit_intercept: bool = False, warm_start: bool = False, max_iter: int = 10_000, tol: float = 1e-8
    ) -> None:
        self.fit_intercept, self.warm_start, self.max_iter, self.tol = fit_intercept, warm_start, max_iter, tol

    def _penalties(self, total: float) -> tuple[float, float]:
        return 0.0, 0.0
