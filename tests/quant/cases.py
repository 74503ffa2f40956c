"""Numbers and formats that the tests of `fastiter.quant` share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastiter.quant import (
    MX,
    NVFP4,
    BlockFloat,
    Fixed,
    Float,
    Format,
    Int,
    Logarithmic,
    Posit,
    PowerOfTwo,
    SumOfPowers,
    Table,
    parse,
)
from tests.support.cases import Array

ROUNDINGS = ("TRN", "TRN_ZERO", "RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV")
FLOAT_ROUNDINGS = ("RNE", "RNA", "RZ", "RD", "RU", "RA")
NAMED_FLOATS = (
    *("bf16", "tf32", "fp16", "e5m2", "e4m3", "e3m4", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e5m2fnuz", "e8m0"),
    *("e2m3", "e3m2", "e2m1"),
)
#: A format of every kind, with the exponent range of its numbers
KINDS = {
    "fixed<8,4,RND_CONV,SAT>": (-5, 4),
    "fixed<8,4,TRN,WRAP>": (-5, 4),
    "fixed<12,5,RND_INF,WRAP_SM,3>": (-8, 6),
    "ufixed<32,16,RND,SAT>": (-17, 17),
    "int8": (-1, 8),
    "e4m3fn": (-10, 9),
    "e5m2": (-17, 16),
    "e8m0": (-128, 128),
    "bf16<RNA>": (-134, 128),
    "fp32": (-150, 129),
    "mxfp8_e4m3": (-10, 9),
    "mxfp4_e2m1<16,RCEIL>": (-10, 9),
    "nvfp4": (-10, 9),
    "bfp<6,16>": (-10, 9),
    "posit<16,1>": (-29, 29),
    "posit<8,2>": (-25, 25),
    "nf4": (-4, 0),
    "table<-1.0 0.1 0.3 2.5>": (-4, 2),
    "pow2<-8,3>": (-10, 4),
    "khot<2,8,1>": (-8, 1),
    "log2<-8,3,2>": (-10, 4),
}

#: Canonical text of a format
TEXTS = {
    "fixed<8,4>": Fixed(8, 4),
    "fixed<8,4,RND_CONV,SAT>": Fixed(8, 4, True, "RND_CONV", "SAT"),
    "ufixed<6,2,TRN,WRAP,1>": Fixed(6, 2, False, "TRN", "WRAP", 1),
    "fixed<5,-2,STOCHASTIC>": Fixed(5, -2, rounding="STOCHASTIC"),
    "int8": Int(8),
    "uint4": Int(4, False),
    "int8<RND_CONV,SAT_SYM>": Int(8, overflow="SAT_SYM"),
    "e4m3fn": Float(4, 3, "fn"),
    "e5m2<RZ>": Float(5, 2, rounding="RZ"),
    "e5m2<RNE,SAT>": Float(5, 2, overflow="SAT"),
    "bf16<STOCHASTIC>": Float(8, 7, rounding="STOCHASTIC"),
    "e8m0": Float(8, 0, "fn", signed=False, subnormals=False),
    "float<5,4>": Float(5, 4),
    "float<4,3,fn,RNE,SAT,9>": Float(4, 3, "fn", bias=9),
    "ufloat<5,4,none>": Float(5, 4, "none", signed=False),
    "mxfp8_e4m3": MX(Float(4, 3, "fn")),
    "mxfp4_e2m1<16,RCEIL>": MX("e2m1", 16, "RCEIL"),
    "mx<e2m1<STOCHASTIC>>": MX("e2m1<STOCHASTIC>"),
    "mx<float<3,3,none,RZ>,64,CEIL>": MX(Float(3, 3, "none", "RZ"), 64, "CEIL"),
    "mxint8": BlockFloat(8, 32),
    "bfp<6>": BlockFloat(6),
    "bfp<6,32,RND>": BlockFloat(6, 32, "RND"),
    "nvfp4": NVFP4(),
    "nvfp4<16,STOCHASTIC>": NVFP4(rounding="STOCHASTIC"),
    "posit<16,1>": Posit(16, 1),
    "posit<8>": Posit(8),
    "nf4": Table(parse("nf4").values, 64),
    "table<-1.0 0.0 0.5>": Table((-1.0, 0.0, 0.5)),
    "table<-1.0 0.1,32,STOCHASTIC>": Table((-1.0, 0.1), 32, "STOCHASTIC"),
    "pow2<-7,0>": PowerOfTwo(-7, 0),
    "upow2<-7,0,STOCHASTIC>": PowerOfTwo(-7, 0, False, "STOCHASTIC"),
    "khot<2,8,1>": SumOfPowers(2, 8, 1),
    "ukhot<2,8,1,NEAREST>": SumOfPowers(2, 8, 1, False, "NEAREST"),
    "log2<-8,0,2>": Logarithmic(-8, 0, 2),
    "log2<-8,0>": Logarithmic(-8, 0),
}


def overflows(signed: bool, width: int) -> list[tuple[str, int]]:
    """(overflow, saturated bits)"""
    some = [n for n in (0, 1, 3, width) if n <= width]
    modes = [("SAT", 0), ("SAT_ZERO", 0), ("SAT_SYM", 0), *[("WRAP", n) for n in some]]
    return modes + [("WRAP_SM", n) for n in some] if signed else modes


def numbers(dtype: Any, low: int, high: int, count: int = 400, seed: int = 0) -> Array:
    """Numbers around 2^low to 2^high: ties at every place, their neighbours, all exponents, the dtype's extremes."""
    rng = np.random.default_rng([seed, low + 5000, high + 5000])
    whole = rng.integers(-(1 << 12), 1 << 12, count).astype(np.float64)
    ties = np.ldexp(whole / 2, rng.integers(low - 3, max(high - 8, low - 2), count))
    with np.errstate(all="ignore"):
        ties = ties.astype(dtype)
        near = np.nextafter(ties, rng.choice([-math.inf, math.inf], count).astype(dtype))
        spread = np.ldexp(rng.uniform(-2, 2, count), rng.integers(low - 6, high + 3, count)).astype(dtype)
        info = np.finfo(dtype)
        extreme = np.array([0, 1, info.smallest_subnormal, info.tiny, info.max, math.inf, 0.5, 1.5, 2.5], dtype)
        extreme = np.concatenate([extreme, np.ldexp(np.ones(4), [low, low - 1, high, high - 1]).astype(dtype)])
        anywhere = rng.standard_normal(count) * 2.0 ** rng.integers(-160, 160, count)
        return np.concatenate([ties, near, spread, extreme, -extreme, anywhere.astype(dtype)])


