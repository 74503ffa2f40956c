"""The common part of the estimators, which derive from scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import check_flag, count, positive
from .._solution import attempted, warn
from ._bcd import bcd
from ._data import check_pattern, is_sparse
from ._problem import Problem
from ._result import BCDSolution
from ._scikit_learn import BaseEstimator, _check_sample_weight, check_is_fitted, validate_data

Array = npt.NDArray[Any]
FLAGS = {"fit_intercept", "positive", "warm_start"}


class Estimator(BaseEstimator):  # type: ignore[misc]
    """The checks of parameters and data that the estimators have in common."""

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: sparse samples are accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        """Refuse parameters of a wrong type or out of range; C may be infinite, for no penalty."""
        name, own = type(self).__name__, vars(self)
        for each in FLAGS & own.keys():
            check_flag(name, each, own[each])
        for each in ("alpha", "tol"):
            positive(name, each, own.get(each, 0))
        if "C" in own and own["C"] != np.inf:
            positive(name, "C", own["C"], zero=False)
        if "l1_ratio" in own and positive(name, "l1_ratio", own["l1_ratio"]) > 1:
            raise ValueError(f"{name}: l1_ratio must be at most 1, got {own['l1_ratio']}")
        count(name, "max_iter", own["max_iter"], 1)

    def _read(self, X: Any, y: Any, formats: Any = "csc", **options: Any) -> tuple[Any, Any]:
        """Return checked data: float32 or float64, dense or in one of the sparse formats."""
        self._check_parameters()
        self._check_pattern(X)
        dtypes = [np.float64, np.float32]
        X, y = validate_data(self, X, y, accept_sparse=formats, dtype=dtypes, accept_large_sparse=False, **options)
        return X, y

    def _check_pattern(self, X: Any) -> None:
        """Refuse sparse X whose indices lead outside it, with which scikit-learn's validation would crash."""
        if is_sparse(X):
            check_pattern(type(self).__name__, "X", X)

    def _weights(self, sample_weight: Any, X: Any) -> Array | None:
        if sample_weight is None:
            return None
        return np.asarray(_check_sample_weight(sample_weight, X, ensure_non_negative=True), np.float64)

    def _minimised(self, problem: Problem, start: Array | None, **options: Any) -> BCDSolution[Array]:
        """Return the solution of :func:`bcd`; without convergence, warn by the names of the estimator."""
        own: Any = self
        return self._warned(attempted(bcd, problem, start, rtol=own.tol, **options))

    def _warned(self, solution: BCDSolution[Array]) -> BCDSolution[Array]:
        """Return a solution; without convergence, warn by the names of the estimator."""
        if not solution.converged:
            expected = f"{solution.tolerance:.2g}, got {solution.residual:.2g}"
            warn(f"{type(self).__name__}: the residual must fall to {expected}; try a larger max_iter or tol")
        return solution

    def _scores(self, X: Any) -> Array:
        """Return ``X coef_ + intercept_``."""
        check_is_fitted(self)
        self._check_pattern(X)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=[np.float64, np.float32], reset=False)
        own: Any = self
        return np.asarray(X @ own.coef_.T + own.intercept_)


def with_ones(X: Any) -> Any:
    """Return X with a last column of ones."""
    if not hasattr(X, "tocsc"):
        return np.concatenate([X, np.ones((X.shape[0], 1), X.dtype)], axis=1)
    import scipy.sparse as sp

    return sp.hstack([X, sp.csc_array(np.ones((X.shape[0], 1), X.dtype))], format="csc", dtype=X.dtype)


def without_last(parts: dict[str, Any], m: int, own_column: bool) -> dict[str, Any]:
    """Return penalties and bounds, with none for the last column if that is the intercept's."""
    if not own_column:
        return parts
    free = {"l1": 0.0, "l2": 0.0, "lower": -np.inf}
    return {name: None if x is None else np.append(np.full(m, float(x)), free[name]) for name, x in parts.items()}
