"""Sequences and systems divided among processes, against one process and against ranks that exchange whole arguments.

sequence   linear_scan and delta_scan on two ranks, forward and backward; the peers gather the arguments of all steps
scaling    1, 2 and 4 ranks on a sequence of fixed length, and with a fixed number of steps per rank; and the model's
           predictions
empty      what a call without steps costs
messages   the times of messages, and the line alpha + beta n fitted to them
model      the model's times on 8, 64 and 1024 ranks, and the smallest length at which they pay off
poisson    conjugate gradients on two ranks against SciPy's in one process, on 500^2 and 2000^2 points
network    ranks in network namespaces with delays, limited bandwidth and losses; needs root or user namespaces

The last two run only if --sections names them: one takes minutes, the other needs privileges.

Each rank has one thread. CPU times are those of the busiest rank, including gloo's threads; on a busy machine they are
more meaningful than elapsed times.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

from bench.distributed import bad_network, costs, jobs, model, poisson, table
from bench.distributed.costs import fastest, named
from bench.distributed.jobs import ONE, ONE_ON_TWO, PEERS, Sample
from bench.distributed.team import Team
from bench.distributed.works import Work
from bench.harness import session
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import load_average

SECTIONS = ("sequence", "scaling", "empty", "messages", "model")
ON_REQUEST = ("network", "poisson")
FUNCTIONS = ("linear_scan", "delta_scan")
STEPS, QUICK_STEPS = 65_536, 2048
EXTRAPOLATED = (8, 64, 1024)
#: Our variants in a contest on two ranks: exchange and maximum number of chunks
OURS = {
    "linear_scan": (("auto", None), ("speculative", None), ("pipeline", 2), ("scan", None)),
    "delta_scan": (("auto", None), ("pipeline", 2), ("scan", None)),
}
#: The variants in the section scaling, which the model predicts; the last one is shown for one rank
SCALED: tuple[tuple[str, int | None], ...] = (("pipeline", 2), ("pipeline", 8), ("scan", None))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def milliseconds(prefix: str, sample: Sample) -> Record:
    return {f"{prefix}ms": 1e3 * sample.wall, f"{prefix}cpu_ms": 1e3 * sample.cpu}


def sequence(team: Team, options: Options) -> Iterator[Record]:
    steps = QUICK_STEPS if options.quick else STEPS
    for name, forgets in (("linear_scan", True), ("linear_scan", False), ("delta_scan", True)):
        work, shorter = Work(name, steps, forgets), Work(name, steps // 4, forgets)
        # Peers compute the same whatever the factors are.
        peers = tuple(way for way in PEERS if not options.peers or any(word in way for word in options.peers))
        by_rank = team.run(
            2, jobs.sequence, work, OURS[name], peers if forgets else (), (ONE, ONE_ON_TWO), options.budget
        )
        one, two = fastest(by_rank, ONE), fastest(by_rank, ONE_ON_TWO)
        for way in by_rank[0]["facts"]:
            facts = [rank["facts"][way] for rank in by_rank]
            record = {
                "work": work.shape,
                "way": way,
                "ours": way not in PEERS,
                **milliseconds("", fastest(by_rank, way)),
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
    """A fixed total number of steps on 1, 2 and 4 ranks, and twice the steps on twice the ranks."""
    longest = QUICK_STEPS if options.quick else STEPS
    for name in FUNCTIONS:
        parameters = costs.costs_of(team, name, options)
        ways = SCALED if name == "delta_scan" else (*SCALED, ("speculative", None))
        for steps in (longest // 16, longest // 4, longest):
            work = Work(name, steps)
            for ranks in (1, 2, 4) if steps == longest // 4 else (1, 2):
                by_rank = team.run(ranks, jobs.sequence, work, ways, (), (ONE,), options.budget / 4)
                one = fastest(by_rank, ONE)
                for exchange, chunks in SCALED[2:] if ranks == 1 else ways:
                    way = named(exchange, chunks)
                    yield {
                        "work": work.shape,
                        "function": name,
                        "steps": steps,
                        "ranks": ranks,
                        "way": way,
                        **milliseconds("", fastest(by_rank, way)),
                        **milliseconds("one_", one),
                        "predicted_ms": 1e3 * costs.predicted(one.wall, ranks, exchange, chunks, parameters),
                        "off": max(rank["facts"][way]["off"] for rank in by_rank),
                        "load": load_average(),
                    }


def empty(team: Team, options: Options) -> Iterator[Record]:
    for name in FUNCTIONS:
        for rows, exchange in ((1, "auto"), (1, "scan"), (8, "auto")):
            by_rank = team.run(2, jobs.empty, name, rows, exchange, options.budget / 6)
            call, gather = fastest(by_rank, "call"), fastest(by_rank, "all-gather")
            yield {
                "work": f"{name}, {rows} row{'s' * (rows > 1)}",
                "way": exchange,
                "us": 1e6 * call.wall,
                "cpu_us": 1e6 * call.cpu,
                "all_gather_us": 1e6 * gather.wall,
                "rounds": max(rank["facts"]["rounds"] for rank in by_rank),
                "load": load_average(),
            }


def messages(team: Team, options: Options) -> Iterator[Record]:
    seconds, line = costs.line_of(team, options)
    for size, second, residual in zip(costs.SIZES, seconds, line.residuals, strict=True):
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
        parameters = costs.costs_of(team, name, options)
        one = fastest(team.run(1, jobs.sequence, Work(name, steps), (), (), (ONE,), options.budget / 4), ONE)
        each = one.wall / steps
        chunks = (1, 2, 4, 8)
        for ranks in EXTRAPOLATED:
            seconds, way = model.best(one.wall, ranks, chunks, parameters)
            weak, weak_way = model.best(ranks * one.wall, ranks, chunks, parameters)
            yield {
                "work": Work(name, steps).shape,
                "ranks": ranks,
                "one_ms": 1e3 * one.wall,
                "ms": 1e3 * seconds,
                "way": way,
                "weak_ms": 1e3 * weak,
                "weak_way": weak_way,
                "crossover": model.crossover(each, ranks, chunks, parameters),
                "costs": parameters._asdict(),
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("distributed", arguments, (*SECTIONS, *ON_REQUEST))
    of_team = {
        "sequence": sequence,
        "scaling": scaling,
        "empty": empty,
        "messages": messages,
        "model": extrapolation,
        "poisson": poisson.poisson,
    }
    sections: dict[str, Callable[[Options], Iterator[Record]]] = {"network": bad_network.network}
    if set(options.sections) == {"network"}:
        return session.measure("distributed", options, sections, table.HEADERS, table.ROWS)
    with Team(4) as team:
        sections |= {name: partial(section, team) for name, section in of_team.items()}
        return session.measure("distributed", options, sections, table.HEADERS, table.ROWS)
