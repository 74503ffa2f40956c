"""Whether accelerate makes anything slower: every kind of model or layer, small, before and after, in turns.

forward    without gradients
training   forward, and the gradients of all parameters
step       one more token with a cache, without gradients

Results are compared first. The ratio before / after is the larger one of those of the minima and of the medians. If it
is below .95, the contest is repeated with four times the budget.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastiter.torch
from bench.accelerate.kinds import Kind, every
from bench.harness import gate, tables
from bench.harness.contest import Call, Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads

GOAL = 0.95
MODES = ("forward", "training", "step")
BATCHES, LENGTHS = (1, 8, 32), (1, 4, 16, 64, 128)
BUDGET = 0.2  # seconds per contest
CLEAR = 3.0  # a ratio of two single calls beyond which they are not repeated
LONG = 0.02  # seconds of a call that is not repeated in that case
_CHECKED_ROWS = 8  # the gate computes in float64, too, which takes longer for more rows
_PROMPT = 4  # tokens before a step

HEADER = tables.header("never slower", f"  {'mode':9}{'B':>4}{'T':>5}{'before, ms':>12}{'after, ms':>11}{'ratio':>7}")


class Place(NamedTuple):
    """A contest: what is run, for how many sequences and steps, on how many threads."""

    mode: str
    batch: int
    time: int
    threads: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    parser.add_argument("--kinds", type=names, default=(), help="never-slower: words, only kinds with one of them")
    parser.add_argument("--modes", type=names, default=MODES, help="never-slower: of " + ",".join(MODES))
    parser.add_argument("--batches", type=numbers, default=BATCHES, help="never-slower: numbers of sequences")
    parser.add_argument("--lengths", type=numbers, default=LENGTHS, help="never-slower: numbers of steps")


def places(arguments: argparse.Namespace, options: Options, kind: Kind) -> Iterator[Place]:
    for mode, threads, batch in itertools.product(arguments.modes, options.threads, arguments.batches):
        if mode == "step":
            yield from [Place(mode, batch, 1, threads)] if kind.cache else []
            continue
        yield from (Place(mode, batch, length, threads) for length in arguments.lengths)


def never_slower(arguments: argparse.Namespace, options: Options) -> Iterator[Record]:
    budget = BUDGET if arguments.budget is None and not options.quick else options.budget
    for kind in every():
        if arguments.kinds and not any(word in kind.name for word in arguments.kinds):
            continue
        before = kind.make()
        after, report = fastiter.torch.accelerate(copy.deepcopy(before), return_report=True, products=kind.products)
        if not report.accelerated:
            raise gate.GateError(f"{kind.name}: it is not accelerated: {report}")
        for place in places(arguments, options, kind):
            yield {"work": kind.name, **place._asdict(), **compared(kind, before, after, place, budget)}


def compared(kind: Kind, before: Any, after: Any, place: Place, budget: float) -> Record:
    use_threads(place.threads)
    calls = []
    for model in (before, after):
        try:
            calls.append(call_of(kind, model, place))
            calls[-1]()
        except Exception as error:  # whatever the original raises, such as for sequences that are no whole chunks
            if model is after:
                raise
            return {"refused": f"{type(error).__name__}: {error}".partition("\n")[0]}
    if place.mode != "step":
        check(kind, before, after, place)
    timings = contest(calls, place.threads, budget)
    if timings["ratio"] < GOAL:
        timings = contest(calls, place.threads, 4 * budget)
    return {**timings, "load": load_average()}


def call_of(kind: Kind, model: Any, place: Place) -> Call:
    """Return the timed call; that of a step has its own cache, which it updates."""
    if place.mode == "step":
        prompt, token = kind.inputs(place.batch, _PROMPT), kind.inputs(place.batch, 1)
        with torch.no_grad():
            cache = getattr(model(prompt, use_cache=True), kind.cache)

        @torch.no_grad()
        def step() -> object:
            return model(token, use_cache=True, **{kind.cache: cache})

        return step
    inputs = kind.inputs(place.batch, place.time)

    def forward() -> object:
        with torch.no_grad():
            return kind.output(model, inputs)

    def training() -> None:
        model.zero_grad()
        kind.output(model, inputs).sum().backward()

    return forward if place.mode == "forward" else training


def contest(calls: list[Call], threads: int, budget: float) -> Record:
    """Time the original and the accelerated model in turns, unless single calls settle it."""
    single = []
    for call in calls:
        started = time.perf_counter()
        call()
        single.append(time.perf_counter() - started)
    if single[0] > max(LONG, CLEAR * single[1]):
        return _timed(single, single[0] / single[1])
    names = ("before", "after")
    timings = interleave([Competitor(n, call, threads) for n, call in zip(names, calls, strict=True)], budget)
    both = [timings[name] for name in names]
    ratio = max(both[0].minimum / both[1].minimum, both[0].median / both[1].median)
    return _timed([timing.minimum for timing in both], ratio)


def _timed(seconds: list[float], ratio: float) -> Record:
    return {"before_ms": 1e3 * seconds[0], "after_ms": 1e3 * seconds[1], "ratio": ratio}


# ---- The gate -------------------------------------------------------------------------------------------------------


def results(kind: Kind, model: Any, inputs: Any) -> dict[str, Tensor]:
    """Return the output, and the gradients of all parameters and inputs, zero where there is none."""
    for x in inputs if isinstance(inputs, list) else ():
        x.grad = None
    model.zero_grad()
    out = kind.output(model, inputs)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out))
    leaves = [*model.parameters(), *(inputs if isinstance(inputs, list) else ())]
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    return {"output": out.detach(), "gradient": torch.cat([g.flatten() for g in gradients])}


def check(kind: Kind, before: Any, after: Any, place: Place) -> None:
    """Raise if the accelerated model is less exact than the original, relative to the original in float64."""
    inputs = kind.inputs(min(place.batch, _CHECKED_ROWS), place.time)
    wide = [x.detach().double().requires_grad_() for x in inputs] if isinstance(inputs, list) else inputs
    wide = wide.double() if isinstance(wide, Tensor) and wide.is_floating_point() else wide
    try:
        theirs = results(kind, before, inputs)
    except Exception:  # the original has no gradients here
        with torch.no_grad():
            theirs = {"output": kind.output(before, inputs)}
    exact = results(kind, kind.make().double(), wide)  # anew, as a model may hold states that cannot be copied
    ours = results(kind, after, inputs)
    for name, value in theirs.items():
        bound = 4 * (value - exact[name]).norm() + gate.tolerance(torch.float32, place.time) * exact[name].norm()
        if not (ours[name] - exact[name]).norm() <= bound:
            raise gate.GateError(f"{kind.name}, B {place.batch}, T {place.time}: the {name} differs")


# ---- Text -----------------------------------------------------------------------------------------------------------


def verdict(record: Record) -> str:
    if "refused" in record:
        return f"not compared: {record['refused']}"
    return "" if record["ratio"] >= GOAL else "SLOWER"


def row(r: Record) -> str:
    start = f"{r['work']:34}{r['threads']:8}  {r['mode']:9}{r['batch']:4}{r['time']:5}"
    if "refused" in r:
        return f"{start}  {verdict(r)}"
    return f"{start}{r['before_ms']:12.3f}{r['after_ms']:11.3f}{r['ratio']:7.2f}{r['load']:6.1f}  {verdict(r)}"


def markdown(records: list[Record]) -> list[str]:
    """A row for each kind: in each mode, the smallest and the largest ratio, and all that is slower."""
    rows = []
    for work in dict.fromkeys(r["work"] for r in records):
        cells = []
        for mode in MODES:
            ratios = [r["ratio"] for r in records if r["work"] == work and r["mode"] == mode and "ratio" in r]
            cells.append(f"{min(ratios):.2f} to {max(ratios):.1f}" if ratios else "-")
        rows.append([work, *cells])
    slower = [r for r in records if r.get("ratio", 1.0) < GOAL]
    listed = "; ".join(
        f"{r['work']}, {r['mode']}, B {r['batch']}, T {r['time']}, {tables.on_threads(r['threads'])}: {r['ratio']:.2f}"
        for r in slower
    )
    note = f"Below {GOAL}: {listed or 'none'} (of {len(records)})."
    return ["### Never slower: before / after", tables.markdown_table(["", *MODES], rows), note]
