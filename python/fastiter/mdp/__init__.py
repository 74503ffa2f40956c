"""Markov decision processes: Bellman operators V <- max_a r + gamma P V, and bounds on their fixed points."""

from __future__ import annotations

from .._public import publish
from . import compat, distributional, examples
from ._average import average, extended_value_iteration
from ._batch import MDPBatch
from ._finite import FiniteHorizon, finite_horizon
from ._mdp import MDP
from ._occupancy import Occupancy, occupancy
from ._result import AverageSolution, MDPSolution
from ._robust import robust

__all__ = [
    "MDP",
    "AverageSolution",
    "FiniteHorizon",
    "MDPBatch",
    "MDPSolution",
    "Occupancy",
    "average",
    "compat",
    "distributional",
    "examples",
    "extended_value_iteration",
    "finite_horizon",
    "occupancy",
    "robust",
]

publish(globals())
