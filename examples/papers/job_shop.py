"""Job shops: a dispatching rule learned on small shops beats the best of five classical ones at every size.

The operations of a job follow one another on given machines, each of which does one at a time; the makespan is the time
at which all are done. A dispatching rule takes, among the operations that can start earliest, the one with the largest
priority. SPT, LPT, MWKR, MOPNR and FIFO are linear in the features of an operation: its own time, the work and the
number of operations left in its job, its waiting time, the time of the next one. So is the learned rule, whose weights
the cross-entropy method fits on 100 random shops of 6 x 6, all candidates and shops simulated at once.

On 100 other shops of each size, 6 x 6, 10 x 10 and 30 jobs on 10 machines, its makespans are at most 0.99 times those
of the best classical rule, which is not the same one at each size.
For the classical shop ft06 branch and bound, with preemptive one-machine schedules as bounds, proves the published
optimum of 55; the rules reach 59 to 88. If or-tools is installed, CP-SAT proves the same, and its makespans after a
fixed deterministic time are shown beside those of the rules.

    python examples/papers/job_shop.py  # 20 seconds to 6 minutes; writes job_shop.png next to this file

:Paper: An End-to-End Reinforcement Learning Approach for Job-Shop Scheduling Problems Based on Constraint Programming
    (2023), arXiv 2306.05747
:Shows: a rule learned on small shops that holds up on larger ones, beside constraint programming; the optimum of ft06
:Does not show: the paper's network and its features from the solver's propagation: the policy here is linear
:Starts from: a decision
"""

from __future__ import annotations

import heapq
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, progress, save
from matplotlib import pyplot

Array = Any
FT06 = """
2 1 0 3 1 6 3 7 5 3 4 6
1 8 2 5 4 10 5 10 0 10 3 4
2 5 3 4 5 8 0 9 1 1 4 7
1 5 0 5 2 5 3 3 4 8 5 9
2 9 1 3 4 5 5 4 0 3 3 1
1 3 3 3 5 9 0 10 4 4 2 1
"""
#: Weights of own time, work left, operations left, waiting time, time of the next operation
RULES = {
    "SPT": (-1, 0, 0, 0, 0),
    "LPT": (1, 0, 0, 0, 0),
    "MWKR": (0, 1, 0, 0, 0),
    "MOPNR": (0, 0, 1, 0, 0),
    "FIFO": (0, 0, 0, 1, 0),
}
OF_FT06 = {"SPT": 88, "LPT": 77, "MWKR": 61, "MOPNR": 59, "FIFO": 65}
SIZES = ((6, 6), (10, 10), (30, 10))


@dataclass(frozen=True)
class Options:
    rounds: int = option(20, "rounds of the cross-entropy method", 4)
    shops: int = option(100, "shops to learn from, and of each size to test on", 20)
    compared: int = option(5, "shops of each size that or-tools solves", 1)
    time: float = option(2.0, "deterministic time of or-tools for a shop", 0.05)
    figure: Path = figure_option(__file__)


def shops(jobs: int, machines: int, n: int, seed: int) -> tuple[Array, Array]:
    """Return the machines and the times (n, jobs, machines) of random shops' operations, in the order of each job."""
    rng = np.random.default_rng(seed)
    route = rng.permuted(np.tile(np.arange(machines), (n, jobs, 1)), axis=-1)
    return route, rng.integers(1, 100, route.shape)


def makespans(route: Array, time: Array, weights: Array) -> Array:
    """Return the makespans (shops, rules) of linear rules, all simulated at once."""
    n, jobs, machines = route.shape
    shop, rule = np.indices((n, len(weights))).reshape(2, -1)
    run, job = np.arange(len(shop)), np.arange(jobs)
    left = time[..., ::-1].cumsum(-1)[..., ::-1]  # work of an operation and those after it
    longest = left[..., 0].max(-1)
    following = np.concatenate([time[..., 1:], np.zeros((n, jobs, 1), int)], axis=-1)
    done, ready = np.zeros((len(shop), jobs), int), np.zeros((len(shop), jobs))
    free = np.zeros((len(shop), machines))
    for _ in range(jobs * machines):
        at = (shop[:, None], job, np.minimum(done, machines - 1))
        start = np.maximum(ready, free[run[:, None], route[at]])
        start[done == machines] = np.inf
        features = (
            time[at] / 20,
            left[at] / longest[shop, None],
            (machines - done) / machines,
            (start - ready) / 50,
            following[at] / 20,
        )
        with np.errstate(invalid="ignore"):
            priority = sum(weights[rule, k, None] * feature for k, feature in enumerate(features))
        priority = np.where(start == start.min(1, keepdims=True), priority, -np.inf)
        chosen = priority.argmax(1)
        operation = (shop, chosen, done[run, chosen])
        end = start[run, chosen] + time[operation]
        ready[run, chosen] = free[run, route[operation]] = end
        done[run, chosen] += 1
    return ready.max(1).reshape(n, -1)


