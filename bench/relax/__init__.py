"""The family relax against pyamg and SciPy: one sweep of each, in float64, with matrices prepared beforehand.

pyamg is single-threaded, so that its time does not depend on the number of threads; our fastest order counts. The share
is the fraction of the copy bandwidth, counting 12 bytes for each entry, and b, x and the new x once each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.harness import limits, session
from bench.harness.contest import Record
from bench.harness.limits import Limit
from bench.harness.peers import load
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average
from bench.relax.cases import Contest, contests

SECTIONS = ("sweeps",)
FULL_COPY, QUICK_COPY = 256 << 20, 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def race(contest: Contest, copies: list[Limit], threads: int, options: Options) -> Record:
    ours = {f"ours {way}": call for way, call in contest.ours.items()}
    competitors = [
        Competitor("theirs", contest.their_call, threads),
        *(Competitor(name, call, threads, variant_of="ours") for name, call in ours.items()),
        *(Competitor(copy.name, copy.call, threads) for copy in copies),
    ]
    timings = interleave(competitors, options.budget, options.stirring(), min_samples=3)
    best = min((name for name in ours if name in timings), key=lambda name: timings[name].minimum)
    mine = timings[best].minimum / contest.our_sweeps
    peer = timings["theirs"].minimum / contest.their_sweeps
    copy_rate = max(copy.rate(timings[copy.name]) for copy in copies)
    return {
        "work": contest.name,
        "threads": threads,
        "peer": contest.peer,
        "peer_ms": 1e3 * peer,
        "ms": 1e3 * mine,
        "how": best.removeprefix("ours").strip(),
        "ratio": peer / mine,
        "goal": contest.goals.get(threads),
        "share": contest.nbytes / mine / copy_rate if contest.nbytes else None,
        "load": load_average(),
    }


def sweeps(options: Options) -> Iterator[Record]:
    if load("pyamg") is None or load("scipy.sparse") is None:
        raise SystemExit("bench relax: needs pyamg and scipy (pip install fastiter-kernels[bench])")
    nbytes = QUICK_COPY if options.quick else FULL_COPY
    copies = {threads: limits.copies(nbytes, threads) for threads in options.threads}
    for contest in contests(options.quick):
        if options.peers and not any(word in contest.name for word in options.peers):
            continue
        worst = contest.check()
        for threads in options.threads:
            yield {**race(contest, copies[threads], threads, options), "difference": worst}
        collect_garbage()


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("relax", arguments, SECTIONS)
    return session.measure("relax", options, {"sweeps": sweeps})
