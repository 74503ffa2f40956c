"""Fixed points of maps and estimates of their constants, iterative refinement and optimal transport, on tensors."""

from __future__ import annotations

from .._public import publish
from ..fixedpoint._torch.estimates import error_bound, jacobian_penalty, monotonicity, spectral_radius
from ..fixedpoint._torch.refine import refine
from ..fixedpoint._torch.sinkhorn import sinkhorn

__all__ = ["error_bound", "jacobian_penalty", "monotonicity", "refine", "sinkhorn", "spectral_radius"]

publish(globals())
