"""A lasso path, and how Newton steps in variable blocks find the active set and then converge immediately.

:Paper: Let's Make Block Coordinate Descent Converge Faster (2022), arXiv 1712.08859
:Shows: exact updates of a block that contains the support, which end in a few steps once it is identified
:Does not show: rates, and problems without sparsity
:Starts from: a matrix
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

from fastiter.bcd import BCDSolution, Blocks, LeastSquares, bcd, lasso_path


@dataclass(frozen=True)
class Options:
    samples: int = option(300, "rows of the data", 60)
    columns: int = option(1000, "columns of the data", 120)
    figure: Path = figure_option(__file__)


def main() -> None:
    options = command_line(Options, __doc__)
    rng = np.random.default_rng(0)
    A = rng.standard_normal((options.samples, options.columns))
    b = A[:, :10] @ rng.standard_normal(10) + 0.5 * rng.standard_normal(options.samples)
    path = lasso_path(A, b)
    print(f"path of {len(path.l1)} weights, largest gap {path.residual.max():.1e} of {b @ b / 2:.1f}")
    problem, solutions = LeastSquares(A, b, l1=path.l1[20]), {}
    size = int(np.count_nonzero(path.value[20])) + 10
    for name, update in (("gradient steps", "gradient"), ("exact blocks", "matrix")):
        settings = {"rule": "gsd", "blocks": Blocks(size, "variable"), "check_every": 1, "rtol": 1e-10}
        solutions[name] = bcd(problem, update=update, **settings)  # type: ignore[arg-type]
        print(f"{name:16} {solutions[name].steps:6} steps, active set known from step {solutions[name].identified}")
    exact: BCDSolution[Any] = solutions["exact blocks"]
    assert exact.steps - exact.identified <= 3  # a block that contains the support is solved in one step
    assert solutions["gradient steps"].steps > exact.steps
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    path.plot(left)
    for name, solution in solutions.items():
        excess = np.maximum(solution.objectives - exact.objective, 1e-16 * exact.objective)
        (line,) = right.loglog(1 + np.arange(len(excess)), excess, label=name)
        right.axvline(1 + solution.identified, color=line.get_color(), ls=":")
    right.set(xlabel="steps, the dotted line: the active set is known", ylabel="f - f*")
    right.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
