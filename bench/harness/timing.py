"""Timing on a small, shared machine: competitors take turns in one process, in many short batches.

On such a machine, times include the load of other users. Taking turns exposes all competitors to the same load, so that
ratios hold while milliseconds drift; the minimum is the cost of the code, the median is what a user sees.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

import fastiter

BATCH_SECONDS = 4e-3  # long enough for the clock's resolution, short enough to fit between two disturbances
WARM_BY_ITSELF = 0.1  # a call longer than this needs no warm-up: the call itself is long enough
MAX_ROUNDS = 200


@dataclass(frozen=True)
class Competitor:
    """A call to be timed. Among variants (same `variant_of`), slow ones are dropped early."""

    name: str
    call: Callable[[], object]
    threads: int = 1
    variant_of: str = ""
    often: bool = False  # much shorter than the others: gets a turn between any two of them


class Spent(NamedTuple):
    """Seconds of a batch, and the CPU time of all threads of this process, which other processes hardly change."""

    seconds: float
    cpu: float


@dataclass
class Timing:
    """Seconds and CPU time per call, one number per batch."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    calls: int = 0

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def add(self, spent: Spent, calls: int) -> None:
        self.seconds.append(spent.seconds / calls)
        self.cpu.append(spent.cpu / calls)
        self.calls += calls


def load_average() -> float:
    """Average number of runnable processes in the last minute, including the benchmark itself."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def use_threads(threads: int) -> None:
    """Set the same number of threads for both sides."""
    if torch.get_num_threads() == threads and fastiter.get_num_threads() == threads:
        return
    torch.set_num_threads(threads)
    fastiter.set_num_threads(threads)
    torch.zeros(1 << 17).add_(1.0)  # starts the workers of the pool now, not during the next measurement


def stir_torch_pool() -> Callable[[], object]:
    """A torch op that leaves torch's workers spinning, as in the middle of a real model."""
    a, b = torch.randn(128, 128), torch.randn(128, 128)
    return lambda: torch.mm(a, b)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_batch(call: Callable[[], object], count: int, stir: Callable[[], object] | None = None) -> Spent:
    """Time `count` calls; the seconds exclude those of `stir` before each of them."""
    total, cpu = 0.0, time.process_time()
    for _ in range(count):
        if stir is not None:
            stir()
        started = time.perf_counter()
        call()
        total += time.perf_counter() - started
    return Spent(total, time.process_time() - cpu)


def warm_up(competitor: Competitor, stir: Callable[[], object] | None) -> tuple[float, Timing]:
    """A first estimate of the time of one call, and a timing that already includes it if the call is long."""
    use_threads(competitor.threads)
    timing = Timing()
    spent = time_batch(competitor.call, 1, stir)
    if spent.seconds > WARM_BY_ITSELF:
        timing.add(spent, 1)
    else:
        spent = min(time_batch(competitor.call, 1, stir) for _ in range(3))
    return spent.seconds, timing


def drop_slow_variants(competitors: Sequence[Competitor], estimates: dict[str, float]) -> list[Competitor]:
    """Keep the variants within 30 percent of the fastest."""
    best: dict[str, float] = {}
    for competitor in competitors:
        key = competitor.variant_of or competitor.name
        best[key] = min(best.get(key, estimates[competitor.name]), estimates[competitor.name])
    return [c for c in competitors if estimates[c.name] <= 1.3 * best[c.variant_of or c.name]]


def collect_garbage() -> None:
    """Free what earlier cases have left, as the collector is off during timing.

    The first call exempts the objects of imported modules from later ones, which take a hundred times less then.
    """
    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()


def batch_sizes(competitors: Sequence[Competitor], estimates: dict[str, float]) -> dict[str, int]:
    """Calls in one batch: a few milliseconds, or 2 percent of the longest call if that is more."""
    seconds = max(BATCH_SECONDS, 0.02 * max(estimates[c.name] for c in competitors))
    return {c.name: max(1, round(seconds / max(estimates[c.name], 1e-7))) for c in competitors}


def batches_a_turn(competitors: Sequence[Competitor], estimates: dict[str, float], counts: dict[str, int]) -> int:
    """Batches per turn of the frequent calls: with few turns, between calls of seconds, one batch gives few samples."""
    longest = max(estimates[c.name] for c in competitors)
    batches = [counts[c.name] * estimates[c.name] for c in competitors if c.often]
    return min(5, max(1, round(0.1 * longest / max(batches)))) if batches else 1


def interleave(
    competitors: Sequence[Competitor],
    budget: float,
    stir: Callable[[], object] | None = None,
    min_samples: int = 3,
) -> dict[str, Timing]:
    """Time the competitors in turn, round after round, for `budget` seconds or `min_samples` batches of each."""
    started = time.perf_counter()
    with no_garbage_collection():
        warmed = {c.name: warm_up(c, stir) for c in competitors}
        estimates = {name: estimate for name, (estimate, _) in warmed.items()}
        racing = drop_slow_variants(competitors, estimates)
        counts = batch_sizes(racing, estimates)
        batches = batches_a_turn(racing, estimates, counts)
        timings = {c.name: warmed[c.name][1] for c in racing}
        for i in range(MAX_ROUNDS):
            enough = min(len(timing.seconds) for timing in timings.values()) >= min_samples
            if enough and time.perf_counter() - started > budget:
                break
            run_round(turns(racing if i % 2 == 0 else racing[::-1], batches), counts, timings, stir)
    return timings


def turns(racing: Sequence[Competitor], batches: int = 1) -> list[Competitor]:
    """The order of one round; `often` competitors get this many batches between any two of the others."""
    often = [c for c in racing if c.often] * batches
    seldom = [c for c in racing if not c.often]
    return [c for other in seldom for c in (*often, other)] or often


def run_round(
    racing: Sequence[Competitor],
    counts: dict[str, int],
    timings: dict[str, Timing],
    stir: Callable[[], object] | None,
) -> None:
    """One batch of each. Short calls first run once untimed, as the previous competitor has evicted the caches."""
    for competitor in racing:
        use_threads(competitor.threads)
        count, timing = counts[competitor.name], timings[competitor.name]
        if count > 1 or not timing.seconds or timing.minimum < WARM_BY_ITSELF:
            competitor.call()
        timing.add(time_batch(competitor.call, count, stir), count)


def fastest(timings: dict[str, Timing], names: Sequence[str]) -> str:
    """The name of the fastest competitor still in the race."""
    return min((name for name in names if name in timings), key=lambda name: timings[name].minimum)
