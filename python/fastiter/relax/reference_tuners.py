"""The tuners of a sequence of systems by their formulas; sums are in the order of the arms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MASK = 2**64 - 1
RIDGE = 1e-8


def total(numbers: Any) -> float:
    """The sum from left to right; Python's own and NumPy's use another order."""
    result = 0.0
    for number in numbers:
        result += float(number)
    return result


# ---- draws ----------------------------------------------------------------------------------------------------------


def mix(z: int) -> int:
    """SplitMix64's bijection of 64-bit numbers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


class Draws:
    """Numbers in [0, 1): number t is a function of t and the seed."""

    def __init__(self, seed: int) -> None:
        self.key, self.count = mix(seed + 0x9E3779B97F4A7C15 & MASK), 0

    def next(self) -> float:
        """The next number."""
        self.count += 1
        return (mix(self.key + self.count * 0x9E3779B97F4A7C15 & MASK) >> 11) * 2.0**-53

    def arm(self, p: Array) -> int:
        """An arm drawn with the probabilities p."""
        above = np.flatnonzero((np.cumsum(p) > self.next()) & (p > 0))
        return int(above[0]) if len(above) else int(np.flatnonzero(p > 0)[-1])


# ---- Tsallis-INF ----------------------------------------------------------------------------------------------------


class TsallisINF:
    """p_i = 4 / (eta (k_i / scale - x))^2, eta = 2 / sqrt(t), scale the mean loss; k_i sums loss / p_i.

    The loss is the number of iterations minus 1, and x makes the probabilities sum to 1.
    """

    def __init__(self, arms: Array, draws: Draws) -> None:
        self.arms, self.draws = arms, draws
        self.k, self.losses, self.rounds = np.zeros(len(arms)), 0.0, 0

    def probabilities(self) -> Array:
        """Newton's method from the x at which the best arm has probability 1."""
        eta = 2 / math.sqrt(self.rounds + 1)
        scale = self.losses / self.rounds if self.losses > 0 else 1.0
        gap, below = (self.k - self.k.min()) / scale, 2 / eta
        for _ in range(30):
            w = 2 / (eta * (gap + below))
            change = (total(w * w) - 1) / (eta * total(w * w * w))
            if change <= 1e-14 * below:
                break
            below += change
        w = 2 / (eta * (gap + below))
        return np.asarray(w * w / total(w * w))

    def predict(self) -> float:
        """Draw an arm."""
        self.p = self.probabilities()
        self.arm = self.draws.arm(self.p)
        return float(self.arms[self.arm])

    def update(self, iterations: float) -> None:
        """Add an unbiased estimate of every arm's loss: 0 for those that were not drawn."""
        loss = max(iterations - 1, 0)
        self.k[self.arm] += loss / self.p[self.arm]
        self.losses, self.rounds = self.losses + loss, self.rounds + 1


class ContextualTsallisINF:
    """A Tsallis-INF for each of the equal bins of the interval of contexts."""

    def __init__(self, arms: Array, draws: Draws, bounds: tuple[float, float], bins: int) -> None:
        self.bounds, self.learners = bounds, [TsallisINF(arms, draws) for _ in range(bins)]

    def predict(self, context: float) -> float:
        """Draw from the learner of the context's bin."""
        low, high = self.bounds
        bins = len(self.learners)
        self.at = min(int((context - low) / (high - low) * bins), bins - 1)
        return self.learners[self.at].predict()

    def update(self, iterations: float) -> None:
        """Update that learner."""
        self.learners[self.at].update(iterations)


# ---- ChebCB ---------------------------------------------------------------------------------------------------------


