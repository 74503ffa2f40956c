"""Learning in RiverSwim: optimism within scaled confidence sets (UCRL2), against occasional random steps.

An episode ends when some action has been taken as often in it as before it. The theoretical confidence sets are so wide
that they still exclude nothing after 40000 steps; a tenth of their width is enough.

:Paper: Sample-efficient Learning of Infinite-horizon Average-reward MDPs with General Function Approximation (2024),
    arXiv 2404.12648
:Shows: regret that flattens and a bounded number of plans, by optimism with few switches on a table of six states
:Does not show: function approximation: neither the general confidence sets of the paper nor its bounds
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter import mdp

S, A, DELTA, EPSILON = 6, 2, 0.05, 0.1
RIVER = mdp.examples.riverswim(S)


@dataclass(frozen=True)
class Options:
    steps: int = option(40_000, "steps of a run", 8000)
    seeds: int = option(5, "runs per method", 1)
    figure: Path = figure_option(__file__)


def kernel() -> tuple[Any, Any]:
    """The cumulative probabilities (S, A, S), along the next states, and the rewards (S, A)."""
    weight, target, entry = RIVER.transitions
    P = np.zeros((S * A, S))
    np.add.at(P, (np.repeat(np.arange(S * A), np.diff(entry)), target), weight)
    return P.reshape(S, A, S).cumsum(axis=2), RIVER.rewards.reshape(S, A)


def estimate(counts: Any, rewards: Any) -> mdp.MDP:
    """The empirical process; an action that was never taken leads to any state."""
    taken = counts.sum(axis=2, keepdims=True)
    P = np.where(taken > 0, counts / np.maximum(taken, 1), 1 / S)
    return mdp.MDP(P, rewards / np.maximum(taken[:, :, 0], 1), None)


def plan(counts: Any, rewards: Any, t: int, scale: float) -> Any:
    """The policy that is best in the best process of the confidence set."""
    taken = np.maximum(counts.sum(axis=2), 1).reshape(-1)
    wide = scale * np.sqrt(14 * S * np.log(2 * A * t / DELTA) / taken)
    bonus = scale * np.sqrt(7 * np.log(2 * S * A * t / DELTA) / (2 * taken))
    return mdp.extended_value_iteration(estimate(counts, rewards), wide, bonus, atol=1 / np.sqrt(t)).policy


def learn(seed: int, steps: int, scale: float | None) -> tuple[Any, int]:
    """Return the rewards of all steps and the number of episodes; scale None: greedy with random steps, no optimism."""
    rng, (cumulative, truth) = np.random.default_rng(seed), kernel()
    counts, rewards = np.zeros((S, A, S)), np.zeros((S, A))
    earned, s, t, episodes = np.zeros(steps), 0, 0, 0
    while t < steps:
        before = np.maximum(counts.sum(axis=2), 1)
        if scale is None:
            policy = mdp.average(estimate(counts, rewards), tau=0.9, atol=1e-3).policy
        else:
            policy = plan(counts, rewards, t + 1, scale)
        episodes += 1
        within = np.zeros((S, A))
        while t < steps:
            a = int(policy[s])
            if scale is None and rng.random() < EPSILON:
                a = int(rng.integers(A))
            to = min(int(np.searchsorted(cumulative[s, a], rng.random(), side="right")), S - 1)
            earned[t] = truth[s, a]
            counts[s, a, to] += 1
            rewards[s, a] += truth[s, a]
            within[s, a] += 1
            t += 1
            full = within[s, a] >= before[s, a]
            s = to
            if full:
                break
    return earned, episodes


def main() -> None:
    options = command_line(Options, __doc__)
    steps = options.steps
    gain = mdp.average(RIVER, atol=1e-10).gain
    assert abs(gain - 0.428622434) < 1e-8
    print(
        f"the best average reward is {gain:.6f}\n{'regret after':24}"
        + "".join(f"{steps // k:>9}" for k in (8, 4, 2, 1))
    )
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    regrets = {}
    for name, scale in (("theory", 1.0), ("a tenth", 0.1), ("a twentieth", 0.05), ("random steps", None)):
        runs = [learn(seed, steps, scale) for seed in range(options.seeds)]
        regret = np.mean([np.cumsum(gain - earned) for earned, _ in runs], axis=0)
        largest = max(episodes for _, episodes in runs)
        regrets[name] = regret
        print(f"{name:24}" + "".join(f"{regret[steps // k - 1]:9.0f}" for k in (8, 4, 2, 1)) + f"   {largest} plans")
        if scale is not None:
            assert largest <= S * A * np.log2(8 * steps / (S * A))
        axes.plot(regret, label=name)
    if steps >= 40_000 and options.seeds >= 5:
        tenth = regrets["a tenth"]
        assert tenth[-1] <= 2 * tenth[steps // 4 - 1] and tenth[-1] <= 0.1 * regrets["random steps"][-1]
    axes.set(xlabel="steps", ylabel="regret")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
