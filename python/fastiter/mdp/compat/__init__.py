"""pymdptoolbox's modules, as ``from fastiter.mdp.compat import example, mdp``, and QuantEcon's DiscreteDP."""

from __future__ import annotations

from ..._public import publish
from . import error, example, mdp, quantecon, util

__all__ = ["error", "example", "mdp", "quantecon", "util"]

publish(globals())
