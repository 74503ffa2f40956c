"""A cost model: a linear cost of messages, and the time of a call on P ranks.

A message of n bytes takes alpha + beta n. One process takes t for the steps, a third of it forward. With few steps, a
rank spends o on the checks and the graph of a call, a on the agreement, c on each chunk and r on each round of a scan.
The agreement is an all-gather, for which gloo passes messages around a ring: P - 1 of them in sequence. gloo sends a
message only after the receiver has posted its receive. In agreements and scans a rank posts it when it needs the
message, so that the message takes h alpha + beta n, with h = 2. In a pipeline it posts the receives of all chunks at
the start: messages follow one another, and each rank after the first adds at most h alpha.

pipeline     o + a + (P - 1) h alpha + (C + P - 1) (t / (C P) + c) + 2 (P - 1) h alpha + 2 (C + P - 2) beta s / C
speculative  o + a + (P - 1) h alpha + t / P + 2 (P - 1) (c + h alpha + beta s), where steps are forgotten soon
scan         o + a + (P - 1) h alpha + k t / P + R (r + 2 (h alpha + beta (s + m))), R = ceil(log2 P)

with s bytes of state and m of a map's matrix. A rank in the middle of a scan computes the constant term of its map and
the results, each in a third of t / P, and the gradients twice, in two thirds each: k = 2, and 7 / 3 if the matrix takes
a pass too. On two ranks the first one's results precede the second one's, and its gradients follow the second one's:
k = 2 there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

#: The factor h of alpha for a message whose receiver posts its receive only when it needs the message
HANDSHAKE = 2


class Line(NamedTuple):
    """alpha in seconds, beta in seconds per byte, and the relative deviation of each time."""

    alpha: float
    beta: float
    residuals: tuple[float, ...]


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit alpha + beta n by least squares of relative errors: absolute ones would weight only the longest message."""
    n, t = np.asarray(sizes, float), np.asarray(seconds, float)
    matrix = np.stack([np.ones_like(n), n], 1) / t[:, None]
    (alpha, beta), *_ = np.linalg.lstsq(matrix, np.ones_like(t), rcond=None)
    return Line(float(alpha), float(beta), tuple(((alpha + beta * n) / t - 1).tolist()))


class Costs(NamedTuple):
    """The parameters in seconds and bytes: o, a, c and r are call, agreement, chunk and round, k is passes.

    ``speculates`` is whether the function can begin before its state has arrived.
    """

    alpha: float
    beta: float
    call: float
    agreement: float
    chunk: float
    round: float
    state: int
    matrix: int
    passes: float
    speculates: bool = False


def pipeline(t: float, ranks: int, chunks: int, costs: Costs) -> float:
    """Return the seconds of a pipeline with this number of chunks."""
    if ranks == 1:
        return costs.call + t
    turns = chunks + ranks - 1
    sent = 2 * (ranks - 1) * HANDSHAKE * costs.alpha + 2 * (turns - 1) * costs.beta * costs.state / chunks
    agreed = costs.call + costs.agreement + (ranks - 1) * HANDSHAKE * costs.alpha
    return agreed + turns * (t / (chunks * ranks) + costs.chunk) + sent


def speculation(t: float, ranks: int, costs: Costs) -> float:
    """Return the seconds if all ranks compute at once and repeat a few steps when the states arrive in turn."""
    if ranks == 1:
        return costs.call + t
    passed = 2 * (ranks - 1) * (costs.chunk + HANDSHAKE * costs.alpha + costs.beta * costs.state)
    return costs.call + costs.agreement + (ranks - 1) * HANDSHAKE * costs.alpha + t / ranks + passed


def scan(t: float, ranks: int, costs: Costs) -> float:
    """Return the seconds of a scan of maps on its slowest rank; with three or more ranks, that is one in the middle."""
    if ranks == 1:
        return costs.call + t
    rounds = math.ceil(math.log2(ranks))
    sent = rounds * (costs.round + 2 * (HANDSHAKE * costs.alpha + costs.beta * (costs.state + costs.matrix)))
    agreed = costs.call + costs.agreement + (ranks - 1) * HANDSHAKE * costs.alpha
    return agreed + (2.0 if ranks == 2 else costs.passes) * t / ranks + sent


def best(t: float, ranks: int, chunks: Iterable[int], costs: Costs) -> tuple[float, str]:
    """Return the seconds and the name of the faster exchange, with the best of these numbers of chunks."""
    ways = {f"pipeline, {c} chunks": pipeline(t, ranks, c, costs) for c in chunks} if ranks > 1 else {}
    ways["scan"] = scan(t, ranks, costs)
    if costs.speculates:
        ways["speculative"] = speculation(t, ranks, costs)
    name = min(ways, key=lambda way: ways[way])
    return ways[name], name


def crossover(seconds_a_step: float, ranks: int, chunks: Sequence[int], costs: Costs) -> int | None:
    """Return the smallest number of steps with which these ranks beat one process; None if it is not below 2^40."""
    low, high = 1, 2**40
    if best(high * seconds_a_step, ranks, chunks, costs)[0] >= high * seconds_a_step:
        return None
    while low < high:
        middle = (low + high) // 2
        if best(middle * seconds_a_step, ranks, chunks, costs)[0] < middle * seconds_a_step:
            high = middle
        else:
            low = middle + 1
    return low
