"""Bounds of `robust` against exact rationals, and against 60 digits where the worst probabilities are irrational."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np

from fastiter.mdp import MDP
from tests.mdp.exact_bounds import dot, value_exactly

KINDS = ("l1", "linf", "interval", "contamination", "kl", "chi2", "s-l1")

#: (probabilities, values): the worst probabilities
Worst = Callable[[list[Any], list[Any]], list[Any]]


def worst_of(kind: str, radius: Any, low: list[Any], high: list[Any]) -> Worst:
    """Return the function that computes the worst probabilities of a row; low and high are for intervals."""

    def moved(p: list[Any], v: list[Any]) -> list[Any]:
        q, order = list(p), sorted((i for i in range(len(p)) if p[i] > 0), key=lambda i: v[i])
        left = min(radius / 2, sum(p) - p[order[0]])
        q[order[0]] += left
        for i in reversed(order):
            taken = min(left, p[i])
            q[i] -= taken
            left -= taken
        return q

    def filled(p: list[Any], v: list[Any]) -> list[Any]:
        q, left = list(low), sum(p) - sum(low)
        for i in sorted(range(len(p)), key=lambda i: v[i]):
            more = min(max(left, 0), high[i] - low[i])
            q[i] += more
            left -= more
        return q

    def contaminated(p: list[Any], v: list[Any]) -> list[Any]:
        q = [(1 - radius) * x for x in p]
        q[min((i for i in range(len(p)) if p[i] > 0), key=lambda i: v[i])] += radius * sum(p)
        return q

    def tilted(p: list[Any], v: list[Any]) -> list[Any]:
        least = min(x for x, w in zip(v, p, strict=True) if w > 0)
        mass = sum(p)

        def at(x: Any) -> list[Any]:
            q = [w * mpmath.exp(-x * (y - least)) if w else mpmath.mpf(0) for w, y in zip(p, v, strict=True)]
            return [mass * y / sum(q) for y in q]

        def divergence(x: Any) -> Any:
            return sum(y / mass * mpmath.log(y / w) for y, w in zip(at(x), p, strict=True) if y > 0)

        ties = sum(w for w, y in zip(p, v, strict=True) if y == least)
        if radius >= -mpmath.log(ties / mass):
            return [w * mass / ties if y == least else mpmath.mpf(0) for w, y in zip(p, v, strict=True)]
        from_, to = mpmath.mpf(0), mpmath.mpf(1)
        while divergence(to) < radius:
            to *= 4
        for _ in range(220):
            middle = (from_ + to) / 2
            from_, to = (middle, to) if divergence(middle) < radius else (from_, middle)
        return at(to)

    def curbed(p: list[Any], v: list[Any]) -> list[Any]:
        mass, best = sum(p), None
        shares = [w / mass for w in p]
        sure = sorted({y for y, w in zip(v, p, strict=True) if w > 0})
        for k in range(1, len(sure) + 1):  # the values from the k-th on are curbed
            below = [w if y in sure[:k] else mpmath.mpf(0) for w, y in zip(shares, v, strict=True)]
            total = sum(below)
            mean = sum(w * y for w, y in zip(below, v, strict=True)) / total
            square = sum(w * (y - mean) ** 2 for w, y in zip(below, v, strict=True)) / total
            curve = radius * total - (1 - total)
            if k < len(sure) and (curve <= 0 or mean + mpmath.sqrt(square / curve) > sure[k]):
                continue
            z = max(mean + mpmath.sqrt(square / curve), sure[k - 1]) if curve > 0 and k < len(sure) else sure[-1]
            if k == len(sure) and curve > 0:
                z = min(max(mean + mpmath.sqrt(square / curve), sure[k - 1]), sure[-1])
            best = z
            break
        capped = [min(y, best) for y in v]
        mean = sum(w * y for w, y in zip(shares, capped, strict=True))
        variance = sum(w * (y - mean) ** 2 for w, y in zip(shares, capped, strict=True))
        if variance == 0:  # all of the mass is on the least value
            ties = sum(w for w, y in zip(shares, v, strict=True) if y == sure[0])
            return [mass * w / ties if y == sure[0] else mpmath.mpf(0) for w, y in zip(shares, v, strict=True)]
        slope = mpmath.sqrt(radius / variance)
        return [mass * w * (1 - slope * (y - mean)) for w, y in zip(shares, capped, strict=True)]

    named = {"l1": moved, "linf": filled, "interval": filled, "contamination": contaminated, "kl": tilted}
    return (named | {"chi2": curbed})[kind]


def values(process: MDP, kind: str, radius: float, limits: Any) -> list[Any]:
    """Return the robust values: policy iteration, in which the adversary improves its probabilities likewise."""
    number: Any = mpmath.mpf if kind in ("kl", "chi2") else Fraction
    with mpmath.workdps(60):
        weight, target, entry = process.transitions
        start, reward, factor = process.row_starts, process.rewards, number(process._process.discount or 0.0)
        rows: list[list[list[Any]]] = [[] for _ in range(process.S)]
        rewards: list[list[Any]] = [[] for _ in range(process.S)]
        worsts: list[list[Worst]] = [[] for _ in range(process.S)]
        for s in range(process.S):
            for j in range(start[s], start[s + 1]):
                part = slice(entry[j], entry[j + 1])
                assert np.array_equal(target[part], np.arange(process.S))
                rows[s].append([number(float(x)) for x in weight[part]])
                rewards[s].append(number(float(reward[j])))
                low, high = ([number(float(x)) for x in each[part]] for each in limits)
                worsts[s].append(worst_of(kind, number(radius), low, high))
        return _iterated(rows, rewards, worsts, factor)


def _iterated(rows: Any, rewards: Any, worsts: Any, factor: Any) -> list[Any]:
    states = range(len(rows))
    policy, tiny = [0] * len(rows), type(factor)(0) if isinstance(factor, Fraction) else mpmath.mpf(10) ** -45
    used = [[list(row) for row in each] for each in rows]
    while True:
        scaled = [[[factor * x for x in row] for row in each] for each in used]
        value = value_exactly(scaled, rewards, policy)
        new = [[worst(row, value) for worst, row in zip(worsts[s], rows[s], strict=True)] for s in states]
        drops = [s for s in states if factor * dot(new[s][policy[s]], value) + rewards[s][policy[s]] < value[s] - tiny]
        if drops:
            for s in drops:
                used[s][policy[s]] = new[s][policy[s]]
            continue
        used = new
        gains = [[r + factor * dot(q, value) for r, q in zip(rewards[s], new[s], strict=True)] for s in states]
        better = [
            g.index(max(g)) if max(g) > value[s] + tiny else policy[s] for s, g in zip(states, gains, strict=True)
        ]
        if better == policy:
            return value
        policy = better
