"""Recurrent networks along time on NumPy arrays."""

from __future__ import annotations

from .._public import publish
from ._functional import elman, gru, lstm, slstm
from ._results import RnnResult, RnnStates

__all__ = ["RnnResult", "RnnStates", "elman", "gru", "lstm", "slstm"]

publish(globals())
