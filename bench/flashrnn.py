"""fastiter.torch.flashrnn against FlashRNN on the CPU, in float32.

peers      the four functions, forward and backward
long       the gradients of a long sequence alone
floor      the time that the products with R take at the machine's best rate, forward and backward
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench import flashrnn_peers, limits, session
from bench.contest import BOTH, Record, milliseconds, race
from bench.flashrnn_cases import FULL, LONG, QUICK, QUICK_LONG, Backward, work_of
from bench.session import Options
from bench.timing import Competitor, interleave, load_average, use_threads

SECTIONS = ("peers", "long", "floor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def peers(options: Options) -> Iterator[Record]:
    for case in QUICK if options.quick else FULL:
        work = work_of(case)
        entrants = options.chosen(flashrnn_peers.entrants(case, work))
        for threads in options.threads:
            yield race(work, entrants, threads, options.budget, options.stirring())


def long(options: Options) -> Iterator[Record]:
    case = QUICK_LONG if options.quick else LONG
    work = work_of(case)
    entrants = options.chosen(flashrnn_peers.entrants(case, work, backward_alone=True))
    for threads in options.threads:
        yield race(Backward(work), entrants, threads, options.budget, options.stirring())


def floor(options: Options) -> Iterator[Record]:
    for threads in options.threads:
        use_threads(threads)
        product, _ = limits.best_product(threads, 0.3 * options.budget)
        for case in QUICK if options.quick else FULL:
            ours = Competitor("ours", work_of(case).timed(BOTH), threads)
            beside = Competitor(product.name, product.call, threads)
            timings = interleave([ours, beside], 0.3 * options.budget, options.stirring())
            rate = product.rate(timings[product.name])
            least = case.flops() / rate
            yield {
                "work": str(case),
                "threads": threads,
                **milliseconds(timings["ours"]),
                "floor_ms": 1e3 * least,
                "sgemm_gflops": 1e-9 * rate,
                "share": least / timings["ours"].minimum,
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row when it is known; the result is what bench/__main__.py writes to --out."""
    options = session.read_options("flashrnn", arguments, SECTIONS)
    return session.measure("flashrnn", options, {"peers": peers, "long": long, "floor": floor})
