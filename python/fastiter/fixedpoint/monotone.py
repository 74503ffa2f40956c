"""Monotone inclusions 0 in (A + B)(x), on arrays and tensors.

A is given by its resolvent (I + t A)^-1, such as the operators of :mod:`fastiter.fixedpoint.prox`; B by its values, or
by its resolvent as well. With A and B subdifferentials, x minimises a sum of functions; with the operator of a saddle
function, x is a saddle point or an equilibrium.
"""

from __future__ import annotations

from .._public import publish
from ._inclusion.forward import extragradient, forward_backward, forward_backward_forward
from ._inclusion.mirror import mirror_prox
from ._inclusion.solve import InclusionSolution
from ._inclusion.splitting import davis_yin, douglas_rachford, peaceman_rachford, primal_dual

__all__ = [
    "InclusionSolution",
    "davis_yin",
    "douglas_rachford",
    "extragradient",
    "forward_backward",
    "forward_backward_forward",
    "mirror_prox",
    "peaceman_rachford",
    "primal_dual",
]

publish(globals())
