"""Oracle calls to a small residual: variance-reduced Halpern iteration on a matrix game and a robust regression.

The game is that of a policeman and a burglar: the burglar picks one of m houses in a row and takes its worth, unless
the policeman, at a house of his choice, is near enough to catch him. The worths are n drawn samples, and only their
mean counts.

The logistic regression tells even digits from odd ones while an adversary puts the weight on the digits with the
largest losses. Both are saddle points, whose operators have no potential: gradient descent and ascent need not
converge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _script import OTHERS, OURS, THEIRS, command_line, figure_option, option, save
from matplotlib import pyplot
from scipy.special import expit
from sklearn.datasets import load_digits

from fastiter.fixedpoint import monotone, prox

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Options:
    figure: Path = figure_option(__file__)
    samples: int = option(1000, "samples of the worths", quick=300)
    houses: int = option(20, "houses in a row", quick=8)
    images: int = option(1797, "images of the regression", quick=300)
    residual: float = option(0.03, "where to end, relative to the first residual", quick=0.1)


class Sum:
    """A finite sum of operators: components(x, indices), a resolvent, the first point and Lipschitz constants."""

    n: int
    lipschitz: float  # the root of the mean square of the components'
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
    move at like speeds. The component of an image of digit g has n / n_g times its loss, for a mean over images.
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
        # path a tenth of the first is enough, and a third of the second.
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


def methods(problem: Sum, most: float) -> dict[str, tuple[Array, Array]]:
    """Return for each method its evaluations over n, and the residual of its last iterate at these."""
    ends: dict[str, Any] = {"rtol": 0.0, "atol": most, "max_steps": 400_000}
    found: dict[str, tuple[Array, Array]] = {}
    J, x = problem.resolvent, problem.start
    for name, (lipschitz, probability) in (
        ("variance-reduced Halpern", (problem.lipschitz, None)),
        ("deterministic Halpern", (problem.lipschitz_of_mean, 1.0)),
    ):
        trace: list[tuple[float, float]] = []

        def note(progress: monotone.InclusionProgress, trace: list[tuple[float, float]] = trace) -> None:
            if not trace or trace[-1][1] != progress.residual:
                trace.append((progress.evaluations / problem.n, progress.residual))

        result = monotone.halpern_vr(
            problem.components,
            J,
            x,
            n=problem.n,
            lipschitz=lipschitz,
            variant="lipschitz",
            probability=probability,
            rng=0,
            callback=note,
            **ends,
        )
        trace.append((result.evaluations / problem.n, result.residual))
        found[name] = (np.array(trace)[:, 0], np.array(trace)[:, 1])
    plain = monotone.extragradient(
        J, lambda z: problem.components(z, None), x, lipschitz=problem.lipschitz_of_mean, **ends
    )
    found["extragradient"] = 2.0 * np.arange(1, plain.steps + 1), plain.history
    found["stochastic extragradient"] = stochastic(problem, plain.evaluations, most)
    return found


def stochastic(problem: Sum, epochs: float, most: float) -> tuple[Array, Array]:
    """Take extragradient steps with one new component each, of falling size; residuals at every epoch, not counted."""
    rng, x, trace = np.random.default_rng(0), problem.start, []
    t0 = 0.5 / problem.lipschitz
    check = 1 / problem.lipschitz_of_mean
    for k in range(int(epochs * problem.n / 2)):
        t = t0 / (1 + k / problem.n) ** 0.5
        half = problem.resolvent(x - t * problem.components(x, rng.integers(problem.n, size=1)), t)
        x = problem.resolvent(x - t * problem.components(half, rng.integers(problem.n, size=1)), t)
        if k % (problem.n // 2) == 0:
            to = problem.resolvent(x - check * problem.components(x, None), check)
            trace.append((2 * k / problem.n, float(np.linalg.norm(x - to)) / check))
            if trace[-1][1] <= most:
                break
    return np.array(trace)[:, 0], np.array(trace)[:, 1]


def main() -> None:
    options = command_line(Options, __doc__)
    problems: dict[str, Callable[[], Sum]] = {
        "policeman and burglar": lambda: Burglar(options.samples, options.houses),
        "robust logistic regression": lambda: RobustRegression(options.images),
    }
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axes, (title, make) in zip(panels, problems.items(), strict=True):
        problem = make()
        t = 1 / problem.lipschitz_of_mean
        moved = problem.resolvent(problem.start - t * problem.components(problem.start, None), t)
        most = options.residual * float(np.linalg.norm(problem.start - moved)) / t
        found = methods(problem, most)
        print(f"{title}: evaluations of all {problem.n} components to a residual of {most:.2g}")
        colors = (OURS, "tab:blue", THEIRS, OTHERS)
        for (name, (evaluations, residual)), color in zip(found.items(), colors, strict=True):
            reached = f"{evaluations[-1]:9.1f}" if residual[-1] <= most else f"  more than {evaluations[-1]:.0f}"
            print(f"  {name:26}{reached}")
            axes.loglog(np.maximum(evaluations, 1), residual, color=color, label=name)
        axes.set(title=title, xlabel="evaluations / n", ylabel="residual of the last iterate")
        ours, plain = found["variance-reduced Halpern"], found["extragradient"]
        assert ours[1][-1] <= most and plain[1][-1] <= most
        ratio = plain[0][-1] / ours[0][-1]
        print(f"  extragradient needs {ratio:.1f} times as many as variance-reduced Halpern")
        assert ratio > 1
    panels[0].legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main()
