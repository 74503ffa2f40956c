"""Values in continuous time as martingales: two ways find theta_2 = 0 within .06, a third one tends to -2.

The value J(t, x) of the reward x^2 at time 1 makes J(t, X_t) a martingale. Three ways to fit a family of functions to
that, from simulated paths:

- the martingale loss: J(t, X_t) is the regression of the reward at the end, at every time;
- orthogonality: the increments of J are uncorrelated with its gradient, which is TD(0), solved by least squares;
- the mean-square TD error: the squares of the increments are as small as possible. In the limit of small steps that
  sum is the quadratic variation of J, which the true value does not minimise.

The family is J = x^2 + theta_1 (1 - t) + theta_2 x^2 (1 - t), the truth theta = (1, 0). The first two ways have it as
their exact limit at any step; the third has a limit in closed form at each step, and -2 as the steps vanish.

    python examples/papers/martingale_values.py  # 3 to 60 seconds; writes martingale_values.png next to this file

:Paper: Policy Evaluation and Temporal-Difference Learning in Continuous Time and Space: A Martingale Approach (2021),
    arXiv 2108.06655
:Shows: the limits of the martingale loss, of the orthogonality condition and of the mean-square TD error
:Does not show: control, several dimensions, a family that lacks the true value, and the stochastic-approximation
    versions of the three; here each is solved by least squares
:Starts from: feedback
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import command_line, figure_option, option, save
from matplotlib import pyplot

TRUTH, WRONG = np.array([1.0, 0.0]), -2.0
STEPS = (0.1, 0.05, 0.02, 0.01, 0.005)
WAYS = ("martingale loss", "orthogonality", "mean-square TD error")


@dataclass(frozen=True)
class Options:
    paths: int = option(20_000, "paths of a fit", 4000)
    seeds: int = option(5, "fits for each step", 2)
    figure: Path = figure_option(__file__)


def fits(rng: np.random.Generator, paths: int, step: float) -> Any:
    """Return theta by each of the three ways (3, 2), from the same paths."""
    times = round(1 / step)
    left = 1 - step * np.arange(times + 1)
    moves = rng.normal(0, np.sqrt(step), (paths, times))
    x2 = np.concatenate([np.zeros((paths, 1)), moves.cumsum(axis=1)], axis=1) ** 2
    gradient = np.stack([np.broadcast_to(left, x2.shape), x2 * left], axis=2)  # the gradient of J by theta
    before, after = gradient[:, :-1].reshape(-1, 2), gradient[:, 1:].reshape(-1, 2)
    gain, to_come = np.diff(x2).ravel(), (x2[:, -1:] - x2[:, :-1]).ravel()
    change = before - after
    return np.array(
        [
            np.linalg.solve(before.T @ before, before.T @ to_come),
            np.linalg.solve(before.T @ change, before.T @ gain),
            np.linalg.solve(change.T @ change, change.T @ gain),
        ]
    )


def limit_of_squares(step: float) -> Any:
    """The theta that minimises the expected mean-square TD error, from the moments of a Brownian motion."""
    t = step * np.arange(round(1 / step))
    later = 1 - t - step  # the increment of x^2 (1 - t) is gain * later - x^2 * step
    gain2 = 4 * t * step + 3 * step**2  # E gain = step, E x^2 = t, E x^4 = 3 t^2, and gain's mean does not depend on x
    cross = step * later - t * step
    square = gain2 * later**2 - 2 * t * step**2 * later + 3 * t**2 * step**2
    A = np.array([[len(t) * step**2, -(step * cross).sum()], [-(step * cross).sum(), square.sum()]])
    b = np.array([len(t) * step**2, -(gain2 * later - t * step**2).sum()])
    return np.linalg.solve(A, b)


def main(options: Options) -> None:
    scatter = np.sqrt(100_000 / (options.paths * options.seeds))  # relative to 5 fits of 20,000 paths
    means, limits = {}, np.array([limit_of_squares(step) for step in STEPS])
    print(f"{'theta_2, step':24}" + "".join(f"{step:>10}" for step in STEPS))
    for step in STEPS:
        runs = [fits(np.random.default_rng(seed), options.paths, step) for seed in range(options.seeds)]
        means[step] = np.mean(runs, axis=0)
        assert (np.abs(np.array(runs)[:, :2] - TRUTH) <= 0.12 * np.sqrt(20_000 / options.paths)).all()
    for way, name in enumerate(WAYS):
        print(f"{name:24}" + "".join(f"{means[step][way, 1]:10.3f}" for step in STEPS))
    print(f"{'its limit':24}" + "".join(f"{limit:10.3f}" for limit in limits[:, 1]))
    for step, limit in zip(STEPS, limits, strict=True):
        assert (np.abs(means[step][:2] - TRUTH) <= 0.06 * scatter).all()
        assert (np.abs(means[step][2] - limit) <= 0.02 * scatter).all()
        assert abs(means[step][2, 0] - 1) <= 0.02 * scatter
    away = (limits[:, 1] - WRONG) / STEPS
    assert away.max() <= 1.3 * away.min()  # the error is proportional to the step
    assert abs(limit_of_squares(1e-5)[1] - WRONG) < 1e-4

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for way, name in enumerate(WAYS):
        size = 10 - 2 * way  # nested, as the first two nearly coincide
        axes.semilogx(STEPS, [means[step][way, 1] for step in STEPS], "o", markersize=size, label=name)
    axes.semilogx(STEPS, limits[:, 1], "k:", label="limit of the TD error")
    axes.axhline(0, color="0.6", linewidth=1, zorder=0)
    axes.set(xlabel="time step", ylabel="theta_2 (truth: 0)", title="Three fits of the same paths")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
