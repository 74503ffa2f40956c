"""Proximal operators and projections on arrays: x = argmin f(x) + |x - y|^2 / 2.

With f the indicator of a set, x is the projection of y onto it. ``t`` and ``alpha`` multiply f, so that a function's
operator with weight t is the resolvent of t times its subdifferential. A NaN, or an infinity for which x is undefined,
makes its group NaN. :mod:`fastiter.torch.fixedpoint.prox` has the same operators on tensors, with gradients.
"""

from __future__ import annotations

from .._public import publish
from ._prox.norms import prox_group, prox_l1, prox_l2, prox_linf, prox_squared_l2
from ._prox.scalar import prox_entropy, prox_huber, prox_leaky_relu, prox_log_barrier
from ._prox.sets import (
    project_affine,
    project_box,
    project_halfspace,
    project_l1_ball,
    project_l2_ball,
    project_nonnegative,
    project_simplex,
)
from ._prox.softmax import prox_softmax_entropy

__all__ = [
    "project_affine",
    "project_box",
    "project_halfspace",
    "project_l1_ball",
    "project_l2_ball",
    "project_nonnegative",
    "project_simplex",
    "prox_entropy",
    "prox_group",
    "prox_huber",
    "prox_l1",
    "prox_l2",
    "prox_leaky_relu",
    "prox_linf",
    "prox_log_barrier",
    "prox_softmax_entropy",
    "prox_squared_l2",
]

publish(globals())
