"""Fixed points, refinement, transport, Hopfield networks, and estimates of the constants of maps, on tensors.

:mod:`fastiter.fixedpoint.monotone` and :func:`fastiter.fixedpoint.shift` take tensors as they take arrays.
"""

from __future__ import annotations

from ..._public import publish
from ...fixedpoint._torch.estimates import error_bound, jacobian_penalty, monotonicity, spectral_radius
from ...fixedpoint._torch.functional import fixed_point
from ...fixedpoint._torch.hopfield import hopfield_energy, hopfield_update
from ...fixedpoint._torch.refine import refine
from ...fixedpoint._torch.sinkhorn import sinkhorn
from . import prox

__all__ = [
    "error_bound",
    "fixed_point",
    "hopfield_energy",
    "hopfield_update",
    "jacobian_penalty",
    "monotonicity",
    "prox",
    "refine",
    "sinkhorn",
    "spectral_radius",
]

publish(globals())
