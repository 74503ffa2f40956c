"""Rounding to number formats in rational arithmetic: the specification of the family `quant`.

Every function takes exact rational numbers (or a float, which stands for its exact value) and a format, of which only
the fields are read; the classes are those of `fastiter.quant`. Rounding happens only where the definition rounds.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

#: Number of random bits for one stochastic rounding.
RANDOM_BITS = 31
#: An infinity counts as a number beyond every format
BEYOND = Fraction(2) ** 4096


def exact(x: Any) -> Fraction:
    """The value of a float, +-BEYOND for an infinity; NaN has none."""
    x = float(x)
    return Fraction(math.copysign(1, x)) * BEYOND if math.isinf(x) else Fraction(x)


# ---- random numbers -------------------------------------------------------------------------------------------------


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of Salmon et al. (2011): four random 32-bit words for each counter."""
    c, k, ones = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & ones, (first >> 32) ^ c[3] ^ k[1], first & ones]
        k = [(k[0] + 0x9E3779B9) & ones, (k[1] + 0xBB67AE85) & ones]
    return c[0], c[1], c[2], c[3]


def random_bits(index: int, seed: int) -> int:
    """The 31 random bits of the element with this index (in C order): the high bits of one word of Philox.

    64 elements share 16 counters, so that vectors of counters yield vectors of contiguous elements: element 16 w + i of
    them uses word w of counter i. The key is the 64-bit seed.
    """
    group, within = divmod(index, 64)
    word, lane = divmod(within, 16)
    counter = 16 * group + lane
    words = philox((counter & 0xFFFFFFFF, counter >> 32, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return words[word] >> 1


# ---- rounding to whole numbers --------------------------------------------------------------------------------------


def whole(v: Fraction, rounding: str, random: int = 0) -> int:
    """Round to an integer; the names are those of fixed and of floating formats."""
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


# ---- fixed point ----------------------------------------------------------------------------------------------------


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
    """Apply the overflow mode of `Fixed` to a rounded code; floor is the number before rounding, rounded down."""
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
    """The low bits, with the n highest replaced by those of the saturated number."""
    bits, negative = code % (1 << width), code < 0
    if n == 0:
        return bits
    rest = bits % (1 << (width - n))
    if not signed:
        return rest + ((1 << n) - 1) * (1 << (width - n))
    saturated = (1 << (n - 1)) if negative else (1 << (n - 1)) - 1  # sign and n - 1 bits that are not the sign
    return rest + saturated * (1 << (width - n))


def _sign_magnitude(code: int, floor: int, width: int, n: int) -> int:
    """The low bits, all inverted if the deciding bit requires it, then the sign and n - 1 saturated bits."""
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


# ---- floating point -------------------------------------------------------------------------------------------------


class Float(Protocol):
    """The fields of `fastiter.quant.Float`."""

    @property
    def mantissa(self) -> int: ...
    @property
    def rounding(self) -> str: ...
    @property
    def overflow(self) -> str: ...
    @property
    def signed(self) -> bool: ...
    @property
    def subnormals(self) -> bool: ...
    @property
    def specials(self) -> str: ...
    @property
    def min_exponent(self) -> int: ...
    @property
    def max_value(self) -> Fraction: ...


def exponent_of(v: Fraction) -> int:
    """floor(log2 |v|) of a number that is not zero."""
    a = abs(v)
    e = a.numerator.bit_length() - a.denominator.bit_length()
    return e if Fraction(2) ** e <= a else e - 1


def significand(v: Fraction, mantissa: int, min_exponent: int, rounding: str, random: int, has_zero: bool) -> Fraction:
    """Round to `mantissa` bits after the leading one, or to the last place of the smallest normal number."""
    if v == 0:
        return v
    e = max(exponent_of(v), min_exponent)
    place = Fraction(2) ** (e - mantissa)
    if mantissa == 0 and rounding == "RNE" and abs(v) / place == Fraction(3, 2):
        # Halfway between two powers of two: codes count them, after zero if there is one.
        lower_is_even = (e - min_exponent + has_zero) % 2 == 0
        return (1 if lower_is_even else 2) * place * (1 if v > 0 else -1)
    return whole(v / place, rounding, random) * place


def float_value(x: float, fmt: Float, random: int = 0) -> float:
    """The number of `Float` to which x is rounded; all of them are float64 numbers."""
    if math.isnan(x):
        return math.nan
    largest = fmt.max_value
    if not fmt.signed and x < 0:
        return math.nan if fmt.specials != "none" else 0.0 if fmt.subnormals else 2.0**fmt.min_exponent
    beyond = {"SAT": float(largest), "INF": math.inf, "NAN": math.nan}[fmt.overflow]
    if math.isinf(x):
        return math.copysign(beyond, x) if fmt.overflow != "NAN" else math.nan
    y = significand(Fraction(x), fmt.mantissa, fmt.min_exponent, fmt.rounding, random, fmt.subnormals)
    if not fmt.subnormals:
        y = max(y, Fraction(2) ** fmt.min_exponent)
    if abs(y) > largest:
        # Rounding toward the finite numbers stops at the largest one.
        back = {"RZ": True, "RD": x > 0, "RU": x < 0}.get(fmt.rounding, False)
        return math.copysign(float(largest) if back else beyond, x) if back or fmt.overflow != "NAN" else math.nan
    if y == 0:
        return math.copysign(0.0, x) if fmt.signed and fmt.specials != "fnuz" else 0.0
    return float(y)


def nearest_float(v: Fraction, dtype: str) -> float:
    """The nearest number of a dtype, ties to even, infinity beyond the largest; a negative one may become -0."""
    mantissa, largest = {"float64": (52, 1023), "float32": (23, 127), "float16": (10, 15), "bfloat16": (7, 127)}[dtype]
    y = significand(v, mantissa, 1 - largest, "RNE", 0, True)
    return math.copysign(math.inf if abs(y) >= Fraction(2) ** (largest + 1) else abs(y), v)


# ---- posits ---------------------------------------------------------------------------------------------------------


def posit_code(x: float, n: int, es: int, rounding: str = "RNE", random: int = 0) -> int:
    """The code of x in posit(n, es): its full bit string, rounded to n - 1 bits after the sign."""
    if math.isnan(x) or math.isinf(x):
        return 1 << (n - 1)
    if x == 0:
        return 0
    v = abs(Fraction(x))
    regime, exponent = divmod(exponent_of(v), 1 << es)
    string = "1" * (regime + 1) + "0" if regime >= 0 else "0" * -regime + "1"
    string += format(exponent, "b").zfill(es) if es else ""
    fraction = v / Fraction(2) ** exponent_of(v) - 1
    while fraction:
        fraction *= 2
        string += "1" if fraction >= 1 else "0"
        fraction -= fraction >= 1
    string = string.ljust(n - 1, "0")
    head, cut = int(string[: n - 1], 2), string[n - 1 :]
    rest = Fraction(int(cut, 2), 1 << len(cut)) if cut else Fraction(0)
    body = whole(head + rest, rounding, random)
    body = min(max(body, 1), (1 << (n - 1)) - 1)
    return body if x > 0 else (1 << n) - body


def posit_value(code: int, n: int, es: int) -> float:
    """The value of a code; NaN for NaR."""
    if code == 0:
        return 0.0
    if code == 1 << (n - 1):
        return math.nan
    negative = code >> (n - 1) == 1
    string = format((1 << n) - code if negative else code, "b").zfill(n)[1:]
    run = len(string) - len(string.lstrip(string[0]))
    regime = run - 1 if string[0] == "1" else -run
    rest = string[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0"), 2) if es else 0
    fraction = Fraction(int(rest[es:], 2), 1 << len(rest[es:])) if rest[es:] else Fraction(0)
    y = (1 + fraction) * Fraction(2) ** ((regime << es) + exponent)
    return float(-y if negative else y)


# ---- the others -----------------------------------------------------------------------------------------------------


def powers_code(code: int, terms: int, nearest: bool) -> int:
    """A sum of signed powers of two: each at or below the remainder, or nearest to it (the larger at a tie)."""
    total = 0
    for _ in range(terms):
        rest = code - total
        if rest == 0:
            break
        power = 1 << (abs(rest).bit_length() - 1)
        if nearest and 2 * abs(rest) >= 3 * power:
            power *= 2
        total += power if rest > 0 else -power
    return total


def log_step(v: Fraction, fraction: int) -> int:
    """The nearest integer to log2(v) 2^fraction: 2^(2 c - 1) <= v^(2^(fraction + 1)) < 2^(2 c + 1)."""
    return (exponent_of(v ** (2 << fraction)) + 1) // 2


def log_value(step: int, fraction: int, dtype: str) -> float:
    """2^(step / 2^fraction), rounded to the dtype: by integer square roots to 100 bits."""
    exponent, part = divmod(step, 1 << fraction)
    root = 1 << (part + 100 * (1 << fraction))
    for _ in range(fraction):
        root = math.isqrt(root)
    # The bits below the 100 are nonzero, except for a power of two.
    sticky = Fraction(1, 2) if part else Fraction(0)
    return nearest_float((root + sticky) * Fraction(2) ** (exponent - 100), dtype)


def table_index(v: Fraction, values: list[float]) -> int:
    """The index of the nearest value, the even one at a tie."""
    distances = [abs(v - Fraction(value)) for value in values]
    return min(range(len(values)), key=lambda i: (distances[i], i % 2))
