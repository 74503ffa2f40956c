"""A call in a process of its own, whose heap no earlier work has shaped."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from bench.harness.peers import environment

P = ParamSpec("P")
R = TypeVar("R")

# The C library's treatment of freed memory on Linux: its default (blocks of more than 32 MB return to the system at
# once, and the end of a large heap), or keeping all of it.
HEAPS: Mapping[str, Mapping[str, str]] = {
    "own": {},
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28)},
}


def alone(heap: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return the function's result from a new interpreter; the function and its arguments must be picklable."""
    with (
        environment(HEAPS[heap]),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes,
    ):
        return processes.submit(function, *args, **kwargs).result()
