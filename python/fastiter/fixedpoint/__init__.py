"""Fixed points x = f(x): batched iterations that converge faster than x <- f(x), with a stopping test per sample."""

from __future__ import annotations

from .._public import publish
from . import monotone, prox
from ._functional import fixed_point
from ._hopfield import hopfield_energy, hopfield_update
from ._hopfield_shapes import HopfieldSolution
from ._problems.refine import refine, shift
from ._problems.sinkhorn import SinkhornSolution, sinkhorn
from ._result import FixedPointSolution

__all__ = [
    "FixedPointSolution",
    "HopfieldSolution",
    "SinkhornSolution",
    "fixed_point",
    "hopfield_energy",
    "hopfield_update",
    "monotone",
    "prox",
    "refine",
    "shift",
    "sinkhorn",
]

publish(globals())
