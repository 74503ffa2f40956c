"""Sequences whose steps are sharded over the ranks of a process group of torch.distributed, on tensors."""

from __future__ import annotations

from .._public import publish
from .._torch.collectives import CommunicationError, Traffic, record_traffic
from ..scan._torch.distributed import block_scan, linear_scan

__all__ = ["CommunicationError", "Traffic", "block_scan", "linear_scan", "record_traffic"]

publish(globals())
