"""Ranks that wait for random times before they send, receive or join a collective."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from fastiter.torch import distributed

#: The operations that ranks delay, and the maximum delay in seconds
_CALLS = ("isend", "irecv", "all_gather")
_LONGEST = 0.004


@contextmanager
def delayed(seed: int) -> Iterator[dict[str, int]]:
    """Delay each message of this rank; yield the number of delays. One rank waits three times as long."""
    rank, counts = dist.get_rank(), dict.fromkeys(_CALLS, 0)
    times = random.Random(1000 * seed + rank)
    longest = _LONGEST * (3 if seed % dist.get_world_size() == rank else 1)

    def late(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            time.sleep(times.uniform(0, longest))
            return call(*arguments, **options)

        return wait_and_call

    with ExitStack() as patches:
        for name in _CALLS:
            patches.enter_context(mock.patch.object(dist, name, late(name, getattr(dist, name))))
        yield counts


def calls() -> dict[str, Callable[[], list[Tensor]]]:
    """Return results and all gradients of functions on shards of different lengths, one of them empty."""
    rank = dist.get_rank()
    steps = [5, 0, 9, 2][rank % 4]
    torch.manual_seed(rank)
    q, k, v = torch.randn(3, 1, steps, 4, 3)
    k, beta = normalize(k, dim=-1), torch.rand(1, steps, 4)
    a, x = torch.rand(2, steps, 96), torch.randn(2, steps, 96)
    torch.manual_seed(0)  # the weights are the same on every rank
    r, b, wx = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3), torch.randn(2, steps, 4, 2, 3)

    def gradients(function: Callable[..., Any], tensors: list[Tensor], **how: Any) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in tensors]
        found = function(*leaves, **how)
        flat = [y for part in found for y in ([part] if isinstance(part, Tensor) else part)]
        loss = torch.stack([y.square().sum() for y in flat]).sum()
        return [*(y.detach() for y in flat), *torch.autograd.grad(loss, leaves)]

    calls: dict[str, Callable[[], list[Tensor]]] = {"lstm": partial(gradients, distributed.lstm, [wx, r, b])}
    for exchange in ("pipeline", "scan"):
        scan = partial(gradients, distributed.linear_scan, [a, x], exchange=exchange)
        calls[f"linear_scan, {exchange}"] = scan
        calls[f"reversed linear_scan, {exchange}"] = partial(scan, reverse=True)
        calls[f"delta_scan, {exchange}"] = partial(
            gradients, distributed.delta_scan, [q, k, v, beta], exchange=exchange
        )
    return calls


def no_result_depends_on_times(seeds: int) -> int:
    """Compare the bits of all calls with and without delays; return the number of delays of this rank."""
    waited = 0
    for name, call in calls().items():
        expected = call()
        for seed in range(seeds):
            with delayed(seed) as counts:
                found = call()
            waited += sum(counts.values())
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True)), f"{name}, seed {seed}"
    return waited
