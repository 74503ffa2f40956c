"""Ranks that die, stop, raise or are late in the tests of faults."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import Tensor

from fastiter.torch import distributed


def _shard() -> tuple[Tensor, Tensor]:
    return torch.full((64,), 0.5), torch.ones(2, 5, 64, requires_grad=True)


def fault(what: str, when: str, rank: int) -> tuple[str, float]:
    """Let a rank die, stop, raise or wait at a point; return this rank's error and the time until it was raised."""
    start = time.monotonic()
    try:
        for _ in range(3):
            a, x = _shard()
            if when == "before":
                _happen(what, rank)
            h, _last = distributed.linear_scan(a, x, exchange="scan")
            if when == "between":
                _happen(what, rank)
            h.sum().backward()
    except distributed.CommunicationError as error:
        return str(error), time.monotonic() - start
    return "", time.monotonic() - start


def _happen(what: str, rank: int) -> None:
    if dist.get_rank() != rank:
        return
    if what == "delay":
        time.sleep(0.3)
    elif what == "raise":
        raise ArithmeticError("a rank's own error")
    else:
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[what])
