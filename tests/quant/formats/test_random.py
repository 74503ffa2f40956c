"""Stochastic rounding: the specification's random numbers, the correct mean, the same bits however it runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastiter import _core, quant
from fastiter.quant import encode, parse, quantize
from fastiter.reference import quant as reference
from tests.quant.cases import assert_equal, numbers
from tests.quant.formats.test_arrays import DTYPES, check, check_codes

STOCHASTIC = (
    *(
        "fixed<8,4,STOCHASTIC,SAT>",
        "fixed<12,2,STOCHASTIC,WRAP>",
        "fixed<60,30,STOCHASTIC,WRAP_SM,2>",
        "int8<STOCHASTIC>",
    ),
    *(
        "fixed<6,9,STOCHASTIC,SAT>",
        "e4m3fn<STOCHASTIC>",
        "e5m2<STOCHASTIC,SAT>",
        "bf16<STOCHASTIC>",
        "tf32<STOCHASTIC>",
    ),
    *(
        "e2m1<STOCHASTIC>",
        "e8m0<STOCHASTIC>",
        "float<4,0,fn,STOCHASTIC>",
        "mx<e2m1<STOCHASTIC>>",
        "nvfp4<16,STOCHASTIC>",
    ),
    *("mx<e4m3fn<STOCHASTIC>,7>", "bfp<6,16,STOCHASTIC>", "posit<16,1,STOCHASTIC>", "posit<8,2,STOCHASTIC>"),
    *(
        "table<-1.0 0.0 0.1 0.5,0,STOCHASTIC>",
        "nf4<STOCHASTIC>",
        "pow2<-8,3,STOCHASTIC>",
        "khot<2,8,3,GREEDY,STOCHASTIC>",
    ),
)


def test_random_words_are_those_of_philox() -> None:
    for seed, first in ((0, 0), (1, 64), (2**64 - 1, 64 * 1000), (0x123456789ABCDEF0, 2**40), (5, 2**34 * 4 - 64)):
        words = np.empty(256, np.uint32)
        _core.quant.random_words(seed, first, 256, words)
        assert [w >> 1 for w in words.tolist()] == [reference.random_bits(first + i, seed) for i in range(256)]


@pytest.mark.parametrize("text", STOCHASTIC)
@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_rounding_has_the_specified_bits(text: str, dtype: Any) -> None:
    x = numbers(dtype, -9, 4, 45)[:196]
    seed = 2**63 + 17 if dtype == np.float64 else 0
    check(x, text, rng=seed)
    check_codes(x, text, rng=seed)
    lines = x[:195].reshape(3, 65)
    check(lines, text, rng=3)


def test_scales_are_applied_before_stochastic_rounding() -> None:
    x = numbers(np.float32, -6, 3, 90)[:360].reshape(6, 60)
    check(x, "int4<STOCHASTIC>", rng=5, scale=np.linspace(0.1, 1, 6)[:, None], zero_point=np.arange(-3, 3)[:, None])
    check(x, "e2m1<STOCHASTIC>", rng=5, scale=0.3)


@pytest.mark.parametrize("text", STOCHASTIC)
def test_the_mean_is_the_number(text: str) -> None:
    """Round each of 40 numbers 2^14 times: the mean is within five times the largest possible standard deviation."""
    fmt = parse(text)
    block = fmt.block
    count = (1 << 14) // max(block, 1) * max(block, 1)
    rng = np.random.default_rng(0)
    if text.startswith(("posit", "e8m0", "khot")):
        return  # posit rounds its bit string, which is not linear in x; e8m0 has no zero; khot sums powers
    lowest, highest, _ = quant.range_of(fmt)
    x = np.clip(rng.uniform(-0.9, 0.9, 40), lowest, highest)
    whole = np.repeat(x[:, None], count, 1).astype(np.float64)
    whole[:, 0] = 1.0  # the largest number of its block, in block formats
    y = quantize(whole, fmt, rng=11)[:, 1:]
    if block:
        whole[:, ::block] = 1.0
        y = quantize(whole, fmt, rng=11).reshape(40, -1, block)[:, :, 1:].reshape(40, -1)
    low, high = y.min(1), y.max(1)
    deviation = np.where(high > low, high - low, 0) / 2 / math.sqrt(y.shape[1])
    assert (np.abs(y.mean(1) - x) <= 5 * deviation + 1e-9).all()
    near = np.abs(y - x[:, None]).max(1)
    assert (near <= (high - low) + 1e-12).all(), "only the two neighbours"


def test_small_fractions_have_their_probability() -> None:
    """2^-20 of a step, 2^24 times: about 16 are rounded up."""
    x = np.full(1 << 24, 2.0**-20, np.float32)
    ups = float(quantize(x, "fixed<8,8,STOCHASTIC,SAT>", rng=1).sum())
    assert abs(ups - 16) < 5 * 4


def test_neighbours_are_independent() -> None:
    x = np.full(1 << 20, 0.5, np.float32)
    ups = quantize(x, "fixed<8,8,STOCHASTIC,SAT>", rng=3) - 0.5
    for lag in (1, 2, 4, 16, 32, 48, 64, 1024):
        correlation = float(np.mean(ups[lag:] * ups[:-lag]) * 4)
        assert abs(correlation) < 5 / math.sqrt(x.size), lag
    other = quantize(x, "fixed<8,8,STOCHASTIC,SAT>", rng=4) - 0.5
    assert abs(float(np.mean(ups * other) * 4)) < 5 / math.sqrt(x.size)


def test_seeds_and_generators() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    fmt = "e2m1<STOCHASTIC>"
    one = quantize(x, fmt, rng=1)
    assert_equal(quantize(x, fmt, rng=np.int64(1)), one, x, parse(fmt))
    assert (quantize(x, fmt, rng=2) != one).any()
    first, again = (quantize(x, fmt, rng=np.random.default_rng(5)) for _ in range(2))
    assert_equal(first, again, x, parse(fmt))
    generator = np.random.default_rng(5)
    assert_equal(quantize(x, fmt, rng=generator), first, x, parse(fmt))
    assert (quantize(x, fmt, rng=generator) != first).any()
    # A generator that is not needed does not advance.
    before = generator.bit_generator.state
    quantize(x, "e2m1", rng=generator)
    assert generator.bit_generator.state == before
    # Numbers and codes are the same.
    codes = encode(x, fmt, rng=1)
    assert isinstance(codes, np.ndarray)
    assert_equal(quant.decode(codes, fmt), one, x, parse(fmt))
