"""The interface of the package flashrnn."""

from __future__ import annotations

from ..rnn._torch.flashrnn import FlashRNNConfig, flashrnn

__all__ = ["FlashRNNConfig", "flashrnn"]
