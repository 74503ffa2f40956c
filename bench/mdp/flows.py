"""Afterstates against a row for each pair, and occupancies against sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average
from fastiter import _core
from fastiter.mdp import MDP, examples

Array = Any
#: Items, the largest stock and the number of demands of an item: the shops of examples/papers/lot_sizing.py, and larger
SHOPS, QUICK_SHOPS = ((2, 8, 4), (3, 6, 3), (3, 14, 3)), ((2, 8, 4),)
HORIZON = 64


def lots(items: int, room: int, demands: int) -> tuple[Array, Array, Array]:
    """Return P of the afterstates, and the states and rows of the pairs, of a machine that makes one item at a time."""
    from scipy import sparse

    shape, wide = (room + 1,) * items, (room + 5,) * items
    stocks, wants = np.indices(shape).reshape(items, -1).T, np.indices((demands,) * items).reshape(items, -1).T
    made = np.repeat(np.repeat(stocks[:, None], items + 1, 1)[:, :, None], items + 1, 2)  # stock, set-up, action
    for a in range(1, items + 1):
        made[:, :, a, a - 1] += 4 - (np.arange(items + 1) != a)
    keys = np.ravel_multi_index(tuple(np.moveaxis(made, -1, 0)), wide) * (items + 1) + np.arange(items + 1)
    after, rows = np.unique(keys, return_inverse=True)
    left = np.stack(np.unravel_index(after // (items + 1), wide), -1)[:, None] - wants
    kept = np.ravel_multi_index(tuple(np.moveaxis(np.clip(left, 0, room), -1, 0)), shape)
    to = kept * (items + 1) + (after % (items + 1))[:, None]
    X, S = len(after), len(stocks) * (items + 1)
    whole = (np.full(to.size, 1 / len(wants)), (np.repeat(np.arange(X), len(wants)), to.ravel()))
    P = sparse.csr_array(whole, shape=(X, S))
    P.sum_duplicates()
    return P, np.repeat(np.arange(S), items + 1), rows.ravel()


def backup_of(problem: MDP) -> tuple[Any, int]:
    """Return a sweep, and the bytes of its process."""
    process, (v, w) = problem._process, np.zeros((2, problem.S))
    action, discount = np.empty(problem.S, np.int32), process.discount or 1.0
    nbytes = sum(x.nbytes for x in process.arrays if isinstance(x, np.ndarray))
    return lambda: process.model.backup(v, w, action, 1, discount, None), nbytes


def afterstates(options: Options) -> Iterator[Record]:
    """The time and memory of a sweep with shared rows, against a row for each pair."""
    for items, room, demands in QUICK_SHOPS if options.quick else SHOPS:
        P, states, rows = lots(items, room, demands)
        rewards = np.random.default_rng(0).random(len(states))
        shared = MDP(P, rewards, 0.95, states=states, rows=rows)
        expanded = MDP(P[rows], rewards, 0.95, states=states)
        (one, small), (other, large) = backup_of(shared), backup_of(expanded)
        for threads in options.threads:
            entrants = [Competitor("shared", one, threads), Competitor("separate", other, threads)]
            timings = interleave(entrants, options.budget, options.stirring(), min_samples=3)
            yield {
                "work": f"lots: {items} items, {shared.S} states",
                "threads": threads,
                "pairs_per_row": len(states) / P.shape[0],
                "ms": 1e3 * timings["shared"].minimum,
                "separate_ms": 1e3 * timings["separate"].minimum,
                "faster": timings["separate"].minimum / timings["shared"].minimum,
                "smaller": large / small,
                "load": load_average(),
            }


def occupancies(options: Options) -> Iterator[Record]:
    """A step of an occupancy forward, and backward without and with the gradient of P, in sweeps."""
    size = 1000 if options.quick else 20_000
    P, states, rows = lots(*(QUICK_SHOPS if options.quick else SHOPS)[-1])
    problems = {
        f"Garnet {size}, 10 actions, 5 next": examples.garnet(size, 10, 5),
        "lots with shared rows": MDP(P, np.zeros(len(states)), 0.95, states=states, rows=rows),
    }
    for name, problem in problems.items():
        process, S = problem._process, problem.S
        policy = np.repeat(1 / np.diff(process.rows.row), np.diff(process.rows.row))
        start, total, g, history = np.full(S, 1 / S), np.empty(S), np.ones(S), np.empty((HORIZON, S))
        out, weight = (np.empty(S), np.empty(len(policy))), np.empty(len(process.rows.weight))
        head = process.bits, S, process.arrays, 0.95, HORIZON
        vectors = policy, history, g

        def forward(head: Any = head, given: Any = (policy, start), out: Any = (total, history)) -> None:
            _core.mdp.visits(*head, given, out)

        def backward(head: Any = head, given: Any = vectors, out: Any = (*out, None)) -> None:
            _core.mdp.visit_gradients(*head, given, out)

        def whole(head: Any = head, given: Any = vectors, out: Any = (*out, weight)) -> None:
            _core.mdp.visit_gradients(*head, given, out)

        calls = {"sweep": backup_of(problem)[0], "forward": forward, "backward": backward, "with P": whole}
        for threads in options.threads:
            entrants = [Competitor(each, call, threads) for each, call in calls.items()]
            timings = interleave(entrants, options.budget, options.stirring(), min_samples=3)
            sweep = timings["sweep"].minimum * HORIZON
            steps = {each: timings[each].minimum / sweep for each in calls}
            yield {
                "work": name,
                "threads": threads,
                "sweep_ms": 1e3 * timings["sweep"].minimum,
                "forward": steps["forward"],
                "both": steps["forward"] + steps["backward"],
                "with_P": steps["forward"] + steps["with P"],
                "load": load_average(),
            }
