"""Oracle calls to a small residual: variance-reduced Halpern iteration on a matrix game and a robust regression.

The game is that of a policeman and a burglar: the burglar picks one of m houses in a row and steals its value, unless
the policeman, at a house of his choice, is near enough to catch him. The values are given by n random samples, of which
only the mean matters.

The logistic regression separates even from odd digits while an adversary puts the weight on the digits with the
largest losses. Both are saddle-point problems, whose operators have no potential: gradient descent-ascent need not
converge.

:Paper: Variance Reduced Halpern Iteration for Finite-Sum Monotone Inclusions (2024), arXiv 2310.02987
:Shows: the number of oracle calls to a small residual, on a matrix game and a robust regression
:Does not show: the paper's data sets and its bounds' constants
:Starts from: a map
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _paper import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot
from scipy.special import expit
from sklearn.datasets import load_digits

from fastiter import Progress, experimental
from fastiter.fixedpoint import monotone, prox

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)
    samples: int = option(1000, "samples of the values", quick=300)
    houses: int = option(20, "houses in a row", quick=8)
    images: int = option(1797, "images of the regression", quick=300)
    residual: float = option(0.03, "tolerance, relative to the initial residual", quick=0.1)


class Sum:
    """A finite sum of operators: components(x, indices), a resolvent, the initial point and Lipschitz constants."""

    n: int
    lipschitz: float  # the root mean square of the components' constants
    lipschitz_of_mean: float
    start: Array

    def components(self, x: Array, indices: Array | None) -> Array:
        """Return the mean over some indices, or over all for None."""
        raise NotImplementedError

    def resolvent(self, y: Array, t: float) -> Array:
        """Return the projection onto the set, or the proximal operator of the penalty."""
        raise NotImplementedError


class Burglar(Sum):
    """min over the policeman's, max over the burglar's mixed strategy of x A y, A the mean of n matrices."""

    def __init__(self, n: int, m: int) -> None:
        rng = np.random.default_rng(0)
        worth = rng.lognormal(0.0, 0.7, (n, m)) * rng.uniform(0.5, 1.5, m)
        places = np.arange(m)
        self.escapes = 1 - np.exp(-0.8 * np.abs(places[:, None] - places))  # (policeman, burglar)
        self.worth, self.mean, self.n, self.m = worth, worth.mean(0), n, m
        norms = [np.linalg.norm(self.escapes * w, 2) for w in worth]
        self.lipschitz = float(np.sqrt(np.mean(np.square(norms))))
        self.lipschitz_of_mean = float(np.linalg.norm(self.escapes * self.mean, 2))
        self.start = np.full(2 * m, 1 / m)

    def components(self, x: Array, indices: Array | None) -> Array:
        """Return (A y, -A^T x)."""
        worth = self.mean if indices is None else self.worth[indices].mean(0)
        policeman, burglar = x[: self.m], x[self.m :]
        return np.concatenate([self.escapes @ (worth * burglar), -worth * (self.escapes.T @ policeman)])

    def resolvent(self, y: Array, t: float) -> Array:
        """Project both strategies onto the simplex."""
        return prox.project_simplex(y.reshape(2, self.m)).reshape(-1)


class RobustRegression(Sum):
    """min over u, max over weights q of the ten digits of sum q_g loss_g(u) + |u|^2 / 100: even digits from odd ones.

    loss_g is the mean logistic loss of the images of digit g. v = sqrt(10) q takes the place of q, so that both players
    move at similar speeds. The component of an image of digit g has n / n_g times its loss, for a mean over images.
    """

    def __init__(self, n: int) -> None:
        digits = load_digits()
        images = np.random.default_rng(0).permutation(len(digits.data))[:n]
        rows = np.hstack([digits.data[images] / 16, np.ones((n, 1))])
        self.digit = digits.target[images]
        signs = np.where(self.digit % 2, 1.0, -1.0)
        self.rows = signs[:, None] * rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.n, self.d, self.share = n, rows.shape[1], n / np.bincount(self.digit, minlength=10)
        self.start = np.concatenate([np.zeros(self.d), np.full(10, 10**-0.5)])
        # Bounds: a loss has slopes up to 1 and curvatures up to 1 / 4, and all weight may be on one digit. Along the
        # actual path a tenth of the first bound and a third of the second are enough.
        means = np.array([self.rows[self.digit == g].mean(0) for g in range(10)])
        self.lipschitz = float(np.sqrt(np.mean(self.share) / 16 + np.mean(self.share[self.digit] ** 2) / 10)) / 10
        self.lipschitz_of_mean = float(0.25 + np.linalg.norm(means, 2) / 10**0.5) / 3

    def components(self, x: Array, indices: Array | None) -> Array:
        """Return the gradient in u, and minus that in v, of the mean of the losses."""
        u, q = x[: self.d], x[self.d :] / 10**0.5
        rows, digit = (self.rows, self.digit) if indices is None else (self.rows[indices], self.digit[indices])
        margin, share = rows @ u, self.share[digit] / len(digit)
        losses = np.bincount(digit, share * np.logaddexp(0, -margin), 10) / 10**0.5
        return np.concatenate([-rows.T @ (share * q[digit] * expit(-margin)), -losses])

    def resolvent(self, y: Array, t: float) -> Array:
        """Shrink u, and project the weights onto the simplex."""
        return np.concatenate([y[: self.d] / (1 + t / 50), prox.project_simplex(y[self.d :], 10**0.5)])


class Trace:
    """The evaluations divided by n and the residuals of a method; computing these residuals is not counted."""

    def __init__(self, problem: Sum, tolerance: float) -> None:
        self.problem, self.tolerance = problem, tolerance
        self.evaluations: list[float] = []
        self.residuals: list[float] = []
        self.last: float | None = None

    def add(self, evaluations: float, x: Array) -> bool:
        """Record the residual of a point; return whether it is small enough."""
        self.evaluations.append(evaluations / self.problem.n)
        self.residuals.append(residual_of(self.problem, x))
        return self.residuals[-1] <= self.tolerance

    def __call__(self, progress: Progress) -> bool:
        """Record a point of a method that evaluates components, if it is a new one."""
        if progress.residual == self.last:
            return False
        self.last = progress.residual
        return self.add(progress.evaluations, progress.value)


def residual_of(problem: Sum, x: Array) -> float:
    """Return norm(x - J(x - t F(x))) / t with t = 1 / L, L of the mean."""
    t = 1 / problem.lipschitz_of_mean
    return float(np.linalg.norm(x - problem.resolvent(x - t * problem.components(x, None), t))) / t


def methods(problem: Sum, tolerance: float) -> dict[str, Trace]:
    """Return the traces of all methods until the residual of the last iterate is small enough."""
    traces = {
        name: Trace(problem, tolerance)
        for name in (
            "variance-reduced Halpern",
            "deterministic Halpern",
            "extragradient",
            "stochastic extragradient",
        )
    }
    ends: dict[str, Any] = {"rtol": 0.0, "max_steps": 400_000}
    J, x, full = problem.resolvent, problem.start, problem.lipschitz_of_mean
    sums: dict[str, Any] = {"n": problem.n, "variant": "lipschitz", "rng": 0, **ends}
    trace = traces["variance-reduced Halpern"]
    experimental.halpern_vr(problem.components, J, x, lipschitz=problem.lipschitz, callback=trace, **sums)
    trace = traces["deterministic Halpern"]
    experimental.halpern_vr(problem.components, J, x, lipschitz=full, probability=1.0, callback=trace, **sums)
    plain = traces["extragradient"]
    monotone.extragradient(
        J,
        lambda z: problem.components(z, None),
        x,
        lipschitz=full,
        callback=lambda progress: plain.add(problem.n * progress.evaluations, progress.value),
        **ends,
    )
    stochastic(problem, plain.evaluations[-1], traces["stochastic extragradient"])
    return traces


def stochastic(problem: Sum, epochs: float, trace: Trace) -> None:
    """Take extragradient steps of decreasing size with one new component each."""
    rng, x, n = np.random.default_rng(0), problem.start, problem.n
    for k in range(int(epochs * n / 2)):
        t = 0.5 / problem.lipschitz / (1 + k / n) ** 0.5
        half = problem.resolvent(x - t * problem.components(x, rng.integers(n, size=1)), t)
        x = problem.resolvent(x - t * problem.components(half, rng.integers(n, size=1)), t)
        if k % (n // 2) == 0 and trace.add(2 * (k + 1), x):
            return


def main() -> None:
    options = command_line(Options, __doc__)
    problems: dict[str, Callable[[], Sum]] = {
        "policeman and burglar": lambda: Burglar(options.samples, options.houses),
        "robust logistic regression": lambda: RobustRegression(options.images),
    }
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    for axes, (title, make) in zip(panels, problems.items(), strict=True):
        problem = make()
        tolerance = options.residual * residual_of(problem, problem.start)
        traces = methods(problem, tolerance)
        print(f"{title}: evaluations of all {problem.n} components to a residual of {tolerance:.2g}")
        colors = (OURS, "tab:blue", THEIRS, OTHERS)
        for (name, trace), color in zip(traces.items(), colors, strict=True):
            last = trace.evaluations[-1]
            print(f"  {name:26}{f'{last:9.1f}' if trace.residuals[-1] <= tolerance else f'  more than {last:.0f}'}")
            axes.loglog(np.maximum(trace.evaluations, 1), trace.residuals, color=color, label=name)
        axes.set(title=title, xlabel="evaluations / n", ylabel="residual of the last iterate")
        ours, plain = traces["variance-reduced Halpern"], traces["extragradient"]
        ratio = plain.evaluations[-1] / ours.evaluations[-1]
        print(f"  extragradient needs {ratio:.1f} times as many as variance-reduced Halpern")
        assert ours.residuals[-1] <= tolerance and plain.residuals[-1] <= tolerance and ratio > 1
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, options.figure)


if __name__ == "__main__":
    main()
