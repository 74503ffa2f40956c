"""Learners that choose omega for each system of a sequence, from the iteration counts of earlier systems."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ... import _core
from .._sweeps.vectors import count
from .base import MAX_BINS, Rng, Tuner, checked_bounds, share


class TsallisINF(Tuner):
    """p_i = 4 / (eta (k_i / scale - x))^2: a bandit that converges to the one best omega of a sequence of systems.

    k_i estimates the sum of (iterations - 1) that arm i would have had, eta = 2 / sqrt(t), scale is the mean, and x
    makes the probabilities sum to 1. With d arms and any t systems, the number of iterations exceeds that of the best
    single arm by about ``4 sqrt(d t)`` times the mean.

    Parameters
    ----------
    arms : (d,) float
        The omegas to choose from.
    rng : int, numpy.random.Generator or None
        A seed from 0 to 2**64 - 1, a numpy.random.Generator from which one is drawn, or None for a new seed in each
        tuner. The same seed and iterations give the same omegas on every machine.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    solve_sequence : Solves systems with its omegas.
    ContextualTsallisINF, ChebCB : For systems with a context.

    References
    ----------
    Khodak, Chow, Balcan and Talwalkar, Learning to Relax: Setting Solver Parameters Across a Sequence of Linear System
    Instances, ICLR 2024. Zimmert and Seldin, Tsallis-INF, JMLR 22, 2021.

    Examples
    --------
    >>> from fastiter.relax import TsallisINF
    >>> tuner = TsallisINF([1.0, 1.5, 1.9], rng=0)
    >>> for _ in range(1000):
    ...     omega = tuner.predict()
    ...     tuner.update({1.0: 90, 1.5: 30, 1.9: 60}[omega])
    >>> float(tuner.arms[tuner.probabilities().argmax()])
    1.5
    """

    def __init__(self, arms: npt.ArrayLike, *, rng: Rng = None) -> None:
        super().__init__(arms, rng)
        self._begin(1)

    def _begin(self, bins: int) -> None:
        d, own = len(self.arms), self._arrays
        own |= {"estimate": np.zeros((bins, d)), "total": np.zeros(bins), "rounds": np.zeros(bins, np.int64)}
        own |= {"chance": np.zeros(1), "pending": np.full(2, -1, np.int64)}
        self._connect()

    def _connect(self) -> None:
        names = ("estimate", "total", "rounds", "chance", "pending", "generator")
        self._learner = _core.relax.Tsallis(len(self.arms), *(self._arrays[name] for name in names))

    def _position(self, function: str, context: object) -> int:
        """Return 0 for every context: the argument only gives all tuners the same interface."""
        return 0

    def _limits(self) -> list[int]:
        return [len(self._arrays["total"]), len(self.arms)]


class ContextualTsallisINF(TsallisINF):
    """One :class:`TsallisINF` for each of ``bins`` equal bins of the interval of contexts.

    Parameters
    ----------
    arms : (d,) float
        The omegas to choose from.
    bounds : (float, float)
        (low, high), the bounds of all contexts; a context is a number that measures the difficulty of a system.
    bins : int
        The number of bins.
    rng : int, numpy.random.Generator or None
        As for :class:`TsallisINF`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    ChebCB : Learns from neighbouring contexts, too.
    solve_sequence : Solves systems with its omegas.

    References
    ----------
    As for :class:`TsallisINF`.

    Examples
    --------
    >>> from fastiter.relax import ContextualTsallisINF
    >>> tuner = ContextualTsallisINF([1.0, 1.9], bounds=(0.0, 1.0), bins=2, rng=0)
    >>> for t in range(1000):
    ...     context = t % 2
    ...     omega = tuner.predict(context)
    ...     tuner.update(20 if (omega == 1.9) == context else 50)
    >>> [float(tuner.arms[tuner.probabilities(context).argmax()]) for context in (0, 1)]
    [1.0, 1.9]
    """

    def __init__(self, arms: npt.ArrayLike, *, bounds: tuple[float, float], bins: int = 5, rng: Rng = None) -> None:
        Tuner.__init__(self, arms, rng)
        self._arrays["bounds"] = checked_bounds(self._name, bounds)
        self._low, self._high = self._arrays["bounds"].tolist()
        self._bins = count(self._name, "bins", bins, 1, MAX_BINS)
        self._begin(self._bins)

    def _position(self, function: str, context: object) -> int:
        at = share(f"{self._name}.{function}", context, self._low, self._high)
        return min(int(at * self._bins), self._bins - 1)


class ChebCB(Tuner):
    """theta_i: polynomials of the context that predict the iterations of each omega; good arms are drawn more often.

    For each arm, sum_j theta_ij T_j(context) is fitted to (iterations - 1) by least squares within the box that
    contains the Chebyshev coefficients of Lipschitz functions. An arm whose prediction exceeds the smallest by g is
    drawn with probability 1 / (d + eta g); eta grows with the accuracy of the predictions (SquareCB).

    Parameters
    ----------
    arms : (d,) float
        The omegas to choose from.
    bounds : (float, float)
        (low, high), the bounds of all contexts.
    degree : int
        Degree of the polynomials, from 0 to 64.
    rng : int, numpy.random.Generator or None
        As for :class:`TsallisINF`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    ContextualTsallisINF : Without a model of the contexts.
    solve_sequence : Solves systems with its omegas.

    References
    ----------
    Khodak, Chow, Balcan and Talwalkar, ICLR 2024. Foster and Rakhlin, Beyond UCB: Optimal and Efficient Contextual
    Bandits with Regression Oracles, ICML 2020.

    Examples
    --------
    >>> from fastiter.relax import ChebCB
    >>> tuner = ChebCB([1.0, 1.5, 1.9], bounds=(0.0, 1.0), rng=0)
    >>> for t in range(1000):
    ...     context = t % 101 / 100
    ...     omega = tuner.predict(context)
    ...     tuner.update(20 + 100 * abs(omega - 1 - context))
    >>> [float(tuner.arms[tuner.probabilities(context).argmax()]) for context in (0.1, 0.5, 0.8)]
    [1.0, 1.5, 1.9]
    """

    def __init__(self, arms: npt.ArrayLike, *, bounds: tuple[float, float], degree: int = 5, rng: Rng = None) -> None:
        super().__init__(arms, rng)
        degree = count(self._name, "degree", degree)
        if degree > 64:
            raise ValueError(f"{self._name}: degree must be at most 64, got {degree}")
        d, m, own = len(self.arms), degree + 1, self._arrays
        own["bounds"] = checked_bounds(self._name, bounds)
        self._low, self._high = own["bounds"].tolist()
        own |= {"gram": np.zeros((d, m, m)), "moment": np.zeros((d, m)), "square": np.zeros(d)}
        own |= {"theta": np.zeros((d, m)), "misfit": np.zeros(d), "feature": np.zeros(m), "numbers": np.zeros(4)}
        own |= {"rounds": np.zeros(1, np.int64), "pending": np.full(1, -1, np.int64)}
        self._connect()

    def _connect(self) -> None:
        d, m = self._arrays["theta"].shape
        # The last bit of a logarithm differs between machines; rounding to twelve decimals removes the difference.
        lebesgue = round(math.pi + 2 / math.pi * math.log(2 * m + 1), 12) / (2 * (m + 1))
        names = ("gram", "moment", "square", "theta", "misfit", "feature", "numbers", "rounds", "pending", "generator")
        self._learner = _core.relax.Chebyshev(d, m, lebesgue, *(self._arrays[name] for name in names))

    def _position(self, function: str, context: object) -> float:
        return 2 * share(f"{self._name}.{function}", context, self._low, self._high) - 1

    def _limits(self) -> list[int]:
        return [len(self.arms)]
