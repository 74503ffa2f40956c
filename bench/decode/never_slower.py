"""Whether a decoder makes any model's steps slower: tiny models of every architecture that has a plan.

The ratio is the time of the faster one of the unchanged and the accelerated model, divided by ours: the larger of the
ratios of the minima and of the medians. xLSTM has no accelerate(decode): its cache has no layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import fastiter.torch
from bench.decode.cases import ACCELERATE, DECODE, OURS, TRANSFORMERS, shared, start_decoder, start_model, without_fla
from bench.harness import gate, tables
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads

GOAL = 1.0
BATCHES = (1, 8)
BUDGET = 0.3  # seconds per contest
_PROMPT = 4
OTHERS, MINE = (TRANSFORMERS, ACCELERATE), (DECODE, OURS)

HEADER = tables.header(
    "never slower", f"{'B':>4}", *(f"{f'{name}, ms':>23}" for name in (*OTHERS, *MINE)), f"{'ratio':>7}"
)


def never_slower(arguments: argparse.Namespace, options: Options) -> Iterator[Record]:
    without_fla()
    from tests.decode.models import OPTIONS, make, tokens

    for name, variant in OPTIONS:
        if arguments.models and not any(word in name for word in arguments.models):
            continue
        before = make(name, variant).float()
        starts = {TRANSFORMERS: start_model(before), OURS: start_decoder(fastiter.torch.Decoder(before, keep=True))}
        starts[ACCELERATE] = start_model(fastiter.torch.accelerate(shared(before)))
        if name != "xLSTM":
            starts[DECODE] = start_model(fastiter.torch.accelerate(shared(before), decode=True))
        for batch in BATCHES:
            for threads in options.threads:
                work = {"work": f"{name} {variant}".strip(), "batch": batch, "threads": threads}
                yield {**work, **compared(starts, tokens(batch, _PROMPT + 1), threads, options)}


@torch.no_grad()
def compared(starts: dict[str, Any], tokens: torch.Tensor, threads: int, options: Options) -> Record:
    use_threads(threads)
    steps = {name: start(tokens[:, :-1]) for name, start in starts.items()}
    logits = {name: step(tokens[:, -1]) for name, step in steps.items()}
    mine = [name for name in MINE if name in starts]
    for name in mine:
        if not gate.difference(logits[name], logits[TRANSFORMERS]) <= 1e-3:  # the models amplify rounding
            raise gate.GateError(f"{name}: logits differ from those of transformers")
    calls = [Competitor(name, partial(step, tokens[:, -1]), threads) for name, step in steps.items()]
    timings = interleave(calls, min(options.budget, BUDGET), options.stirring())
    ratio = {
        name: max(
            min(getattr(timings[other], of) for other in OTHERS) / getattr(timings[name], of)
            for of in ("minimum", "median")
        )
        for name in mine
    }
    return {"ms": {name: 1e3 * timings[name].minimum for name in steps}, "ratio": ratio, "load": load_average()}


def row(r: Record) -> str:
    worst = min(r["ratio"].values())
    times = "".join(f"{r['ms'][name]:23.3f}" if name in r["ms"] else f"{'-':>23}" for name in (*OTHERS, *MINE))
    return f"{r['work']:34}{r['threads']:8}{r['batch']:4}{times}{worst:7.2f}{r['load']:6.1f}{_verdict(worst)}"


def _verdict(ratio: float) -> str:
    return "" if ratio >= GOAL else "  SLOWER"


def _span(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.1f}" if ratios else "-"


def markdown(records: list[Record]) -> list[str]:
    """Return the smallest and the largest ratio of each model, and all that is slower."""
    rows = []
    for work in dict.fromkeys(r["work"] for r in records):
        own = [r["ratio"] for r in records if r["work"] == work]
        rows.append([work, *(_span([ratio[name] for ratio in own if name in ratio]) for name in MINE)])
    slower = [
        f"{r['work']}, batch {r['batch']}, {tables.on_threads(r['threads'])}, {name}: {value:.2f}"
        for r in records
        for name, value in r["ratio"].items()
        if value < GOAL
    ]
    note = f"Below {GOAL}: {'; '.join(slower) or 'none'} (of {sum(len(r['ratio']) for r in records)})."
    return [
        "### Never slower: one token of tiny models, the best before / after",
        tables.markdown_table(["", *MINE], rows),
        note,
    ]
