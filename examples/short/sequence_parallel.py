"""A long recurrence over two processes; run it by `torchrun --nproc-per-node 2`."""

import torch
import torch.distributed as dist

import fastiter.torch
from fastiter.torch import distributed

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)  # the same sequence on every process, each of which uses its own part
gates, x = torch.rand(1, 4096, 64), torch.randn(1, 4096, 64)
own = slice(4096 * rank // size, 4096 * (rank + 1) // size)

h, _ = distributed.linear_scan(gates[:, own], x[:, own])
expected, _ = fastiter.torch.linear_scan(gates, x)
print(f"rank {rank} of {size}: off by {(h - expected[:, own]).abs().max():.1e}")
torch.testing.assert_close(h, expected[:, own])
dist.destroy_process_group()
