"""Estimators against scikit-learn's of the same name, both as constructed: no shape may take a tenth longer.

Each module ``never_slower_<kind>.py`` beside this one has a list ``SHAPES``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.bcd.cases import quiet
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.peers import load
from bench.harness.session import Options
from bench.harness.timing import BATCH_SECONDS, load_average, no_garbage_collection, use_threads

#: How many times as fast as the peer each shape has to be
GOAL = 0.9


@dataclass(frozen=True)
class Pair:
    """The same fit by two libraries. Its ``error`` is a duality gap, or a residual, in the unit of ``allowed``, the
    tolerance of ours.
    """

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    error: Callable[[Any], float]
    allowed: float


@dataclass(frozen=True)
class Shape:
    """A pair that is made when its turn comes; ``is_large`` adds the peak memory, ``is_quick`` is part of --quick."""

    name: str
    make: Callable[[], Pair]
    is_large: bool = False
    is_quick: bool = False


def shapes() -> list[Shape]:
    kinds = sorted(path.stem for path in Path(__file__).parent.glob("never_slower_*.py"))
    return [shape for kind in kinds for shape in import_module(f"bench.bcd.{kind}").SHAPES]


def measured(options: Options) -> Iterator[Record]:
    """Yield a record for each shape; --peers chooses shapes by words in their names."""
    if load("sklearn") is None:
        return
    use_threads(1)
    for shape in shapes():
        chosen = not options.peers or any(word in shape.name for word in options.peers)
        if chosen and (shape.is_quick or not options.quick):
            yield raced(shape, options.budget)


def raced(shape: Shape, budget: float) -> Record:
    pair = shape.make()
    calls = {"ours": quiet(pair.ours), "peer": quiet(pair.peer)}
    controller = load("threadpoolctl")
    with controller.threadpool_limits(1) if controller else nullcontext():
        errors = {name: pair.error(call()) for name, call in calls.items()}
        if not errors["ours"] <= max(errors["peer"], pair.allowed):
            raise GateError(f"{shape.name}: an error of {errors['ours']:.1e}, against {errors['peer']:.1e} of the peer")
        best = in_turns(calls, budget)
        peaks = {name: peak(call) if shape.is_large else None for name, call in calls.items()}
    ratio = best["peer"] / best["ours"]
    return {
        "work": shape.name,
        "ms": 1e3 * best["ours"],
        "peer_ms": 1e3 * best["peer"],
        "ratio": ratio,
        "is_met": ratio >= GOAL,
        "error": errors["ours"],
        "peer_error": errors["peer"],
        "peak_mb": peaks["ours"],
        "peer_peak_mb": peaks["peer"],
        "load": load_average(),
    }


def in_turns(calls: dict[str, Callable[[], Any]], budget: float) -> dict[str, float]:
    """Return the least CPU seconds per call, of at least three batches."""
    best, began, rounds = dict.fromkeys(calls, float("inf")), time.perf_counter(), 0
    with no_garbage_collection():
        counts = {name: max(1, int(BATCH_SECONDS / cpu_seconds(call, 1))) for name, call in calls.items()}
        while rounds < 3 or (rounds < 100 and time.perf_counter() - began < budget):
            for name, call in calls.items():
                best[name] = min(best[name], cpu_seconds(call, counts[name]))
            rounds += 1
    return best


def cpu_seconds(call: Callable[[], Any], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        call()
    return max((time.process_time() - started) / count, 1e-7)


def peak(call: Callable[[], Any]) -> float | None:
    """Return by how many megabytes the resident memory of a forked process grows; None where Linux's files are not."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = resident("VmRSS")
            call()
            os.write(writing, str(resident("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return int(text) / 1024 if text else None


def resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
