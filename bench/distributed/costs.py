"""Times over all ranks from their samples, and the parameters of the model from these times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.distributed import jobs, model
from bench.distributed.jobs import ONE, Sample
from bench.distributed.team import Team
from bench.distributed.works import Work
from bench.harness.session import Options

#: Message sizes in bytes to which a line is fitted
SIZES = tuple(64 * 4**i for i in range(10))
#: Passes over its steps by a rank in the middle of a scan, in units of one forward and backward pass
PASSES = {"linear_scan": 2.0, "delta_scan": 7 / 3}


def fastest(results: Sequence[dict[str, Any]], way: str) -> Sample:
    """Return the minimum time until all ranks have finished, and the minimum CPU time of the busiest rank."""
    turns = list(zip(*(one["samples"][way] for one in results), strict=True))
    return Sample(min(max(x.wall for x in turn) for turn in turns), min(max(x.cpu for x in turn) for turn in turns))


def slowest(results: Sequence[dict[str, Any]], way: str) -> float:
    """Return the maximum time until all ranks have finished."""
    return max(float(x.wall) for one in results for x in one["samples"][way])


def named(exchange: str, chunks: int | None) -> str:
    """Return the name of a variant in a contest."""
    return exchange if chunks is None else f"{exchange}, {chunks} chunks"


def predicted(t: float, ranks: int, exchange: str, chunks: int | None, parameters: model.Costs) -> float:
    """Return the time that the model predicts for an exchange, in seconds."""
    if exchange == "pipeline":
        assert chunks is not None
        return model.pipeline(t, ranks, chunks, parameters)
    return (model.speculation if exchange == "speculative" else model.scan)(t, ranks, parameters)


def line_of(team: Team, options: Options) -> tuple[list[float], model.Line]:
    """Return the minimum seconds of messages of each size, and the line fitted to them."""
    results = team.run(2, jobs.messages, SIZES, 5 if options.quick else 40)
    seconds = [min(max(pair) for pair in zip(*both, strict=True)) for both in zip(*results, strict=True)]
    return seconds, model.fit(SIZES, seconds)


def costs_of(team: Team, name: str, options: Options) -> model.Costs:
    """Return the costs of messages, and of calls from the CPU times of calls with one step on each rank."""
    _, line = line_of(team, options)
    budget = options.budget / 12
    alone = team.run(1, jobs.sequence, Work(name, 1), (("scan", None),), (), (ONE,), budget)
    call = max(0.0, fastest(alone, "scan").cpu - fastest(alone, ONE).cpu)
    both = team.run(2, jobs.sequence, Work(name, 2), (("pipeline", 1), ("pipeline", 8), ("scan", None)), (), (), budget)
    few, many = fastest(both, "pipeline, 1 chunks").cpu, fastest(both, "pipeline, 8 chunks").cpu
    chunk = max(0.0, (many - few) / 7)
    agreement = max(0.0, few - call - chunk)
    once = max(0.0, fastest(both, "scan").cpu - call - agreement)
    work = Work(name, 0)
    return model.Costs(
        line.alpha,
        line.beta,
        call,
        agreement,
        chunk,
        once,
        work.state_bytes,
        work.map_bytes,
        PASSES[name],
        name == "linear_scan",
    )
