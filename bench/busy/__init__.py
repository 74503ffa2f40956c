"""Calls beside processes that keep cores busy: the default number of threads against one, and torch's own layers.

A kernel's team waits for its last thread, and a thread without a core arrives one time slice of the scheduler late.
With 0, 1, ... up to as many busy processes as cores, each call is repeated for --budget seconds on one thread and on
the default number. Times are means, since a user waits for slow calls too. One call before the clock starts adapts the
team to the load of the machine, so the times are those of a program that calls repeatedly.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import fastiter
import fastiter.torch.nn
from bench.harness import gate, machine, session
from bench.harness.contest import Call, Record
from bench.harness.session import Options
from bench.harness.timing import load_average, no_garbage_collection
from bench.scan import cases as scan_cases

SECTIONS = ("busy",)
FULL, QUICK = (64, 16, 256), (4, 2, 16)  # (T, B, H) of the layers
HEADER = f"{'mean of a call':34}{'busy':>6}{'ours, 1':>10}{'all':>9}{'ratio':>7}{'torch, 1':>10}{'all':>9}{'ratio':>7}"
SLEEP_FIRST = 0.3  # seconds for the busy processes to start


@dataclass(frozen=True)
class Pair:
    """The same call in fastiter and, if torch has it, in torch."""

    name: str
    ours: Call
    torch: Call | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def layer_pair(name: str, quick: bool) -> Pair:
    T, B, H = QUICK if quick else FULL
    theirs, ours = getattr(torch.nn, name)(H, H), getattr(fastiter.torch.nn, name)(H, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, H)
    with torch.no_grad():
        gate.check(name, {"h": ours(x)[0]}, {"h": theirs(x)[0]}, T)
    return Pair(f"{name}({H}, {H}), T {T}, B {B}", lambda: ours(x), lambda: theirs(x))


def scan_pair(quick: bool) -> Pair:
    work = scan_cases.linear_work((2, 8, 4) if quick else (4, 2048, 256))
    with torch.enable_grad():
        work.check()
    a, x = (value.detach() for value in work.inputs.values())
    return Pair(work.name, lambda: fastiter.torch.linear_scan(a, x), None)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that compute without pausing."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(SLEEP_FIRST if count else 0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def mean_ms(call: Call, threads: int, budget: float) -> float:
    """Return mean milliseconds: ours on its default number of threads, which load may reduce, torch's on `threads`."""
    torch.set_num_threads(threads)
    fastiter.set_num_threads(None)
    call()
    seconds = []
    end = time.perf_counter() + budget
    while not seconds or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.fmean(seconds)


def side(call: Call | None, budget: float) -> Record | None:
    if call is None:
        return None
    one, every = (mean_ms(call, threads, budget) for threads in (1, machine.cores()))
    return {"one_ms": one, "all_ms": every, "ratio": every / one}


@torch.no_grad()
def busy(options: Options) -> Iterator[Record]:
    makers: list[Callable[[], Pair]] = [
        lambda: layer_pair("LSTM", options.quick),
        lambda: layer_pair("GRU", options.quick),
        lambda: scan_pair(options.quick),
    ]
    pairs = [make() for make in makers]
    for count in range(machine.cores() + 1):
        with busy_processes(count), no_garbage_collection():
            for pair in pairs:
                ours, theirs = side(pair.ours, options.budget), side(pair.torch, options.budget)
                yield {"work": pair.name, "busy": count, "ours": ours, "torch": theirs, "load": load_average()}


def row(r: Record) -> str:
    def numbers(side: Record | None) -> str:
        if side is None:
            return f"{'-':>10}{'-':>9}{'-':>7}"
        return f"{side['one_ms']:10.3f}{side['all_ms']:9.3f}{side['ratio']:7.2f}"

    return f"{r['work']:34}{r['busy']:6}{numbers(r['ours'])}{numbers(r['torch'])}"


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("busy", arguments, SECTIONS)
    threads = torch.get_num_threads()
    try:
        return session.measure("busy", options, {"busy": busy}, {"busy": HEADER}, {"busy": row})
    finally:
        torch.set_num_threads(threads)
