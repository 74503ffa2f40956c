"""Linear recurrences along time on NumPy arrays."""

from __future__ import annotations

from .._public import publish
from ._functional import block_scan, linear_scan

__all__ = ["block_scan", "linear_scan"]

publish(globals())
