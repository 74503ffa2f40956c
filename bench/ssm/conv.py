"""Causal convolutions of the family ssm, with SiLU and four taps, in float32, against those in the models.

inference  forward without gradients, with time contiguous and with channels contiguous
peers      forward and backward
step       causal_conv1d_update, one step of decoding
share      forward: fraction of the copy bandwidth at the same size

FASTITER_ISA=v3 in the environment measures the kernels of AVX2.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from bench.harness import limits, session, tables
from bench.harness.contest import FRESH, REUSED, Record, race
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from bench.ssm import conv_cases as cases

SECTIONS = ("inference", "peers", "step", "share")
HEADERS = tables.HEADERS | {
    "inference": tables.HEADERS["peers"].replace("forward+backward", "forward         "),
    "step": tables.HEADERS["peers"].replace("forward+backward", "one step        "),
}
ROWS = tables.ROWS | {"inference": tables.peers_row, "step": tables.peers_row}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)
    parser.add_argument("--batch", type=int, default=1, help="rows of each argument; steps have 1 and 8")


def shape(batch: int, options: Options) -> cases.Shape:
    return (batch, *(cases.QUICK if options.quick else cases.FULL)[1:])


def inference(batch: int, options: Options) -> Iterator[Record]:
    for order in cases.ORDERS:
        task = cases.inference(shape(batch, options), order)
        chosen = options.chosen(cases.inference_entrants(task, order, options.compile))
        for threads in options.threads:
            with torch.no_grad():
                yield race(task, chosen, threads, options.budget, options.stirring())


def with_gradients(batch: int, options: Options) -> Iterator[Record]:
    for order in cases.ORDERS:
        work = cases.gradients(shape(batch, options), order)
        chosen = options.chosen(cases.gradient_entrants(work, order, options.compile))
        for threads in options.threads:
            yield race(work, chosen, threads, options.budget, options.stirring())


def step(options: Options) -> Iterator[Record]:
    for size in [cases.QUICK] if options.quick else cases.STEPS:
        task = cases.step(size)
        chosen = options.chosen([cases.entrant(cases.step_of_models, task)])
        for threads in options.threads:
            with torch.no_grad():
                yield race(task, chosen, threads, options.budget, options.stirring())


def share(batch: int, options: Options) -> Iterator[Record]:
    for order in cases.ORDERS:
        task = cases.inference(shape(batch, options), order)
        worst, nbytes = task.check(), 2 * task.inputs[0].nbytes
        for threads in options.threads:
            use_threads(threads)
            copies = limits.copies(nbytes // 2, threads)
            competitors = [Competitor(form, call, threads) for form, call in task.forms().items()]
            with torch.no_grad():
                beside = [Competitor(copy.name, copy.call, threads) for copy in copies]
                timings = interleave([*competitors, *beside], 0.3 * options.budget, options.stirring())
            rate = nbytes / timings[REUSED].minimum
            copy_rate = max(copy.rate(timings[copy.name]) for copy in copies)
            yield {
                "work": task.name,
                "threads": threads,
                "ms": 1e3 * timings[REUSED].minimum,
                "median_ms": 1e3 * timings[REUSED].median,
                "fresh_ms": 1e3 * timings[FRESH].minimum,
                "gbs": 1e-9 * rate,
                "copy_gbs": 1e-9 * copy_rate,
                "share": rate / copy_rate,
                "difference": worst,
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("conv", arguments, SECTIONS)
    batch = arguments.batch
    sections: dict[str, session.Section] = {
        "inference": partial(inference, batch),
        "peers": partial(with_gradients, batch),
        "step": step,
        "share": partial(share, batch),
    }
    return session.measure("conv", options, sections, HEADERS, ROWS)
