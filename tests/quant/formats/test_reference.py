"""The specification of the number formats against check values, independent definitions, and known answers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fastiter.quant import Fixed, Float, parse
from fastiter.reference import quant as reference
from tests.quant.cases import ROUNDINGS

# W = 3, I = 2: the result of each rounding for a tie and for no tie
TIES = {
    1.25: (1.5, 1, 1, 1.5, 1, 1, 1),
    -1.25: (-1, -1, -1.5, -1.5, -1, -1.5, -1),
    0.75: (1, 0.5, 0.5, 1, 1, 0.5, 0.5),
    -0.75: (-0.5, -0.5, -1, -1, -1, -1, -0.5),
    1.3: (1.5, 1.5, 1.5, 1.5, 1.5, 1, 1),
    -1.3: (-1.5, -1.5, -1.5, -1.5, -1.5, -1.5, -1),
}
COLUMNS = ("RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "TRN", "TRN_ZERO")
# W = I = 4 and 8: (signed, overflow, saturated bits) -> results
WRAPS = {
    (4, True, "SAT", 0): {19: 7, -19: -8, 31: 7},
    (4, True, "SAT_ZERO", 0): {19: 0, -19: 0, 31: 0},
    (4, True, "SAT_SYM", 0): {19: 7, -19: -7, 31: 7, -8: -7},
    (4, True, "WRAP", 0): {19: 3, -19: -3, 31: -1},
    (4, True, "WRAP_SM", 0): {19: -4, -19: 2, 31: -1},
    (4, False, "WRAP", 0): {19: 3, -19: 13, 31: 15},
    (8, True, "WRAP", 1): {130: 2, -130: -2, 300: 44, -300: -44},
    (8, True, "WRAP", 3): {130: 98, -130: -98, 300: 108, -300: -108},
    (8, True, "WRAP_SM", 0): {130: 125, -130: -127, 300: -45, -300: 43},
    (8, True, "WRAP_SM", 1): {130: 125, -130: -127, 300: 44, -300: -44},
    (8, True, "WRAP_SM", 3): {130: 125, -130: -127, 300: 108, -300: -108},
}


@pytest.mark.parametrize("x", TIES)
def test_rounding_of_ties(x: float) -> None:
    for rounding, expected in zip(COLUMNS, TIES[x], strict=True):
        fmt = Fixed(3, 2, rounding=rounding)
        assert reference.fixed_value(reference.fixed_code(x, fmt), fmt) == expected, rounding


@pytest.mark.parametrize("key", WRAPS)
def test_overflow(key: tuple[int, bool, str, int]) -> None:
    width, signed, overflow, saturated = key
    fmt = Fixed(width, width, signed, overflow=overflow, saturated_bits=saturated)
    for x, expected in WRAPS[key].items():
        assert reference.fixed_code(x, fmt) == expected, x


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_infinities_are_beyond_every_format(rounding: str) -> None:
    for fmt in (
        Fixed(8, 4, True, rounding, "SAT"),
        Fixed(64, 1023, True, rounding, "SAT"),
        Fixed(8, -1000, True, rounding),
    ):
        for x in (math.inf, -math.inf):
            code = reference.fixed_code(x, fmt)
            assert code == ((fmt.max_code if x > 0 else fmt.min_code) if fmt.overflow == "SAT" else 0)


def test_numbers_next_to_a_tie() -> None:
    for x in (0.49999999999999994, np.float32(0.49999997)):
        assert reference.fixed_code(x, Fixed(8, 8, rounding="RND")) == 0
        assert reference.fixed_code(-x, Fixed(8, 8, rounding="RND_INF")) == 0
    assert reference.fixed_code(-5e-324, Fixed(8, 4, rounding="TRN")) == -1


def test_philox_known_answers() -> None:
    ones = 0xFFFFFFFF
    assert reference.philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert reference.philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert reference.philox(*pi) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def test_stochastic_rounding_has_the_probability_of_the_fraction() -> None:
    """For equally spaced random numbers, the proportion that rounds up equals the fraction."""
    for x, up in ((2.25, 0.25), (-2.25, 0.25), (0.875, 0.875), (3.0, 0.0)):
        codes = [reference.whole(Fraction(x), "STOCHASTIC", k << 23) for k in range(256)]
        assert np.mean(np.abs(codes) > abs(int(x))) == up


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1", "e3m2", "e4m3fnuz", "fp16"])
def test_floats_are_the_nearest_of_all(name: str) -> None:
    """Rounding agrees with a search among all numbers of the format."""
    fmt = parse(name)
    step = 2.0 ** (fmt.min_exponent - fmt.mantissa)
    exact = np.arange(1 << (fmt.mantissa + 1)) * step
    all_numbers = [exact]
    for e in range(fmt.min_exponent + 1, fmt.max_exponent + 1):
        all_numbers.append(exact[1 << fmt.mantissa :] * 2.0 ** (e - fmt.min_exponent))
    positive = np.unique(np.concatenate(all_numbers))
    positive = positive[positive <= float(fmt.max_value)]
    rng = np.random.default_rng(0)
    for x in np.exp2(rng.uniform(fmt.min_exponent - fmt.mantissa - 2, fmt.max_exponent, 300)):
        distances = np.abs(positive - x)
        assert reference.float_value(x, fmt) == positive[np.argmin(distances)]
        up, down = (parse(f"{name}<{r}>") for r in ("RU", "RD"))
        assert reference.float_value(x, up) == positive[positive >= x].min(initial=float(fmt.max_value))
        assert reference.float_value(-x, down) == -reference.float_value(x, up)
        assert reference.float_value(x, down) == positive[positive <= x].max(initial=0)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("fp32", np.float32)])
def test_ieee_floats_are_those_of_numpy(name: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(2000) * 2.0 ** rng.integers(-160, 160, 2000)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(dtype).astype(float)
    assert [reference.float_value(v, parse(name)) for v in x] == expected.tolist()
    assert [reference.nearest_float(Fraction(v), np.dtype(dtype).name) for v in x] == expected.tolist()


def test_overflow_of_floats() -> None:
    for overflow, beyond in (("SAT", 448.0), ("NAN", math.nan)):
        fmt = Float(4, 3, "fn", overflow=overflow)
        assert reference.float_value(464.0, fmt) == 448.0  # the tie of 448 and 480
        for x in (464.5, 1e30, math.inf):
            y = reference.float_value(x, fmt)
            assert y == beyond or (math.isnan(y) and math.isnan(beyond))
    for rounding, positive, negative in (
        *(("RNE", math.inf, -math.inf), ("RZ", 57344.0, -57344.0), ("RU", math.inf, -57344.0)),
        *(("RD", 57344.0, -math.inf), ("RA", math.inf, -math.inf)),
    ):
        fmt = Float(5, 2, rounding=rounding)
        assert (reference.float_value(1e9, fmt), reference.float_value(-1e9, fmt)) == (positive, negative), rounding
        assert reference.float_value(math.inf, fmt) == math.inf


# posit(8, 0), with numbers from the standard's paper, and posit(16, 1)
POSITS = {
    (8, 0): {0x00: 0.0, 0x40: 1.0, 0x7F: 64.0, 0x01: 1 / 64, 0x60: 2.0, 0x50: 1.5, 0xC0: -1.0, 0x30: 0.75, 0x7E: 32.0},
    (16, 1): {0x4000: 1.0, 0x7FFF: 2.0**28, 0x0001: 2.0**-28, 0x5000: 2.0, 0x6000: 4.0, 0x3000: 0.5, 0xB000: -2.0},
}


@pytest.mark.parametrize("shape", POSITS)
def test_posits(shape: tuple[int, int]) -> None:
    for code, value in POSITS[shape].items():
        assert reference.posit_value(code, *shape) == value
        assert reference.posit_code(value, *shape) == code


@pytest.mark.parametrize(("n", "es"), [(8, 0), (8, 2), (10, 1), (6, 3), (5, 2)])
def test_posits_are_in_the_order_of_their_codes(n: int, es: int) -> None:
    signed = [reference.posit_value(c % (1 << n), n, es) for c in range(1 - (1 << (n - 1)), 1 << (n - 1))]
    assert signed == sorted(set(signed))
    assert [reference.posit_code(v, n, es) for v in signed] == [
        c % (1 << n) for c in range(1 - (1 << (n - 1)), 1 << (n - 1))
    ]
    # The rounding boundary of two neighbours is the posit with one more bit between them; ties go to the even code.
    for code in range(1, (1 << (n - 1)) - 1):
        middle = reference.posit_value(2 * code + 1, n + 1, es)
        assert reference.posit_code(middle, n, es) == code + code % 2
        assert reference.posit_code(np.nextafter(middle, math.inf), n, es) == code + 1
        assert reference.posit_code(np.nextafter(middle, 0), n, es) == code


def test_sums_of_powers() -> None:
    assert [reference.powers_code(0b1011011, k, False) for k in range(1, 6)] == [64, 80, 88, 90, 91]
    assert [reference.powers_code(0b1110111, k, True) for k in range(1, 4)] == [128, 120, 119]
    assert [reference.powers_code(-m, 1, True) for m in (1, 2, 3, 5, 6, 7)] == [-1, -2, -4, -4, -8, -8]
    every = range(256)
    for k in (1, 2, 3):
        sums = [reference.powers_code(m, k, False) for m in every]
        assert all(s == 0 or (m - s) / m < 2.0**-k for m, s in zip(every, sums, strict=True))


def test_logarithms() -> None:
    for fraction in range(7):
        for step in (-70, -1, 0, 1, 5, 63, 200):
            value = reference.log_value(step, fraction, "float64")
            assert value == pytest.approx(2.0 ** (step / 2**fraction), rel=1e-15)
            assert reference.log_step(Fraction(value), fraction) == step
            middle = 2.0 ** ((step + 0.5) / 2**fraction)
            assert reference.log_step(Fraction(middle * (1 - 1e-12)), fraction) == step
            assert reference.log_step(Fraction(middle * (1 + 1e-12)), fraction) == step + 1
