"""fastiter.torch.flashrnn against FlashRNN on the CPU, in float32.

peers      the four functions, forward and backward
long       the gradients of a long sequence alone
floor      the time of the products with R at the machine's best rate, forward and backward; and separately the time
           of all reads and writes at the rate of a copy, some of which can overlap with the products, and of the
           cells' functions at their rate in a core's private cache, which share execution ports with the products
           and so cannot overlap

The gate runs in this process, and each race in a separate one, like a training loop. Autograd copies 17 MB or more for
FlashRNN at each step, and the time of that depends on the C library: if the heap has a hole of that size, such as the
gate's loop in float64 leaves, the copies reuse mapped memory; in a process that does nothing else they go to new pages
each time, which takes four to six times as long. So each race is run a second time, with the C library configured to
keep all memory, and is reported as "memory kept".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.harness import limits, session
from bench.harness.alone import HEAPS, alone
from bench.harness.contest import BOTH, Absent, Contested, Entrant, Record, milliseconds, pass_gate, timed, ways
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from bench.rnn import flashrnn_peers
from bench.rnn.flashrnn_cases import FULL, LONG, QUICK, QUICK_LONG, Backward, Case, work_of

SECTIONS = ("peers", "long", "floor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def contest(case: Case, backward_alone: bool) -> tuple[Contested, list[Entrant | Absent]]:
    work = work_of(case)
    entrants = flashrnn_peers.entrants(case, work, backward_alone)
    return (Backward(work) if backward_alone else work), entrants


def against_the_clock(case: Case, backward_alone: bool, admitted: list[str], threads: int, options: Options) -> Record:
    """The race alone, for the peers that were admitted, by name."""
    work, entrants = contest(case, backward_alone)
    known = [way for peer in entrants if isinstance(peer, Entrant) for way in ways(peer, threads)]
    return timed(work, [way for way in known if way.name in admitted], threads, options.budget, options.stirring())


def races(case: Case, backward_alone: bool, options: Options) -> Iterator[Record]:
    work, entrants = contest(case, backward_alone)
    for threads in options.threads:
        admitted, gated = pass_gate(work, options.chosen(entrants), threads)
        names = [competitor.name for competitor in admitted]
        record, reused = (
            alone(heap, against_the_clock, case, backward_alone, names, threads, options) for heap in HEAPS
        )
        record["peers"] |= {f"{name}, memory kept": numbers for name, numbers in reused["peers"].items()}
        yield {**gated, **record}


def peers(options: Options) -> Iterator[Record]:
    for case in QUICK if options.quick else FULL:
        yield from races(case, False, options)


def long(options: Options) -> Iterator[Record]:
    yield from races(QUICK_LONG if options.quick else LONG, True, options)


def floor(options: Options) -> Iterator[Record]:
    for threads in options.threads:
        use_threads(threads)
        product, _ = limits.best_product(threads, 0.3 * options.budget)
        copies = limits.copies(64 << 20, threads)
        for case in QUICK if options.quick else FULL:
            ours = Competitor("ours", work_of(case).timed(BOTH), threads)
            functions = [limits.function_alone(name, threads) for name in case.functions()]
            beside = [Competitor(limit.name, limit.call, threads) for limit in (product, *copies, *functions)]
            timings = interleave([ours, *beside], 0.3 * options.budget, options.stirring())
            rate = product.rate(timings[product.name])
            bandwidth = max(copy.rate(timings[copy.name]) for copy in copies)
            arithmetic, moving = case.flops() / rate, case.nbytes() / bandwidth
            cells = sum(case.functions()[limit.name] / limit.rate(timings[limit.name]) for limit in functions)
            yield {
                "work": str(case),
                "threads": threads,
                **milliseconds(timings["ours"]),
                "floor_ms": 1e3 * arithmetic,
                "sgemm_gflops": 1e-9 * rate,
                "memory_ms": 1e3 * moving,
                "copy_gbytes": 1e-9 * bandwidth,
                "functions_ms": 1e3 * cells,
                "share": arithmetic / timings["ours"].minimum,
                "share_with_functions": (arithmetic + cells) / timings["ours"].minimum,
                "share_of_all": (arithmetic + cells + moving) / timings["ours"].minimum,
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("flashrnn", arguments, SECTIONS)
    return session.measure("flashrnn", options, {"peers": peers, "long": long, "floor": floor})
