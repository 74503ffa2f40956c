"""A model with a recurrence on sharded steps inside torch's wrappers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import fastiter.torch
from fastiter.torch import distributed

T, WIDTH = 12, 64


class Mixer(nn.Module):
    """x + W_out h, where h is a gated linear recurrence of W_in x; over the steps of all ranks, or of this one."""

    def __init__(self, scan: Callable[..., Any]) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.scan = scan

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.into(x).chunk(2, -1)
        h, _ = self.scan(torch.sigmoid(gates), values)
        y: Tensor = x + self.out(h)
        return y


class Model(nn.Module):
    def __init__(self, scan: Callable[..., Any], recompute: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Mixer(scan) for _ in range(2)])
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
        return x


def wrapped(kind: str, exchange: Any) -> float:
    """Return the largest relative difference of the gradients from those of one process, over all parameters."""
    size, rank = dist.get_world_size(), dist.get_rank()

    def scan(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return distributed.linear_scan(a, x, exchange=exchange)

    torch.manual_seed(0)
    one = Model(fastiter.torch.linear_scan).double()
    model: Any = Model(scan, recompute=kind == "checkpoint").double()
    model.load_state_dict(copy.deepcopy(one.state_dict()))
    x = torch.randn(2, T * size, WIDTH, dtype=torch.float64)
    mine = slice(T * rank, T * rank + T)
    expected = one(x)
    expected.square().mean().backward()
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    elif kind == "fsdp":
        for layer in model.layers:
            fully_shard(layer, mesh=init_device_mesh("cpu", (size,)))
        fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    elif kind == "compile":  # at a graph break, Dynamo reads .grad of tensors, with torch's warning
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        model = torch.compile(model, backend="aot_eager")
    y = model(x[:, mine])
    assert torch.allclose(y, expected[:, mine], rtol=1e-12, atol=1e-12)
    y.square().mean().backward()  # over this rank's steps; the mean of the ranks' losses is that of one process
    worst = 0.0
    for p, q in zip(model.parameters(), one.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        g = p.grad
        if kind == "fsdp":
            g = g.full_tensor()
        elif kind != "ddp":
            dist.all_reduce(g)
            g /= size
        worst = max(worst, float((g - q.grad).abs().max() / q.grad.abs().max()))
    return worst
