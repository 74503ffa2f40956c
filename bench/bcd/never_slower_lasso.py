"""Shapes of Lasso, ElasticNet and lasso_path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.bcd.never_slower import Pair, Shape
from bench.harness.peers import load
from fastiter import bcd


class Data(NamedTuple):
    """A problem and the weights of its penalties."""

    X: Any
    y: Any
    alphas: Any
    l1_ratio: float = 1.0
    intercept: bool = True
    positive: bool = False


def normal(n: int, m: int, active: int, rng: Any, density: float = 1.0, correlation: float = 0.0) -> tuple[Any, Any]:
    """Return normal data, and targets with as much signal as noise from `active` columns."""
    X: Any
    if density == 1:
        X = rng.standard_normal((n, m))
        for j in range(1, m if correlation else 0):
            X[:, j] = correlation * X[:, j - 1] + np.sqrt(1 - correlation**2) * X[:, j]
    else:
        import scipy.sparse as sp

        X = sp.csc_array(sp.random_array((n, m), density=density, rng=rng, data_sampler=rng.standard_normal))
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    w = np.zeros(m)
    w[rng.choice(m, active, replace=False)] = rng.standard_normal(active)
    signal = X @ w
    return X, signal + rng.standard_normal(n) * np.linalg.norm(signal) / np.sqrt(n)


def centred(X: Any, intercept: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the products with X, and with its transpose, after centring."""
    if not intercept:
        return lambda w: X @ w, lambda u: X.T @ u
    means = np.asarray(X.mean(axis=0, dtype=np.float64)).ravel()
    return lambda w: X @ w - means @ w, lambda u: X.T @ u - means * u.sum()


def gap(data: Data, alpha: float, w: Any) -> float:
    """Return the duality gap relative to half the squares of the centred targets, in float64."""
    ahead, back = centred(data.X, data.intercept)
    w = np.asarray(w, np.float64).ravel()
    y = np.asarray(data.y, np.float64)
    y = y - y.mean() if data.intercept else y
    l1, l2 = len(y) * alpha * data.l1_ratio, len(y) * alpha * (1 - data.l1_ratio)
    u = ahead(w) - y
    g = back(u)
    objective = u @ u / 2 + l1 * abs(w).sum() + l2 / 2 * w @ w
    gaps = []
    if l2 > 0:  # the dual with l2 as a penalty; below, l2 as additional rows
        rising = np.maximum((-g if data.positive else abs(g)) - l1, 0)
        gaps.append(objective + u @ u / 2 + u @ y + rising @ rising / (2 * l2))
    slope = g + l2 * w
    scale = min(1.0, l1 / max((-slope if data.positive else abs(slope)).max(), 1e-300))
    gaps.append(objective + scale**2 * (u @ u + l2 * w @ w) / 2 + scale * (u @ y))
    return float(min(gaps) / (y @ y / 2))


def pair(make: Callable[[Any], Data]) -> Pair:
    """Fit both estimators, or follow both paths if there are several alphas."""
    data = make(np.random.default_rng(0))
    linear: Any = load("sklearn.linear_model")
    options: dict[str, Any] = {"fit_intercept": data.intercept, "positive": data.positive}
    name = "Lasso" if data.l1_ratio == 1 else "ElasticNet"
    if data.l1_ratio != 1:
        options["l1_ratio"] = data.l1_ratio
    n, alphas = len(data.y), np.atleast_1d(data.alphas)
    largest = np.abs(centred(data.X, data.intercept)[1](data.y - data.intercept * data.y.mean())).max()
    alphas = np.asarray(alphas * largest / (n * data.l1_ratio), np.float64)
    if len(alphas) == 1:
        alpha = float(alphas[0])
        ours = lambda: getattr(bcd, name)(alpha, **options).fit(data.X, data.y).coef_  # noqa: E731
        peer = lambda: getattr(linear, name)(alpha, **options).fit(data.X, data.y).coef_  # noqa: E731
        return Pair(ours, peer, lambda w: gap(data, alpha, w), 1.01e-6)
    ours = lambda: bcd.lasso_path(data.X, data.y, n * alphas).value  # noqa: E731
    peer = lambda: linear.lasso_path(data.X, data.y, alphas=alphas)[1].T  # noqa: E731
    return Pair(ours, peer, lambda rows: max(map(partial(gap, data), alphas, rows)), 1.01e-6)


def drawn(n: int, m: int, active: int, share: Any, **options: Any) -> Callable[[Any], Data]:
    """Normal data at a share of the largest useful alpha."""
    kinds = {name: options.pop(name) for name in ("l1_ratio", "intercept", "positive") if name in options}
    dtype, order = options.pop("dtype", np.float64), options.pop("order", "C")

    def make(rng: Any) -> Data:
        X, y = normal(n, m, active, rng, **options)
        X = X.astype(dtype) if hasattr(X, "tocsc") else np.asarray(X, dtype, order)
        return Data(X, y.astype(dtype), share, **kinds)

    return make


def identity(n: int, share: float, shift: float = 0.0) -> Callable[[Any], Data]:
    """Unit columns, with a second entry `shift` in the next row."""

    def make(rng: Any) -> Data:
        import scipy.sparse as sp

        X = sp.csc_array(sp.diags_array([np.ones(n), np.full(n - 1, shift)], offsets=[0, -1], shape=(n, n)))
        X.eliminate_zeros()
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
        return Data(X, 1 + rng.random(n), share, intercept=False)

    return make


