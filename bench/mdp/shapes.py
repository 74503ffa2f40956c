"""Thirty shapes of processes, among which each method is at its best on some and useless on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastiter.mdp import MDP, examples

Array = Any
#: The transitions of one action: states, next states and probabilities, which are added where they repeat
Moves = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Shape:
    name: str
    make: Callable[[], MDP]
    tol: float = 1e-6


def process(S: int, actions: Iterable[Moves], rewards: Array, gamma: float) -> MDP:
    """A process with the same actions in all states; rewards (S, A)."""
    from scipy import sparse

    matrices = [sparse.csr_array((p, (s, to)), shape=(S, S)) for s, to, p in actions]
    for matrix in matrices:
        matrix.sum_duplicates()
    rows = sparse.vstack(matrices, format="csr")[np.arange(S * len(matrices)).reshape(-1, S).T.reshape(-1)]
    states = np.repeat(np.arange(S), len(matrices))
    return MDP(sparse.csr_array(rows), np.ascontiguousarray(rewards, float).reshape(-1), gamma, states=states)


def mixed(S: int, *parts: tuple[Array, float]) -> Moves:
    """Moves to each of the next states (S,), with its probability."""
    every = np.arange(S)
    to = np.concatenate([np.broadcast_to(where, S) for where, _ in parts])
    return np.tile(every, len(parts)), to, np.repeat([p for _, p in parts], S)


def chain(S: int, gamma: float, shuffled: bool = False) -> MDP:
    """Steps in either direction, a small reward at the start and a large one at the end."""
    at = np.random.default_rng(0).permutation(S) if shuffled else np.arange(S)
    place = np.argsort(at)  # where a state is on the chain
    ahead, back = at[np.minimum(place + 1, S - 1)], at[np.maximum(place - 1, 0)]
    same = np.arange(S)
    rewards = np.zeros((S, 2))
    rewards[at[-1]], rewards[at[0]] = 1, 0.005
    right, left = mixed(S, (ahead, 0.8), (same, 0.1), (back, 0.1)), mixed(S, (back, 0.8), (same, 0.1), (ahead, 0.1))
    return process(S, [right, left], rewards, gamma)


def ended_chain(S: int, gamma: float) -> MDP:
    """A chain whose first state is absorbing and earns little, so that the best policy stays away from it."""
    every = np.arange(S)
    ahead, back = np.minimum(every + 1, S - 1), np.maximum(every - 1, 0)
    ahead[0] = 0
    rewards = np.zeros((S, 2))
    rewards[-1], rewards[0] = 1, 0.005
    moves = [mixed(S, (ahead, 0.8), (every, 0.1), (back, 0.1)), mixed(S, (back, 0.8), (every, 0.1), (ahead, 0.1))]
    return process(S, moves, rewards, gamma)


def grid(n: int, gamma: float, walls: float = 0.0, again: bool = False, slip: float = 0.1, seed: int = 0) -> MDP:
    """Four moves that slip to the sides, with walls, towards a goal that is absorbing or, if ``again``, leads back."""
    free = np.random.default_rng(seed).random((n, n)) >= walls
    free[0, 0] = free[-1, -1] = True
    y, x = np.divmod(np.arange(n * n), n)

    def step(dy: int, dx: int) -> Array:
        ny, nx = y + dy, x + dx
        inside = (ny >= 0) & (ny < n) & (nx >= 0) & (nx < n)
        inside &= free[np.clip(ny, 0, n - 1), np.clip(nx, 0, n - 1)] & free[y, x]
        to = np.where(inside, ny * n + nx, np.arange(n * n))
        to[-1] = 0 if again else n * n - 1
        return to

    ways = [step(-1, 0), step(0, 1), step(1, 0), step(0, -1)]
    moves = [
        mixed(n * n, (ways[k], 1 - 2 * slip), (ways[(k + 1) % 4], slip), (ways[(k + 3) % 4], slip)) for k in range(4)
    ]
    rewards = np.full((n * n, 4), -1.0)
    rewards[-1] = 0
    return process(n * n, moves, rewards, gamma)


def maze(n: int, gamma: float) -> MDP:
    """The corridors of a random spanning tree of a grid, with an absorbing end."""
    rng, S = np.random.default_rng(1), n * n
    parent = np.full(S, -1)
    stack = [0]
    parent[0] = 0
    neighbours = np.zeros((S, 4), np.int64)
    for k, (dy, dx) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
        y, x = np.divmod(np.arange(S), n)
        inside = (y + dy >= 0) & (y + dy < n) & (x + dx >= 0) & (x + dx < n)
        neighbours[:, k] = np.where(inside, (y + dy) * n + x + dx, -1)
    ways = np.repeat(np.arange(S)[None], 4, 0)
    while stack:
        at = stack[-1]
        options = [k for k in range(4) if neighbours[at, k] >= 0 and parent[neighbours[at, k]] < 0]
        if not options:
            stack.pop()
            continue
        k = options[rng.integers(len(options))]
        to = neighbours[at, k]
        parent[to], ways[k, at], ways[(k + 2) % 4, to] = at, to, at
        stack.append(to)
    ways[:, -1] = S - 1
    rewards = np.full((S, 4), -1.0)
    rewards[-1] = 0
    return process(S, [mixed(S, (way, 0.9), (np.arange(S), 0.1)) for way in ways], rewards, gamma)


def admissions(S: int, gamma: float, arrival: float = 0.45, service: float = 0.5) -> MDP:
    """A queue of up to S - 1 customers, each of whom pays on admission and costs while waiting."""
    every = np.arange(S)
    more, less = np.minimum(every + 1, S - 1), np.maximum(every - 1, 0)
    rest = 1 - arrival - service
    accept = mixed(S, (more, arrival), (less, service), (every, rest))
    refuse = mixed(S, (every, arrival + rest), (less, service))
    waiting = -0.01 * every
    return process(S, [accept, refuse], np.stack([waiting + 5 * arrival * (every < S - 1), waiting], 1), gamma)


def servers(S: int, gamma: float, arrival: float = 0.3) -> MDP:
    """A queue with three speeds of service, of which the fast ones cost more."""
    every = np.arange(S)
    more, less = np.minimum(every + 1, S - 1), np.maximum(every - 1, 0)
    speeds = np.array([0.2, 0.35, 0.6])
    moves = [mixed(S, (more, arrival), (less, mu), (every, 1 - arrival - mu)) for mu in speeds]
    return process(S, moves, -0.1 * every[:, None] - 40 * speeds**2, gamma)


def stock(S: int, gamma: float, mean: float = 20, lots: int = 20, lot: int = 25) -> MDP:
    """An inventory of up to S - 1 items, ordered in lots, with a Poisson demand."""
    demand = np.arange(int(mean + 8 * np.sqrt(mean)))
    probability = np.exp(np.cumsum(np.log(mean / np.maximum(demand, 1)) * (demand > 0)) - mean)
    probability /= probability.sum()
    every, moves, rewards = np.arange(S), [], []
    for ordered in lot * np.arange(lots):
        level = np.minimum(every + ordered, S - 1)
        left = np.maximum(level[:, None] - demand, 0)
        sold = (level[:, None] - left) @ probability
        rewards.append(4 * sold - 2 * (level - every) - 30 * (ordered > 0) - 0.02 * level)
        moves.append((np.repeat(every, len(demand)), left.reshape(-1), np.tile(probability, S)))
    return process(S, moves, np.stack(rewards, 1), gamma)


def banded(S: int, A: int, width: int, gamma: float) -> MDP:
    """Random steps to nearby states."""
    rng, moves = np.random.default_rng(2), []
    for _ in range(A):
        to = np.clip(np.arange(S)[:, None] + rng.integers(-width, width + 1, (S, 5)), 0, S - 1)
        p = rng.dirichlet(np.ones(5), S)
        moves.append((np.repeat(np.arange(S), 5), to.reshape(-1), p.reshape(-1)))
    return process(S, moves, rng.random((S, A)), gamma)


def cycle(S: int, gamma: float, noise: float = 0.01) -> MDP:
    """A cycle with little noise, at two speeds: nearly periodic."""
    rng, every = np.random.default_rng(3), np.arange(S)
    one, two = (every + 1) % S, (every + 2) % S
    moves = [mixed(S, (one, 1 - noise), (every, noise)), mixed(S, (two, 1 - noise), (one, noise))]
    return process(S, moves, rng.random((S, 2)), gamma)


def blown_cycle(S: int, gamma: float, noise: float = 0.001) -> MDP:
    """A cycle that is seldom left for a random state."""
    rng, every = np.random.default_rng(4), np.arange(S)
    moves = [mixed(S, ((every + k) % S, 1 - noise), (rng.integers(0, S, S), noise)) for k in (1, 3)]
    return process(S, moves, rng.random((S, 2)), gamma)


def nearly_deterministic(S: int, A: int, gamma: float, ends: bool = False) -> MDP:
    """Steps to one random state each, or seldom to another; one state is absorbing if it ``ends``."""
    rng = np.random.default_rng(5)
    pairs = [(rng.integers(0, S, S), rng.integers(0, S, S)) for _ in range(A)]
    for one, other in pairs:
        if ends:
            one[0] = other[0] = 0
    rewards = -rng.random((S, A)) if ends else rng.random((S, A))
    if ends:
        rewards[0] = 0
    return process(S, [mixed(S, (one, 0.98), (other, 0.02)) for one, other in pairs], rewards, gamma)


def blocks(count: int, S: int, gamma: float, leak: float = 0.0) -> MDP:
    """Several Garnets without transitions between them, or with a few."""
    rng, moves = np.random.default_rng(6), []
    total = count * S
    first = np.repeat(np.arange(count) * S, S)
    for _ in range(4):
        to = first[:, None] + rng.integers(0, S, (total, 5))
        p = rng.dirichlet(np.ones(5), total) * (1 - leak)
        every = np.arange(total)
        moves.append(
            (
                np.concatenate([np.repeat(every, 5), every]),
                np.concatenate([to.reshape(-1), (every + S) % total]),
                np.concatenate([p.reshape(-1), np.full(total, leak)]),
            )
        )
    return process(total, moves, rng.random((total, 4)) + (first / S)[:, None], gamma)


def family_tree(S: int, gamma: float) -> MDP:
    """Up or down a random tree."""
    rng, every = np.random.default_rng(7), np.arange(S)
    parent = rng.integers(0, np.maximum(every, 1))
    child = every.copy()
    child[parent[1:]] = every[1:]
    return process(
        S, [mixed(S, (parent, 0.9), (child, 0.1)), mixed(S, (child, 0.7), (parent, 0.3))], rng.random((S, 2)), gamma
    )


def tiny() -> MDP:
    """A machine that is new, worn or broken."""
    run = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
    return MDP([run, np.array([[1.0, 0.0, 0.0]] * 3)], np.array([[10.0, 0.0], [7.0, -5.0], [0.0, -20.0]]), 0.95)


QUICK = (Shape("three states, gamma .95", tiny), Shape("chain 60, gamma .99", lambda: chain(60, 0.99)))
FULL = (
    Shape("chain 1000, gamma .999", lambda: chain(1000, 0.999)),
    Shape("chain 4000, gamma .999", lambda: chain(4000, 0.999)),
    Shape("chain 4000 shuffled, gamma .999", lambda: chain(4000, 0.999, shuffled=True)),
    Shape("chain 2000 with an end, gamma .999", lambda: ended_chain(2000, 0.999)),
    Shape("RiverSwim 6, gamma .99", lambda: examples.riverswim(6, 0.99)),
    Shape("RiverSwim 1000, gamma .999", lambda: examples.riverswim(1000, 0.999)),
    Shape("grid 20 with a goal, gamma .99", lambda: grid(20, 0.99)),
    Shape("grid 100 with a goal, gamma .999", lambda: grid(100, 0.999)),
    Shape("grid 200 with a goal, gamma .99", lambda: grid(200, 0.99), 1e-4),
    Shape("grid 30 again, gamma .99", lambda: grid(30, 0.99, again=True)),
    Shape("grid 80 again, gamma .999", lambda: grid(80, 0.999, again=True)),
    Shape("walls 80, gamma .999", lambda: grid(80, 0.999, walls=0.3, seed=3)),
    Shape("maze 50, gamma .999", lambda: maze(50, 0.999)),
    Shape("admissions 500, gamma .99", lambda: admissions(500, 0.99)),
    Shape("servers 5000, gamma .9999", lambda: servers(5000, 0.9999), 1e-4),
    Shape("inventory 100, gamma .99", lambda: examples.inventory(100, 0.99)),
    Shape("inventory 5000, gamma .99", lambda: stock(5000, 0.99)),
    Shape("forest 1000, gamma .96", lambda: examples.forest(1000, 0.96)),
    Shape("forest 20000, gamma .9999", lambda: examples.forest(20_000, 0.9999), 1e-4),
    Shape("Garnet 100, gamma .9", lambda: examples.garnet(100, 4, 3, 0.9)),
    Shape("Garnet 2000, gamma .99", lambda: examples.garnet(2000, 10, 5, 0.99)),
    Shape("Garnet 10000, gamma .9999", lambda: examples.garnet(10_000, 10, 5, 0.9999), 1e-4),
    Shape("banded 3000, gamma .999", lambda: banded(3000, 4, 20, 0.999)),
    Shape("cycle 2000, gamma .9999", lambda: cycle(2000, 0.9999), 1e-4),
    Shape("blown cycle 500, gamma .99", lambda: blown_cycle(500, 0.99)),
    Shape("nearly deterministic 3000, gamma .99", lambda: nearly_deterministic(3000, 4, 0.99)),
    Shape("nearly deterministic with an end 3000", lambda: nearly_deterministic(3000, 4, 0.999, ends=True)),
    Shape("three states, gamma .95", tiny),
    Shape("one action, 5000, gamma .999", lambda: examples.garnet(5000, 1, 5, 0.999)),
    Shape("500 actions, 200, gamma .99", lambda: examples.garnet(200, 500, 5, 0.99)),
    Shape("ten classes of 200, gamma .999", lambda: blocks(10, 200, 0.999)),
    Shape("ten parts of 200, gamma .9999", lambda: blocks(10, 200, 0.9999, 0.001), 1e-4),
    Shape("tree 5000, gamma .999", lambda: family_tree(5000, 0.999)),
    Shape("Garnet 200, gamma .999999", lambda: examples.garnet(200, 4, 3, 0.999999), 1e-2),
)
