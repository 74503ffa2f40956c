"""Variance-reduced Halpern iteration for finite sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from ..._call.iterate import Callback, Limits
from ..._check import check_choice, count, positive, type_name
from ..._docs import documented
from .docs import PARTS
from .solve import InclusionSolution, Iterate, Point, Resolvent, checked_call, norm, point, solved

Variant = Literal["cocoercive", "lipschitz"]


@documented(PARTS)
def halpern_vr(
    components: Callable[[Any, Any], Any],
    resolvent: Resolvent,
    x0: Point,
    *,
    n: int,
    lipschitz: float,
    variant: Variant = "cocoercive",
    step: float | None = None,
    batch: int | None = None,
    probability: float | None = None,
    rng: np.random.Generator | int | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 100_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Point]:
    """0 in F(x) + G(x), F the mean of n components, by Halpern's iteration with estimates of F from a few of them.

    ``"cocoercive"``: x <- (I + t G)^-1 (w x0 + (1 - w) x - t E), w = 2 / (k + 4) at step k. The estimate E of F(x) is
    PAGE: F(x) itself with probability p, otherwise the last E plus the mean change of a random batch of components.

    ``"lipschitz"``: x <- w x0 + (1 - w) (I + s (F + G))^-1 x with w = 1 / (k + 2) and s = sqrt(n) / L; the resolvent
    is computed by extragradient steps with variance reduction, from a snapshot that is renewed with probability p,
    until its residual is a fraction, decreasing with k, of the outer one. This variant is for components that are not
    cocoercive, such as those of games.

    The residual, norm(x - (I + t G)^-1 (x - t F(x))) / t, is that of the last point at which the method itself
    evaluated all components, so it costs no further evaluation. The value is that point. ``evaluations`` counts
    components: n for F, 2 for each of a batch.

    Parameters
    ----------
    components : callable
        ``components(x, indices)`` returns the mean of F_i(x) over an int64 array of indices, in the shape and dtype of
        x; for None, the mean over all n.
    resolvent : callable
        ``resolvent(y, t)`` returns (I + t G)^-1 y, which is y if G is 0.
    %(x0)s
    n : int
        The number of components.
    lipschitz : float
        L: the root mean square of the components' Lipschitz constants, or an upper bound.
    variant : {"cocoercive", "lipschitz"}
        The iteration.
    step : float, optional
        t: for ``"cocoercive"`` by default 1 / L, with which it reached a residual on the reference problem three times
        as fast as with the theory's 1 / (4 L); for ``"lipschitz"`` 0.99 sqrt(p) / L.
    batch : int, optional
        The size of a batch, drawn with replacement, at most n: by default ceil(sqrt(n)) for ``"cocoercive"`` and 1 for
        ``"lipschitz"``, which needs the fewest evaluations; a larger batch takes fewer steps.
    probability : float, optional
        p, above 0 and at most 1, which is the deterministic method: by default 4 / (k + 5) up to k = sqrt(n) and
        constant from there for ``"cocoercive"``, and min(1, 2 batch / n) for ``"lipschitz"``.
    rng : numpy.random.Generator or int, optional
        The source of the indices, or a seed; the same seed gives the same result.
    %(limits)s

    %(returns)s

    %(raises)s

    See Also
    --------
    fastiter.fixedpoint.monotone.extragradient : Deterministic, for monotone Lipschitz operators.
    fastiter.fixedpoint.fixed_point : Halpern's iteration of any map, ``method="halpern"``.

    Notes
    -----
    For convex minimisation, plain gradient descent needs fewer evaluations: this method is for operators without a
    potential, and its residual is small at the last point, not only on average.

    References
    ----------
    Cai, Alacaoglu and Diakonikolas, "Variance reduced Halpern iteration for finite-sum monotone inclusions" (2024),
    https://arxiv.org/abs/2310.02987; Li et al., "PAGE: a simple and optimal probabilistic gradient estimator" (2021);
    Alacaoglu and Malitsky, "Stochastic variance reduction for variational inequality methods" (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import experimental
    >>> A = np.random.default_rng(0).standard_normal((400, 3))
    >>> b = A @ np.array([1.0, -2.0, 3.0])
    >>> def components(x, indices):
    ...     rows = slice(None) if indices is None else indices
    ...     return A[rows].T @ (A[rows] @ x - b[rows]) / len(b[rows])
    >>> found = experimental.halpern_vr(components, lambda y, t: y, np.zeros(3), n=400, lipschitz=4.0, rng=0, atol=1e-2)
    >>> bool(np.linalg.norm(components(found.value, None)) < 1e-2 + 1e-7), found.evaluations < 400 * found.steps
    (True, True)
    """
    function = "halpern_vr"
    check_choice(function, "variant", variant, ("cocoercive", "lipschitz"))
    n, bound = count(function, "n", n, 1), positive(function, "lipschitz", lipschitz, zero=False)
    usual = math.isqrt(n - 1) + 1 if variant == "cocoercive" else 1
    b = usual if batch is None else count(function, "batch", batch, 1, n)
    p = None if probability is None else _probability(function, probability)
    t = None if step is None else positive(function, "step", step, zero=False)
    first = point(function, "x0", x0)
    oracle = _Oracle(function, components, first, n, b, _generator(function, rng))
    J = checked_call(function, "resolvent", resolvent, first)
    limits = Limits(rtol, atol, max_steps, callback, throw)
    if variant == "cocoercive":
        iterates = _cocoercive(oracle, J, first, 1 / bound if t is None else t, p)
        return solved(function, iterates, limits, first.dtype)
    p = min(1.0, 2 * b / n) if p is None else p
    t = 0.99 * math.sqrt(p) / bound if t is None else t
    return solved(function, _lipschitz(oracle, J, first, t, p, math.sqrt(n) / bound), limits, first.dtype)


def _probability(function: str, p: Any) -> float:
    value = positive(function, "probability", p, zero=False)
    if value > 1:
        raise ValueError(f"{function}: probability must be at most 1, got {value:g}")
    return value


def _generator(function: str, rng: Any) -> np.random.Generator:
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    return np.random.default_rng(count(function, "rng", rng))


class _Oracle:
    """The components, counted."""

    def __init__(self, function: str, components: Any, x0: Any, n: int, batch: int, rng: np.random.Generator) -> None:
        if not callable(components) or isinstance(components, type):
            raise TypeError(f"{function}: components must be callable and no class, got {type_name(components)}")
        self._mean = checked_call(function, "components", components, x0)
        self._n, self._batch, self.rng = n, batch, rng
        self.evaluations = 0

    def full(self, x: Any) -> Any:
        """Return F(x)."""
        self.evaluations += self._n
        return self._mean(x, None)

    def change(self, x: Any, y: Any) -> Any:
        """Return the mean of F_i(x) - F_i(y) over a new batch."""
        indices = self.rng.integers(self._n, size=self._batch)
        self.evaluations += 2 * self._batch
        return self._mean(x, indices) - self._mean(y, indices)

    def chance(self, p: float) -> bool:
        """Return True with probability p, without a draw if that is certain."""
        return p >= 1 or bool(self.rng.random() < p)

    @property
    def root(self) -> float:
        """The square root of n."""
        return math.sqrt(self._n)


def _natural(J: Resolvent, x: Any, Fx: Any, t: float) -> float:
    """Return norm(x - (I + t G)^-1 (x - t F(x))) / t."""
    return norm(x - J(x - t * Fx, t)) / t


def _cocoercive(oracle: _Oracle, J: Resolvent, x0: Any, t: float, p: float | None) -> Iterator[Iterate]:
    x, estimate, k = x0, oracle.full(x0), 0
    value, residual = x, _natural(J, x, estimate, t)
    while True:
        yield Iterate(value, residual, norm(value), oracle.evaluations, t)
        weight = 2 / (k + 4)
        to = J(weight * x0 + (1 - weight) * x - t * estimate, t)
        k += 1
        if oracle.chance(4 / (min(float(k), oracle.root) + 5) if p is None else p):
            estimate = oracle.full(to)
            value, residual = to, _natural(J, to, estimate, t)
        else:
            estimate = estimate + oracle.change(to, x)
        x = to


_PART = 0.5  # maximum of the inner residual, as a multiple of the outer one / (k + 2)
_MAX_INNER = 10_000_000  # maximum number of inner steps per outer step


def _lipschitz(oracle: _Oracle, J: Resolvent, x0: Any, t: float, p: float, s: float) -> Iterator[Iterate]:
    """Take outer steps with the resolvent of s (F + G) at u, the zero of F + G + (I - u) / s.

    The last term joins G: (I + t (G + (I - u) / s))^-1 y = (I + r G)^-1 ((y + t u / s) / (1 + t / s)), r = t / (1 + t
    / s).
    """
    shrink = 1 / (1 + t / s)
    u, k = x0, 0
    snapshot, Fw = x0, oracle.full(x0)
    value, residual = snapshot, _natural(J, snapshot, Fw, t)
    while True:

        def inner(y: Any, u: Any = u) -> Any:
            return J((y + (t / s) * u) * shrink, t * shrink)

        z = snapshot
        for _ in range(_MAX_INNER):
            yield Iterate(value, residual, norm(value), oracle.evaluations, t)
            middle = (1 - p) * z + p * snapshot
            half = inner(middle - t * Fw)
            z = inner(middle - t * (Fw + oracle.change(half, snapshot)))
            if not oracle.chance(p):
                continue
            snapshot, Fw = z, oracle.full(z)
            value, residual = snapshot, _natural(J, snapshot, Fw, t)
            left = norm(snapshot - inner(snapshot - t * Fw)) / t
            if not left > _PART * norm(u - snapshot) / (s * (k + 2)):
                break
        weight = 1 / (k + 2)
        u = weight * x0 + (1 - weight) * snapshot
        k += 1
