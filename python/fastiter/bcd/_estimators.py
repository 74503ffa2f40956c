"""The interface of scikit-learn's estimators, which requires the extra ``sklearn``."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import check_flag, count, positive
from .._solution import attempted, warn
from ._bcd import bcd
from ._data import check_pattern, is_sparse
from ._problem import Problem
from ._result import BCDSolution

Array = npt.NDArray[Any]
FLAGS = {"fit_intercept", "positive", "warm_start"}


class Estimator:
    """Parameters by name, and the other methods that scikit-learn requires of an estimator."""

    _type = "regressor"

    @classmethod
    @cache
    def _names(cls) -> tuple[str, ...]:
        return tuple(inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool
            Ignored, as no parameter is an estimator.

        Returns
        -------
        dict
            The arguments of the class, with their values.
        """
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name.

        Parameters
        ----------
        **params
            New values of arguments of the class.

        Returns
        -------
        estimator
            The estimator itself.
        """
        for name, value in params.items():
            if name not in self._names():
                expected = ", ".join(self._names())
                raise ValueError(f"{type(self).__name__}: parameters must be among {expected}, got {name!r}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Return the parameters that differ from their defaults."""
        defaults = inspect.signature(type(self)).parameters
        own = [f"{name}={value!r}" for name, value in self.get_params().items() if value is not defaults[name].default]
        return f"{type(self).__name__}({', '.join(own)})"

    def __sklearn_tags__(self) -> Any:
        """Return the tags for scikit-learn's own tests and pipelines."""
        utils = scikit_learn(self)
        is_regressor = self._type == "regressor"
        tags = utils.Tags(
            estimator_type=self._type,
            target_tags=utils.TargetTags(required=True),
            regressor_tags=utils.RegressorTags() if is_regressor else None,
            classifier_tags=None if is_regressor else utils.ClassifierTags(),
        )
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        """Refuse parameters of a wrong type or out of range; C may be infinite, for no penalty."""
        name, own = type(self).__name__, self.get_params()
        for each in FLAGS & own.keys():
            check_flag(name, each, own[each])
        for each in ("alpha", "tol"):
            positive(name, each, own.get(each, 0))
        if "C" in own and own["C"] != np.inf:
            positive(name, "C", own["C"], zero=False)
        if "l1_ratio" in own and positive(name, "l1_ratio", own["l1_ratio"]) > 1:
            raise ValueError(f"{name}: l1_ratio must be at most 1, got {own['l1_ratio']}")
        count(name, "max_iter", own["max_iter"], 1)

    def _read(self, X: Any, y: Any, formats: Any = "csc", **how: Any) -> tuple[Any, Any]:
        """Return checked data: float32 or float64, dense or in one of the sparse formats."""
        scikit_learn(self)
        from sklearn.utils.validation import validate_data

        self._check_parameters()
        self._check_pattern(X)
        dtypes = [np.float64, np.float32]
        found = validate_data(self, X, y, accept_sparse=formats, dtype=dtypes, accept_large_sparse=False, **how)
        return found[0], found[1]

    def _check_pattern(self, X: Any) -> None:
        """Refuse sparse X whose indices lead outside it, with which scikit-learn's validation would crash."""
        if is_sparse(X):
            check_pattern(type(self).__name__, "X", X)

    def _weights(self, sample_weight: Any, X: Any) -> Array | None:
        if sample_weight is None:
            return None
        from sklearn.utils.validation import _check_sample_weight

        return np.asarray(_check_sample_weight(sample_weight, X, ensure_non_negative=True), np.float64)

    def _minimised(self, problem: Problem, start: Array | None, **how: Any) -> BCDSolution:
        """Return the solution of :func:`bcd`; without convergence, warn by the names of the estimator."""
        own: Any = self
        return self._warned(attempted(bcd, problem, start, rtol=own.tol, **how))

    def _warned(self, found: BCDSolution) -> BCDSolution:
        """Return a solution; without convergence, warn by the names of the estimator."""
        if not found.converged:
            expected = f"{found.tolerance:.2g}, got {found.residual:.2g}"
            warn(f"{type(self).__name__}: the residual must come to {expected}; try a larger max_iter or tol")
        return found

    def _scores(self, X: Any) -> Array:
        """Return ``X coef_ + intercept_``."""
        scikit_learn(self)
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        self._check_pattern(X)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=[np.float64, np.float32], reset=False)
        own: Any = self
        return np.asarray(X @ own.coef_.T + own.intercept_)


def scikit_learn(estimator: Estimator) -> Any:
    try:
        from sklearn import utils
    except ModuleNotFoundError as error:
        needs = f"{type(estimator).__name__} needs scikit-learn, which is not installed"
        raise ModuleNotFoundError(f"{needs}: pip install fastiter-kernels[sklearn]") from error
    return utils


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
