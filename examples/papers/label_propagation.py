"""Label propagation on a lattice: red-black blocks, trees and greedy trees, each block solved exactly.

:Paper: Let's Make Block Coordinate Descent Converge Faster (2022), arXiv 1712.08859
:Shows: trees as exact blocks, which need far fewer updates than red-black blocks
:Does not show: the paper's other problems and greedy rules with other norms
:Starts from: a matrix
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sp
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot
from scipy.sparse.linalg import spsolve

import fastiter
from fastiter.bcd import forest_bcd

UPDATES = 100


@dataclass(frozen=True)
class Options:
    side: int = option(1000, "nodes along a side of the large lattice", 100)
    figure: Path = figure_option(__file__)


def lattice(side: int, labelled: int) -> tuple[Any, Any, Any]:
    """Return the matrix and vector for the unlabelled nodes, and these nodes; weights are 1e5."""
    rng = np.random.RandomState(1)
    line = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side))
    weights = sp.csr_array(1e5 * (sp.kron(sp.eye_array(side), line) + sp.kron(line, sp.eye_array(side))))
    known, labels = rng.choice(side * side, labelled, replace=False), np.zeros(side * side)
    labels[known] = 10 * rng.randn(labelled)
    unknown = labels == 0
    whole = sp.csr_array(sp.diags_array(weights.sum(axis=1)) - weights)
    return whole[unknown][:, unknown], weights[unknown] @ labels, np.flatnonzero(unknown)


def combs(nodes: Any, side: int) -> Any:
    """Return two interlocking combs, each of which is a tree."""
    row, column = nodes % side, nodes // side
    return np.where((row == side - 1) | ((row != 0) & (column % 2 == 1)), 0, 1)


def compare() -> dict[str, Any]:
    """Return f - f* after each update on a lattice of 50 x 50 nodes."""
    A, b, nodes = lattice(50, 100)
    minimum = float(-b @ spsolve(sp.csc_matrix(A), b) / 2)
    print(f"f* of the lattice of 50 x 50 nodes: {minimum:.7f}")
    kinds = {"red-black": (nodes % 50 + nodes // 50) % 2, "combs": combs(nodes, 50), "greedy trees": "greedy trees"}
    curves = {}
    for name, blocks in kinds.items():
        solution = forest_bcd(A, b, blocks=blocks, rtol=0, max_steps=UPDATES, check_every=1)
        curves[name] = solution.objectives - minimum
        print(f"{name:14} f - f* after 1, 50, 100 updates {'  '.join(f'{curves[name][k]:.2e}' for k in (1, 50, 100))}")
    assert abs(curves["combs"][100] / 8.24e4 - 1) < 0.01
    return curves


def main() -> None:
    options = command_line(Options, __doc__)
    warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
    curves = compare()
    A, b, nodes = lattice(options.side, options.side**2 // 25)
    began = perf_counter()
    solution = forest_bcd(A, b, blocks=combs(nodes, options.side), rtol=1e-6)
    seconds = perf_counter() - began
    print(f"{options.side} x {options.side} nodes: {solution.reason} after {solution.steps} updates in {seconds:.2f} s")
    assert solution.converged
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, curve in curves.items():
        axes.semilogy(curve, label=name)
    axes.set(xlabel="updates of a block", ylabel="f - f*")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
