"""The peers that multiply matrices with a chosen accumulator: apytypes, where it computes the same.

It rounds products instead of sums and ignores overflow, so that it computes the same only for modes that do not depend
on the sum, and for codes whose sums stay in range.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bench.harness.contest import Absent, Entrant
from bench.harness.peers import absent, load
from bench.quant.fixed_cases import CODES, Product
from fastiter.quant import Fixed, parse, quantize

APYTYPES = "apytypes"
Make = Callable[[ModuleType, Product], Callable[[], Any]]


def fixed_call(acc: str) -> Make:
    fmt = parse(acc)
    assert isinstance(fmt, Fixed)

    def make(package: ModuleType, work: Product) -> Callable[[], Any]:
        points = {"int_bits": CODES.integer, "frac_bits": CODES.fraction}
        a, b = (package.APyFixedArray(z.tolist(), **points) for z in (work.a, work.b))

        def call() -> Any:
            with package.APyFixedAccumulatorContext(
                int_bits=fmt.integer,
                frac_bits=fmt.fraction,
                quantization=getattr(package.QuantizationMode, fmt.rounding),
                overflow=getattr(package.OverflowMode, fmt.overflow),
            ):
                return a @ b

        return call

    return make


def half_call(package: ModuleType, work: Product) -> Callable[[], Any]:
    """Products into float16, for numbers that exist in both e4m3fn and apytypes' own e4m3."""
    numbers = (quantize(z, "e4m3fn") for z in (work.a, work.b))
    a, b = (package.APyFloatArray.from_float(z, exp_bits=4, man_bits=3) for z in numbers)

    def call() -> Any:
        nearest = package.QuantizationMode.RND_CONV
        with package.APyFloatAccumulatorContext(exp_bits=5, man_bits=10, quantization=nearest):
            return a @ b

    return call


def entrants(work: Product, make: Make, threads: int) -> list[Entrant | Absent]:
    """The peers with a pool of this number of threads, which apytypes recreates."""
    package = load(APYTYPES)
    if package is None:
        return [absent(APYTYPES, APYTYPES)]
    package.reset_thread_pool(threads)
    call = make(package, work)
    return [Entrant(APYTYPES, call, lambda: {"c": torch.from_numpy(np.asarray(call().to_numpy()))}, fixed_threads=True)]
