"""This machine's limits: rates of matrix products and memory transfers, measured alongside the runs they limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from bench.harness.timing import Competitor, Timing, interleave
from fastiter import _core
from fastiter._torch.linear import linear

M, K, N = 1024, 512, 1024  # 1 Gflop: large enough for the best rate, short enough to be timed between other calls
PRIVATE_CACHE = 512 * 1024  # bytes that fit every current core's private cache
FIRST_CACHE = 24 * 1024  # bytes that fit every core's L1 cache; less is read too quickly to be timed, at the same rate
READ_SECONDS = 2e-4  # duration of one call: the overhead of the clock and of Python is negligible


@dataclass(frozen=True)
class Limit:
    """A call that does `work` (flops or bytes), and takes an additional `overhead` in seconds."""

    name: str
    call: Callable[[], object]
    work: float
    overhead: float = 0.0

    def rate(self, timing: Timing) -> float:
        return self.work / max(timing.minimum - self.overhead, 0.2 * timing.minimum)


# ---- Matrix products ------------------------------------------------------------------------------------------------


def lstm_product() -> Limit:
    """One step of a wide torch.nn.LSTM: oneDNN's two products and a little elementwise work."""
    layer, x = torch.nn.LSTM(K, N // 4), torch.randn(1, M, K)
    return Limit("torch.nn.LSTM, 1 step", lambda: layer(x), 2.0 * M * N * (K + N // 4))


def matrix_products() -> list[Limit]:
    """One product by every available library. torch.mm is MKL, which is not the fastest on every processor."""
    a, b, weight, bias = torch.randn(M, K), torch.randn(K, N), torch.randn(N, K), torch.randn(N)
    out = torch.empty(M, N)
    onednn_a = a.to_mkldnn()
    flops = 2.0 * M * K * N
    return [
        Limit("torch.mm", lambda: torch.mm(a, b, out=out), flops),
        Limit("oneDNN linear", lambda: functional.linear(onednn_a, weight, bias), flops),
        lstm_product(),
        Limit("fastiter linear", lambda: linear(a, weight, bias), flops),
    ]


def measure(limits: list[Limit], threads: int, budget: float) -> dict[str, float]:
    """Rates by name, measured in turn."""
    with torch.no_grad():
        timings = interleave([Competitor(limit.name, limit.call, threads) for limit in limits], budget)
    return {limit.name: limit.rate(timings[limit.name]) for limit in limits}


def best_product(threads: int, budget: float) -> tuple[Limit, dict[str, float]]:
    """The fastest matrix product, to be timed again alongside every case, and the rates of all products."""
    products = matrix_products()
    rates = measure(products, threads, budget)
    return max(products, key=lambda limit: rates[limit.name]), rates


# ---- Memory ---------------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], object], repeats: int = 5) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def floats(nbytes: int) -> torch.Tensor:
    """Ones in pages of 2 MiB where they are long, as packed weights are: pages of 4 KiB are read at half the rate."""
    return torch.frombuffer(_core.Buffer(nbytes), dtype=torch.float32).fill_(1.0)


def reader(values: torch.Tensor, count: int, repeats: int) -> Callable[[], None]:
    """A call that reads the first `count` floats, `repeats` times."""

    def read() -> None:
        for _ in range(repeats):
            _core.read_stream_f32(values.data_ptr(), count)

    return read


def repeats_for(values: torch.Tensor) -> int:
    once = seconds_of(reader(values, values.numel(), 1))
    return max(1, round(READ_SECONDS / once))


def read_alone(nbytes: int, copies: int = 1) -> Limit:
    """One thread reads `nbytes` repeatedly; `copies` cores would do so concurrently, each in its own cache."""
    values = floats(max(FIRST_CACHE, nbytes))
    repeats = repeats_for(values)
    overhead = seconds_of(reader(values, 0, repeats))
    work = 4.0 * values.numel() * repeats * copies
    return Limit(f"read {nbytes >> 10} KiB", reader(values, values.numel(), repeats), work, overhead)


def at_once(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Run each call on its own thread; starting them takes tens of microseconds, so the calls should be long."""
    if len(calls) == 1:
        return calls[0]
    pool = ThreadPoolExecutor(len(calls) - 1)

    def call() -> None:
        others = [pool.submit(other) for other in calls[1:]]
        calls[0]()
        for other in others:
            other.result()

    return call


def read_together(nbytes: int, threads: int) -> Limit:
    """Python threads read one part each; the kernel releases the GIL."""
    parts = [floats(nbytes // threads) for _ in range(threads)]
    repeats = 10 * repeats_for(parts[0])
    readers = [reader(part, part.numel(), repeats) for part in parts]
    work = 4.0 * sum(part.numel() for part in parts) * repeats
    return Limit(f"read {nbytes >> 10} KiB", at_once(readers), work, seconds_of(reader(parts[0], 0, repeats)))


def read_bandwidth(nbytes: int, threads: int) -> Limit:
    """Repeated reads of a working set of `nbytes`, divided among the threads."""
    part = nbytes // threads
    if threads == 1:
        return read_alone(nbytes)
    # Calls of microseconds are too short to distribute from Python, and cores do not share their private caches.
    return read_alone(part, copies=threads) if part <= PRIVATE_CACHE else read_together(nbytes, threads)


def copy_bandwidth(nbytes: int = 256 << 20) -> Limit:
    """Memory to memory, far larger than any cache; counts bytes read plus bytes written."""
    source = torch.ones(nbytes // 4)
    target = torch.empty_like(source)
    return Limit(f"copy {nbytes >> 20} MiB", lambda: target.copy_(source), 8.0 * source.numel())


def copies(nbytes: int, threads: int) -> list[Limit]:
    """The same by all available means: torch's stores go through the caches, those of a long memmove bypass them."""
    source = np.ones(nbytes // 4, np.float32)
    target = np.zeros_like(source)
    parts = zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    move = at_once([partial(np.copyto, *part) for part in parts])
    return [copy_bandwidth(nbytes), Limit(f"memmove {nbytes >> 20} MiB", move, 8.0 * source.size)]


# ---- Functions ------------------------------------------------------------------------------------------------------

FUNCTIONS = ("exp", "sigmoid", "softplus", "tanh", "log_sigmoid")  # indices into _core.function_f32


def function_alone(name: str, threads: int) -> Limit:
    """A function of the cells, on numbers in a core's private cache; other cores run at the same rate concurrently."""
    x = torch.linspace(-8, 8, PRIVATE_CACHE // 16)
    out = torch.empty_like(x)
    return Limit(
        name,
        lambda: _core.function_f32(FUNCTIONS.index(name), x.data_ptr(), out.data_ptr(), x.numel()),
        float(threads * x.numel()),
    )
