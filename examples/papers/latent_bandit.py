"""A bandit with a hidden context: the policy trees that are optimal for some belief, and the cost of not knowing it.

:Paper: Horizon-Free and Variance-Dependent Reinforcement Learning for Latent Markov Decision Processes (2023), arXiv
    2210.11604
:Shows: exact values and sizes of alpha-vector sets, the objects that the paper's bound is about
:Does not show: the learning of an unknown latent process and its regret
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _paper import command_line, figure_option, save
from matplotlib import pyplot

from fastiter import experimental

MEANS = np.array([[0.8, 0.5, 0.2], [0.1, 0.5, 0.9]])
HORIZON, SHOWN = 8, (1, 2, 4, 8)
EXPECTED = {1: 0.55, 2: 1.3, 3: 2.062, 4: 2.8696, 6: 4.51972, 8: 6.1971976}


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)


def main() -> None:
    options = command_line(Options, __doc__)
    arms, half = experimental.LatentMDP.bandit(MEANS), np.array([0.5, 0.5])
    vectors = experimental.alpha_vectors(arms, HORIZON)
    print(f"{'pulls':>5}{'hidden':>9}{'known':>8}{'trees':>7}")
    for h in range(1, HORIZON + 1):
        value, known = float((vectors[h][0] @ half).max()), h * float(half @ MEANS.max(axis=1))
        print(f"{h:5}{value:9.4f}{known:8.2f}{len(vectors[h][0]):7}")
        assert value <= known
        if h in EXPECTED:
            assert abs(value - EXPECTED[h]) < 1e-9
        if h <= 4:
            assert abs(value - experimental.belief_tree(arms, 0, half, h)) < 1e-10
    belief = np.linspace(0, 1, 501)
    weights = np.stack([1 - belief, belief], axis=1)
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for h in SHOWN:
        axes.plot(belief, (weights @ vectors[h][0].T).max(axis=1) / h, label=f"{h} pulls" if h > 1 else "1 pull")
    axes.plot(belief, weights @ MEANS.max(axis=1), "k:", label="known")
    axes.set(xlabel="belief that it is the second kind", ylabel="reward a pull")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
