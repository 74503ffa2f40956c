"""Learning a mixture of known kernels without rewards: exploration errs at most 0.9 times as much as random actions.

The steps that are most informative about the weights of the mixture have the largest pseudo-rewards. Over 40 runs the
error of the weights falls like n^-1/2 with the number n of episodes, exploring and at random; a comparison by 8 or 16
runs is too noisy to show the factor.

:Paper: Optimal Horizon-Free Reward-Free Exploration for Linear Mixture MDPs (2023), arXiv 2303.10165
:Shows: exploration by a pseudo-reward that learns the mixture faster than random actions, at the rate n^-1/2
:Does not show: the high-order moment estimator, and a bound without the horizon
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
from fastiter.experimental import LinearMixture

S, A, D, H = 20, 4, 4, 10
THETA = np.array([0.1, 0.6, 0.1, 0.2])
EPISODES = (10, 30, 100, 300)


@dataclass(frozen=True)
class Options:
    seeds: int = option(40, "runs per method", 2)
    figure: Path = figure_option(__file__)


def process() -> tuple[Any, Any, Any]:
    """Known kernels (D, S, A, S), their mixture (S, A, S), and rewards, few of which are large."""
    rng = np.random.default_rng(100)
    features = rng.dirichlet(np.full(S, 0.05), (D, S, A))
    rewards = rng.random((S, A)) ** 8
    return features, np.tensordot(THETA, features, 1), rewards / rewards.max() / H


def learn(seed: int, explores: bool) -> tuple[list[float], list[float]]:
    """Return the errors of theta and the relative suboptimality of its policies after some episodes."""
    features, P, rewards = process()
    rng, model = np.random.default_rng(seed), LinearMixture(features, H, ridge=0.01)
    cumulative, best = P.cumsum(axis=2), mdp.finite_horizon(mdp.MDP(P, rewards, None), H).value[0, 0]
    errors, losses = [], []
    for episode in range(1, EPISODES[-1] + 1):
        target = rng.integers(0, 2, S).astype(float)
        policy = model.plan(model.exploration_rewards(target)).policy if explores else rng.integers(0, A, (H, S))
        s = 0
        for h in range(H):
            a = int(policy[h, s])
            to = min(int(np.searchsorted(cumulative[s, a], rng.random())), S - 1)
            model.update(s, a, to, target)
            s = to
        if episode in EPISODES:
            errors.append(float(np.abs(model.theta - THETA).max()))
            losses.append(1 - value_of(model.plan(rewards).policy, P, rewards) / best)
    return errors, losses


def value_of(policy: Any, P: Any, rewards: Any) -> float:
    """The value of a policy (H, S) from state 0."""
    v, states = np.zeros(S), np.arange(S)
    for h in range(H - 1, -1, -1):
        v = rewards[states, policy[h]] + P[states, policy[h]] @ v
    return float(v[0])


def main() -> None:
    options = command_line(Options, __doc__)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    ends = {}
    print(f"{'episodes':32}" + "".join(f"{n:>9}" for n in EPISODES))
    for name, explores in (("exploring", True), ("random actions", False)):
        runs = [learn(seed, explores) for seed in range(options.seeds)]
        errors, losses = (np.mean([run[k] for run in runs], axis=0) for k in (0, 1))
        print(f"{name + ', error of theta':32}" + "".join(f"{x:9.3f}" for x in errors))
        print(f"{name + ', part of the value lost':32}" + "".join(f"{x:9.0e}" for x in losses))
        assert (losses > -1e-12).all()
        ends[name] = errors
        if options.seeds >= 40:
            assert -0.6 <= np.polyfit(np.log(EPISODES), np.log(errors), 1)[0] <= -0.4
        left.loglog(EPISODES, errors, "o-", label=name)
        right.loglog(EPISODES, np.maximum(losses, 1e-6), "o-", label=name)
    ratios = ends["exploring"] / ends["random actions"]
    print(f"{'ratio of the errors':32}" + "".join(f"{x:9.2f}" for x in ratios))
    assert options.seeds < 40 or ratios.max() <= 0.9
    left.set(xlabel="episodes", ylabel="largest error of theta")
    right.set(xlabel="episodes", ylabel="part of the value lost")
    left.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
