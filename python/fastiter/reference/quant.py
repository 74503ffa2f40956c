"""Rounding to number formats in rational arithmetic: the specification of the family `quant`.

Every function takes exact rational numbers (or a float, of which it takes the exact value), and a format, of which it
reads the fields: `fastiter.quant` has the classes. Nothing here rounds but where the definition does.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

#: Random bits that decide one stochastic rounding.
RANDOM_BITS = 31
#: An infinity counts as a number beyond every format.
BEYOND = Fraction(2) ** 4096


def exact(x: Any) -> Fraction:
    """The value of a float, +-BEYOND for an infinity; NaN has none."""
    x = float(x)
    return Fraction(math.copysign(1, x)) * BEYOND if math.isinf(x) else Fraction(x)


# ---- random numbers --------------------------------------------------------------------------------------------------


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of Salmon et al. (2011): four random words of 32 bits for each counter."""
    c, k, ones = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & ones, (first >> 32) ^ c[3] ^ k[1], first & ones]
        k = [(k[0] + 0x9E3779B9) & ones, (k[1] + 0xBB67AE85) & ones]
    return c[0], c[1], c[2], c[3]


def random_bits(index: int, seed: int) -> int:
    """The 31 random bits of the element with this index (in C order): the high bits of one word of Philox.

    64 elements share 16 counters, so that a vector of counters gives vectors of neighbours: element 16 w + i of them
    has word w of counter i. The key is the seed, a number of 64 bits.
    """
    group, within = divmod(index, 64)
    word, lane = divmod(within, 16)
    counter = 16 * group + lane
    words = philox((counter & 0xFFFFFFFF, counter >> 32, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return words[word] >> 1


# ---- rounding to whole numbers ---------------------------------------------------------------------------------------


def whole(v: Fraction, rounding: str, random: int = 0) -> int:
    """Round to a whole number; the names are those of fixed and of floating formats."""
    low = math.floor(v)
    toward_zero = low if v >= 0 else -math.floor(-v)
    away = 1 if v > 0 else -1
    if v == low:
        return low
    if rounding in ("TRN", "RD"):
        return low
    if rounding == "RU":
        return low + 1
    if rounding in ("TRN_ZERO", "RZ"):
        return toward_zero
    if rounding == "RA":
        return toward_zero + away
    if rounding == "STOCHASTIC":
        # In magnitude: the fraction plus a random number of [0, 1) carries with the probability of the fraction.
        threshold = math.floor((abs(v) - abs(toward_zero)) * (1 << RANDOM_BITS))
        return toward_zero + away * (threshold + random >= (1 << RANDOM_BITS))
    if v - low != Fraction(1, 2):
        return low + (v - low > Fraction(1, 2))
    ties = {
        "RND": low + 1,
        "RND_MIN_INF": low,
        "RND_ZERO": toward_zero,
        "RND_INF": toward_zero + away,
        "RNA": toward_zero + away,
        "RND_CONV": low + low % 2,
        "RNE": low + low % 2,
    }
    return ties[rounding]


# ---- fixed point -----------------------------------------------------------------------------------------------------


class Fixed(Protocol):
    """The fields of `fastiter.quant.Fixed`."""

    @property
    def width(self) -> int: ...
    @property
    def integer(self) -> int: ...
    @property
    def signed(self) -> bool: ...
    @property
    def rounding(self) -> str: ...
    @property
    def overflow(self) -> str: ...
    @property
    def saturated_bits(self) -> int: ...


def fixed_code(x: Any, fmt: Fixed, random: int = 0) -> int:
    """The code of x (a number, an infinity or a Fraction) in `Fixed`: rounding, then overflow."""
    v = (x if isinstance(x, Fraction) else exact(x)) * Fraction(2) ** (fmt.width - fmt.integer)
    return overflowed(whole(v, fmt.rounding, random), math.floor(v), fmt)


def fixed_value(code: int, fmt: Fixed) -> Fraction:
    """code 2^-(width - integer)."""
    return code * Fraction(2) ** (fmt.integer - fmt.width)


def overflowed(code: int, floor: int, fmt: Fixed) -> int:
    """What a rounded code becomes in `Fixed`; floor is the number before rounding, rounded down."""
    width, n = fmt.width, fmt.saturated_bits
    high = (1 << (width - 1)) - 1 if fmt.signed else (1 << width) - 1
    low = -high - 1 if fmt.signed else 0
    if fmt.overflow == "SAT_SYM" and fmt.signed:
        return min(max(code, -high), high)
    if low <= code <= high:
        return code
    if fmt.overflow in ("SAT", "SAT_SYM"):
        return min(max(code, low), high)
    if fmt.overflow == "SAT_ZERO":
        return 0
    bits = _wrapped(code, width, n, fmt.signed) if fmt.overflow == "WRAP" else _sign_magnitude(code, floor, width, n)
    return bits - (1 << width) if fmt.signed and bits >> (width - 1) else bits


def _wrapped(code: int, width: int, n: int, signed: bool) -> int:
    """The low bits, of which the n highest are those of the saturated number."""
    bits, negative = code % (1 << width), code < 0
    if n == 0:
        return bits
    kept = bits % (1 << (width - n))
    if not signed:
        return kept + ((1 << n) - 1) * (1 << (width - n))
    saturated = (1 << (n - 1)) if negative else (1 << (n - 1)) - 1  # sign and n - 1 bits that are not the sign
    return kept + saturated * (1 << (width - n))


def _sign_magnitude(code: int, floor: int, width: int, n: int) -> int:
    """The low bits, all inverted where the bit that decides says so, then the sign and n - 1 saturated bits."""
    bits, ones, negative = code % (1 << width), (1 << width) - 1, int(code < 0)
    if n == 0:
        sign = (floor >> width) & 1
        return bits if sign == bits >> (width - 1) else bits ^ ones
    if n == 1:
        return bits if negative == bits >> (width - 1) else bits ^ ones
    if (bits >> (width - n)) & 1 == negative:
        bits ^= ones
    saturated = (1 << (n - 1)) if negative else (1 << (n - 1)) - 1
    return bits % (1 << (width - n)) + saturated * (1 << (width - n))
