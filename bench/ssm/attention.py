"""Matrix memories of the family ssm, in float32, against the functions of other packages that run on a CPU.

inference  forward without gradients
peers      forward and backward
floor      forward on one thread against the time of the multiply-adds that every algorithm needs

FASTITER_ISA=v3 in the environment measures the kernels of AVX2.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from bench.harness import limits, session, tables
from bench.harness.contest import REUSED, Record, race
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from bench.ssm import attention_cases as cases

SECTIONS = ("inference", "peers", "floor")
HEADERS = tables.HEADERS | {"inference": tables.HEADERS["peers"].replace("forward+backward", "forward         ")}
ROWS = tables.ROWS | {"inference": tables.peers_row}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)
    parser.add_argument("--batch", type=int, default=1, help="rows of each argument")


def selected(batch: int, options: Options) -> Iterator[tuple[str, cases.Shape]]:
    for name in cases.FORMS:
        yield from ((name, (batch, *shape[1:])) for shape in (cases.QUICK if options.quick else cases.FULL))


def inference(batch: int, options: Options) -> Iterator[Record]:
    for name, shape in selected(batch, options):
        task = cases.inference(name, shape)
        chosen = options.chosen(cases.inference_entrants(name, task))
        for threads in options.threads:
            with torch.no_grad():
                yield race(task, chosen, threads, options.budget, options.stirring())


def with_gradients(batch: int, options: Options) -> Iterator[Record]:
    for name, shape in selected(batch, options):
        work = cases.gradients(name, shape)
        chosen = options.chosen(cases.gradient_entrants(name, work))
        for threads in options.threads:
            yield race(work, chosen, threads, options.budget, options.stirring())


def floor(batch: int, options: Options) -> Iterator[Record]:
    use_threads(1)
    product, _ = limits.best_product(1, 0.3 * options.budget)
    for name, shape in selected(batch, options):
        task = cases.inference(name, shape)
        competitors = [Competitor("ours", task.forms()[REUSED], 1), Competitor(product.name, product.call, 1)]
        with torch.no_grad():
            timings = interleave(competitors, 0.5 * options.budget)
        rate, timing = product.rate(timings[product.name]), timings["ours"]
        arithmetic = cases.operations(name, shape) / rate
        yield {
            "work": task.name,
            "threads": 1,
            "ms": 1e3 * timing.minimum,
            "median_ms": 1e3 * timing.median,
            "floor_ms": 1e3 * arithmetic,
            "sgemm_gflops": 1e-9 * rate,
            "share": arithmetic / timing.minimum,
            "load": load_average(),
        }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("attention", arguments, SECTIONS)
    sections = {"inference": inference, "peers": with_gradients, "floor": floor}
    chosen = {name: partial(section, arguments.batch) for name, section in sections.items()}
    return session.measure("attention", options, chosen, HEADERS, ROWS)
