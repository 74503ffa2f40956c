"""The section network: functions and messages between network namespaces, compared with the limits of the links."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from bench.distributed import jobs, model
from bench.distributed.costs import costs_of, fastest, named, predicted, slowest
from bench.distributed.network import Link, Switch
from bench.distributed.team import Team
from bench.distributed.works import Work, gradients
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.session import Options
from bench.harness.timing import load_average
from fastiter.torch import distributed

MBIT = 1e6
LINKS = (
    Link(100 * MBIT, 1e-3),
    Link(100 * MBIT, 20e-3),
    Link(10 * MBIT, 20e-3),
    Link(100 * MBIT, 5e-3, 0.01),
)
QUICK_LINKS = LINKS[:1]
SIZES = (64, 1024, 8192, 32768, 131072, 524288)
STEPS = 1024
#: Seconds after which a rank gives up if a link is down
TIMEOUT = 3.0
WAYS = (("pipeline", 8), ("scan", None))
FUNCTIONS = ("linear_scan", "delta_scan")

HEADER = f"{'links':34}{'work':30}{'ranks':>6}  {'way':20}{'ms':>10}{'model':>10}{'lost':>7}"


def row(r: Record) -> str:
    return (
        f"{r['link']:34}{r['work']:30}{r['ranks']:6}  {r['way']:20}{r['ms']:10.2f}{r['model_ms']:10.2f}{r['lost']:7}"
        f"  load {r['load']:.1f}"
    )


def network(options: Options) -> Iterator[Record]:
    """Messages and calls on each kind of link, then a link that goes down."""
    if sys.platform != "linux":
        raise SystemExit("bench: the section network needs Linux, which has network namespaces.")
    try:
        with Team(4) as here:
            costs = {name: costs_of(here, name, options) for name in FUNCTIONS}
        with Team(4, LINKS[0]) as team:
            assert team.switch is not None
            for link in QUICK_LINKS if options.quick else LINKS:
                team.switch.link = link
                yield from _messages(team, link, team.switch, options)
                for name in FUNCTIONS:
                    yield from _calls(team, link, team.switch, costs[name], name)
        yield broken(LINKS[0])
    except PermissionError as error:
        raise SystemExit(f"bench: {error.strerror}. The section network needs root or user namespaces.") from None


def _record(link: Link, switch: Switch, **more: Any) -> Record:
    lost = switch.lost
    switch.lost = 0
    return {"link": str(link), **more, "lost": lost, "load": load_average()}


def _messages(team: Team, link: Link, switch: Switch, options: Options) -> Iterator[Record]:
    results = team.run(2, jobs.messages, SIZES, 3 if options.quick else 5)
    turns = [[max(pair) for pair in zip(*both, strict=True)] for both in zip(*results, strict=True)]
    for size, seconds in zip(SIZES, turns, strict=True):
        yield _record(
            link,
            switch,
            work=f"{size} bytes",
            ranks=2,
            way="message",
            ms=1e3 * min(seconds),
            slowest_ms=1e3 * max(seconds),
            model_ms=1e3 * (link.alpha + link.beta * size),
        )


def _calls(team: Team, link: Link, switch: Switch, costs: model.Costs, name: str) -> Iterator[Record]:
    """Calls on two and four ranks; the gate compares results and gradients with those of one process."""
    work = Work(name, STEPS)
    costs = costs._replace(alpha=costs.alpha + link.alpha, beta=costs.beta + link.beta)
    for ranks in (2, 4):
        results = team.run(ranks, jobs.sequence, work, WAYS, (), (jobs.ONE,), 0.0)
        one = fastest(results, jobs.ONE).wall
        for exchange, chunks in WAYS:
            way = named(exchange, chunks)
            yield _record(
                link,
                switch,
                work=work.shape,
                ranks=ranks,
                way=way,
                ms=1e3 * fastest(results, way).wall,
                slowest_ms=1e3 * slowest(results, way),
                model_ms=1e3 * predicted(one, ranks, exchange, chunks, costs),
            )


def once(group: dist.ProcessGroup) -> None:
    """Make a call, forward and backward."""
    tensors = [torch.full((1, 8, 64), 0.5), torch.ones(1, 8, 64)]
    gradients(distributed.linear_scan, tensors, tensors[1], group=group, exchange="scan")


def until_cut(group: dist.ProcessGroup) -> tuple[float, str]:
    """Make calls until one fails; return the time of the failure, by a clock shared by all ranks, and its message."""
    while True:
        try:
            once(group)
        except distributed.CommunicationError as error:
            return time.monotonic(), str(error)


def broken(link: Link) -> Record:
    """Disconnect the last of three ranks between two calls or during one; all must raise within two timeouts."""
    with Team(3, link, TIMEOUT) as team:
        assert team.switch is not None
        team.run(3, once)  # imports what the first call needs
        team.begin(3, until_cut)
        time.sleep(0.5)
        began = time.monotonic()
        team.switch.cut(2)
        results = team.results(3)
        latest = max(end for end, _ in results) - began
        for rank, (_, message) in enumerate(results):
            if not message.startswith(f"linear_scan: rank {rank} of 3 got no answer from "):
                raise GateError(f"a link that goes down: rank {rank} raised {message!r}")
        if not 0 < latest < 2 * TIMEOUT + 2:
            raise GateError(f"a link that goes down: the last rank noticed after {latest:.1f} s")
        return _record(
            link,
            team.switch,
            work="a link goes down",
            ranks=3,
            way="all raise",
            ms=1e3 * latest,
            slowest_ms=1e3 * latest,
            model_ms=1e3 * TIMEOUT,
        )
