"""Divide a long sequence over processes: a gated linear recurrence and the delta rule, forward and backward.

Each process has some of the steps. It computes chunks of channels or heads as their states arrive from the preceding
process, so that all are busy after a few chunks; only states are sent, whose size does not depend on the
length. The script checks that the results equal those of one process, and measures both and the cost of messages. The
figure shows the bytes that are sent for shorter and longer sequences.

    torchrun --nproc-per-node 2 examples/sequence_parallel.py            # 20 seconds to 6 minutes; writes a figure
    torchrun --nproc-per-node 2 examples/sequence_parallel.py --help

:Starts from: a model
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _script import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

import fastiter
import fastiter.torch
from fastiter.torch import distributed


@dataclass(frozen=True)
class Options:
    steps: int = option(65536, "steps of the whole sequence", 512)
    width: int = option(256, "channels of the recurrence", 64)
    heads: int = option(8, "heads of the delta rule", 4)
    repeats: int = option(7, "runs, of which the fastest counts", 2)
    figure: Path = figure_option(__file__)


def gradients(function: Callable[..., Any], tensors: list[Tensor], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """Return the result and the gradients of half the sum of its squares."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    y, _ = function(*leaves, **options)
    return y.detach(), list(torch.autograd.grad(y, leaves, y.detach()))


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest run; all processes start each run together."""
    best = float("inf")
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def own_steps(x: Tensor) -> Tensor:
    """Return the steps of this process."""
    rank, size = dist.get_rank(), dist.get_world_size()
    return x[:, x.shape[1] * rank // size : x.shape[1] * (rank + 1) // size].contiguous()


def compare(name: str, tensors: list[Tensor], options: Options) -> None:
    """Check and time a function on this process's steps, compared with all steps in the first process."""
    rank, size = dist.get_rank(), dist.get_world_size()
    one, sharded = getattr(fastiter.torch, name), getattr(distributed, name)
    local = [own_steps(x) for x in tensors]
    expected, actual = gradients(one, tensors), gradients(sharded, local)
    off = max(
        float((a - own_steps(b)).abs().max() / b.abs().max())
        for a, b in zip((actual[0], *actual[1]), (expected[0], *expected[1]), strict=True)
    )
    with distributed.record_traffic() as sent:
        gradients(sharded, local)
    together = fastest(lambda: gradients(sharded, local), options.repeats)
    alone = fastest(lambda: gradients(one, tensors) if rank == 0 else None, options.repeats)
    if rank == 0:
        print(
            f"{name}: {options.steps} steps, one process {1e3 * alone:.1f} ms, {size} processes "
            f"{1e3 * together:.1f} ms, {alone / together:.2f} times as fast; "
            f"{sent.bytes} bytes in {sent.messages} messages; off by {off:.1e}"
        )


def bytes_sent(name: str, tensors: list[Tensor], lengths: list[int]) -> list[int]:
    """Return the bytes that this process sends for the first steps of a sequence, forward and backward."""
    counts = []
    for length in lengths:
        with distributed.record_traffic() as sent:
            gradients(getattr(distributed, name), [own_steps(x[:, :length]) for x in tensors])
        counts.append(sent.bytes)
    return counts


def draw(lengths: list[int], sent: dict[str, list[int]], inputs: dict[str, int], path: Path) -> None:
    """Plot the bytes that a process sends, and those of its part of the inputs."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, counts), line in zip(sent.items(), ("-", "--"), strict=True):
        share = [inputs[name] * length // dist.get_world_size() for length in lengths]
        axes.loglog(lengths, share, line, color=OTHERS, label=f"{name}, inputs of a process")
        axes.loglog(lengths, counts, line, marker="o", color=OURS, label=f"{name}, sent by it")
    axes.set(xlabel="steps of the sequence", ylabel="bytes")
    axes.legend(frameon=False)
    save(figure, path)


def message_costs(repeats: int) -> None:
    """Fit the time of a message to a line, alpha + beta bytes, over sizes from 64 bytes to 4 MB."""
    rank, other = dist.get_rank(), 1 - dist.get_rank()
    if dist.get_world_size() != 2:
        return

    def there_and_back(message: Tensor) -> None:
        for sender in (0, 1):
            (dist.send if rank == sender else dist.recv)(message, other)

    sizes = [64 * 4**i for i in range(9)]
    messages = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    seconds = [fastest(partial(there_and_back, message), 3 * repeats) / 2 for message in messages]
    # Relative errors are fitted, as otherwise the longest message would dominate.
    weights = 1 / torch.tensor(seconds, dtype=torch.float64)
    lines = torch.stack([torch.ones(len(sizes)).double(), torch.tensor(sizes).double()], 1) * weights.unsqueeze(1)
    alpha, beta = torch.linalg.lstsq(lines, torch.ones(len(sizes), 1).double()).solution.flatten().tolist()
    if rank == 0:
        print(f"a message takes {1e6 * alpha:.0f} us and {1e9 * beta:.2f} ns a byte")


def main() -> None:
    options = command_line(Options, __doc__)
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    fastiter.set_num_threads(1)
    torch.manual_seed(0)  # the same sequence on every process, each of which uses its own part
    gates, x = torch.rand(1, options.steps, options.width), torch.randn(1, options.steps, options.width)
    q, k, v = torch.randn(3, 1, options.steps, options.heads, 32)
    beta = torch.rand(1, options.steps, options.heads)
    works = {"linear_scan": [gates, x], "delta_scan": [q, normalize(k, dim=-1), v, beta]}
    for name, tensors in works.items():
        compare(name, tensors, options)
    message_costs(options.repeats)
    lengths = [options.steps >> shift for shift in range(6, -1, -1)]
    sent = {name: bytes_sent(name, tensors, lengths) for name, tensors in works.items()}
    step = {name: sum(x[0, 0].nbytes for x in tensors) for name, tensors in works.items()}
    if dist.get_rank() == 0:
        draw(lengths, sent, step, options.figure)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
