"""Functions that put fastiter's layers into a model; importing the layers gives them the names by which they pickle."""

from __future__ import annotations

from ..accelerate._torch.accelerate import Accelerated, accelerate, restore
from ..rnn._torch.replace import Replaced, Restored, replace
from . import nn as _nn  # noqa: F401

__all__ = ["Accelerated", "Replaced", "Restored", "accelerate", "replace", "restore"]
