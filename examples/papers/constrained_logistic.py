"""Logistic regression with weights on a sphere and in planes: Newton steps, solved by projections onto random rows.

:Paper: Constrained Optimization via Exact Augmented Lagrangian and Randomized Iterative Sketching (2023), arXiv
    2305.18379
:Shows: Newton steps for logistic regression with equality constraints, solved by projections onto random rows
:Does not show: the LIBSVM and CUTEst collections, and the comparison with other constrained solvers
:Starts from: a matrix
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot
from sklearn.datasets import load_breast_cancer

import fastiter
from fastiter.bcd import sketched_newton


@dataclass(frozen=True)
class Options:
    features: int = option(8, "number of features", 5)
    planes: int = option(3, "linear constraints", 2)
    figure: Path = figure_option(__file__)


def main() -> None:
    options = command_line(Options, __doc__)
    warnings.simplefilter("ignore", fastiter.ConvergenceWarning)  # from the truncated runs
    X, y = load_breast_cancer(return_X_y=True)
    X = X[:, : options.features]
    X, n = (X - X.mean(axis=0)) / X.std(axis=0), options.features
    planes = np.random.default_rng(0).standard_normal((options.planes, n))

    def loss(x: Any) -> tuple[float, Any, Any]:
        z = X @ x
        p = 1 / (1 + np.exp(-z))
        curvature = p * (1 - p) / len(y)
        return float((np.logaddexp(0, z) - y * z).mean()), X.T @ (p - y) / len(y), (X.T * curvature) @ X

    def constraints(x: Any, multipliers: Any) -> tuple[Any, Any, Any]:
        values = np.append(planes @ x, x @ x - 1)
        second = 2 * multipliers[-1] * np.eye(n) if len(multipliers) else np.zeros((n, n))
        return values, np.vstack([planes, 2 * x]), second

    start, residuals = np.full(n, n**-0.5), []
    for steps in range(40):
        solution = sketched_newton(loss, constraints, start, max_steps=steps)
        residuals.append(solution.residual)
        if solution.converged:
            break
    print(f"{solution.steps} Newton steps, {solution.projections:,} projections, loss {solution.objective:.6f}")
    x = solution.value
    print(f"constraints at the end: {abs(planes @ x).max():.1e} and {abs(x @ x - 1):.1e}")
    assert solution.converged
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogy(residuals, "o-")
    axes.set(xlabel="Newton steps", ylabel="residual of the first-order conditions")
    save(figure, options.figure)


if __name__ == "__main__":
    main()
