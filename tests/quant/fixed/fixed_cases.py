"""Formats, codes and calls that the tests of fixed-point arithmetic share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastiter.quant import Fixed, FixedArray
from fastiter.quant._fixed import kernels
from fastiter.quant._fixed.growth import code_dtype
from tests.support.cases import Array

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")
OVERFLOWS = ("SAT", "SAT_ZERO", "SAT_SYM", "WRAP", "WRAP_SM")
INVARIANT = ("TRN", "RND", "RND_MIN_INF")
Rng = np.random.Generator


def modes(width: int, signed: bool) -> Iterator[tuple[str, str, int]]:
    """All roundings and overflow modes, and some numbers of saturated bits, for a format of this width."""
    for rounding, overflow in itertools.product(ROUNDINGS, OVERFLOWS):
        if overflow == "WRAP_SM" and not signed:
            continue
        some = {0, 1, 3, width} if overflow.startswith("WRAP") else {0}
        yield from ((rounding, overflow, n) for n in sorted(some) if n <= width)


def random_format(rng: Rng, widths: tuple[int, int], fractions: tuple[int, int], signed: bool | None = None) -> Fixed:
    width = int(rng.integers(widths[0], widths[1] + 1))
    fraction = int(rng.integers(fractions[0], fractions[1] + 1))
    signed = bool(rng.integers(2)) if signed is None else signed
    choices = list(modes(width, signed))
    rounding, overflow, bits = choices[rng.integers(len(choices))]
    return Fixed(width, width - fraction, signed, rounding, overflow, bits)


def codes(rng: Rng, shape: Any, fmt: Fixed) -> Array:
    """Codes of the whole range; small ones and both ends are over-represented."""
    most = 1 << (fmt.width - fmt.signed)
    bits = rng.integers(0, fmt.width - fmt.signed + 1, shape)
    dtype = code_dtype(fmt.width, fmt.signed)
    words = rng.integers(0, 2**64, shape, np.uint64) >> np.uint64(1 if fmt.signed else 0)
    size = words >> np.minimum((63 if fmt.signed else 64) - bits, 63).astype(np.uint64)
    values = np.where(bits == 0, 0, size).astype(object)
    if fmt.signed:
        values = np.where(rng.integers(2, size=shape) == 0, values, -values - 1)
    ends = rng.integers(0, 12, shape)
    values = np.where(ends == 0, fmt.min_code, np.where(ends == 1, most - 1, values))
    return np.asarray(values).astype(dtype)


def fixed(rng: Rng, shape: Any, fmt: Fixed) -> FixedArray:
    return FixedArray.from_codes(codes(rng, shape, fmt), fmt)


def run_path(
    a: FixedArray,
    b: FixedArray,
    acc: Fixed,
    product: Fixed | None = None,
    *,
    bias: FixedArray | None = None,
    every: int = 1,
    path: str = "choose",
) -> tuple[Array, set[str]]:
    """Return the codes of a b by a path, or by the unconditional one if that is not exact, and the paths taken."""
    start = None
    if bias is not None:
        start = np.broadcast_to(bias.astype(acc).codes.astype(code_dtype(64, acc.signed)), (a.shape[0], b.shape[1]))
    out, taken = kernels.matmul_codes(a.codes, a.fmt, b.codes, b.fmt, (acc, product), start, every, path)
    return out, {name for name, number in kernels.PATHS.items() if taken >> number & 1}
