"""Rewards that recover while they wait: a periodic schedule earns at least .99 of the bound from 4 pulls a round on.

An arm that is pulled d rounds after the last time pays R(d), which grows with d; at most K of 4 K arms are pulled in
a round. A linear program over how often each arm is pulled after each delay bounds the average reward from above.

A purely periodic schedule pulls arm i every p_i rounds. If all periods are of the form a 2^j, a schedule exists
whenever the frequencies 1/p_i sum to at most K: in the order of their periods, the arms take the first offset that is
free. Which arms have which periods is then a knapsack problem, which dynamic programming solves exactly; the best of
a = 1, 3, 5, 7 is taken. Each schedule is run for its longest period: it never pulls more than K arms, and earns what
the knapsack says. With K = 1 and 2 it earns .98 of the bound as well. Always pulling the K best arms earns .42 to .75
of it.

    python examples/papers/recovering_rewards.py  # seconds; writes recovering_rewards.png next to this file

:Paper: Dynamic Planning and Learning under Recovering Rewards (2021), arXiv 2106.14813
:Shows: purely periodic schedules whose ratio to the bound tends to 1 with the number of pulls a round
:Does not show: the paper's own rounding, whose ratio is 1 - O(1/sqrt(K)) for all rewards, and its online policy,
    which learns the rewards
:Starts from: a decision
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

LONGEST = 64  # after this many rounds an arm pays no more
BASES = (1, 3, 5, 7)
DELAYS = np.arange(1, LONGEST + 1)


@dataclass(frozen=True)
class Options:
    pulls: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), "pulls a round", (1, 4, 8))
    figure: Path = figure_option(__file__)


def rewards(pulls: int) -> Any:
    """R of each arm after each delay, (arms, delays)."""
    rng = np.random.default_rng(pulls)
    size, time = rng.random((4 * pulls, 1)), rng.uniform(0.5, 20, (4 * pulls, 1))
    return size * -np.expm1(-DELAYS / time)


def bound(R: Any, pulls: int) -> float:
    """The linear program over the rates x of pulls of each arm after each delay."""
    arms = len(R)
    of_arm = scipy.sparse.kron(scipy.sparse.eye_array(arms), DELAYS[None, :])
    A = scipy.sparse.vstack([of_arm, np.ones((1, R.size))], format="csr")
    found = scipy.optimize.linprog(-R.ravel(), A, np.append(np.ones(arms), pulls), method="highs")
    assert found.status == 0, found.message
    return -float(found.fun)


def periods_of(R: Any, pulls: int, base: int) -> tuple[float, Any]:
    """The best periods base 2^j of all arms (0: never) and their average reward, by dynamic programming.

    A pull every base 2^j rounds takes 2^(J - j) of the base K 2^J units.
    """
    levels = int(np.log2(LONGEST / base)) + 1
    periods = base * 2 ** np.arange(levels)
    units = 2 ** np.arange(levels)[::-1]
    capacity = pulls * base * int(units[0])
    best, choices = np.zeros(capacity + 1), []
    for row in R:
        options = [best]
        for period, unit in zip(periods, units, strict=True):
            taken = np.full(capacity + 1, -np.inf)
            taken[unit:] = best[:-unit] + row[period - 1] / period
            options.append(taken)
        choices.append(np.argmax(options, axis=0))
        best = np.max(options, axis=0)
    left, chosen = capacity, np.zeros(len(R), np.int64)
    for arm in reversed(range(len(R))):
        option = choices[arm][left]
        if option > 0:
            chosen[arm] = periods[option - 1]
            left -= int(units[option - 1])
    return float(best[-1]), chosen


def schedule(periods: Any, pulls: int) -> Any:
    """Which arms are pulled in the rounds of the longest period, (rounds, arms)."""
    pulled = np.zeros((max(periods.max(), 1), len(periods)), bool)
    for arm in np.argsort(periods, kind="stable"):
        if period := int(periods[arm]):
            is_free = (pulled.sum(axis=1) < pulls).reshape(-1, period).all(axis=0)
            pulled[int(is_free.argmax()) :: period, arm] = True
    return pulled


def earned(R: Any, pulled: Any) -> float:
    """The average reward of a schedule that is repeated for ever, from the delays in it."""
    total = 0.0
    for arm in np.flatnonzero(pulled.any(axis=0)):
        times = np.flatnonzero(pulled[:, arm])
        delays = np.diff(np.append(times, times[0] + len(pulled)))
        total += R[arm, np.minimum(delays, LONGEST) - 1].sum()
    return total / len(pulled)


def main(options: Options) -> None:
    ratios: dict[str, list[float]] = {"periods a 2^j": [], "periods 2^j": [], "round robin": [], "K best arms": []}
    print(f"{'K':>4}{'bound':>9}" + "".join(f"{name:>15}" for name in ratios))
    for pulls in options.pulls:
        R = rewards(pulls)
        top = bound(R, pulls)
        found = [periods_of(R, pulls, base) for base in BASES]
        for value, periods in found:
            pulled = schedule(periods, pulls)
            assert pulled.sum(axis=1).max() <= pulls
            assert abs(earned(R, pulled) - value) <= 1e-12 * top
        baselines = R[:, 3].sum() / 4, np.sort(R[:, 0])[-pulls:].sum()
        for name, value in zip(ratios, (max(found)[0], found[0][0], *baselines), strict=True):
            ratios[name].append(value / top)
        print(f"{pulls:4}{top:9.4f}" + "".join(f"{row[-1]:15.3f}" for row in ratios.values()))
        best, *_, robin, greedy = (row[-1] for row in ratios.values())
        assert 1 + 1e-9 >= best >= (0.99 if pulls >= 4 else 0.98) and best >= max(robin, greedy)

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (name, row), color in zip(ratios.items(), (OURS, "tab:blue", OTHERS, "black"), strict=True):
        axes.semilogx(options.pulls, row, "o-", base=2, color=color, label=name)
    axes.set(
        xlabel="pulls a round, K (of 4 K arms)", ylabel="average reward / bound", title="Purely periodic schedules"
    )
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
