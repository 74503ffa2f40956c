"""The delta rule on NumPy arrays."""

from __future__ import annotations

from .._public import publish
from ._functional import delta_scan

__all__ = ["delta_scan"]

publish(globals())
