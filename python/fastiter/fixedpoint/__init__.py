"""Fixed points x = f(x): iterations that converge faster than x <- f(x), batched, with a stop for each sample."""

from __future__ import annotations

from .._public import publish
from ._hopfield import hopfield_energy, hopfield_update
from ._hopfield_shapes import HopfieldSolution

__all__ = ["HopfieldSolution", "hopfield_energy", "hopfield_update"]

publish(globals())
