"""pymdptoolbox's modules, as ``from fastiter.mdp.compat import example, mdp``."""

from __future__ import annotations

from ..._public import publish
from . import error, example, mdp, util

__all__ = ["error", "example", "mdp", "util"]

publish(globals())
