"""Runs a call in a separate process, whose heap no earlier work has shaped."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from bench.harness.peers import environment

P = ParamSpec("P")
R = TypeVar("R")

# How the C library on Linux treats freed memory: by default it returns blocks of more than 32 MB, and the end of a
# large heap, to the system at once; alternatively it keeps everything.
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
