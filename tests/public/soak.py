"""Every public function called repeatedly, to check its memory, and from many threads, to check results: ``make soak``.

python -m tests.public.soak --calls 100000 --seconds 60
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import itertools
import os
import random
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastiter import ConvergenceWarning
from tests.public.every import TABLE
from tests.public.mutations import contiguous
from tests.public.pick import seeded
from tests.public.results import assert_equal, parts

#: Settings and reports of the whole process: they depend on other threads, or print to standard output.
OF_THE_PROCESS = {"fastiter.get_num_threads", "fastiter.set_num_threads", "fastiter.show_config"}
#: Growth per round that caches explain, in bytes: resident memory, memory allocated by malloc, Python objects
MOST = (1 << 20, 1 << 14, 1 << 14)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings and standard output for the whole program, as neither is local to a thread."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        warnings.simplefilter("ignore")
        yield


class Call(NamedTuple):
    """A call of the table; arguments that it writes are copied first, so that it can be repeated."""

    name: str
    arguments: dict[str, Any]

    def __call__(self) -> tuple[Any, ...]:
        """Return the result and the arguments that were written."""
        entry = TABLE[self.name]
        own = {key: np.array(x) if key in entry.written else x for key, x in self.arguments.items()}
        with np.errstate(all="ignore"):
            found = entry.run(**own)
        return parts((found, *(own[key] for key in entry.written)))  # type: ignore[no-any-return]


def calls_of(name: str, count: int) -> list[Call]:
    """Return some calls of a function, the same ones each time."""
    return [Call(name, contiguous(TABLE[name].make(seeded(seed)))) for seed in range(count)]


# ---- Memory ---------------------------------------------------------------------------------------------------------


class _Malloc(ctypes.Structure):
    """The fields of glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ord", "smb", "hblks", "hblkhd", "usm", "fsm", "uord", "ford", "keep")
    )


def levels() -> tuple[int, int, int]:
    """Return the bytes of resident memory, of memory allocated by malloc, and of Python objects of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * 4096
    read = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc's since 2.33
    if read is None:
        return resident, 0, tracemalloc.get_traced_memory()[0]
    read.restype = _Malloc
    found = read()
    return resident, found.uord + found.hblkhd, tracemalloc.get_traced_memory()[0]


def growth(repeat: Callable[[], Any], most_seconds: float, count: int) -> tuple[int, tuple[int, ...]]:
    """Return the number of calls of ``repeat``, and the growth of memory per round, as :func:`levels`.

    There are three rounds; the smaller growth of the last two is used, as pools grow once but leaks in every round.
    Objects from before are exempt from garbage collection meanwhile: a process with torch has millions of them.
    """
    made, found = 0, []
    gc.collect()
    gc.freeze()
    for _ in range(3):
        until = time.monotonic() + most_seconds / 3
        for _ in range(count // 3):
            repeat()
            made += 1
            if time.monotonic() > until:
                break
        found.append(levels())
    gc.unfreeze()
    steps = [[after - before for before, after in zip(*pair, strict=True)] for pair in itertools.pairwise(found)]
    return made, tuple(map(min, *steps))


def leaks(name: str, count: int, most_seconds: float) -> str:
    """Call a function ``count`` times, or as often as time permits; return the growth of memory, if any."""
    calls = calls_of(name, 8)
    with quiet():
        for call in calls * 2:
            call()
        tracemalloc.start()
        made, grown = growth(lambda: [call() for call in calls], most_seconds, max(count // len(calls), 3))
        tracemalloc.stop()
    if any(step > most for step, most in zip(grown, MOST, strict=True)):
        resident, given, traced = grown
        return (
            f"{name}: {made * len(calls)} calls left {resident} bytes resident, {given} of malloc, {traced} of Python"
        )
    return ""


# ---- Threads --------------------------------------------------------------------------------------------------------


class Together:
    """Threads that make random calls, each of which must give the same result as alone."""

    def __init__(self, threads: int, each: int = 3) -> None:
        names = [name for name in TABLE if name not in OF_THE_PROCESS]
        with quiet():
            self.known = [(call, call()) for name in names for call in calls_of(name, each)]
        self.made, self.wrong = [0] * threads, list[str]()

    def run(self, seconds: float) -> None:
        """Run all threads for some seconds."""
        until = time.monotonic() + seconds
        workers = [threading.Thread(target=self._work, args=(index, until)) for index in range(len(self.made))]
        with quiet():
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    def _work(self, index: int, until: float) -> None:
        choice = random.Random(index)
        while time.monotonic() < until and not self.wrong:
            call, expected = choice.choice(self.known)
            try:
                assert_equal(call(), expected, 0)
            except BaseException as error:
                self.wrong.append(f"{call.name}: {type(error).__name__}: {error}")
            self.made[index] += 1


def digest() -> str:
    """Return a hash of the results of all functions."""
    found = hashlib.sha256()
    with quiet():
        for name in TABLE:
            if name not in OF_THE_PROCESS:
                for call in calls_of(name, 1):
                    found.update(_bytes(call()))
    return found.hexdigest()


def _bytes(x: Any) -> bytes:
    if isinstance(x, tuple):
        return b"".join(map(_bytes, x))
    return x.tobytes() if isinstance(x, np.ndarray) and x.dtype != object else repr(x).encode()


def main(count: int, seconds: float) -> int:
    """Print functions whose memory grows, and calls in threads with other results; return 1 if there are any."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    begin = time.monotonic()
    grown = [line for name in TABLE if (line := leaks(name, -(-count // len(TABLE)), 4 * seconds / len(TABLE)))]
    print("\n".join(grown) or f"{len(TABLE)} functions, {time.monotonic() - begin:.0f} s: no growth of memory")
    together = Together(8)
    together.run(seconds)
    print(
        "\n".join(together.wrong) or f"8 threads, {sum(together.made)} calls, {seconds:.0f} s: as one after the other"
    )
    return int(bool(grown or together.wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    sys.exit(main(given.calls, given.seconds))
