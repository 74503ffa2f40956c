"""Sequences and systems divided over processes, against one process and against ranks that exchange whole arguments.

sequence   linear_scan and delta_scan on two ranks, forward and backward; the peers gather the arguments of all steps
scaling    1, 2 and 4 ranks on a sequence of fixed length, and with fixed steps a rank; predicted by the model
empty      what a call without steps costs
messages   the times of messages, and the line alpha + beta n through them
model      the model's times on 8, 64 and 1024 ranks, and the least length that pays

Each rank has one thread. Processor times are those of the busiest rank, gloo's threads included; on a machine that does
other things at the same time they are what counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from bench.distributed import jobs, model, table
from bench.distributed.jobs import ONE, ONE_ON_TWO, PEERS, Sample
from bench.distributed.team import Team
from bench.distributed.works import Work
from bench.harness import session
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import load_average

SECTIONS = ("sequence", "scaling", "empty", "messages", "model")
FUNCTIONS = ("linear_scan", "delta_scan")
STEPS, QUICK_STEPS = 65_536, 2048
SIZES = tuple(64 * 4**i for i in range(10))
EXTRAPOLATED = (8, 64, 1024)
#: Our ways of a contest on two ranks: exchange and the most chunks
OURS = (("auto", None), ("pipeline", 2), ("scan", None))
#: Passes over its steps of a rank in the middle of a scan, in units of one forward and backward pass
PASSES = {"linear_scan": 2.0, "delta_scan": 7 / 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def fastest(found: Sequence[dict[str, Any]], way: str) -> Sample:
    """Return the least time until all ranks have finished, and the least processor time of the busiest rank."""
    turns = list(zip(*(one["samples"][way] for one in found), strict=True))
    return Sample(min(max(x.wall for x in turn) for turn in turns), min(max(x.cpu for x in turn) for turn in turns))


def milliseconds(prefix: str, sample: Sample) -> Record:
    return {f"{prefix}ms": 1e3 * sample.wall, f"{prefix}cpu_ms": 1e3 * sample.cpu}


def named(exchange: str, chunks: int | None) -> str:
    return exchange if chunks is None else f"{exchange}, {chunks} chunks"


def sequence(team: Team, options: Options) -> Iterator[Record]:
    steps = QUICK_STEPS if options.quick else STEPS
    for name in FUNCTIONS:
        work, shorter = Work(name, steps), Work(name, steps // 4)
        peers = tuple(way for way in PEERS if not options.peers or any(word in way for word in options.peers))
        found = team.run(2, jobs.sequence, work, OURS, peers, (ONE, ONE_ON_TWO), options.budget)
        one, two = fastest(found, ONE), fastest(found, ONE_ON_TWO)
        for way in (*(named(*each) for each in OURS), *peers):
            facts = [rank["facts"][way] for rank in found]
            record = {
                "work": work.shape,
                "way": way,
                "ours": way not in PEERS,
                **milliseconds("", fastest(found, way)),
                **milliseconds("one_", one),
                **milliseconds("two_threads_", two),
                "bytes": max(fact["bytes"] for fact in facts),
                "rounds": max(fact["rounds"] for fact in facts) if way not in PEERS else None,
                "off": max(fact["off"] for fact in facts),
                "load": load_average(),
            }
            if way in ("auto", "scan"):
                record["bytes_of_a_quarter"] = max(sent for sent, _ in team.run(2, jobs.traffic, shorter, way))
            yield record


def scaling(team: Team, options: Options) -> Iterator[Record]:
    """Fixed steps in all on 1, 2 and 4 ranks, and twice the steps on twice the ranks."""
    longest = QUICK_STEPS if options.quick else STEPS
    for name in FUNCTIONS:
        costs = costs_of(team, name, options)
        ways = (("pipeline", 2), ("pipeline", 8), ("scan", None))
        for steps in (longest // 16, longest // 4, longest):
            work = Work(name, steps)
            for ranks in (1, 2, 4) if steps == longest // 4 else (1, 2):
                found = team.run(ranks, jobs.sequence, work, ways, (), (ONE,), options.budget / 4)
                one = fastest(found, ONE)
                for exchange, chunks in ways[-1:] if ranks == 1 else ways:
                    way = named(exchange, chunks)
                    yield {
                        "work": work.shape,
                        "function": name,
                        "steps": steps,
                        "ranks": ranks,
                        "way": way,
                        **milliseconds("", fastest(found, way)),
                        **milliseconds("one_", one),
                        "predicted_ms": 1e3 * predicted(one.wall, ranks, chunks, costs),
                        "off": max(rank["facts"][way]["off"] for rank in found),
                        "load": load_average(),
                    }


def predicted(t: float, ranks: int, chunks: int | None, costs: model.Costs) -> float:
    return model.scan(t, ranks, costs) if chunks is None else model.pipeline(t, ranks, chunks, costs)


def empty(team: Team, options: Options) -> Iterator[Record]:
    for name in FUNCTIONS:
        for rows, exchange in ((1, "auto"), (1, "scan"), (8, "auto")):
            found = team.run(2, jobs.empty, name, rows, exchange, options.budget / 6)
            call, gather = fastest(found, "call"), fastest(found, "all-gather")
            yield {
                "work": f"{name}, {rows} row{'s' * (rows > 1)}",
                "way": exchange,
                "us": 1e6 * call.wall,
                "cpu_us": 1e6 * call.cpu,
                "all_gather_us": 1e6 * gather.wall,
                "rounds": max(rank["facts"]["rounds"] for rank in found),
                "load": load_average(),
            }


def line_of(team: Team, options: Options) -> tuple[list[float], model.Line]:
    """Return the least seconds of messages of the sizes, and the line through them."""
    found = team.run(2, jobs.messages, SIZES, 5 if options.quick else 40)
    seconds = [min(max(pair) for pair in zip(*both, strict=True)) for both in zip(*found, strict=True)]
    return seconds, model.fit(SIZES, seconds)


def costs_of(team: Team, name: str, options: Options) -> model.Costs:
    """Return the costs of messages, and of calls by the processor times of those with one step on each rank."""
    _, line = line_of(team, options)
    budget = options.budget / 12
    alone = team.run(1, jobs.sequence, Work(name, 1), OURS[-1:], (), (ONE,), budget)
    call = max(0.0, fastest(alone, "scan").cpu - fastest(alone, ONE).cpu)
    both = team.run(2, jobs.sequence, Work(name, 2), (("pipeline", 1), ("pipeline", 8), ("scan", None)), (), (), budget)
    few, many = fastest(both, "pipeline, 1 chunks").cpu, fastest(both, "pipeline, 8 chunks").cpu
    chunk = max(0.0, (many - few) / 7)
    agreement = max(0.0, few - call - chunk)
    once = max(0.0, fastest(both, "scan").cpu - call - agreement)
    work = Work(name, 0)
    return model.Costs(
        line.alpha, line.beta, call, agreement, chunk, once, work.state_bytes, work.map_bytes, PASSES[name]
    )


def messages(team: Team, options: Options) -> Iterator[Record]:
    seconds, line = line_of(team, options)
    for size, second, residual in zip(SIZES, seconds, line.residuals, strict=True):
        yield {
            "work": f"{size} bytes",
            "us": 1e6 * second,
            "line_us": 1e6 * (line.alpha + line.beta * size),
            "residual": residual,
            "alpha_us": 1e6 * line.alpha,
            "beta_ns": 1e9 * line.beta,
            "load": load_average(),
        }


def extrapolation(team: Team, options: Options) -> Iterator[Record]:
    steps = QUICK_STEPS if options.quick else STEPS
    for name in FUNCTIONS:
        costs = costs_of(team, name, options)
        one = fastest(team.run(1, jobs.sequence, Work(name, steps), (), (), (ONE,), options.budget / 4), ONE)
        each = one.wall / steps
        chunks = (1, 2, 4, 8)
        for ranks in EXTRAPOLATED:
            seconds, way = model.best(one.wall, ranks, chunks, costs)
            weak, weak_way = model.best(ranks * one.wall, ranks, chunks, costs)
            yield {
                "work": Work(name, steps).shape,
                "ranks": ranks,
                "one_ms": 1e3 * one.wall,
                "ms": 1e3 * seconds,
                "way": way,
                "weak_ms": 1e3 * weak,
                "weak_way": weak_way,
                "crossover": model.crossover(each, ranks, chunks, costs),
                "costs": costs._asdict(),
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row when it is known; the result is what bench/__main__.py writes to --out."""
    options = session.read_options("distributed", arguments, SECTIONS)
    of_team = {
        "sequence": sequence,
        "scaling": scaling,
        "empty": empty,
        "messages": messages,
        "model": extrapolation,
    }
    with Team(4) as team:
        sections: dict[str, Callable[[Options], Iterator[Record]]] = {
            name: partial(section, team) for name, section in of_team.items()
        }
        return session.measure("distributed", options, sections, table.HEADERS, table.ROWS)
