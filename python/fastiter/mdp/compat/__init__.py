"""pymdptoolbox's modules ``mdp`` and ``example``: ``from fastiter.mdp.compat import example, mdp``."""

from __future__ import annotations

from ..._public import publish
from . import example, mdp

__all__ = ["example", "mdp"]

publish(globals())
