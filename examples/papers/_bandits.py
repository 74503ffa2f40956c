"""Learners that choose from feedback, each in a few lines, for the files in this folder."""

from __future__ import annotations

from typing import Any

import numpy as np


class GaussianProcess:
    """A Gaussian process whose mean is that of the data, with a squared-exponential kernel times their variance."""

    def __init__(self, lengths: tuple[float, ...], noise: float) -> None:
        self.lengths, self.noise = np.array(lengths), noise
        self.points: list[Any] = []
        self.values: list[float] = []

    def add(self, point: Any, value: float) -> None:
        """Learn the value at a point."""
        self.points.append(np.asarray(point) / self.lengths)
        self.values.append(value)

    def predict(self, points: Any) -> tuple[Any, Any]:
        """Return the mean and the standard deviation at points (n, d)."""
        if not self.values:
            return np.zeros(len(points)), np.ones(len(points))
        known, values = np.array(self.points), np.array(self.values)
        mean, scale = values.mean(), values.std() or 1.0
        cross = self._kernel(np.asarray(points) / self.lengths, known)
        kernel = self._kernel(known, known) + self.noise * np.eye(len(known))
        solved = np.linalg.solve(kernel, np.column_stack([values - mean, cross.T]))
        variance = 1 - (cross * solved[:, 1:].T).sum(axis=1)
        return mean + cross @ solved[:, 0], scale * np.sqrt(np.maximum(variance, 0))

    @staticmethod
    def _kernel(x: Any, y: Any) -> Any:
        return np.exp(-((x[:, None] - y) ** 2).sum(axis=2) / 2)


def inverse_gap(predictions: Any, gamma: float) -> Any:
    """SquareCB's probabilities of the actions from their predicted rewards (n, actions), a row for each context."""
    actions, best = predictions.shape[1], predictions.argmax(axis=1)[:, None]
    p = 1 / (actions + gamma * (np.take_along_axis(predictions, best, axis=1) - predictions))
    np.put_along_axis(p, best, 0, axis=1)
    np.put_along_axis(p, best, 1 - p.sum(axis=1, keepdims=True), axis=1)
    return p


def ridge_update(inverse: Any, moment: Any, at: tuple[Any, ...], x: Any, y: Any) -> Any:
    """Learn y (n,) of x (n, d) in the ridge regressions at an index by Sherman-Morrison; return their solutions."""
    old = inverse[at]
    u = np.einsum("nij,nj->ni", old, x)
    inverse[at] = old - u[:, :, None] * (u / (1 + (u * x).sum(axis=1, keepdims=True)))[:, None, :]
    moment[at] += x * y[:, None]
    return np.einsum("nij,nj->ni", inverse[at], moment[at])


class BetaForget:
    """A Beta distribution of each arm's success rate, Beta(1, 1) at first; before each update the share 1 - keep of an
    arm's evidence is forgotten."""

    def __init__(self, arms: int, keep: float) -> None:
        self.keep = keep
        self.successes, self.failures = np.ones(arms), np.ones(arms)

    def add(self, arms: Any, successes: Any, trials: int) -> None:
        """Learn the successes out of as many trials of some arms, each listed once."""
        for count, new in ((self.successes, successes), (self.failures, trials - successes)):
            count[arms] = self.keep * count[arms] + (1 - self.keep) + new

    def draw(self, arms: Any, rng: np.random.Generator) -> Any:
        """Draw a success rate of each of some arms."""
        return rng.beta(self.successes[arms], self.failures[arms])

    def mean(self) -> Any:
        """Return the mean success rate of each arm."""
        return self.successes / (self.successes + self.failures)