def lower_bounds(route: Array, time: Array) -> Array:
    """Return the longest job or the load of the busiest machine of each shop."""
    loads = [np.where(route == machine, time, 0).sum((1, 2)) for machine in range(route.shape[-1])]
    return np.maximum(time.sum(-1).max(-1), np.max(loads, axis=0))


def learn(rounds: int, n: int) -> Array:
    """Fit the weights by the cross-entropy method: 48 candidates a round, of which the best 8 set the next law."""
    rng = np.random.default_rng(0)
    route, time = shops(6, 6, n, seed=0)
    bounds = lower_bounds(route, time)[:, None]
    mean, deviation = np.zeros(5), np.ones(5)
    for _ in range(rounds):
        candidates = mean + deviation * rng.standard_normal((48, 5))
        costs = (makespans(route, time, candidates) / bounds).mean(0)
        best = candidates[np.argsort(costs)[:8]]
        mean, deviation = best.mean(0), best.std(0) + 0.05
    return mean


# ---- Branch and bound -----------------------------------------------------------------------------------------------


def preemptive(operations: list[tuple[int, int, int]]) -> int:
    """Return the makespan of one machine's operations (head, time, tail) if they may be interrupted: a lower bound."""
    waiting: list[list[int]] = []
    heads, t, bound = sorted(operations), 0, 0
    i = 0
    while i < len(heads) or waiting:
        if not waiting:
            t = max(t, heads[i][0])
        while i < len(heads) and heads[i][0] <= t:
            heapq.heappush(waiting, [-heads[i][2], heads[i][1]])
            i += 1
        spent = waiting[0][1] if i == len(heads) else min(waiting[0][1], heads[i][0] - t)
        t += spent
        waiting[0][1] -= spent
        if waiting[0][1] == 0:
            bound = max(bound, t - heapq.heappop(waiting)[0])
    return bound


class BranchAndBound:
    """The optimal makespan of a small shop, by active schedules in depth first."""

    def __init__(self, route: Array, time: Array, upper: int) -> None:
        self.route, self.time, self.best, self.nodes = route.tolist(), time.tolist(), upper, 0
        self.left = time[:, ::-1].cumsum(1)[:, ::-1].tolist()
        self.machines = time.shape[1]
        self.search([0] * len(time), [0] * len(time), [0] * self.machines)

    def bound(self, done: list[int], ready: list[int], free: list[int]) -> int:
        operations: list[list[tuple[int, int, int]]] = [[] for _ in free]
        for job, first in enumerate(done):
            head = ready[job]
            for k in range(first, self.machines):
                machine, time = self.route[job][k], self.time[job][k]
                head = max(head, free[machine])
                operations[machine].append((head, time, self.left[job][k] - time))
                head += time
        return max([*ready, *map(preemptive, operations)])

    def search(self, done: list[int], ready: list[int], free: list[int]) -> None:
        self.nodes += 1
        going = [job for job in range(len(done)) if done[job] < self.machines]
        if not going:
            self.best = min(self.best, max(ready))
            return
        machine = {job: self.route[job][done[job]] for job in going}
        start = {job: max(ready[job], free[machine[job]]) for job in going}
        end = {job: start[job] + self.time[job][done[job]] for job in going}
        first = min(going, key=end.__getitem__)
        children = []
        for job in going:  # one of those that could start before the first one ends is next on its machine
            if machine[job] == machine[first] and start[job] < end[first]:
                child = [*done], [*ready], [*free]
                child[0][job] += 1
                child[1][job] = child[2][machine[job]] = end[job]
                children.append((self.bound(*child), job, child))
        for bound, _, child in sorted(children):
            if bound < self.best:
                self.search(*child)


