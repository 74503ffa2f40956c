"""Sequences whose steps are sharded over the ranks of a process group of torch.distributed, on tensors."""

from __future__ import annotations

from .._public import publish
from .._torch.collectives import CommunicationError, Traffic, record_traffic

__all__ = ["CommunicationError", "Traffic", "record_traffic"]

publish(globals())
