"""The family newton against pararnn-torch and against itself, in float32, forward and backward.

peers      whole layers, including the input projection on both sides
backward   the recurrence alone: the gradients against the preceding forward pass
methods    the recurrence alone: the fused sequential kernel against Newton's method
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

import torch

from bench.harness import session
from bench.harness.contest import BOTH, MODES, Record, backward_against_forward, milliseconds, race
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from bench.newton import peers as newton_peers
from bench.newton.cases import CELLS, QUICK_SHAPES, SHAPES, Case, cell_work, layer_work

SECTIONS = ("peers", "backward", "methods")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def selected_cases(options: Options) -> Iterator[Case]:
    for cell, shape in product(CELLS, QUICK_SHAPES if options.quick else SHAPES):
        yield Case(cell, *shape)


def against_peers(options: Options) -> Iterator[Record]:
    for case in selected_cases(options):
        work = layer_work(case)
        entrants = options.chosen(newton_peers.entrants(case, work, options.compile))
        for threads in options.threads:
            yield race(work, entrants, threads, options.budget, options.stirring())


def backward(options: Options) -> Iterator[Record]:
    for case, threads in product(selected_cases(options), options.threads):
        yield backward_against_forward(cell_work(case, "sequential"), threads, 0.3 * options.budget, options.stirring())


def methods(options: Options) -> Iterator[Record]:
    for case in selected_cases(options):
        works = {method: cell_work(case, method) for method in ("sequential", "newton")}
        for work in works.values():
            work.check()
        for mode, threads in product(MODES, options.threads):
            use_threads(threads)
            competitors = [Competitor(method, work.timed(mode), threads) for method, work in works.items()]
            with torch.set_grad_enabled(mode == BOTH):
                timings = interleave(competitors, 0.2 * options.budget, options.stirring())
            yield {
                "work": str(case),
                "mode": mode,
                "threads": threads,
                **{method: milliseconds(timings[method]) for method in works},
                "ratio": timings["newton"].minimum / timings["sequential"].minimum,
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("newton", arguments, SECTIONS)
    return session.measure("newton", options, {"peers": against_peers, "backward": backward, "methods": methods})
