"""The family ssm against the loops in current models and against its floor, in float32.

inference  selective_scan without gradients
peers      selective_scan forward and backward
step       selective_state_update, one step of decoding
floor      selective_scan forward, and its gradients, against the time of their multiply-adds
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from bench.harness import limits, session, tables
from bench.harness.contest import BOTH, Record, race
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from bench.ssm import cases, peers
from bench.ssm.table import FLOOR_GOALS

SECTIONS = ("inference", "peers", "step", "floor")
HEADERS = tables.HEADERS | {
    "inference": tables.HEADERS["peers"].replace("forward+backward", "forward         "),
    "step": tables.HEADERS["peers"].replace("forward+backward", "one step        "),
}
ROWS = tables.ROWS | {"inference": tables.peers_row, "step": tables.peers_row}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)
    parser.add_argument("--batch", type=int, default=1, help="rows of each argument; steps have 1 and 8")


def shapes(full: Sequence[cases.Shape], batch: int, options: Options) -> list[cases.Shape]:
    return [(batch, *shape[1:]) for shape in ([cases.QUICK] if options.quick else full)]


def inference(batch: int, options: Options) -> Iterator[Record]:
    for shape in shapes(cases.FORWARD_SHAPES, batch, options):
        task = cases.selective_inference(shape)
        chosen = options.chosen(peers.inference_entrants(task, options.compile))
        for threads in options.threads:
            yield race(task, chosen, threads, options.budget, options.stirring())


def with_gradients(batch: int, options: Options) -> Iterator[Record]:
    for shape in shapes(cases.GRADIENT_SHAPES, batch, options):
        work = cases.selective_work(shape)
        chosen = options.chosen(peers.entrants(work, options.compile))
        for threads in options.threads:
            yield race(work, chosen, threads, options.budget, options.stirring())


def step(options: Options) -> Iterator[Record]:
    for shape in [cases.QUICK] if options.quick else cases.STEP_SHAPES:
        task = cases.step_task(shape)
        for threads in options.threads:
            with torch.no_grad():
                chosen = options.chosen(peers.step_entrants(task))
                yield race(task, chosen, threads, options.budget, options.stirring())


def floor(batch: int, options: Options) -> Iterator[Record]:
    """One thread, whose rate does not depend on other threads."""
    use_threads(1)
    product, _ = limits.best_product(1, options.budget)
    for shape in shapes(cases.FORWARD_SHAPES[1:], batch, options):
        work = cases.selective_work(shape)
        work.check()
        task = cases.selective_inference(shape)
        both, forward = work.timed(BOTH), task.forms()["reused"]
        competitors = [Competitor("forward", forward, 1), Competitor(BOTH, both, 1)]
        with torch.no_grad():
            beside = Competitor(product.name, product.call, 1)
        timings = interleave([*competitors, beside], options.budget)
        rate = product.rate(timings[product.name])
        forward_seconds = timings["forward"].minimum
        seconds = {"forward": forward_seconds, "backward": timings[BOTH].minimum - forward_seconds}
        for direction, time in seconds.items():
            arithmetic = cases.operations(shape, direction) / rate
            yield {
                "work": f"{work.name} {direction}",
                "threads": 1,
                "ms": 1e3 * time,
                "median_ms": 1e3 * timings["forward" if direction == "forward" else BOTH].median,
                "floor_ms": 1e3 * arithmetic,
                "sgemm_gflops": 1e-9 * rate,
                "share": arithmetic / time,
                "goal": FLOOR_GOALS[direction],
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("ssm", arguments, SECTIONS)
    batch = arguments.batch
    sections = {
        "inference": partial(inference, batch),
        "peers": partial(with_gradients, batch),
        "step": step,
        "floor": partial(floor, batch),
    }
    return session.measure("ssm", options, sections, HEADERS, ROWS)
