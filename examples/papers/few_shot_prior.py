"""A prior learned from tasks that are seen once: within 1.06 of the true prior's error, and .6 of a standard prior's.

Each task has five examples of its own linear function of five inputs: too few to fit it, unless the other tasks tell
what functions to expect. The hierarchical model has a normal prior for the functions, whose mean and covariance are
unknown, with a Normal-inverse-Wishart belief. A task's posterior has a closed form under the present belief, V = (A +
S^-1)^-1 and m = V (A m' + S^-1 m_0), with its own least squares m' and precision A; it is computed once, enters two
running sums, and is forgotten. After 3000 tasks the memory is still one mean and one covariance.

On 2000 new tasks, the error of the functions is compared with that under the true prior, whose expected value is the
mean of tr V, and is within four standard errors of it.

    python examples/papers/few_shot_prior.py  # seconds; writes few_shot_prior.png next to this file

:Paper: A Hierarchical Bayesian Model for Deep Few-Shot Meta Learning (2023), arXiv 2306.09702
:Shows: the one-time update of the Normal-inverse-Wishart belief, and its error against the true prior's
:Does not show: deep networks and few-shot image classification, where the closed form is an approximation
:Starts from: a training run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _paper import OTHERS, OURS, command_line, figure_option, option, save
from matplotlib import pyplot

INPUTS, EXAMPLES, NOISE = 5, 5, 0.25


@dataclass(frozen=True)
class Options:
    tasks: int = option(3000, "tasks to learn from", 1500)
    tests: int = option(2000, "new tasks", 1000)
    figure: Path = figure_option(__file__)


class Tasks:
    """A source of tasks, whose functions are normal with mean mu and covariance S."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.mu = 2 * rng.normal(size=INPUTS)
        L = 0.4 * rng.normal(size=(INPUTS, INPUTS))
        self.S = L @ L.T + 0.05 * np.eye(INPUTS)

    def draw(self, count: int) -> tuple[Any, Any, Any]:
        """Return functions (count, 5), and the precision A and A m' of what their examples say."""
        theta = self.rng.multivariate_normal(self.mu, self.S, count)
        X = self.rng.normal(size=(count, EXAMPLES, INPUTS))
        y = np.einsum("tei,ti->te", X, theta) + NOISE * self.rng.normal(size=(count, EXAMPLES))
        return theta, X.transpose(0, 2, 1) @ X / NOISE**2, np.einsum("tei,te->ti", X, y) / NOISE**2


def posterior(mean: Any, covariance: Any, precision: Any, pull: Any) -> tuple[Any, Any]:
    """The mean and the covariance of the functions of tasks, for a normal prior."""
    inverse = np.linalg.inv(covariance)
    V = np.linalg.inv(precision + inverse)
    return np.einsum("tij,tj->ti", V, pull + inverse @ mean), V


class Belief:
    """Normal-inverse-Wishart: the sums over all tasks seen, and as if one had been seen before."""

    def __init__(self) -> None:
        self.tasks, self.freedom = 1.0, INPUTS + 2.0
        self.sum, self.square, self.first = np.zeros(INPUTS), np.zeros((INPUTS, INPUTS)), (INPUTS + 2) * np.eye(INPUTS)

    @property
    def mean(self) -> Any:
        """The mean of the prior."""
        return self.sum / self.tasks

    @property
    def covariance(self) -> Any:
        """The covariance of the prior: the inverse of its mean precision."""
        scatter = self.first + self.square - self.tasks * np.outer(self.mean, self.mean)
        return scatter / self.freedom

    def learn(self, precision: Any, pull: Any) -> None:
        """Add one task, by its posterior under the present belief."""
        m, V = posterior(self.mean, self.covariance, precision[None], pull[None])
        self.tasks, self.freedom = self.tasks + 1, self.freedom + 1
        self.sum, self.square = self.sum + m[0], self.square + V[0] + np.outer(m[0], m[0])


def main(options: Options) -> None:
    source, belief = Tasks(np.random.default_rng(0)), Belief()
    tests = source.draw(options.tests)

    def errors(mean: Any, covariance: Any) -> Any:
        return ((posterior(mean, covariance, *tests[1:])[0] - tests[0]) ** 2).sum(axis=1)

    marks, curve = [0], [errors(belief.mean, belief.covariance).mean()]
    every = np.unique(np.geomspace(1, options.tasks, 25).astype(int))
    _, precisions, pulls = source.draw(options.tasks)
    for seen, (precision, pull) in enumerate(zip(precisions, pulls, strict=True), 1):
        belief.learn(precision, pull)
        if seen in every:
            marks.append(seen)
            curve.append(errors(belief.mean, belief.covariance).mean())
    true = errors(source.mu, source.S)
    standard = errors(np.zeros(INPUTS), np.eye(INPUTS)).mean()
    expected = np.trace(posterior(source.mu, source.S, *tests[1:])[1], axis1=1, axis2=2).mean()
    away = np.linalg.norm(belief.covariance - source.S) / np.linalg.norm(source.S)
    print(f"error of new tasks: learned prior {curve[-1]:.4f}, true prior {true.mean():.4f} ({expected:.4f} expected)")
    print(f"standard normal prior {standard:.4f}; the covariance differs by {away:.3f}, ", end="")
    print(f"the mean by {np.abs(belief.mean - source.mu).max():.3f}")
    assert abs(true.mean() - expected) <= 4 * true.std() / np.sqrt(options.tests)
    assert curve[-1] <= 1.06 * true.mean() and curve[-1] <= 0.6 * standard
    assert away <= 0.2 and np.abs(belief.mean - source.mu).max() <= 0.1

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogx(np.array(marks) + 1, curve, "o-", color=OURS, label="learned prior")
    axes.axhline(standard, color=OTHERS, label="standard normal prior")
    axes.axhline(expected, color="black", linestyle=":", label="true prior, expected")
    axes.set(xlabel="tasks seen, 1 + number", ylabel="squared error of a new task's function", ylim=(0, None))
    axes.set_title("Five examples a task")
    axes.legend()
    save(figure, options.figure)


if __name__ == "__main__":
    main(command_line(Options, __doc__))
