"""Block coordinate descent on tensors, with gradients of the solutions; arrays have :mod:`fastiter.bcd`."""

from __future__ import annotations

from .._public import publish
from ..bcd._torch.constrained import sketched_newton
from ..bcd._torch.functional import bcd
from ..bcd._torch.objective import Objective
from ..bcd._torch.problem import LeastSquares, Logistic, Quadratic, Softmax
from ..bcd._torch.squares import lasso_path, nnls, sketch_solve

__all__ = [
    "LeastSquares",
    "Logistic",
    "Objective",
    "Quadratic",
    "Softmax",
    "bcd",
    "lasso_path",
    "nnls",
    "sketch_solve",
    "sketched_newton",
]

publish(globals())
