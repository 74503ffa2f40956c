"""Constraint propagation: narrowing domains by one condition, from variables to its value and back, no recursion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from . import _domains as domains
from ._domains import INFINITE, LIMIT, LOWEST, Conflict, clip, congruent, dividing, saturate, saturated, within
from ._graph import Formula, Graph, Leaf
from ._language import Ranges

#: The domain of each node: a Domain for a variable, only bounds for another node; these are written before they are
#: #: read.
Box = list[Any]


def narrow(graph: Graph, leaf: Leaf, box: Box) -> None:
    """Remove from ``box`` values with which the condition cannot hold; raise Conflict if none are left."""
    nodes = graph.nodes
    forward = []
    for number in leaf.order:
        kind, parts, constant = nodes[number]
        box[number] = saturate(*_FORWARD[kind](parts, constant, box))
        forward.append((number, box[number]))
    _narrow_root(graph, leaf, box)
    for number, bounds in reversed(forward):
        if box[number] is not bounds:  # otherwise the nodes below it do not change
            kind, parts, constant = nodes[number]
            _BACKWARD[kind](graph, parts, constant, box, box[number])


def _narrow_root(graph: Graph, leaf: Leaf, box: Box) -> None:
    root, ranges, _ = leaf
    if root < graph.variables:
        box[root] = within(box[root], ranges)
        return
    lo, hi = box[root]
    if ranges and ranges[0][0] <= lo and hi <= ranges[0][1]:
        return
    inside = [(max(lo, low), min(hi, high)) for low, high in ranges if high >= lo and low <= hi]
    if not inside:
        raise Conflict
    box[root] = inside[0][0], inside[-1][1]
    if len(inside) > 1 and graph.nodes[root].kind == "sum":
        _skip_gaps(graph, root, ranges, box)


def _skip_gaps(graph: Graph, root: int, ranges: Ranges, box: Box) -> None:
    """Apply the gaps between a sum's ranges to the sum's only open variable."""
    _, parts, total = graph.nodes[root]
    loose = [(t, c) for t, c in parts if box[t][0] != box[t][1]]
    if len(loose) != 1 or loose[0][0] >= graph.variables or abs(loose[0][1]) != 1:
        return
    number, sign = loose[0]
    total += sum(c * box[t][0] for t, c in parts if t != number)
    moved = [((lo if lo <= LOWEST else lo - total), (hi if hi >= LIMIT else hi - total)) for lo, hi in ranges]
    box[number] = within(box[number], saturated(moved if sign == 1 else [(-hi, -lo) for lo, hi in moved]))


def narrow_remainders(graph: Graph, leaf: Leaf, box: Box) -> None:
    """Narrow each variable of a sum with a known value, modulo the common divisor of all other coefficients."""
    kind, parts, constant = graph.nodes[leaf.root]
    if kind != "sum" or len(leaf.ranges) != 1 or leaf.ranges[0][0] != leaf.ranges[0][1]:
        return
    for number, c in parts:
        common = math.gcd(*(other for node, other in parts if node != number))
        if common > 1 and number < graph.variables:
            rest = leaf.ranges[0][0] - constant
            box[number] = congruent(box[number], common, rest * pow(c, -1, common))


def _update(graph: Graph, box: Box, number: int, lo: int, hi: int) -> None:
    """Narrow one node to the given bounds."""
    known = box[number]
    if lo <= known[0] and hi >= known[1]:
        return
    if number < graph.variables:
        box[number] = clip(known, lo, hi)
        return
    lo, hi = max(lo, known[0]), min(hi, known[1])
    if lo > hi:
        raise Conflict
    box[number] = lo, hi


# sums: each term is the sum minus all others --------------------------------------------------------------------------


def _sum_forward(parts: Any, constant: int, box: Box) -> tuple[int, int]:
    lo = hi = constant
    no_lo = no_hi = False
    for number, c in parts:
        known = box[number]
        low, high = (known[0], known[1]) if c > 0 else (known[1], known[0])
        lo += c * low
        hi += c * high
        no_lo |= not LOWEST < low < LIMIT
        no_hi |= not LOWEST < high < LIMIT
    return (-INFINITE if no_lo else lo), (INFINITE if no_hi else hi)


def _sum_backward(graph: Graph, parts: Any, constant: int, box: Box, target: Any) -> None:
    lo = hi = constant
    open_lo = open_hi = 0
    for number, c in parts:
        known = box[number]
        low, high = (known[0], known[1]) if c > 0 else (known[1], known[0])
        if LOWEST < low < LIMIT:
            lo += c * low
        else:
            open_lo += 1
        if LOWEST < high < LIMIT:
            hi += c * high
        else:
            open_hi += 1
    for number, c in parts:
        known = box[number]
        low, high = (known[0], known[1]) if c > 0 else (known[1], known[0])
        closed_low, closed_high = LOWEST < low < LIMIT, LOWEST < high < LIMIT
        new_lo, new_hi = -INFINITE, INFINITE
        if open_hi == 0 or (open_hi == 1 and not closed_high):
            new_lo = target[0] - hi + (c * high if closed_high else 0)
        if open_lo == 0 or (open_lo == 1 and not closed_low):
            new_hi = target[1] - lo + (c * low if closed_low else 0)
        new_lo, new_hi = saturate(
            -INFINITE if target[0] <= LOWEST else new_lo, INFINITE if target[1] >= LIMIT else new_hi
        )
        if c < 0:
            new_lo, new_hi = -new_hi, -new_lo
        size = abs(c)
        _update(
            graph,
            box,
            number,
            new_lo if new_lo <= LOWEST else -(-new_lo // size),
            new_hi if new_hi >= LIMIT else new_hi // size,
        )


# products: each factor is the product divided by all others -----------------------------------------------------------


def _times(a: Any, b: Any) -> tuple[int, int]:
    corners = a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]
    return saturate(min(corners), max(corners))


def _raised(known: Any, power: int) -> tuple[int, int]:
    """Return bounds of x ^ power for a power of at least 1."""
    lo, hi = known[0], known[1]
    if power == 1:
        return lo, hi
    low, high = capped_power(lo, power), capped_power(hi, power)
    if power % 2 == 0 and lo < 0:
        low, high = (0, max(low, high)) if hi >= 0 else (high, low)
    return saturate(low, high)


def capped_power(base: int, power: int) -> int:
    """Return base ^ power, or +-INFINITE if it is beyond LIMIT."""
    if abs(base) > 1 and (base.bit_length() - 1) * power > LIMIT.bit_length():
        return INFINITE if base > 0 or power % 2 == 0 else -INFINITE
    return int(base ** (power if abs(base) > 1 else min(power, 2 + power % 2)))


def _is_plain(parts: Any, box: Box) -> bool:
    """Return whether this is a product of two different nonnegative factors, which needs no case distinction."""
    if len(parts) != 2:
        return False
    (a, p), (b, q) = parts
    return bool(p == q == 1 and box[a][0] >= 0 and box[b][0] >= 0)


def _product_forward(parts: Any, _: int, box: Box) -> tuple[int, int]:
    if _is_plain(parts, box):
        a, b = box[parts[0][0]], box[parts[1][0]]
        return a[0] * b[0], a[1] * b[1]
    total = (1, 1)
    for number, power in parts:
        total = _times(total, _raised(box[number], power))
    return total


def _product_backward(graph: Graph, parts: Any, _: int, box: Box, target: Any) -> None:
    if _is_plain(parts, box):
        (a, _), (b, _) = parts
        _factor(graph, box, a, box[b], target)
        _factor(graph, box, b, box[a], target)
    else:
        _factors(graph, parts, box, target)
    if target[0] == target[1] != 0 and abs(target[0]) < LIMIT:
        for number, power in parts:
            if number < graph.variables:
                box[number] = dividing(box[number], target[0], power)


def _factor(graph: Graph, box: Box, number: int, other: Any, target: Any) -> None:
    """Narrow one of two nonnegative factors."""
    lo, hi = target
    if lo > 0 and other[1] == 0:
        raise Conflict
    low = 0 if lo <= 0 else 1 if other[1] >= LIMIT else -(-lo // other[1])
    _update(graph, box, number, low, hi // other[0] if other[0] > 0 and hi < LIMIT else INFINITE)


def _factors(graph: Graph, parts: Any, box: Box, target: Any) -> None:
    after = [(1, 1)]
    for number, power in reversed(parts):
        after.append(_times(after[-1], _raised(box[number], power)))
    before = (1, 1)
    for index, (number, power) in enumerate(parts):
        others = _times(before, after[len(parts) - 1 - index])
        _rooted(graph, number, power, _quotient(target, others), box)
        before = _times(before, _raised(box[number], power))


def _quotient(target: Any, others: Any) -> tuple[int, int]:
    """Return bounds of the y with y * o in ``target`` for some o in ``others``."""
    (lo, hi), (low, high) = target, others
    if lo <= 0 <= hi and low <= 0 <= high:
        return -INFINITE, INFINITE
    low, high = low + (low == 0), high - (high == 0)  # here 0 times y is not in the target, or 0 is not in others
    if low > high:
        raise Conflict
    if low < 0 < high:
        largest = max(abs(lo), abs(hi))
        return -largest, largest
    corners = [(a, b) for a in (lo, hi) for b in (low, high)]
    return saturate(min(-(-a // b) for a, b in corners), max(a // b for a, b in corners))


def _rooted(graph: Graph, number: int, power: int, bounds: tuple[int, int], box: Box) -> None:
    """Narrow x so that x ^ power is in ``bounds``."""
    lo, hi = bounds
    if power == 1:
        _update(graph, box, number, lo, hi)
    elif power % 2:
        low = -INFINITE if lo <= LOWEST else root_up(lo, power) if lo > 0 else -root_down(-lo, power)
        high = INFINITE if hi >= LIMIT else root_down(hi, power) if hi >= 0 else -root_up(-hi, power)
        _update(graph, box, number, low, high)
    else:
        if hi < 0:
            raise Conflict
        high = INFINITE if hi >= LIMIT else root_down(hi, power)
        low = root_up(lo, power) if lo > 0 else 0
        known = box[number]
        _update(graph, box, number, low if known[0] > -low else -high, -low if known[1] < low else high)


def root_down(x: int, power: int) -> int:
    """Return the largest r >= 0 with r ^ power <= x, for x >= 0."""
    low, high = 0, 1 << (x.bit_length() // power + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if capped_power(middle, power) <= x:
            low = middle
        else:
            high = middle
    return low


def root_up(x: int, power: int) -> int:
    """Return the least r with r ^ power >= x, for x >= 1."""
    return root_down(x - 1, power) + 1


# remainders -----------------------------------------------------------------------------------------------------------


def _mod_forward(parts: Any, _: int, box: Box) -> tuple[int, int]:
    (alo, ahi), (blo, bhi) = box[parts[0]][:2], box[parts[1]][:2]
    if blo == bhi == 0:
        raise Conflict
    if blo == bhi and alo > LOWEST and ahi < LIMIT and alo // blo == ahi // blo:
        return min(alo % blo, ahi % blo), max(alo % blo, ahi % blo)
    if alo >= 0 and ahi < blo:
        return alo, ahi
    return (min(blo + 1, 0), (max(0, min(bhi - 1, ahi)) if alo >= 0 and blo >= 0 else max(bhi - 1, 0)))


def _mod_backward(graph: Graph, parts: Any, _: int, box: Box, target: Any) -> None:
    (a, b), (lo, hi) = parts, target
    if box[b][0] == box[b][1] == 0:  # narrowed to 0 by the backward pass
        raise Conflict
    if box[b][0] > 0 and hi >= 0:
        _update(graph, box, b, lo + 1, INFINITE)
        if lo > 0 and box[a][0] >= 0:
            _update(graph, box, a, lo, INFINITE)
    if lo != hi:
        return
    if box[b][0] == box[b][1] and a < graph.variables and abs(box[b][0]) < LIMIT:
        box[a] = congruent(box[a], abs(box[b][0]), lo)
    elif box[b][0] > 0 and lo == 0 and box[a][0] > 0:
        _update(graph, box, a, box[b][0], INFINITE)
        _update(graph, box, b, 1, box[a][1])
    if box[a][0] == box[a][1] != lo and b < graph.variables and abs(box[a][0]) < LIMIT:
        box[b] = dividing(box[b], box[a][0] - lo, 1)


# powers whose exponent is a term --------------------------------------------------------------------------------------


def _pow_forward(parts: Any, _: int, box: Box) -> tuple[int, int]:
    (alo, ahi), (blo, bhi) = box[parts[0]][:2], box[parts[1]][:2]
    if bhi < 0:
        raise Conflict
    blo = max(blo, 0)
    if alo >= 1:
        return capped_power(alo, blo), capped_power(ahi, bhi)
    if alo == 0:
        return 0, max(1, capped_power(ahi, bhi))
    largest = max(1, capped_power(max(-alo, ahi), bhi))
    return -largest, largest


def _pow_backward(graph: Graph, parts: Any, _: int, box: Box, target: Any) -> None:
    (a, b), (lo, hi) = parts, target
    alo, ahi = box[a][:2]
    if alo >= 2 and 0 < hi < LIMIT:
        _update(graph, box, b, 0, _logarithm(hi, alo))
    if alo >= 0 and lo > 1 and 2 <= ahi < LIMIT:
        _update(graph, box, b, _logarithm(lo - 1, ahi) + 1, INFINITE)
    blo, bhi = box[b][:2]
    if alo >= 0 and blo >= 1:
        high = INFINITE if hi >= LIMIT else root_down(max(hi, 0), blo)
        _update(graph, box, a, root_up(lo, bhi) if lo > 0 and bhi < LIMIT else 0, high)


def _logarithm(x: int, base: int) -> int:
    """Return the largest e with base ^ e <= x, for x >= 1."""
    low, high = 0, x.bit_length() // (base.bit_length() - 1) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if capped_power(base, middle) <= x:
            low = middle
        else:
            high = middle
    return low


_FORWARD = {"sum": _sum_forward, "product": _product_forward, "mod": _mod_forward, "pow": _pow_forward}
_BACKWARD = {"sum": _sum_backward, "product": _product_backward, "mod": _mod_backward, "pow": _pow_backward}


# several conditions ---------------------------------------------------------------------------------------------------


def narrow_formula(graph: Graph, formula: Formula, variables: Sequence[int], box: Box) -> None:
    """Remove from ``box`` the values that satisfy no alternative: "and" intersects its parts' domains, "or" joins them.

    ``variables`` are the variables of the formula.
    """
    stack: list[Box | None] = []
    for name, argument in formula:
        if name == "leaf":
            stack.append(_narrowed(graph, argument, box))
        else:
            parts = stack[-argument:]
            del stack[-argument:]
            stack.append(_met(variables, parts) if name == "and" else _joined(variables, parts))
    if stack[0] is None:
        raise Conflict
    for v in variables:
        box[v] = stack[0][v]


def _narrowed(graph: Graph, leaf: Leaf, box: Box) -> Box | None:
    copy = list(box)
    try:
        narrow(graph, leaf, copy)
    except Conflict:
        return None
    return copy


def _met(variables: Sequence[int], parts: list[Box | None]) -> Box | None:
    first, *others = parts
    try:
        for other in others:
            if first is None or other is None:
                return None
            for v in variables:
                if first[v] is not other[v]:
                    first[v] = domains.meet(first[v], other[v])
    except Conflict:
        return None
    return first


def _joined(variables: Sequence[int], parts: list[Box | None]) -> Box | None:
    left = [part for part in parts if part is not None]
    if not left:
        return None
    for other in left[1:]:
        for v in variables:
            if left[0][v] is not other[v]:
                left[0][v] = domains.join(left[0][v], other[v])
    return left[0]
