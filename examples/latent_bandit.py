"""A bandit whose kind is hidden: the policy trees that are best for some belief, and the price of not knowing.

python examples/latent_bandit.py --figure latent_bandit.png
"""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib import pyplot

from fastiter.mdp import latent

MEANS = np.array([[0.8, 0.5, 0.2], [0.1, 0.5, 0.9]])
HORIZON, SHOWN = 8, (1, 2, 4, 8)
EXPECTED = {1: 0.55, 2: 1.3, 3: 2.062, 4: 2.8696, 6: 4.51972, 8: 6.1971976}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", default="latent_bandit.png")
    path = parser.parse_args().figure
    arms, half = latent.LatentMDP.bandit(MEANS), np.array([0.5, 0.5])
    vectors = latent.alpha_vectors(arms, HORIZON)
    print(f"{'pulls':>5}{'hidden':>9}{'known':>8}{'trees':>7}")
    for h in range(1, HORIZON + 1):
        value, known = float((vectors[h][0] @ half).max()), h * float(half @ MEANS.max(axis=1))
        print(f"{h:5}{value:9.4f}{known:8.2f}{len(vectors[h][0]):7}")
        assert value <= known
        if h in EXPECTED:
            assert abs(value - EXPECTED[h]) < 1e-9
        if h <= 4:
            assert abs(value - latent.belief_tree(arms, 0, half, h)) < 1e-10
    belief = np.linspace(0, 1, 501)
    weights = np.stack([1 - belief, belief], axis=1)
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for h in SHOWN:
        axes.plot(belief, (weights @ vectors[h][0].T).max(axis=1) / h, label=f"{h} pulls" if h > 1 else "1 pull")
    axes.plot(belief, weights @ MEANS.max(axis=1), "k:", label="known")
    axes.set(xlabel="belief that it is the second kind", ylabel="reward a pull")
    axes.legend()
    figure.savefig(path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
