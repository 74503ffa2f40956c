"""python -m tests.core.concurrent_calls: the public functions on arrays, called by several Python threads at once.

Each thread makes all calls of `tests/core/record_bits.py` in its own order, on shared inputs, with teams of several
threads, while the main thread changes their number and returns memory to the system. The results must have the bits of
the same calls alone. These are made afterwards, so that the first calls, which fill caches and start workers, are
concurrent too; for the same reason this is a separate process. Without torch, the teams are those of fastiter's pool.

With the argument `race`, two threads write to one array, which ThreadSanitizer has to report.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np

import fastiter
from fastiter import _core
from tests.core import record_bits

THREADS = 4


def run_together(*functions: Callable[[], None]) -> list[threading.Thread]:
    """Return threads that run one function each, none before all have started."""
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], None]) -> None:
        start.wait()
        function()

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def race() -> None:
    a, x = np.full((2, 8, 1000, 64), 0.5)
    out = np.empty_like(x)

    def write() -> None:
        for _ in range(20):
            fastiter.linear_scan(a, x, out=out)

    for thread in run_together(write, write):
        thread.join()


def main() -> None:
    # The calls suppress their warnings by `catch_warnings`, which is not safe in threads before Python 3.14.
    warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
    calls = dict(case for family in record_bits.ON_ARRAYS for case in family())
    found: list[dict[str, bytes]] = [{} for _ in range(THREADS)]

    def run(k: int) -> None:
        names = sorted(calls)
        random.Random(k).shuffle(names)
        for name in names:
            found[k][name] = b"".join(record_bits.bytes_of(calls[name]()))

    threads = run_together(*(functools.partial(run, k) for k in range(THREADS)))
    for count in itertools.cycle((2, 3, 1, 4)):
        fastiter.set_num_threads(count)
        fastiter.release_memory()
        time.sleep(0.001)
        if not any(thread.is_alive() for thread in threads):
            break
    alone = {name: b"".join(record_bits.bytes_of(call())) for name, call in calls.items()}
    wrong = sorted(name for name in alone if any(results.get(name) != alone[name] for results in found))
    print(f"{len(alone)} calls in {THREADS} threads, teams of {_core.thread_pool()}")
    if wrong:
        sys.exit(f"not the bits of the call alone: {', '.join(wrong)}")


if __name__ == "__main__":
    race() if sys.argv[1:] == ["race"] else main()
