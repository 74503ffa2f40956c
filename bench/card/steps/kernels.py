"""The step `kernels`: every call of calls.py, at small sizes against the CPU, twice for its bits, then timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import torch

from bench.card import emulated
from bench.card.calls import CALLS, Call, by
from bench.card.device import Place, bound, error
from bench.card.runner import ROOT, environment
from bench.card.worker import Item
from bench.harness.record import Record

#: Processes that compile, each with a context and the tensors of one call, up to 4 GB
COMPILERS = 8


def measured(place: Place, call: Call) -> Iterator[Record]:
    """Compare the results and gradients with the CPU's, and then measure the times of the call."""
    emulated.LAUNCHED.clear()
    compared = {"off": compare(place, call), "launched": sorted(set(emulated.LAUNCHED))}
    yield compared
    inputs = call.inputs(place.device, call.small if place.dry else call.large)
    times = {"forward": place.milliseconds(partial(forward, call, inputs))}
    if call.has_gradients and not place.dry:
        times["forward+backward"] = place.milliseconds(partial(call.run, inputs))
    yield {**compared, "ms": times}


def forward(call: Call, inputs: list[torch.Tensor]) -> None:
    with torch.no_grad(), by(call.backend):
        call.function(*inputs)


def compare(place: Place, call: Call) -> float:
    """Return the largest error; raise if it exceeds the rounding of sums, or if two runs differ."""
    given = call.inputs("cpu", call.small)
    wide = torch.promote_types(call.dtype, torch.float32)
    exact = call.run([x.to(wide) for x in given])
    there = [x.to(place.device) for x in given]
    results = place.run(partial(call.run, there))
    again = results if place.dry else place.run(partial(call.run, there))  # no emulation has races to find
    longest = max(size for shape in call.small for size in shape)
    off, limit = [error(x, y) for x, y in zip(results, exact, strict=True)], bound(call.dtype, longest, longest)
    if any(not each <= limit + call.rtol for each in off):
        raise ArithmeticError(f"results are off by {off}, more than {limit + call.rtol:.1e}")
    if not all(torch.equal(x, y) for x, y in zip(results, again, strict=True)):
        raise ArithmeticError("two runs differ: a race")
    return max(off)


def compile_all(limit: float) -> Record:
    """Compile the kernels of all calls in several processes, whose caches the items after this one find."""
    names, count = list(CALLS), min(COMPILERS, os.cpu_count() or 1)
    program = [sys.executable, "-m", "bench.card.calls", "--sizes", "small", "large", "--calls"]
    processes = [
        subprocess.Popen([*program, *names[k::count]], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
        for k in range(min(count, len(names)))
    ]
    ends = time.monotonic() + limit
    while any(process.poll() is None for process in processes) and time.monotonic() < ends:
        time.sleep(0.1)
    late = [process for process in processes if process.poll() is None]
    for process in late:
        process.kill()
        process.wait()
    return {"calls": len(names), "processes": len(processes), "late": len(late)}


def items(dry: bool) -> list[Item]:
    place = Place(dry)
    chosen = {name: call for name, call in CALLS.items() if not (dry and call.needs_card)}
    listed = [Item(name, partial(measured, place, call), 3, 40) for name, call in chosen.items()]
    return listed if dry else [Item("compile", partial(compile_all, 90), 45, 100), *listed]
