"""Block coordinate descent for sparse, constrained and structured convex problems."""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .._public import publish as _publish
from ._bcd import bcd
from ._blocks import Blocks
from ._forest import forest_bcd
from ._nnls import nnls
from ._path import LassoPath, lasso_path
from ._problem import LeastSquares, Logistic, Quadratic, Softmax
from ._result import BCDSolution
from ._sketch import SketchSolution, sketch_solve
from ._sketched_newton import ConstrainedSolution, sketched_newton

if _TYPE_CHECKING:
    from ._classifier import LogisticRegression
    from ._regressors import NNLS, ElasticNet, Lasso

__all__ = [
    "NNLS",
    "BCDSolution",
    "Blocks",
    "ConstrainedSolution",
    "ElasticNet",
    "Lasso",
    "LassoPath",
    "LeastSquares",
    "Logistic",
    "LogisticRegression",
    "Quadratic",
    "SketchSolution",
    "Softmax",
    "bcd",
    "forest_bcd",
    "lasso_path",
    "nnls",
    "sketch_solve",
    "sketched_newton",
]

_publish(globals())


def __getattr__(name: str) -> _Any:
    """Import the estimators on first access: scikit-learn takes longer to import than the package."""
    if name not in ("NNLS", "ElasticNet", "Lasso", "LogisticRegression"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _classifier, _regressors

    estimators = (_regressors.NNLS, _regressors.ElasticNet, _regressors.Lasso, _classifier.LogisticRegression)
    globals().update({estimator.__name__: estimator for estimator in estimators})
    _publish(globals())
    return globals()[name]
