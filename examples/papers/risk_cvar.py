"""Policies that maximise the CVaR of the return: the state they depend on, and the distributions of their returns.

:Paper: Optimizing Return Distributions with Distributional Dynamic Programming (2025), arXiv 2501.13028
:Shows: the optimal CVaR at five levels by stock augmentation, equal to enumeration
:Does not show: the deep agent and its Atari games
:Starts from: a decision
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, save
from matplotlib import pyplot

from fastiter.mdp import distributional as laws

#: outcomes[s][a] lists (probability, reward, next state)
OUTCOMES: Any = [
    [[(0.5, 1, 0), (0.5, 0, 1)], [(0.8, 2, 1), (0.2, -3, 0)]],
    [[(0.9, 1, 1), (0.1, -1, 0)], [(0.6, 4, 0), (0.4, -4, 1)]],
]
STOCKS, STEPS = np.arange(-30.0, 31.0), 3
EXPECTED = {0.05: -0.5, 0.1: -0.2, 0.25: 1.04, 0.5: 1.52, 1.0: 2.744}


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)


def law_of(policy: Any, stock: float) -> dict[float, float]:
    """The distribution of the return of a policy that depends on the step, the state and the stock."""
    now = {(0, 0.0): 1.0}
    for h in range(STEPS):
        after: dict[tuple[int, float], float] = {}
        for (s, g), q in now.items():
            action = policy[h, s, int(np.searchsorted(STOCKS, stock + g))]
            for p, r, to in OUTCOMES[s][action]:
                after[to, g + r] = after.get((to, g + r), 0.0) + p * q
        now = after
    law: dict[float, float] = {}
    for (_, g), q in now.items():
        law[g] = law.get(g, 0.0) + q
    return dict(sorted(law.items()))


def main() -> None:
    options = command_line(Options, __doc__)
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    print(f"{'part':>6}{'its mean':>10}{'stock':>7}{'mean':>9}{'lowest':>8}")
    widths = range(9, 0, -2)  # nested lines, as some distributions coincide
    for width, (level, expected) in zip(widths, EXPECTED.items(), strict=True):
        best = laws.best_tail(OUTCOMES, 0, STEPS, level, STOCKS)
        law = law_of(best.policy, best.stock)
        returns, shares = np.array(list(law)), np.array(list(law.values()))
        assert abs(best.value - expected) < 1e-9
        assert abs(float(laws.cvar(shares, returns, level)) - expected) < 1e-9
        print(f"{level:6.2f}{best.value:10.3f}{best.stock:7.0f}{shares @ returns:9.3f}{returns[0]:8.0f}")
        axes.step(returns, np.cumsum(shares), where="post", linewidth=width, label=f"for the lowest {level:.0%}")
    axes.set(xlabel="return", ylabel="probability of at most that")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
