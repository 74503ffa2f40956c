"""Maps of EM algorithms with a domain, outside of which they are NaN, and textbook SQUAREM to count evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Map = Callable[[Array], Array]


class EM(NamedTuple):
    """A map, its domain as a predicate, the start and the tolerance."""

    step: Map
    domain: Callable[[Array], bool]
    start: Array
    rtol: float = 1e-8

    def f(self, x: Array) -> Array:
        """Return the map's value, NaN outside of its domain."""
        return self.step(x) if self.domain(x) else np.full_like(x, np.nan)


def deconvolution(seed: int) -> EM:
    """Richardson and Lucy's iteration for Poisson counts blurred by a Gaussian."""
    rng, n = np.random.default_rng(seed), 60
    t = np.arange(n)
    K = np.exp(-0.5 * ((t[:, None] - t) / 2.5) ** 2)
    K /= K.sum(axis=0)
    truth = np.ones(n)
    truth[rng.integers(0, n, 6)] += rng.uniform(50, 400, 6)
    y = rng.poisson(K @ truth).astype(float)
    return EM(lambda x: x * (K.T @ (y / (K @ x))), lambda x: bool((x >= 0).all()), np.full(n, y.mean()), 1e-4)


def gaussians(seed: int) -> EM:
    """Two Gaussians that overlap: weight, means and standard deviations."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([rng.normal(0, 1, 150), rng.normal(2.0, 1.2, 150)])

    def step(p: Array) -> Array:
        w, m1, m2, s1, s2 = p
        a, b = w * np.exp(-0.5 * ((y - m1) / s1) ** 2) / s1, (1 - w) * np.exp(-0.5 * ((y - m2) / s2) ** 2) / s2
        parts = np.stack([a, b]) / (a + b)
        size = parts.sum(axis=1)
        m = parts @ y / size
        return np.array([size[0] / len(y), *m, *np.sqrt((parts * (y - m[:, None]) ** 2).sum(axis=1) / size)])

    return EM(step, lambda p: bool(0 < p[0] < 1 and p[3] > 0 and p[4] > 0), np.array([0.4, -0.5, 2.5, 1.0, 1.0]))


def poissons(seed: int) -> EM:
    """Two Poisson distributions fitted to Hasselblad's counts of deaths."""
    counts = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1.0])
    i, rng = np.arange(10.0), np.random.default_rng(seed)

    def step(t: Array) -> Array:
        p, a, b = t
        u, v = p * np.exp(-a) * a**i, (1 - p) * np.exp(-b) * b**i
        r = counts * u / (u + v)
        return np.array(
            [r.sum() / counts.sum(), (r * i).sum() / r.sum(), ((counts - r) * i).sum() / (counts - r).sum()]
        )

    start = np.array([0.1, 1.0, 2.5]) + rng.random(3) * [0.5, 0.5, 1.0]
    return EM(step, lambda t: bool(0 < t[0] < 1 and (t > 0).all()), start)


def binomials(seed: int) -> EM:
    """Two binomial distributions of ten trials."""
    rng, m = np.random.default_rng(seed), 10
    y = rng.binomial(m, np.where(rng.random(300) < 0.4, 0.35, 0.55)).astype(float)

    def step(t: Array) -> Array:
        p, a, b = t
        u, v = p * a**y * (1 - a) ** (m - y), (1 - p) * b**y * (1 - b) ** (m - y)
        r = u / (u + v)
        return np.array([r.mean(), (r * y).sum() / (m * r.sum()), ((1 - r) * y).sum() / (m * (1 - r).sum())])

    return EM(step, lambda t: bool(((t > 0) & (t < 1)).all()), np.array([0.3, 0.2, 0.7]))


def weights(seed: int) -> EM:
    """The weights of known distributions: a multinomial with missing data."""
    rng, k = np.random.default_rng(seed), 5
    mu = np.linspace(0, 3.5, k)
    L = np.exp(-0.5 * (rng.normal(mu[rng.choice(k, 300, p=rng.dirichlet(np.ones(k)))], 1)[:, None] - mu) ** 2)

    def step(w: Array) -> Array:
        r = L * w
        return np.asarray((r / r.sum(axis=1, keepdims=True)).mean(axis=0))

    return EM(step, lambda w: bool((w >= 0).all()), np.full(k, 1 / k))


def cauchy(seed: int) -> EM:
    """Location and scatter of a multivariate t distribution of one degree of freedom."""
    rng, p = np.random.default_rng(seed), 4
    y = rng.standard_t(1, size=(60, p)) @ (np.eye(p) + 0.5 * np.tri(p, k=-1))
    lower = np.tril_indices(p)

    def scatter(t: Array) -> Array:
        S = np.zeros((p, p))
        S[lower] = t[p:]
        return S + np.tril(S, -1).T

    def step(t: Array) -> Array:
        d = y - t[:p]
        w = (1 + p) / (1 + np.einsum("ij,ij->i", d @ np.linalg.inv(scatter(t)), d))
        m = w @ y / w.sum()
        return np.concatenate([m, ((w[:, None] * (y - m)).T @ (y - m) / len(y))[lower]])

    start = np.concatenate([y.mean(axis=0), np.cov(y.T)[lower]])
    return EM(step, lambda t: bool(np.linalg.eigvalsh(scatter(t))[0] > 0), start)


PROBLEMS = (deconvolution, gaussians, poissons, binomials, weights, cauchy)


def has_converged(x: Array, value: Array, rtol: float) -> bool:
    return bool(np.linalg.norm(value - x) <= rtol * np.linalg.norm(value))


def plain(em: EM, most: int = 20_000) -> tuple[Array, int]:
    """Return the fixed point by x <- f(x), and its evaluations."""
    x, count = em.start, 0
    while count < most:
        value, count = em.f(x), count + 1
        if has_converged(x, value, em.rtol):
            break
        x = value
    return x, count


def textbook(em: EM, most: int = 20_000) -> tuple[Array, int]:
    """Return the fixed point by SQUAREM with the step length S3 [Varadhan and Roland 2008], and its evaluations.

    The largest step is 1 at first; it grows by 4 when it is taken, and shrinks by 4 when the map is NaN there.
    """
    x, count, largest = em.start, 0, 1.0
    while count < most:
        x1, count = em.f(x), count + 1
        if has_converged(x, x1, em.rtol):
            return x, count
        x2, count = em.f(x1), count + 1
        if has_converged(x1, x2, em.rtol):
            return x1, count
        r, v = x1 - x, x2 - 2 * x1 + x
        alpha = min(max(np.linalg.norm(r) / np.linalg.norm(v), 1.0), largest)
        new = x + 2 * alpha * r + alpha**2 * v
        if abs(alpha - 1) > 0.01:
            new, count = em.f(new), count + 1
            if not np.isfinite(new).all():
                new = x2
                if alpha == largest:
                    largest = max(1.0, largest / 4)
                alpha = 1.0
        if alpha == largest:
            largest *= 4
        x = new
    return x, count
