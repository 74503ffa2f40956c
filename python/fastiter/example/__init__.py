"""An example of a family."""

from __future__ import annotations

from .._public import publish
from ._functional import softsign

__all__ = ["softsign"]

publish(globals())