# ---- Constraint programming -----------------------------------------------------------------------------------------


def by_ortools(route: Array, time: Array, limit: float) -> tuple[int, bool]:
    """Return the makespan that CP-SAT finds in a deterministic time, and whether it is proved to be optimal."""
    from ortools.sat.python import cp_model

    model, horizon = cp_model.CpModel(), int(time.sum())
    on: dict[int, list[Any]] = {}
    makespan = model.new_int_var(0, horizon, "")
    for machines, times in zip(route.tolist(), time.tolist(), strict=True):
        previous: Any = 0
        for machine, length in zip(machines, times, strict=True):
            begin = model.new_int_var(0, horizon, "")
            on.setdefault(machine, []).append(model.new_fixed_size_interval_var(begin, length, ""))
            model.add(begin >= previous)
            previous = begin + length
        model.add(makespan >= previous)
    for intervals in on.values():
        model.add_no_overlap(intervals)
    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_deterministic_time = limit
    solver.parameters.num_workers, solver.parameters.random_seed = 1, 0
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return int(solver.objective_value), status == cp_model.OPTIMAL


def main(options: Options) -> None:
    numbers = np.array(FT06.split(), int).reshape(1, 6, 6, 2)
    route, time = numbers[..., 0], numbers[..., 1]
    static = np.array(list(RULES.values()), float)
    of_rules = dict(zip(RULES, makespans(route, time, static)[0].astype(int).tolist(), strict=True))
    exact = BranchAndBound(route[0], time[0], min(of_rules.values()))
    print(f"ft06: optimum {exact.best}, proved in {exact.nodes} nodes;", *(f"{k} {v}" for k, v in of_rules.items()))
    assert exact.best == 55 and of_rules == OF_FT06
    has_ortools = importlib.util.find_spec("ortools") is not None
    if has_ortools:
        assert by_ortools(route[0], time[0], 10.0) == (55, True)
    else:
        print("or-tools is not installed: constraint programming is not compared")
    weights = learn(options.rounds, options.shops)
    print("weights of the learned rule", np.round(weights, 2))
    rules = np.vstack([static, weights])
    ratios, solved = {}, {}
    with progress(len(SIZES), "sizes") as bar:
        for k, (jobs, machines) in enumerate(SIZES):
            route, time = shops(jobs, machines, options.shops, seed=100 + k)
            found = makespans(route, time, rules)
            ratios[jobs, machines] = (found / lower_bounds(route, time)[:, None]).mean(0)
            if has_ortools:
                n = options.compared
                cp = [by_ortools(route[i], time[i], options.time)[0] for i in range(n)]
                solved[jobs, machines] = float((found[:n, -1] / cp).mean())
            bar.update()
    print("mean makespan / lower bound" + "".join(f"{name:>8}" for name in (*RULES, "learned")))
    for (jobs, machines), each in ratios.items():
        cp_text = f"   learned / or-tools {solved[jobs, machines]:.3f}" if has_ortools else ""
        print(f"{jobs:2} jobs x {machines:2} machines       " + "".join(f"{x:8.3f}" for x in each) + cp_text)
        assert each[-1] <= (0.99 if options.shops >= 100 else 1.1) * each[:-1].min()
    draw(ratios, solved, options.figure)


def draw(ratios: dict[tuple[int, int], Array], solved: dict[tuple[int, int], float], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    names = [*RULES, "learned", *(["or-tools"] if solved else [])]
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        each = [of_size[k] if k < len(of_size) else of_size[-1] / solved[size] for size, of_size in ratios.items()]
        color = {"learned": OURS, "or-tools": THEIRS}.get(name, OTHERS)
        bars = axes.bar(np.arange(len(each)) + width * k, np.array(each) - 1, width * 0.9, bottom=1, color=color)
        axes.bar_label(bars, [name] * len(each), rotation=90, fontsize=7, padding=2)
    axes.set_xticks(np.arange(len(ratios)) + 0.35, [f"{jobs} jobs on {machines} machines" for jobs, machines in ratios])
    axes.set(ylabel="mean makespan / lower bound", ylim=(1, axes.get_ylim()[1] * 1.08))
    save(figure, path)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
