"""The family quant against memory and against its peers: 2^22 float32 numbers rounded to a format and back.

share      every kind of format, output preallocated: fraction of the bandwidth of a copy of the same array
rounding   the formats that peers have too, output preallocated and fresh, against each peer

Every peer has as many threads as ours, and torch may also use just one; a peer's fastest variant counts. Ours must
equal the specification bit for bit, and all but a few of a peer's numbers must equal ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.harness import limits, session
from bench.harness.contest import FRESH, REUSED, Record, race
from bench.harness.limits import Limit
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from bench.quant import cases
from bench.quant import peers as quant_peers
from bench.quant.cases import Task

SECTIONS = ("share", "rounding")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def elements(options: Options) -> int:
    return cases.QUICK if options.quick else cases.FULL


def share_of(task: Task, copies: list[Limit], threads: int, options: Options) -> Record:
    use_threads(threads)
    competitors = [
        *(Competitor(form, call, threads) for form, call in task.forms().items()),
        *(Competitor(copy.name, copy.call, threads) for copy in copies),
    ]
    timings = interleave(competitors, 0.2 * options.budget, options.stirring(), min_samples=3)
    rate = task.nbytes / timings[REUSED].minimum
    copy_rate = max(copy.rate(timings[copy.name]) for copy in copies)
    return {
        "work": task.name,
        "threads": threads,
        "ms": 1e3 * timings[REUSED].minimum,
        "median_ms": 1e3 * timings[REUSED].median,
        "fresh_ms": 1e3 * timings[FRESH].minimum,
        "gbs": 1e-9 * rate,
        "copy_gbs": 1e-9 * copy_rate,
        "share": rate / copy_rate,
        "load": load_average(),
    }


def share(options: Options) -> Iterator[Record]:
    copies = {threads: limits.copies(4 * elements(options), threads) for threads in options.threads}
    for fmt in cases.FORMATS:
        task = cases.task(fmt, elements(options))
        worst = task.check()
        for threads in options.threads:
            yield {**share_of(task, copies[threads], threads, options), "difference": worst}
        collect_garbage()


def rounding(options: Options) -> Iterator[Record]:
    for fmt, entrants in quant_peers.CONTESTS.items():
        task = cases.task(fmt, elements(options))
        peers = options.chosen(entrants(task, options.compile))
        for threads in options.threads:
            yield race(task, peers, threads, options.budget, options.stirring())


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("quant", arguments, SECTIONS)
    return session.measure("quant", options, {"share": share, "rounding": rounding})
