"""Coordinate descent: problems, paths, estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import fastiter
from fastiter import bcd

Array = npt.NDArray[Any]


def arrays() -> None:
    """Fit a lasso in three ways."""
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((20, 5)), rng.standard_normal(20)
    found = bcd.bcd(bcd.LeastSquares(A, b, l1=1.0))
    assert_type(found, bcd.BCDSolution[Array])
    assert_type(found.value, Array)
    assert_type(found.active, Array)
    assert_type(found.converged, bool)
    assert_type(found.steps, int)
    assert_type(found.objective, float)
    assert_type(found.reason, str)
    path = bcd.lasso_path(A, b)
    assert_type(path.value, Array)
    assert_type(path.converged, Array)
    assert_type(path.reason, tuple[str, ...])
    assert_type(bcd.nnls(A, b).value, Array)
    assert_type(bcd.sketch_solve(np.eye(5), b[:5], rng=0).value, Array)

    def objective(x: Array) -> tuple[float, Array, Array]:
        return float(x @ x), 2 * x, 2 * np.eye(2)

    def constraints(x: Array, multipliers: Array) -> tuple[Array, Array, Array]:
        return np.array([x.sum() - 2]), np.ones((1, 2)), np.zeros((2, 2))

    assert_type(bcd.sketched_newton(objective, constraints, np.zeros(2)).multipliers, Array)
    assert_type(largest(found), float)


def largest(solution: fastiter.Solution[Array]) -> float:
    """A function of a user's for the solution of any solver on arrays."""
    return float(abs(solution.value).max())


def estimators() -> None:
    """scikit-learn's estimators return themselves."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 5)), rng.standard_normal(20)
    model = bcd.Lasso(alpha=0.1).fit(X, y)
    assert_type(model, bcd.Lasso)
    assert_type(model.coef_, Array)
    assert_type(model.predict(X), Array)
    assert_type(bcd.ElasticNet().fit(X, y), bcd.ElasticNet)
    assert_type(bcd.NNLS().fit(X, y).intercept_, float)
    classifier = bcd.LogisticRegression().fit(X, y > 0)
    assert_type(classifier, bcd.LogisticRegression)
    assert_type(classifier.predict_proba(X), Array)


def tensors() -> None:
    """A lasso whose weight has a gradient."""
    import torch
    from torch import Tensor

    from fastiter.torch import bcd as tensors_bcd

    A, b = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    found = tensors_bcd.bcd(tensors_bcd.LeastSquares(A, b, l1=torch.tensor(1.0, dtype=torch.float64)))
    assert_type(found, bcd.BCDSolution[Tensor])
    assert_type(found.value, Tensor)
    assert_type(found.history, Tensor)
    assert_type(found.converged, bool)
    assert_type(tensors_bcd.lasso_path(A, b).value, Tensor)
    assert_type(tensors_bcd.nnls(A, b).active, Tensor)
    assert_type(tensors_bcd.sketch_solve(torch.eye(5), torch.ones(5)).value, Tensor)
