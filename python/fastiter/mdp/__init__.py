"""Markov decision processes: Bellman operators V <- max_a r + gamma P V, and bounds on their fixed points."""

from __future__ import annotations

from .._public import publish
from . import examples
from ._iwocs import RobustPolicy, iwocs
from ._mdp import MDP
from ._result import MDPProgress, MDPSolution
from ._robust import robust

__all__ = ["MDP", "MDPProgress", "MDPSolution", "RobustPolicy", "examples", "iwocs", "robust"]

publish(globals())
