"""Functions that the ranks of a team run: the gate, contests between one process and all, empty calls, messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import fastiter
from bench.distributed.works import Shard, Work, gradients
from bench.harness import gate
from bench.harness.timing import no_garbage_collection, use_threads
from fastiter.torch import distributed

ONE, ONE_ON_TWO = "one process", "one process, 2 threads"
PEERS = ("all-gather", "later ranks", "all-to-all")
MAX_ROUNDS = 100


class Sample(NamedTuple):
    """Elapsed and CPU time of one call on one rank, in seconds."""

    wall: float
    cpu: float


class Entrant(NamedTuple):
    """A call by all ranks, or by the first rank alone on the given number of threads while the others wait."""

    call: Callable[[], object]
    alone: int = 0


def _sample(entrant: Entrant, group: dist.ProcessGroup) -> Sample:
    takes_part = not entrant.alone or dist.get_rank(group) == 0
    use_threads(entrant.alone if takes_part and entrant.alone else 1)
    dist.barrier(group)
    wall, cpu = time.perf_counter(), time.process_time()
    if takes_part:
        entrant.call()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu)


def contest(
    group: dist.ProcessGroup, entrants: Mapping[str, Entrant], budget: float, minimum: int = 3, *, warm: bool = True
) -> dict[str, list[Sample]]:
    """Call all entrants in turn, round after round; the first rank decides when the time is up."""
    samples: dict[str, list[Sample]] = {name: [] for name in entrants}
    for entrant in entrants.values() if warm else ():
        _sample(entrant, group)
    began = time.perf_counter()
    with no_garbage_collection():
        for turn in range(MAX_ROUNDS):
            for name in list(entrants)[:: 1 if turn % 2 == 0 else -1]:
                samples[name].append(_sample(entrants[name], group))
            goes_on = torch.tensor([turn + 1 < minimum or time.perf_counter() - began < budget])
            dist.broadcast(goes_on, 0, group)
            if not goes_on:
                break
    use_threads(1)
    return samples


def check(shard: Shard, name: str, results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Compare this rank's steps with those of one process in twice the precision; raise if they differ by too much."""
    names = ["y", *(f"gradient {i}" for i in range(len(results) - 1))]
    mine = {key: x[:, shard.mine].float() for key, x in zip(names, expected, strict=True)}
    return gate.check(f"{shard.work.shape}, {name}", dict(zip(names, results, strict=True)), mine, shard.work.steps)


def _ways(shard: Shard, ours: Sequence[tuple[str, int | None]], peers: Sequence[str]) -> dict[str, Callable[[], Any]]:
    ways: dict[str, Callable[[], Any]] = {}
    for exchange, chunks in ours:
        name = exchange if chunks is None else f"{exchange}, {chunks} chunks"
        ways[name] = partial(shard.ours, exchange, chunks)
    calls: dict[str, Callable[[], Any]] = {
        "all-gather": partial(shard.gathered, later_only=False),
        "later ranks": partial(shard.gathered, later_only=True),
        "all-to-all": shard.all_to_all,
    }
    return ways | {name: calls[name] for name in peers}


def sequence(
    group: dist.ProcessGroup,
    work: Work,
    ours: Sequence[tuple[str, int | None]],
    peers: Sequence[str],
    baselines: Sequence[str],
    budget: float,
) -> dict[str, Any]:
    """Check and time sharded functions and peers against one process; also count the bytes and rounds of each."""
    shard = Shard(work, group)
    ways = _ways(shard, ours, peers)
    expected = work.one(torch.float64)
    facts = {}
    for name, way in ways.items():
        shard.sent = 0
        with distributed.record_traffic() as sent:
            off = check(shard, name, way(), expected)
        facts[name] = {"off": off, "bytes": sent.bytes + shard.sent, "rounds": sent.rounds, "messages": sent.messages}
    del expected
    entrants = {name: Entrant(way) for name, way in ways.items()}
    alone = {ONE: Entrant(work.one, 1), ONE_ON_TWO: Entrant(work.one, 2)}
    entrants |= {name: alone[name] for name in baselines}
    samples = contest(group, entrants, budget)
    fastiter.release_memory()
    return {"facts": facts, "samples": samples}


def traffic(group: dist.ProcessGroup, work: Work, exchange: str) -> tuple[int, int]:
    """Bytes and rounds of a call, forward and backward."""
    shard = Shard(work, group)
    with distributed.record_traffic() as sent:
        shard.ours(exchange)
    return sent.bytes, sent.rounds


def empty(group: dist.ProcessGroup, name: str, rows: int, exchange: str, budget: float) -> dict[str, Any]:
    """A call without steps, forward and backward, and the minimal exchange it needs: 40 bytes from each rank."""
    full = Work(name, 0).tensors
    tensors = [x.expand(rows, *x.shape[1:]) for x in full]
    cotangent = tensors[2 if name == "delta_scan" else 1]
    function = getattr(distributed, name)

    def call() -> None:
        gradients(function, tensors, cotangent, group=group, exchange=exchange)

    with distributed.record_traffic() as sent:
        call()
    own = torch.zeros(5, dtype=torch.int64)
    every = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]

    def gather() -> None:
        dist.all_gather(every, own, group=group)

    many = 10  # calls in a sample
    entrants = {"call": Entrant(lambda: _times(call, many)), "all-gather": Entrant(lambda: _times(gather, many))}
    timings = contest(group, entrants, budget, 10)
    shorter = {key: [Sample(x.wall / many, x.cpu / many) for x in samples] for key, samples in timings.items()}
    return {"facts": {"rounds": sent.rounds, "bytes": sent.bytes}, "samples": shorter}


def _times(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


def messages(group: dist.ProcessGroup, sizes: Sequence[int], repeats: int) -> list[list[float]]:
    """Seconds of messages of these sizes between the first two ranks: half the round-trip time of each."""
    rank = dist.get_rank(group)
    turns = []
    for size in sizes:
        message = torch.zeros(size, dtype=torch.uint8)
        seconds = []
        for _ in range(repeats + 2):
            dist.barrier(group)
            start = time.perf_counter()
            for sender in (0, 1):
                if rank == sender:
                    dist.send(message, group_dst=1 - sender, group=group)
                else:
                    dist.recv(message, group_src=sender, group=group)
            seconds.append((time.perf_counter() - start) / 2)
        turns.append(seconds[2:])  # without the first two, which open connections
    return turns
