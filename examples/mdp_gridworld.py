"""A slippery grid world solved by four methods: sweeps, seconds and errors, and a figure of values and policy.

Each step costs 1 until the last corner; a move turns to the left or to the right with a probability of 0.1 each. The
first two methods update values in place, so that the order of the states matters: outwards from the goal is best. The
error is the largest distance from values within 1e-9 of the exact ones, and at most half the width of the bounds.

    python examples/mdp_gridworld.py            # 3 to 60 seconds; writes mdp_gridworld.png next to this file
    python examples/mdp_gridworld.py --help

:Starts from: a decision
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _script import command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter import mdp

GAMMA, TOL = 0.99, 1e-4
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "outwards from the goal": ("gs", {"order": "bfs"}),
    "row after row": ("gs", {"order": "ascending"}),
    "value iteration": ("vi", {}),
    "Anderson's acceleration": ("anderson", {}),
}


@dataclass(frozen=True)
class Options:
    size: int = option(300, "cells on one side", 40)
    shortest: int = option(100, "cells on one side for the shortest path without a discount", 20)
    figure: Path = figure_option(__file__)


def compare(n: int) -> dict[str, mdp.MDPSolution[Any]]:
    """Solve the grid by each method, and print what it took."""
    problem, solutions = mdp.examples.gridworld(n, GAMMA), {}
    exact = problem.solve(atol=1e-9).value
    print(f"{n} x {n} cells, gamma {GAMMA}, bounds within {TOL}\n{'':26}{'sweeps':>8}{'seconds':>9}{'error':>10}")
    for name, (method, options) in METHODS.items():
        began = time.perf_counter()
        solutions[name] = problem.solve(method, atol=TOL, **options)  # type: ignore[arg-type]
        seconds, error = time.perf_counter() - began, float(np.abs(solutions[name].value - exact).max())
        assert error <= TOL / 2
        print(f"{name:26}{solutions[name].steps:8}{seconds:9.2f}{error:10.1e}")
    return solutions


def draw(n: int, solutions: dict[str, mdp.MDPSolution[Any]], path: Path) -> None:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    next(iter(solutions.values())).plot_grid((n, n), ax=left)
    left.set_title("values, -1 a step until the corner, and policy")
    for name, solution in solutions.items():
        solution.plot_history(right, label=name)
    right.set(xscale="log", ylabel="width of the bounds", title="until the bounds are close")
    save(figure, path)


def main() -> None:
    options = command_line(Options, __doc__)
    shortest = mdp.examples.gridworld(options.shortest, 1.0).solve()
    print(f"without a discount the first cell is {-shortest.value[0]:.3f} steps from the goal")
    if options.shortest == 100:
        assert abs(shortest.value[0] + 243.457262) < 1e-5
    draw(options.size, compare(options.size), options.figure)


if __name__ == "__main__":
    main()
