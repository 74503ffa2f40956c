"""Recurrent networks in depth: the cost of ragged batches, bfloat16 and checkpoints, forward and backward.

packed       a PackedSequence against torch.nn's layers, and against our own layer on the padded batch
bfloat16     layers in bfloat16 against torch.nn's in bfloat16, and against our own in float32
checkpoint   the recurrence alone with checkpoint=32 against that with all gates stored: time, and memory retained
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product

import torch

from bench.harness import session
from bench.harness.contest import BOTH, MODES, Call, Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from bench.rnn import against_torch, depth_table, thread_counts, torch_at
from bench.rnn.cases import Case, Recurrence, recurrent_flops
from bench.rnn.depth_cases import PEERS, Checkpoints, halves, ragged

SECTIONS = ("packed", "bfloat16", "checkpoint")
PACKED, QUICK_PACKED = [Case(cell, 16, 512, 128) for cell in PEERS], [Case(cell, 4, 16, 8) for cell in PEERS]
BFLOAT16 = [Case(*sizes) for sizes in product(PEERS, (1, 16, 64), (128,), (64, 256, 512, 768))]
QUICK_BFLOAT16 = [Case(cell, 2, 8, 16) for cell in PEERS]
GATED = ("lstm", "gru", "slstm")  # Elman's cell stores nothing besides h
SIZES = ((16, 512, 256), (16, 1024, 512), (64, 256, 256))
CHECKPOINT = [Case(cell, *sizes) for cell in GATED for sizes in SIZES]
QUICK_CHECKPOINT = [Case(cell, 2, 40, 8) for cell in GATED]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def torch_in_turn(case: Case, call: Call, mode: str, threads: int) -> list[Competitor]:
    return torch_at(call, thread_counts(threads, 2 * recurrent_flops(case, mode)))


def packed(options: Options) -> Iterator[Record]:
    for case in QUICK_PACKED if options.quick else PACKED:
        torch.manual_seed(0)
        contest = ragged(case)
        worst = contest.check()
        for threads in options.threads:
            ours = [
                Competitor("packed", contest.ours.timed(BOTH), threads),
                Competitor("padded", contest.padded.timed(BOTH), threads),
            ]
            racing = [*ours, *torch_in_turn(case, contest.peer.timed(BOTH), BOTH, threads)]
            timings = interleave(racing, options.budget, options.stirring())
            of_full = timings["padded"].minimum / (case.B * case.T)
            yield {
                **asdict(case),
                "threads": threads,
                "valid": contest.valid,
                "difference": worst,
                **against_torch(timings, "packed"),
                "padded_ms": 1e3 * timings["padded"].minimum,
                "step_ratio": timings["packed"].minimum / contest.valid / of_full,
                "load": load_average(),
            }


def bfloat16(options: Options) -> Iterator[Record]:
    for case in QUICK_BFLOAT16 if options.quick else BFLOAT16:
        torch.manual_seed(0)
        contest = halves(case)
        worst = contest.check()
        for mode, threads in product(MODES, options.threads):
            with torch.set_grad_enabled(mode == BOTH):
                ours = [
                    Competitor("bfloat16", contest.ours.timed(mode), threads),
                    Competitor("float32", contest.single.timed(mode), threads),
                ]
                racing = [*ours, *torch_in_turn(case, contest.peer.timed(mode), mode, threads)]
                timings = interleave(racing, 0.25 * options.budget, options.stirring())
            yield {
                **asdict(case),
                "mode": mode,
                "threads": threads,
                "difference": worst,
                **against_torch(timings, "bfloat16"),
                "float32_ms": 1e3 * timings["float32"].minimum,
                "gain": timings["float32"].minimum / timings["bfloat16"].minimum,
                "load": load_average(),
            }
        collect_garbage()


def checkpoint(options: Options) -> Iterator[Record]:
    for case in QUICK_CHECKPOINT if options.quick else CHECKPOINT:
        torch.manual_seed(0)
        use_threads(max(options.threads))
        contest = Checkpoints(case, Recurrence.random(case))
        contest.check()
        saved = contest.bytes_saved()
        for threads in options.threads:
            calls = contest.calls()
            timings = interleave(racers(calls, threads), 0.5 * options.budget, options.stirring())
            yield {
                **asdict(case),
                "threads": threads,
                **{f"{name}_ms": 1e3 * timings[name].minimum for name in calls},
                **{f"{name}_bytes": size for name, size in saved.items()},
                "extra": timings["checkpoint"].minimum / timings["stored"].minimum - 1,
                "load": load_average(),
            }


def racers(calls: dict[str, Call], threads: int) -> Sequence[Competitor]:
    return [Competitor(name, call, threads) for name, call in calls.items()]


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("depth", arguments, SECTIONS)
    sections = {"packed": packed, "bfloat16": bfloat16, "checkpoint": checkpoint}
    return session.measure("depth", options, sections, depth_table.HEADERS, depth_table.ROWS)
