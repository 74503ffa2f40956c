"""Modules whose interface may change in any release; :mod:`fastiter.experimental` has functions on arrays."""

from __future__ import annotations

from .._public import publish
from ..fixedpoint._torch.nn.graph_solver import ConvergentGraphSolver
from ..fixedpoint._torch.nn.monotone_dbm import MonotoneDBM

__all__ = ["ConvergentGraphSolver", "MonotoneDBM"]

publish(globals())
