"""A stream of arms and memory for one: committing to a nearly best arm has .4 of the regret of exploring all alike.

K arms arrive one after the other and never again; T pulls in all. Uniform exploration pulls each as often, keeps the
best mean, and commits to it: its regret divided by K^(1/3) T^(2/3) grows like log(T)^(1/3), from 1.1 to 1.3 here. The
king is an arm that each new one has to beat by epsilon / 2, epsilon = (K / T)^(1/3), on levels with more and more
pulls: most arms leave on the first. Its regret stays below .5 of that unit as T grows by a thousand, .41 to .33 of
that of uniform exploration; where one arm is .9 and the others are near .25 it is .30 to .20, a reduction of 70 % and
more.

The other side: with means of .5 and one of .6 the king is worse, here 1.6 and 1.3 times, as long as epsilon is about
the gap of .1.

    python examples/papers/streaming_bandit.py  # seconds; writes streaming_bandit.png next to this file

:Paper: Tight Regret Bounds for Single-pass Streaming Multi-armed Bandits (2023), arXiv 2306.02208
:Shows: regret without the logarithmic factor of uniform exploration, with memory for one arm; up to 70 % less regret
:Does not show: the lower bound, the algorithm with more memory for the expected regret, and the paper's own
    constants; the levels here are in the spirit of its algorithms
:Starts from: feedback
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

SIZES = ((50, 10**5), (500, 10**6), (500, 10**7), (5000, 10**8))
Means = Callable[[np.random.Generator, int, int], Any]


@dataclass(frozen=True)
class Options:
    runs: int = option(40, "runs of each size")
    sizes: int = option(len(SIZES), "sizes", 2)
    figure: Path = figure_option(__file__)


def with_one(best: float, low: float, high: float) -> Means:
    """All means uniform from low to high but one."""

    def means(rng: np.random.Generator, runs: int, arms: int) -> Any:
        drawn = rng.uniform(low, high, (runs, arms))
        drawn[np.arange(runs), rng.integers(0, arms, runs)] = best
        return drawn

    return means


FAMILIES: dict[str, Means] = {
    "all from 0 to 1": lambda rng, runs, arms: rng.random((runs, arms)),
    "one .9, others .2 to .3": with_one(0.9, 0.2, 0.3),
    "one .6, others .5": with_one(0.6, 0.5, 0.5),
}


def uniform(rng: np.random.Generator, means: Any, pulls: int) -> Any:
    """The regret of each run: as many pulls of each arm, and the rest of the arm with the best mean."""
    runs, arms = means.shape
    each = int((pulls / arms) ** (2 / 3) * np.log(pulls) ** (1 / 3))
    chosen = rng.binomial(each, means).argmax(axis=1)
    gaps = means.max(axis=1, keepdims=True) - means
    return each * gaps.sum(axis=1) + (pulls - each * arms) * gaps[np.arange(runs), chosen]


def king(rng: np.random.Generator, means: Any, pulls: int) -> Any:
    """The regret of each run: one arm is kept, and replaced by a new arm that is better on every level."""
    runs, arms = means.shape
    epsilon = (arms / pulls) ** (1 / 3)
    levels = int(np.ceil(np.log2(np.log(arms) + 1))) + 1
    totals = np.ceil(2 ** np.arange(levels) * 0.5 / epsilon**2).astype(int)
    gaps = means.max(axis=1, keepdims=True) - means
    estimate, at, spent, regret = np.full(runs, -1.0), np.zeros(runs, int), np.zeros(runs), np.zeros(runs)
    for arm in range(arms):
        successes, is_left, before = np.zeros(runs), np.ones(runs, bool), 0
        for total in totals:
            successes += np.where(is_left, rng.binomial(total - before, means[:, arm]), 0)
            spent += np.where(is_left, total - before, 0)
            regret += np.where(is_left, (total - before) * gaps[:, arm], 0)
            is_left &= successes / total >= estimate + epsilon / 2
            before = total
            if not is_left.any():
                break
        estimate = np.where(is_left, successes / totals[-1], estimate)
        at = np.where(is_left, arm, at)
    assert (spent <= pulls).all()
    return regret + (pulls - spent) * gaps[np.arange(runs), at]


def main(options: Options) -> None:
    found: dict[str, Any] = {}
    sizes = SIZES[: options.sizes]
    for family, means in FAMILIES.items():
        print(f"{family:30}{'uniform':>9}{'king':>7}{'ratio':>7}")
        rows = []
        for arms, pulls in sizes:
            rng = np.random.default_rng(0)
            unit, drawn = arms ** (1 / 3) * pulls ** (2 / 3), means(rng, options.runs, arms)
            rows.append([method(rng, drawn, pulls).mean() / unit for method in (uniform, king)])
            alike, kept = rows[-1]
            print(f"{f'{arms:,} arms, {pulls:,} pulls':30}{alike:9.2f}{kept:7.2f}{kept / alike:7.2f}")
        found[family] = np.array(rows)
    anything, standout, close = found.values()
    for rows in (anything, standout):
        assert (rows[:, 1] <= 0.5).all() and (np.diff(rows[:, 0]) > 0).all()
        assert (rows[:, 1] <= 0.45 * rows[:, 0]).all()
    assert (standout[:, 1] <= 0.32 * standout[:, 0]).all()
    assert (close[:2, 1] > close[:2, 0]).all()
    if len(sizes) == len(SIZES):
        assert 1.0 <= anything[0, 0] <= 1.2 and 1.2 <= anything[-1, 0] <= 1.4 and (close[2:, 1] < close[2:, 0]).all()

    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.5), layout="constrained", sharey=True)
    for axes, (family, rows) in zip(panels, found.items(), strict=True):
        for column, name, color in ((0, "uniform exploration", OTHERS), (1, "king", OURS)):
            axes.plot(range(len(rows)), rows[:, column], "o-", color=color, label=name)
        names = [f"{arms}\n1e{len(str(pulls)) - 1}" for arms, pulls in sizes]
        axes.set_xticks(range(len(rows)), names)
        axes.set(title=family, xlabel="arms, pulls", ylim=(0, 1.9))
    panels[0].set_ylabel("regret / (K^(1/3) T^(2/3))")
    panels[0].legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
