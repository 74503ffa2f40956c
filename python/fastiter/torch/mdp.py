"""Decision processes on tensors: optimal values with bounds, or with gradients; arrays have :mod:`fastiter.mdp`."""

from __future__ import annotations

from .._public import publish
from ..mdp._torch.functional import MDPValues, values
from ..mdp._torch.occupancy import occupancy
from ..mdp._torch.solve import solve

__all__ = ["MDPValues", "occupancy", "solve", "values"]

publish(globals())
