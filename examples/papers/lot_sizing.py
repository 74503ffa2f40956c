"""Lot sizing: values of the state after the decision reach the optimum of the state, and need less experience than Q.

One machine makes one of n items a period, at a set-up cost when it changes; demand is random, and what is not in stock
is lost. A step is a decision, which fills the stock, and then chance, which empties it. Many pairs of a state and an
action lead to the same stock and set-up, the afterstate x, so that

    V(s) = min over a of c(s, a) + V^x(f(s, a)),    V^x(x) = E[cost + gamma V(s')]

has one expectation for each of 261 afterstates in place of 729 pairs (two items), or of 1519 in place of 5488 (three
items). `mdp.MDP(..., rows=)` shares the rows: both operators have the same fixed point to 1e-9, 26.263290 and 33.667460
from the empty shop. The published "easy" setting (three periods, undiscounted) has the optimal cost 4.0375.

Learning from one trajectory, V^x has no action and averages the demand once. In the median of nine trajectories, the
excess cost of its greedy policy is at most .75 times that of Q-learning after 3000 to 100,000 steps with two items, and
from 30,000 steps on with three; before, it is lower, too. Means say little, as some trajectories of either learner have
for a while a policy that produces nothing in states that they have hardly visited.

    python examples/papers/lot_sizing.py  # 10 seconds to 3 minutes; writes lot_sizing.png next to this file

:Paper: A Reinforcement Learning Method for Environments with Stochastic Variables: Post-Decision Proximal Policy
    Optimization with Dual Critic Networks (2025), arXiv 2504.05150
:Shows: the equality of both operators, the optimal cost of the easy setting, and faster learning after the decision
:Does not show: the paper's PPO with two critics, whose rewards are normalised, nor its slippery grid
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter import mdp

GAMMA, HELD, LOST = 0.95, 0.1, 2.0  # the discount, and the costs of a unit in stock and of one that was lacking
MARKS = (3_000, 10_000, 30_000, 100_000)


@dataclass(frozen=True)
class Options:
    seeds: int = option(9, "trajectories of each learner", 1)
    steps: int = option(MARKS[-1], "steps of a trajectory", 3_000)
    figure: Path = figure_option(__file__)


class Shop(NamedTuple):
    """Costs and afterstates of the pairs (S, n + 1); next states, costs and chances of the demands in afterstates."""

    cost: Any
    after: Any
    to: Any
    then: Any
    chance: Any
    start: int  # the empty shop with an idle machine

    def process(self, gamma: float | None, shared: bool = True) -> mdp.MDP:
        """The decision process, with a row of P for each afterstate, or for each pair."""
        X, states = len(self.to), np.repeat(np.arange(len(self.cost)), self.cost.shape[1])
        P = np.zeros((X, len(self.cost)))
        np.add.at(P, (np.arange(X)[:, None], self.to), self.chance)
        rows = self.after.ravel()
        costs = self.cost.ravel() + (self.then @ self.chance)[rows]
        if shared:
            return mdp.MDP(P, costs, gamma, states=states, rows=rows, sense="min")
        return mdp.MDP(P[rows], costs, gamma, states=states, sense="min")


def shop(items: int, room: int, lot: int, demand: Any, setup: float = 1.0, loss: int = 1) -> Shop:
    stocks = np.array(list(product(range(room + 1), repeat=items)))
    inventory = np.repeat(stocks, items + 1, axis=0)  # (S, items); states are (stock, what the machine is set up for)
    machine = np.tile(np.arange(items + 1), len(stocks))
    cost, made = np.zeros((len(machine), items + 1)), np.repeat(inventory[:, None], items + 1, axis=1)
    for a in range(1, items + 1):
        changes = machine != a
        cost[:, a], made[:, a, a - 1] = setup * changes, inventory[:, a - 1] + lot - loss * changes
    keys = np.concatenate([made, np.broadcast_to(np.arange(items + 1)[:, None], (*made.shape[:2], 1))], axis=2)
    afterstates, after = np.unique(keys.reshape(-1, items + 1), axis=0, return_inverse=True)
    wants = np.array(list(product(range(len(demand)), repeat=items)))
    left = afterstates[:, None, :-1] - wants
    kept = np.clip(left, 0, room)
    then = LOST * np.maximum(-left, 0).sum(axis=2) + HELD * kept.sum(axis=2)
    place = (kept @ (room + 1) ** np.arange(items)[::-1]) * (items + 1) + afterstates[:, -1:]
    return Shop(cost, after.reshape(cost.shape), place, then, np.prod(np.asarray(demand)[wants], axis=1), 0)


def excess(given: Shop, problem: mdp.MDP, optimum: float, q: Any) -> float:
    """The exact cost of a greedy policy from the start, relative to the optimum, minus 1."""
    return float(problem.evaluate(q.argmin(axis=1))[given.start]) / optimum - 1


def learn(given: Shop, marks: tuple[int, ...], seed: int, after: bool) -> list[Any]:
    """The action values at each mark, of Q-learning or of afterstate values with the same trajectory rule."""
    rng = np.random.default_rng(seed)
    S, A = given.cost.shape
    explores, choices = rng.random(marks[-1]) < 0.1, rng.integers(0, A, marks[-1])
    demands = rng.choice(len(given.chance), marks[-1], p=given.chance)
    cost, place, to, then = given.cost.tolist(), given.after.tolist(), given.to.tolist(), given.then.tolist()
    values = [0.0] * len(to) if after else [0.0] * (S * A)
    visits = [0] * len(values)
    found, s, every = [], given.start, range(A)

    def q_of(s: int) -> list[float]:
        return [cost[s][a] + values[place[s][a]] for a in every] if after else values[s * A : s * A + A]

    q = q_of(s)
    for t in range(marks[-1]):
        a = int(choices[t]) if explores[t] else min(every, key=q.__getitem__)
        x, d = place[s][a], demands[t]
        at = x if after else s * A + a
        earned, following = then[x][d] + (0.0 if after else cost[s][a]), to[x][d]
        visits[at] += 1
        values[at] += visits[at] ** -0.6 * (earned + GAMMA * min(q_of(following)) - values[at])
        s = following
        q = q_of(s)
        if t + 1 in marks:
            found.append(np.array([q_of(state) for state in range(S)]))
    return found


def main(options: Options) -> None:
    easy = shop(2, 3, 2, (0.5, 0.5))
    optimum = mdp.finite_horizon(easy.process(None), 3).value[0, easy.start]
    print(f"easy setting: {len(easy.cost)} states, {easy.cost.size} pairs, {len(easy.to)} afterstates, {optimum:.4f}")
    assert abs(optimum - 4.0375) < 1e-12 and (len(easy.cost), easy.cost.size, len(easy.to)) == (48, 144, 56)

    cases = {
        "two items": (shop(2, 8, 4, (0.2, 0.4, 0.25, 0.15)), 26.263290, (243, 729, 261), (0, 0.75)),
        "three items": (shop(3, 6, 4, (0.4, 0.4, 0.2)), 33.667460, (1372, 5488, 1519), (2, 0.75)),
    }
    marks = tuple(mark for mark in MARKS if mark <= options.steps)
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    for (name, (given, value, sizes, (first, ratio))), axis in zip(cases.items(), axes, strict=True):
        shared, expanded = (given.process(GAMMA, each).solve(atol=1e-10) for each in (True, False))
        assert (len(given.cost), given.cost.size, len(given.to)) == sizes
        assert abs(shared.value - expanded.value).max() < 1e-9 and abs(shared.value[given.start] - value) < 1e-6
        problem, best = given.process(GAMMA), float(shared.value[given.start])
        curves = {}
        for learner, after in (("Q", False), ("afterstates", True)):
            runs = [learn(given, marks, seed, after) for seed in range(options.seeds)]
            every = [[excess(given, problem, best, q) for q in at_marks] for at_marks in runs]
            curves[learner] = np.median(every, axis=0)
        print(f"{name}: {sizes[1]} pairs, {sizes[2]} rows, value {best:.6f}; excess cost at {marks}:")
        for learner, color in (("Q", OTHERS), ("afterstates", OURS)):
            print(f"  {learner:12}{np.round(curves[learner], 3)}")
            axis.loglog(marks, curves[learner], "o-", color=color, label=learner)
        if (options.seeds, options.steps) == (9, MARKS[-1]):
            assert (curves["afterstates"][first:] <= ratio * curves["Q"][first:]).all()
            assert (curves["afterstates"] < curves["Q"]).all()
        axis.set(xlabel="steps of one trajectory", ylabel="excess cost / optimal cost", title=name)
        axis.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
