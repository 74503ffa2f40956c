"""The domain of an integer: bounds, and either a list of values or a residue class."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ._language import Ranges, merged

#: A bound of LIMIT or more counts as missing, and is stored as INFINITE. INFINITE / LIMIT exceeds LIMIT, so that no
#: operation on bounds turns a missing bound into a finite one.
LIMIT = 1 << 2048
LOWEST = -LIMIT
INFINITE = 1 << 8192
#: Maximum number of integers in an explicit list of values
LISTED = 4096
#: The same for unions of alternatives, which are computed repeatedly
JOINED = 64


class Conflict(Exception):
    """The domain is empty."""


class Domain(NamedTuple):
    """The integers from lo to hi; only those in ``values`` if given, and only those congruent to phase modulo step."""

    lo: int
    hi: int
    values: tuple[int, ...] | None = None
    step: int = 1
    phase: int = 0

    @property
    def size(self) -> int:
        """The number of integers."""
        return len(self.values) if self.values is not None else (self.hi - self.lo) // self.step + 1


ANYTHING = Domain(-INFINITE, INFINITE)


def saturate(lo: int, hi: int) -> tuple[int, int]:
    """Return equal or wider bounds, with none between LIMIT and INFINITE."""
    if lo <= LOWEST:
        lo = -INFINITE
    elif lo > LIMIT:
        lo = LIMIT
    if hi >= LIMIT:
        hi = INFINITE
    elif hi < LOWEST:
        hi = LOWEST
    return lo, hi


def saturated(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Return ranges that contain these, with no end between LIMIT and INFINITE; empty ones are removed."""
    return merged([saturate(lo, hi) for lo, hi in ranges if lo <= hi or hi >= INFINITE or lo <= -INFINITE])


def listed(values: list[int] | tuple[int, ...]) -> Domain:
    """Return the domain of a sorted list of values."""
    if not values:
        raise Conflict
    return Domain(values[0], values[-1], tuple(values))


def clip(domain: Domain, lo: int, hi: int) -> Domain:
    """Return the part of a domain between two bounds."""
    if lo <= domain.lo and hi >= domain.hi:
        return domain
    lo, hi = max(lo, domain.lo), min(hi, domain.hi)
    if domain.values is not None:
        return listed(domain.values[bisect_left(domain.values, lo) : bisect_right(domain.values, hi)])
    return _aligned(lo, hi, domain.step, domain.phase)


def _aligned(lo: int, hi: int, step: int, phase: int) -> Domain:
    if step > 1:
        lo += (phase - lo) % step if lo > LOWEST else 0
        hi -= (hi - phase) % step if hi < LIMIT else 0
    if lo > hi:
        raise Conflict
    return Domain(lo, hi, None, step, phase)


def within(domain: Domain, ranges: Ranges) -> Domain:
    """Return the part of a domain in some ranges; gaps between them are removed only if the result can be listed."""
    if not ranges:
        raise Conflict
    domain = clip(domain, ranges[0][0], ranges[-1][1])
    if len(ranges) == 1:
        return domain
    inside = [(max(lo, domain.lo), min(hi, domain.hi)) for lo, hi in ranges if hi >= domain.lo and lo <= domain.hi]
    if not inside:
        raise Conflict
    domain = clip(domain, inside[0][0], inside[-1][1])
    if len(inside) == 1:
        return domain
    if domain.values is not None:
        ends = [lo for lo, _ in inside]
        return listed([v for v in domain.values if v <= inside[bisect_right(ends, v) - 1][1]])
    if sum(hi - lo + 1 for lo, hi in inside) > LISTED:
        return domain
    numbers = (v for lo, hi in inside for v in range(lo, hi + 1))
    return listed([v for v in numbers if v % domain.step == domain.phase])


def congruent(domain: Domain, step: int, phase: int) -> Domain:
    """Return the members congruent to phase modulo step."""
    phase %= step
    if domain.values is not None:
        return listed([v for v in domain.values if v % step == phase])
    common = math.gcd(step, domain.step)
    if (phase - domain.phase) % common:
        raise Conflict
    other = step // common
    turns = (phase - domain.phase) // common * pow(domain.step // common, -1, other) % other
    both = domain.step * other
    return _aligned(domain.lo, domain.hi, both, (domain.phase + domain.step * turns) % both)


def dividing(domain: Domain, number: int, power: int) -> Domain:
    """Return the x whose x^power divides the nonzero ``number``, as far as this is cheap."""
    if domain.lo == domain.hi:
        return domain if _divides(domain.lo, power, number) else listed([])
    if abs(number) > 1 << 40:
        return domain
    candidates = domain.values
    if candidates is None:
        positive = divisors(abs(number))
        both = positive if domain.lo > 0 else (*(-d for d in reversed(positive)), *positive)
        candidates = both[bisect_left(both, domain.lo) : bisect_right(both, domain.hi)]
    allowed = [d for d in candidates if d % domain.step == domain.phase and _divides(d, power, number)]
    return domain if domain.values is not None and len(allowed) == len(domain.values) else listed(allowed)


def _divides(d: int, power: int, number: int) -> bool:
    if d == 0 or (d.bit_length() - 1) * power > number.bit_length():
        return False
    return number % d**power == 0 if abs(d) > 1 else True


@lru_cache(maxsize=256)
def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a positive number in order, by trial division."""
    result, rest, prime = [1], number, 2
    while rest > 1:
        if prime * prime > rest:
            prime = rest
        powers, power = [1], prime
        while rest % prime == 0:
            rest //= prime
            powers.append(power)
            power *= prime
        if len(powers) > 1:
            result = [d * p for d in result for p in powers]
        prime += 1 if prime == 2 else 2
    return tuple(sorted(result))


def join(a: Domain, b: Domain) -> Domain:
    """Return a domain that contains the union."""
    for one, other in ((a, b), (b, a)):
        if one.values is None and one.step == 1 and one.lo <= other.lo and other.hi <= one.hi:
            return one
    if max(a.hi, -a.lo, b.hi, -b.lo) < LIMIT and a.size + b.size <= JOINED:
        return listed(sorted({*members(a), *members(b)}))
    return a if a == b else Domain(min(a.lo, b.lo), max(a.hi, b.hi))


def members(domain: Domain) -> tuple[int, ...] | range:
    """Return the integers of a domain with bounds, in order."""
    return domain.values if domain.values is not None else range(domain.lo, domain.hi + 1, domain.step)


def meet(a: Domain, b: Domain) -> Domain:
    """Return the intersection."""
    a = clip(a, b.lo, b.hi)
    if b.values is not None:
        return within(a, merged([(v, v) for v in b.values])) if a.values != b.values else a
    return congruent(a, b.step, b.phase) if b.step > 1 else a


def halves(domain: Domain) -> tuple[Domain, Domain]:
    """Return the lower and the upper half."""
    middle = (domain.size - 1) // 2
    if domain.values is not None:
        return listed(domain.values[: middle + 1]), listed(domain.values[middle + 1 :])
    last = domain.lo + middle * domain.step
    return clip(domain, domain.lo, last), clip(domain, last + 1, domain.hi)
