"""Whether a decoder makes any model's steps slower: tiny models of every architecture that has a plan.

The ratio is the time of the faster one of the unchanged and the accelerated model, divided by ours: the larger of the
ratios of the minima and of the medians.
"""

from __future__ import annotations

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


def never_slower(options: Options) -> Iterator[Record]:
    without_fla()
    from tests.decode.models import OPTIONS, make, tokens

    for name, variant in OPTIONS:
        before = make(name, variant).float()
        after = fastiter.torch.accelerate(shared(before))
        steps = fastiter.torch.accelerate(shared(before), decode=True)
        decoder = fastiter.torch.Decoder(before, keep=True)
        starts = {TRANSFORMERS: start_model(before), ACCELERATE: start_model(after), DECODE: start_model(steps)}
        starts[OURS] = start_decoder(decoder)
        for batch in BATCHES:
            for threads in options.threads:
                work = {"work": f"{name} {variant}".strip(), "batch": batch, "threads": threads}
                yield {**work, **compared(starts, tokens(batch, _PROMPT + 1), threads, options)}


@torch.no_grad()
def compared(starts: dict[str, Any], tokens: torch.Tensor, threads: int, options: Options) -> Record:
    use_threads(threads)
    steps = {name: start(tokens[:, :-1]) for name, start in starts.items()}
    logits = {name: step(tokens[:, -1]) for name, step in steps.items()}
    for name in MINE:
        if not gate.difference(logits[name], logits[TRANSFORMERS]) <= 1e-3:  # the models amplify rounding
            raise gate.GateError(f"{name}: logits differ from those of transformers")
    calls = [Competitor(name, partial(step, tokens[:, -1]), threads) for name, step in steps.items()]
    timings = interleave(calls, min(options.budget, BUDGET), options.stirring())
    ratio = {
        mine: max(
            min(getattr(timings[other], of) for other in OTHERS) / getattr(timings[mine], of)
            for of in ("minimum", "median")
        )
        for mine in MINE
    }
    return {"ms": {name: 1e3 * timings[name].minimum for name in steps}, "ratio": ratio, "load": load_average()}


def row(r: Record) -> str:
    worst = min(r["ratio"].values())
    times = "".join(f"{r['ms'][name]:23.3f}" for name in (*OTHERS, *MINE))
    return f"{r['work']:34}{r['threads']:8}{r['batch']:4}{times}{worst:7.2f}{r['load']:6.1f}{_verdict(worst)}"


def _verdict(ratio: float) -> str:
    return "" if ratio >= GOAL else "  SLOWER"


def markdown(records: list[Record]) -> list[str]:
    """Return the smallest and the largest ratio of each model, and all that is slower."""
    rows = []
    for work in dict.fromkeys(r["work"] for r in records):
        own = [r["ratio"] for r in records if r["work"] == work]
        rows.append([work, *(f"{min(r[name] for r in own):.2f} to {max(r[name] for r in own):.1f}" for name in MINE)])
    slower = [
        f"{r['work']}, batch {r['batch']}, {tables.on_threads(r['threads'])}, {name}: {value:.2f}"
        for r in records
        for name, value in r["ratio"].items()
        if value < GOAL
    ]
    note = f"Below {GOAL}: {'; '.join(slower) or 'none'} (of {len(MINE) * len(records)})."
    return [
        "### Never slower: one token of tiny models, the best before / after",
        tables.markdown_table(["", *MINE], rows),
        note,
    ]
