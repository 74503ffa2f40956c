"""Rules for total tardiness: two that a language model evolved, 0.6 and 4 % above the optimum, against classical ones.

Jobs with processing times p and due dates d follow one another on a machine; the cost is the sum of max(0, C_j - d_j)
over their completion times C_j. Four rules order them: EDD takes the earliest due date and MDD the smallest
max(t + p_j, d_j), both classical; EDDC and MDDC are the published results of an evolutionary search over programs. On
100 instances of 15 jobs, five in each of the 20 published classes, the sums of the costs are 0.6 % (MDDC), 0.8 % (MDD),
4 % (EDDC) and 44 % (EDD) above those of the optima, in this order.

The optimum is a shortest path through the 2^n sets J of jobs that are done, V(J) = min_j max(0, P(J + j) - d_j) +
V(J + j), a decision process with costs, which `mdp` solves; another recursion in NumPy gives exactly the same. The
sets and their successors are those of all instances, only the costs change.

EDDC is our reading: as printed, the algorithm starts from the order of due dates, where none of its exchanges can ever
happen; starting from the order of processing times it reproduces the published gaps.

    python examples/papers/tardiness_rules.py  # 10 seconds to 3 minutes; writes tardiness_rules.png next to this file

:Paper: Discovering Heuristics with Large Language Models (LLMs) for Mixed-Integer Programs: Single-Machine Scheduling
    (2025), arXiv 2510.24013
:Shows: the order of the four rules, their distances from exact optima, and the paper's example with six jobs
:Does not show: the discovery of the rules, which takes a language model and 70 hours; instances with hundreds of jobs
:Starts from: a decision
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib import pyplot

from fastiter import mdp

Array = Any
RANGES, TIGHTNESS = (0.2, 0.4, 0.6, 0.8, 1.0), (0.2, 0.4, 0.6, 0.8)
#: The published example, for which 141 is optimal
SIX = np.array([10, 11, 10, 10, 11, 10]), np.array([15, 11, 13, 11, 12, 11])


@dataclass(frozen=True)
class Options:
    jobs: int = option(15, "jobs of an instance", 10)
    each: int = option(5, "instances of each class", 2)
    seed: int = option(0, "seed of the instances")
    figure: Path = figure_option(__file__)


def instance(n: int, spread: float, tightness: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return processing times and due dates of the class (RDD, TF) = (spread, tightness)."""
    p = rng.integers(1, 101, n)
    ends = p.sum() * (1 - tightness + np.array([-0.5, 0.5]) * spread)
    return p, np.rint(rng.uniform(ends[0], ends[1], n)).astype(int)


def tardiness(order: Array, p: Array, d: Array) -> int:
    return int(np.maximum(0, np.cumsum(p[order]) - d[order]).sum())


# ---- Rules ----------------------------------------------------------------------------------------------------------


def edd(p: Array, d: Array) -> Array:
    return np.lexsort((p, d))


def one_by_one(p: Array, d: Array, priority: Callable[[Array, Array, float], Array], jobs: Any = None) -> Array:
    """Take the job with the smallest priority at the time; of equal ones the first in ``jobs``, or the shortest."""
    left, order, t = list(np.lexsort((d, p)) if jobs is None else jobs), [], 0
    while left:
        order.append(left.pop(int(np.argmin(priority(p[left], d[left], t)))))
        t += p[order[-1]]
    return np.array(order)


def mdd(p: Array, d: Array, jobs: Any = None) -> Array:
    return one_by_one(p, d, lambda p, d, t: np.maximum(t + p, d), jobs)


def mddc(p: Array, d: Array) -> Array:
    def priority(p: Array, d: Array, t: float) -> Array:
        rho = np.minimum(p / (t + p.max()), 1)
        theta = rho**2 / (1 + rho**2)
        return np.maximum(1.1 * p + t, d) * (1 + theta) + p / (t + p.mean())

    return one_by_one(p, d, priority)


def eddc(p: Array, d: Array) -> Array:
    """Let jobs overtake longer ones that are due later, as long as these are late anyway."""
    order = np.lexsort((d, p))
    for i in range(len(p)):
        j = i
        while j > 0 and d[order[j]] < d[order[j - 1]] and d[order[j - 1]] > p[order[:j]].sum():
            order[[j - 1, j]] = order[[j, j - 1]]
            j -= 1
    return order


RULES = {"EDD": edd, "EDDC": eddc, "MDD": mdd, "MDDC": mddc}


# ---- Optima ---------------------------------------------------------------------------------------------------------


