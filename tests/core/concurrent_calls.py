"""python -m tests.core.concurrent_calls: the public functions on arrays, called by several Python threads at once.

Each thread makes all calls of `tests/core/record_bits.py` in an order of its own, on inputs that all of them read, with
teams of several threads, while the main thread changes their number and returns memory to the system. The results must
have the bits of the same calls alone. These follow, so that the first calls, which fill caches and start workers, are
concurrent too; for the same reason this is a process of its own. Without torch, the teams are those of fastiter's pool.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
import warnings

import fastiter
from fastiter import _core
from tests.core import record_bits

THREADS = 4


def main() -> None:
    # The calls suppress their warnings by `catch_warnings`, which is not safe in threads before Python 3.14.
    warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
    calls = dict(case for family in record_bits.ON_ARRAYS for case in family())
    start = threading.Barrier(THREADS)
    found: list[dict[str, bytes]] = [{} for _ in range(THREADS)]

    def run(k: int) -> None:
        names = sorted(calls)
        random.Random(k).shuffle(names)
        start.wait()
        for name in names:
            found[k][name] = b"".join(record_bits.bytes_of(calls[name]()))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
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
    main()
