"""Estimates about maps and their fixed points on tensors; the solver is :func:`fastiter.torch.fixed_point`."""

from __future__ import annotations

from .._public import publish
from ..fixedpoint._torch.estimates import error_bound, jacobian_penalty, monotonicity, spectral_radius

__all__ = ["error_bound", "jacobian_penalty", "monotonicity", "spectral_radius"]

publish(globals())