class Sets:
    """The sets of n jobs that are done, and the pairs of a set and the job that follows."""

    def __init__(self, n: int) -> None:
        member = np.arange(2**n)[:, None] >> np.arange(n) & 1 == 1
        self.done, self.job = np.nonzero(~member)
        self.after = self.done | 1 << self.job
        self.member, self.full = member, 2**n - 1
        pairs = len(self.done)
        self.steps = scipy.sparse.csr_array((np.ones(pairs), self.after, np.arange(pairs + 1)), shape=(pairs, 2**n))

    def costs(self, p: Array, d: Array) -> Array:
        """Return the tardiness of each pair's job, which ends when its set and itself are done."""
        return np.maximum(0.0, (self.member @ p)[self.after] - d[self.job])

    def optimum(self, p: Array, d: Array) -> int:
        problem = mdp.MDP(self.steps, self.costs(p, d), 1.0, states=self.done, terminal=[self.full], sense="min")
        return round(float(problem.solve("gs", order="bfs").value[0]))

    def recursion(self, p: Array, d: Array) -> int:
        """Return the same by updates of all sets of a size, from the full set downwards."""
        costs, size = self.costs(p, d), self.member.sum(1)
        value = np.where(size == len(p), 0.0, np.inf)
        for jobs in range(len(p) - 1, -1, -1):
            at = np.flatnonzero(size[self.done] == jobs)
            np.minimum.at(value, self.done[at], costs[at] + value[self.after[at]])
        return int(value[0])


def check_example() -> None:
    """The published example with six jobs, whose ties matter to MDD."""
    p, d = SIX
    found = [tardiness(order, p, d) for order in (mddc(p, d), mdd(p, d), mdd(p, d, range(6)))]
    print(f"six jobs: optimum {Sets(6).optimum(p, d)}, MDDC {found[0]}, MDD {found[1]}, ties by index {found[2]}")
    assert mddc(p, d).tolist() == [3, 5, 2, 0, 1, 4] and found == [141, 141, 144] and Sets(6).optimum(p, d) == 141


def main(options: Options) -> None:
    check_example()
    rng, sets = np.random.default_rng(options.seed), Sets(options.jobs)
    classes = [(spread, tightness) for spread in RANGES for tightness in TIGHTNESS]
    costs = np.zeros((len(classes), options.each, len(RULES)))
    optima = np.zeros((len(classes), options.each))
    with progress(optima.size, "instances") as bar:
        for i, parameters in enumerate(classes):
            for k in range(options.each):
                p, d = instance(options.jobs, *parameters, rng)
                optima[i, k] = sets.optimum(p, d)
                assert optima[i, k] == sets.recursion(p, d)
                costs[i, k] = [tardiness(rule(p, d), p, d) for rule in RULES.values()]
                bar.update()
    assert (costs >= optima[..., None]).all()
    total = costs.sum((0, 1)) / optima.sum() - 1
    solvable = optima > 0
    mean = [(costs[..., r][solvable] / optima[solvable] - 1).mean() for r in range(len(RULES))]
    print(f"{optima.size} instances of {options.jobs} jobs, % above the optimum")
    for name, of_sums, of_instances in zip(RULES, total, mean, strict=True):
        print(f"{name:5} sum {100 * of_sums:6.2f}   mean of instances {100 * of_instances:6.2f}")
    gaps = dict(zip(RULES, total, strict=True))
    assert max(gaps["MDDC"], gaps["MDD"]) < gaps["EDDC"] < gaps["EDD"]
    if options.jobs >= 15:
        assert gaps["MDDC"] < gaps["MDD"] and gaps["MDDC"] <= 0.012 and gaps["EDD"] >= 0.3
    draw(costs.reshape(5, 4, -1, 4), optima.reshape(5, 4, -1), options.figure)


def draw(costs: Array, optima: Array, path: Path) -> None:
    """The gap of the sums of each rule by the tightness and by the spread of due dates."""
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    colors = (OTHERS, THEIRS, "tab:blue", OURS)
    parts = ((TIGHTNESS, (0, 2), "tightness of due dates (TF)"), (RANGES, (1, 2), "range of due dates (RDD)"))
    for axes, (values, axis, label) in zip(panels, parts, strict=True):
        gaps = 100 * (costs.sum(axis) / optima.sum(axis)[:, None] - 1)
        for r, (name, color) in enumerate(zip(RULES, colors, strict=True)):
            axes.plot(values, np.maximum(gaps[:, r], 0.01), "o-", color=color, label=name)
        axes.set(xlabel=label, yscale="log", title="0.01 also stands for less")
    panels[0].set_ylabel("sum of tardiness above the optimum, %")
    panels[1].legend()
    save(figure, path)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
