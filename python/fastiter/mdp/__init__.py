"""Markov decision processes: Bellman operators V <- max_a r + gamma P V, and bounds on their fixed points."""

from __future__ import annotations

from .._public import publish
from . import examples
from ._mdp import MDP
from ._result import MDPProgress, MDPSolution

__all__ = ["MDP", "MDPProgress", "MDPSolution", "examples"]

publish(globals())
