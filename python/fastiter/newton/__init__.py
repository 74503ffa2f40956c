"""Recurrences whose cells have diagonal weights, on NumPy arrays: a loop, or Newton's method along time."""

from __future__ import annotations

from .._public import publish
from ._cells import NewtonInfo
from ._functional import paragru, paralstm, paraslstm

__all__ = ["NewtonInfo", "paragru", "paralstm", "paraslstm"]

publish(globals())