class ChebCB:
    """Each arm's losses are fitted by Chebyshev polynomials of the context; arms with small fits are drawn most.

    All pairs (f, loss) of each arm are kept, and each fit uses all of them.
    """

    def __init__(self, arms: Array, draws: Draws, bounds: tuple[float, float], degree: int) -> None:
        self.arms, self.draws, self.bounds, self.terms = arms, draws, bounds, degree + 1
        self.features: list[list[Array]] = [[] for _ in arms]
        self.losses: list[list[float]] = [[] for _ in arms]
        self.theta, self.misfit = np.zeros((len(arms), self.terms)), np.zeros(len(arms))
        self.low, self.high, self.errors, self.rounds = math.inf, -math.inf, 0.0, 0

    def feature(self, context: float) -> Array:
        """T_0 .. T_degree of the context mapped to [-1, 1]."""
        low, high = self.bounds
        x = 2 * ((context - low) / (high - low)) - 1
        f = [1.0, x]
        while len(f) < self.terms:
            f.append(2 * x * f[-1] - f[-2])
        return np.array(f[: self.terms])

    def rate(self) -> float:
        """eta = 2 t sqrt(d t / (R - S + 2 alpha^2 t)): squared errors R of the predictions, S of the fits."""
        if self.rounds == 0:
            return 0.0
        m, t = self.terms, float(self.rounds)
        # Rounded, as the last bit of a logarithm differs between machines.
        alpha = round(math.pi + 2 / math.pi * math.log(2 * m + 1), 12) / (2 * (m + 1)) * (self.high - self.low)
        excess = max(self.errors - total(self.misfit), 0.0) + 2 * (alpha * alpha) * t
        return 2 * t * math.sqrt(len(self.arms) * t / excess) if excess > 0 else 0.0

    def probabilities(self, context: float) -> Array:
        """The inverse of the gap to the least prediction; the remaining probability goes to that arm."""
        f = self.feature(context)
        y = np.array([total(theta * f) for theta in self.theta])
        best = int(y.argmin())
        p = 1 / (len(y) + self.rate() * (y - y[best]))
        p[best] = 0
        p[best] = 1 - total(p)
        return np.asarray(p)

    def predict(self, context: float) -> float:
        """Draw an arm."""
        self.arm, self.f = self.draws.arm(self.probabilities(context)), self.feature(context)
        self.prediction = total(self.theta[self.arm] * self.f)
        return float(self.arms[self.arm])

    def update(self, iterations: float) -> None:
        """Fit the arm again, or all arms if the range of the losses, which bounds their box, has grown."""
        loss = max(iterations - 1, 0)
        self.features[self.arm].append(self.f)
        self.losses[self.arm].append(loss)
        self.errors += (self.prediction - loss) ** 2
        self.rounds += 1
        grows = loss < self.low or loss > self.high
        self.low, self.high = min(self.low, loss), max(self.high, loss)
        for arm, losses in enumerate(self.losses):
            if losses and (grows or arm == self.arm):
                self._fit(arm)

    def _fit(self, arm: int) -> None:
        f, y = np.array(self.features[arm]), np.array(self.losses[arm])
        limit = 2 * (self.high - self.low) / np.maximum(np.arange(self.terms), 1)
        limit[0] = self.high + 1
        self.theta[arm] = box_least_squares(f, y, limit)
        self.misfit[arm] = ((f @ self.theta[arm] - y) ** 2).sum()


def box_least_squares(f: Array, y: Array, limit: Array) -> Array:
    """The theta in the box |theta_j| <= limit_j that minimises ||f theta - y||^2 + RIDGE ||theta||^2.

    It is found by trying each choice of coefficients that are at a bound, and keeping the best feasible solution.
    """
    gram, moment = f.T @ f + RIDGE * np.eye(f.shape[1]), f.T @ y
    free = np.linalg.solve(gram, moment)
    if (np.abs(free) <= limit).all():
        return np.asarray(free)
    side = np.array(list(itertools.product([-1, 0, 1], repeat=len(limit))))
    rows = np.where(side[:, :, None] == 0, gram, np.eye(len(limit)))
    theta = np.linalg.solve(rows, np.where(side == 0, moment, side * limit)[:, :, None])[:, :, 0]
    theta = theta[(np.abs(theta) <= limit * (1 + 1e-9)).all(axis=1)]
    objective = np.einsum("ki,ij,kj->k", theta, gram, theta) - 2 * theta @ moment
    return np.asarray(theta[objective.argmin()])