def positive_entries(n: int, m: int, density: float, share: float) -> Callable[[Any], Data]:
    def make(rng: Any) -> Data:
        X, _ = normal(n, m, 1, rng, density)
        X.data = np.abs(X.data)
        w = np.where(rng.random(m) < 0.05, rng.standard_normal(m), 0.0)
        return Data(X, X @ w + rng.standard_normal(n), share)

    return make


def _shape(name: str, make: Callable[[Any], Data], **marks: bool) -> Shape:
    return Shape(name, partial(pair, make), **marks)


_PATH = np.geomspace(1, 0.01, 30)
_LONG = np.geomspace(1, 0.001, 30)

SHAPES = [
    _shape("tiny 20 x 5", drawn(20, 5, 2, 0.1), is_quick=True),
    _shape("tiny 20 x 5, no intercept", drawn(20, 5, 2, 0.01, intercept=False), is_quick=True),
    _shape("tiny 20 x 5, sparse", drawn(20, 5, 2, 0.1, density=0.5), is_quick=True),
    _shape("tiny 30 x 100", drawn(30, 100, 5, 0.1)),
    _shape("small 200 x 50", drawn(200, 50, 5, 0.1)),
    _shape("small 200 x 50, .001", drawn(200, 50, 50, 0.001)),
    _shape("small 200 x 50, float32", drawn(200, 50, 5, 0.01, dtype=np.float32)),
    _shape("small 100 x 1000", drawn(100, 1000, 10, 0.1)),
    _shape("small 100 x 1000, .001", drawn(100, 1000, 10, 0.001)),
    _shape("tall 20,000 x 100", drawn(20_000, 100, 10, 0.1)),
    _shape("tall 20,000 x 100, Fortran", drawn(20_000, 100, 10, 0.1, order="F")),
    _shape("tall 20,000 x 100, float32", drawn(20_000, 100, 100, 0.001, dtype=np.float32)),
    _shape("tall 20,000 x 1000, .01", drawn(20_000, 1000, 1000, 0.01), is_large=True),
    _shape("tall 20,000 x 1000, .0001", drawn(20_000, 1000, 1000, 0.0001), is_large=True),
    _shape("square 1000 x 1000", drawn(1000, 1000, 50, 0.05)),
    _shape("square 1000 x 1000, positive", drawn(1000, 1000, 50, 0.05, positive=True)),
    _shape("square 1000 x 1000, float32", drawn(1000, 1000, 50, 0.02, dtype=np.float32)),
    _shape("wide 500 x 10,000", drawn(500, 10_000, 50, 0.1), is_large=True),
    _shape("wide 500 x 10,000, no intercept", drawn(500, 10_000, 50, 0.02, intercept=False)),
    _shape("wide 500 x 10,000, positive", drawn(500, 10_000, 50, 0.05, positive=True)),
    _shape("wide 500 x 10,000, float32", drawn(500, 10_000, 50, 0.05, dtype=np.float32)),
    _shape("correlated .95, 500 x 2000", drawn(500, 2000, 30, 0.02, correlation=0.95)),
    _shape("correlated .99, 2000 x 300", drawn(2000, 300, 300, 0.002, correlation=0.99)),
    _shape("elastic net .1, 1000 x 2000", drawn(1000, 2000, 50, 0.05, l1_ratio=0.1)),
    _shape("elastic net .5, 1000 x 2000", drawn(1000, 2000, 50, 0.05, l1_ratio=0.5)),
    _shape("elastic net .9, 1000 x 2000", drawn(1000, 2000, 50, 0.05, l1_ratio=0.9)),
    _shape("elastic net .5, 20,000 x 200", drawn(20_000, 200, 200, 0.001, l1_ratio=0.5)),
    _shape("elastic net .5, sparse 10,000 x 20,000", drawn(10_000, 20_000, 200, 0.01, density=1e-3, l1_ratio=0.5)),
    _shape("identity 6000", identity(6000, 5e-4)),
    _shape("identity 60,000", identity(60_000, 1e-9), is_large=True),
    _shape("two diagonals 60,000", identity(60_000, 0.01, 0.3), is_large=True),
    _shape("sparse 40,000 x 5000, .001", drawn(40_000, 5000, 5000, 0.001, density=0.002, intercept=False)),
    _shape("sparse 40,000 x 20,000, .001", drawn(40_000, 20_000, 5000, 0.001, density=0.002), is_large=True),
    _shape("sparse 20,000 x 100,000, .1", drawn(20_000, 100_000, 100, 0.1, density=1e-3), is_large=True),
    _shape("sparse 20,000 x 100,000, float32", drawn(20_000, 100_000, 100, 0.1, density=1e-3, dtype=np.float32)),
    _shape("sparse 500 x 5000, intercept, .001", drawn(500, 5000, 50, 0.001, density=0.01)),
    _shape("positive entries 2000 x 5000", positive_entries(2000, 5000, 0.01, 0.05)),
    _shape("path, 1000 x 2000", drawn(1000, 2000, 50, _PATH, intercept=False)),
    _shape("path, 5000 x 200", drawn(5000, 200, 50, _PATH, intercept=False)),
    _shape("path, sparse 5000 x 5000", drawn(5000, 5000, 100, _LONG, density=2e-3, intercept=False)),
]
