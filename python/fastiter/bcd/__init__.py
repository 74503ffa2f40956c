"""Block coordinate descent for sparse, constrained and structured convex problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._public import publish
from ._bcd import bcd
from ._blocks import Blocks
from ._forest import forest_bcd
from ._nnls import nnls
from ._path import LassoPath, lasso_path
from ._problem import LeastSquares, Logistic, Quadratic, Softmax
from ._result import BCDSolution
from ._sketch import SketchSolution, sketch_solve
from ._sketched_newton import ConstrainedSolution, sketched_newton

if TYPE_CHECKING:
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

#: Imported on first access, as scikit-learn takes long to import
publish(
    globals(),
    {
        "ElasticNet": "._regressors",
        "Lasso": "._regressors",
        "LogisticRegression": "._classifier",
        "NNLS": "._regressors",
    },
)
