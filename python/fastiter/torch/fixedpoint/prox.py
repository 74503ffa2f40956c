"""Proximal operators and projections on tensors, with gradients; arrays have :mod:`fastiter.fixedpoint.prox`."""

from __future__ import annotations

from ..._public import publish
from ...fixedpoint._torch.prox_norms import (
    prox_entropy,
    prox_group,
    prox_huber,
    prox_l1,
    prox_l2,
    prox_leaky_relu,
    prox_linf,
    prox_log_barrier,
    prox_softmax_entropy,
    prox_squared_l2,
)
from ...fixedpoint._torch.prox_sets import (
    project_affine,
    project_box,
    project_halfspace,
    project_l1_ball,
    project_l2_ball,
    project_nonnegative,
    project_simplex,
)

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