def fixed_numbers(fmt: Fixed, dtype: Any, count: int = 400, seed: int = 0) -> Array:
    return numbers(dtype, -fmt.fraction, fmt.integer, count, seed)


def random_fixed(rng: np.random.Generator, widest: int = 64) -> Fixed:
    width = int(rng.integers(1, widest + 1))
    integer = int(rng.choice([rng.integers(-3, width + 4), rng.integers(-90, 90)]))
    signed = bool(rng.integers(2))
    modes = overflows(signed, width)
    overflow, saturated = modes[rng.integers(len(modes))]
    return Fixed(width, integer, signed, str(rng.choice(ROUNDINGS)), overflow, saturated)


def random_float(rng: np.random.Generator) -> Float:
    while True:
        exponent, mantissa = int(rng.integers(1, 9)), int(rng.integers(0, 12))
        specials = str(rng.choice(["ieee", "fn", "fnuz", "none"]))
        overflow = str(rng.choice(["SAT", "", "NAN"]))
        bias = None if rng.integers(2) else int(rng.integers(-5, 40))
        signed = bool(rng.integers(4))
        subnormals = signed or bool(rng.integers(2))
        try:
            return Float(
                exponent, mantissa, specials, str(rng.choice(FLOAT_ROUNDINGS)), overflow, bias, signed, subnormals
            )
        except ValueError:  # an invalid combination
            continue


def assert_equal(actual: Array, expected: Array, x: Array, fmt: Format) -> None:
    """Assert equal bits (any NaN equals any NaN); shows the first numbers that differ."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    same = (actual == expected) & (np.signbit(actual) == np.signbit(expected))
    if actual.dtype.kind == "f":
        same |= np.isnan(actual) & np.isnan(expected)
    wrong = np.flatnonzero(~same)[:5]
    shown = [f"{x.ravel()[i]!r}: {actual.ravel()[i]!r}, not {expected.ravel()[i]!r}" for i in wrong]
    assert not shown, f"{fmt}: {(~same).sum()} of {x.size} differ: {'; '.join(shown)}"
