"""The products of the family fixed, with a chosen accumulator, and NumPy loops over k for the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.harness.contest import FRESH, REUSED, Call, Results, on_fresh_pages
from bench.harness.gate import GateError
from fastiter.quant import Fixed, FixedArray, fixed_matmul, parse, quant_matmul, quantize

FULL, QUICK = 256, 24  # rows, columns and terms
CODES = Fixed(8, 4)
LARGEST = 32  # magnitude of codes that keep most sums in range, which is not known beforehand

Array = np.ndarray


@dataclass(frozen=True)
class Product:
    """c = a b with a chosen accumulator, checked against a simple loop over k."""

    name: str
    a: Array
    b: Array
    function: Callable[[], object]
    loop: Callable[[Array, Array], Array]

    @property
    def multiply_adds(self) -> int:
        return self.a.shape[0] * self.a.shape[1] * self.b.shape[1]

    def forms(self) -> dict[str, Call]:
        return {FRESH: on_fresh_pages(self.function), REUSED: self.function}

    @cached_property
    def expected(self) -> Array:
        return self.loop(self.a, self.b)

    def check(self) -> float:
        """Raise if ours differs from the loop in a single bit; else return a difference of 0."""
        return self._compared(self.name, np.asarray(self.function()))

    def compare(self, name: str, results: Results) -> float:
        """Raise if a peer's result differs."""
        return self._compared(name, results["c"].numpy())

    def _compared(self, name: str, c: Array) -> float:
        if c.shape != self.expected.shape:
            raise GateError(f"{name}: c has shape {c.shape}, not {self.expected.shape}")
        wrong = float(np.mean(c != self.expected))
        if wrong > 0:
            raise GateError(f"{name}: {wrong:.1%} of c differ from the loop over k")
        return wrong


# ---- fixed point ----------------------------------------------------------------------------------------------------


def assigned(v: Array, drop: int, acc: Fixed) -> Array:
    """v 2^-drop rounded to an integer, after which the overflow mode is applied."""
    floor, rest, half = v >> drop, v & ((1 << drop) - 1), 1 << (drop - 1)
    up = {"TRN": rest < 0, "RND": rest >= half, "RND_CONV": (rest > half) | ((rest == half) & (floor & 1 == 1))}
    code = floor + up[acc.rounding]
    if acc.overflow == "SAT":
        return np.clip(code, acc.min_code, acc.max_code)
    return ((code - acc.min_code) & ((1 << acc.width) - 1)) + acc.min_code


def fixed_loop(a: Array, b: Array, acc: Fixed) -> Array:
    drop = 2 * CODES.fraction - acc.fraction
    c = np.zeros((a.shape[0], b.shape[1]), np.int64)
    for k in range(a.shape[1]):
        c = assigned((c << drop) + np.multiply.outer(a[:, k].astype(np.int64), b[k]), drop, acc)
    return c * 2.0**-acc.fraction


def fixed_product(acc: str, size: int, largest: int = 128) -> Product:
    """Random codes; at the largest magnitudes, most sums overflow."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-largest, largest, (2, size, size)).astype(np.int8)
    fmt = parse(acc)
    assert isinstance(fmt, Fixed)
    factors = FixedArray.from_codes(a, CODES), FixedArray.from_codes(b, CODES)
    name = f"{CODES} codes{', small' if largest < 128 else ''}, {acc}"
    return Product(name, a, b, lambda: fixed_matmul(*factors, fmt), lambda a, b: fixed_loop(a, b, fmt))


# ---- floats ---------------------------------------------------------------------------------------------------------


def float_loop(a: Array, b: Array, accumulate: str) -> Array:
    """Products in these formats are exact in float32, and their sums with float16 numbers are exact in float64."""
    x, y = quantize(a, "e4m3fn"), quantize(b, "e4m3fn")
    storage = np.float32 if accumulate == "float32" else np.float16
    c = np.zeros((a.shape[0], b.shape[1]), storage)
    for k in range(a.shape[1]):
        wide = np.float64 if storage == np.float16 else np.float32
        c = (c.astype(wide) + np.multiply.outer(x[:, k], y[k])).astype(storage)
    return c.astype(np.float32)


def float_product(accumulate: str, size: int) -> Product:
    """Normal numbers, except those that e4m3fn represents only as subnormal numbers."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, size, size)).astype(np.float32)
    a, b = (np.where(np.abs(z) < 0.05, np.float32(0.05), z) for z in (a, b))
    out = np.empty((size, size), np.float32)

    def ours() -> Array:
        return quant_matmul(a, b, "e4m3fn", "e4m3fn", accumulate, out=out)

    return Product(f"e4m3fn numbers, {accumulate}", a, b, ours, lambda a, b: float_loop(a, b, accumulate))
