"""The family fixed: matrix products with a chosen accumulator, against an ordinary product and against its peers.

rate       multiply-adds per second, as a fraction of those of torch.mm in float32 on matrices of the same size
steps      the products that peers have too, against each peer

Ours must equal a loop over k bit for bit, and so must a peer's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from bench.harness import session
from bench.harness.contest import REUSED, Call, Record, race
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from bench.quant import fixed_cases, fixed_peers
from bench.quant.fixed_cases import LARGEST, Product

SECTIONS = ("rate", "steps")
FIXED = ("fixed<14,8,RND,SAT>", "fixed<14,8,TRN,WRAP>", "fixed<14,8,RND_CONV,SAT>", "fixed<20,14,RND,SAT>")
FLOATS = ("float32", "fp16")
SGEMM = "torch.mm, float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def size(options: Options) -> int:
    return fixed_cases.QUICK if options.quick else fixed_cases.FULL


def products(size: int) -> Iterator[Product]:
    for acc in FIXED:
        yield fixed_cases.fixed_product(acc, size)
    for accumulate in FLOATS:
        yield fixed_cases.float_product(accumulate, size)


def sgemm(work: Product) -> Call:
    a, b = torch.randn(work.a.shape), torch.randn(work.b.shape)
    out = torch.empty(work.a.shape[0], work.b.shape[1])
    return lambda: torch.mm(a, b, out=out)


def rate_of(work: Product, threads: int, options: Options) -> Record:
    use_threads(threads)
    competitors = [Competitor(work.name, work.forms()[REUSED], threads), Competitor(SGEMM, sgemm(work), threads)]
    timings = interleave(competitors, 0.2 * options.budget, options.stirring(), min_samples=3)
    ours, theirs = timings[work.name], timings[SGEMM]
    return {
        "work": work.name,
        "threads": threads,
        "ms": 1e3 * ours.minimum,
        "median_ms": 1e3 * ours.median,
        "gmacs": 1e-9 * work.multiply_adds / ours.minimum,
        "sgemm_gmacs": 1e-9 * work.multiply_adds / theirs.minimum,
        "share": theirs.minimum / ours.minimum,
        "load": load_average(),
    }


def rate(options: Options) -> Iterator[Record]:
    for work in products(size(options)):
        worst = work.check()
        for threads in options.threads:
            yield {**rate_of(work, threads, options), "difference": worst}
        collect_garbage()


def steps(options: Options) -> Iterator[Record]:
    contests = [
        *((fixed_cases.fixed_product(acc, size(options), LARGEST), fixed_peers.fixed_call(acc)) for acc in FIXED[:2]),
        (fixed_cases.float_product("fp16", size(options)), fixed_peers.half_call),
    ]
    for work, make in contests:
        for threads in options.threads:
            peers = options.chosen(fixed_peers.entrants(work, make, threads))
            yield race(work, peers, threads, 0.5 * options.budget, options.stirring())


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("fixed", arguments, SECTIONS)
    return session.measure("fixed", options, {"rate": rate, "steps": steps})
