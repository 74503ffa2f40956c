"""Replacement of the recurrent layers of a model by compiled ones, and restoration of the originals."""

from __future__ import annotations

from ..accelerate._torch.accelerate import restore
from ..rnn._torch.replace import Replaced, Restored, replace

__all__ = ["Replaced", "Restored", "replace", "restore"]
