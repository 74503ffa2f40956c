"""Recurrences whose cells have diagonal weights, on NumPy arrays: by a loop, or by Newton's method along time."""

from __future__ import annotations

from .._public import publish
from ._cells import NewtonInfo
from ._functional import paragru, paralstm, paraslstm
from ._results import ParaResult, ParaResultInfo

__all__ = ["NewtonInfo", "ParaResult", "ParaResultInfo", "paragru", "paralstm", "paraslstm"]

publish(globals())
