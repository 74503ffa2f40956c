"""The family scan against memory, against its peers and against itself, in float32.

share      linear_scan and block_scan forward, output preallocated: fraction of the copy bandwidth
peers      linear_scan forward and backward against other implementations
backward   the gradients against the preceding forward pass

Every peer has as many threads as ours, and torch may also use just one. jax cannot change its number within a run: each
number of threads gets its own client, created with NPROC set to it. A peer's fastest variant counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.harness import limits, session
from bench.harness.contest import Record, backward_against_forward, race
from bench.harness.limits import Limit
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from bench.scan import cases
from bench.scan import peers as scan_peers
from bench.scan.cases import Transfer, block_transfer, linear_transfer, linear_work

SECTIONS = ("share", "peers", "backward")
BLOCKS = (2, 4, 8)
FULL_COPY, QUICK_COPY = 256 << 20, 1 << 20  # bytes: far more than any cache holds, or few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def shape(options: Options) -> cases.Shape:
    return cases.QUICK if options.quick else cases.FULL


def transfers(options: Options) -> Iterator[Transfer]:
    yield linear_transfer(shape(options))
    for K in BLOCKS:
        yield block_transfer(shape(options), K)


def share_of(transfer: Transfer, copies: list[Limit], threads: int, options: Options) -> Record:
    use_threads(threads)
    competitors = [
        Competitor("given", transfer.into_out(), threads),
        Competitor("fresh", transfer.fresh(), threads),
        *(Competitor(copy.name, copy.call, threads) for copy in copies),
    ]
    timings = interleave(competitors, 0.3 * options.budget, options.stirring(), min_samples=3)
    rate = transfer.nbytes / timings["given"].minimum
    copy_rate = max(copy.rate(timings[copy.name]) for copy in copies)
    return {
        "work": transfer.name,
        "threads": threads,
        "ms": 1e3 * timings["given"].minimum,
        "median_ms": 1e3 * timings["given"].median,
        "fresh_ms": 1e3 * timings["fresh"].minimum,
        "gbs": 1e-9 * rate,
        "copy_gbs": 1e-9 * copy_rate,
        "share": rate / copy_rate,
        "load": load_average(),
    }


def share(options: Options) -> Iterator[Record]:
    nbytes = QUICK_COPY if options.quick else FULL_COPY
    copies = {threads: limits.copies(nbytes, threads) for threads in options.threads}
    for transfer in transfers(options):
        worst = transfer.check()
        for threads in options.threads:
            yield {**share_of(transfer, copies[threads], threads, options), "difference": worst}
        collect_garbage()


def against_peers(options: Options) -> Iterator[Record]:
    work = linear_work(shape(options))
    on_torch = scan_peers.torch_entrants(work, options.compile)
    for threads in options.threads:
        entrants = options.chosen([*on_torch, *scan_peers.jax_entrants(work, threads)])
        yield race(work, entrants, threads, options.budget, options.stirring())


def backward(options: Options) -> Iterator[Record]:
    work = linear_work(shape(options))
    for threads in options.threads:
        yield backward_against_forward(work, threads, 0.3 * options.budget, options.stirring())


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("scan", arguments, SECTIONS)
    return session.measure("scan", options, {"share": share, "peers": against_peers, "backward": backward})
