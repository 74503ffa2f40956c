"""Calls on ranks whose connections go through proxies: the bits of results, and failing networks."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from fastiter.torch import distributed
from tests.distributed.delay_jobs import calls
from tests.distributed.proxies import join_through_proxies


def same_bits(path: str) -> int:
    """Compare all calls with those without proxies; return the bytes that went through this rank's proxies."""
    expected = {name: call() for name, call in calls().items()}
    proxies = join_through_proxies(path, 60.0)
    for name, call in calls().items():
        assert all(torch.equal(x, y) for x, y in zip(call(), expected[name], strict=True)), name
    return sum(proxy.passed for some in proxies.values() for proxy in some)


def cut(path: str, how: str, lost: int, timeout: float) -> tuple[str, float]:
    """Disconnect a rank after some calls; return this rank's error and the duration of the call that raised it."""
    proxies = join_through_proxies(path, timeout)
    call = calls()["linear_scan, scan"]
    count = 0
    while True:
        start, count = time.monotonic(), count + 1
        if count == 4:  # others may be one call behind, and get its error
            for other, some in proxies.items():
                for proxy in some if lost in (other, dist.get_rank()) else []:
                    getattr(proxy, how)()
        try:
            call()
        except distributed.CommunicationError as error:
            return str(error), time.monotonic() - start
