"""Shapes of LogisticRegression, each to the gradient of scikit-learn's default tolerance and to that of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.bcd.never_slower import Pair, Shape
from bench.harness.peers import load
from fastiter.bcd import LogisticRegression

#: The default tolerances: ours is a fraction of the gradient at 0, scikit-learn's one of the average sample's gradient
OURS, THEIRS = 1e-6, 1e-4
MANY = 20_000


class Data(NamedTuple):
    """Samples, their classes, and the estimator's options."""

    X: Any
    y: Any
    C: float
    intercept: bool = True


def drawn(n: int, m: int, classes: int, C: float = 1.0, **options: Any) -> Callable[[], Data]:
    """Classes by a linear model with noise: columns may have large means, many units or few entries."""
    noise, offset, units = options.get("noise", 1.5), options.get("offset", 0.0), options.get("units", 0.0)
    density, dtype = options.get("density", 1.0), options.get("dtype", np.float64)

    def make() -> Data:
        rng = np.random.default_rng(0)
        X: Any
        if density < 1:
            import scipy.sparse as sp

            X = sp.csr_array(sp.random_array((n, m), density=density, rng=rng, data_sampler=rng.standard_normal))
            X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
        else:
            X = rng.standard_normal((n, m))
        scores = X @ rng.standard_normal((m, classes)) * 3 / np.sqrt(m * density)
        y = (scores + noise * rng.gumbel(size=(n, classes))).argmax(axis=1)
        if density == 1:
            X = (X * 10 ** rng.uniform(-units, units, m) + offset * rng.uniform(-1, 1, m)).astype(dtype)
        return Data(X, y, C, options.get("intercept", True))

    return make


def digits(count: int) -> Callable[[], Data]:
    def make() -> Data:
        X, y = load("sklearn.datasets").load_digits(return_X_y=True)
        return Data(X[:count] / 16, y[:count], 1.0)

    return make


def slopes(data: Data, coefficients: Any, intercepts: Any, penalty: str) -> Any:
    """Return the minimum-norm subgradient by coefficients of centred columns and their intercepts, in float64."""
    X, n, classes = data.X.astype(np.float64), len(data.y), int(data.y.max()) + 1
    w = np.asarray(coefficients, np.float64).T
    z = X @ w + intercepts
    if classes == 2:
        u = 1 / (1 + np.exp(-z)) - data.y[:, None]
    else:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        u = e / e.sum(axis=1, keepdims=True) - (data.y[:, None] == np.arange(classes))
    sums = u.sum(axis=0)
    means = np.asarray(X.sum(axis=0)).ravel() / n if data.intercept else np.zeros(len(w))
    g = X.T @ u - means[:, None] * sums
    if penalty == "l2":
        g = g + w / data.C
    else:
        at_zero = np.sign(g) * np.maximum(abs(g) - 1 / data.C, 0)
        g = np.where(w == 0, at_zero, g + np.sign(w) / data.C)
    return np.vstack([g, sums]) if data.intercept else g


def pair(make: Callable[[], Data], penalty: str, tight: bool) -> Pair:
    """Fit both estimators to gradients of one size; saga and LIBLINEAR, whose tolerances differ, as constructed."""
    data = make()
    classes, linear = int(data.y.max()) + 1, load("sklearn.linear_model")
    rows = 1 if classes == 2 else classes
    zero = np.zeros((rows, data.X.shape[1]))
    scale = float(abs(slopes(data, zero, np.zeros(rows), "l2")).max())
    tol = OURS if tight else THEIRS * len(data.y) / scale
    options: dict[str, Any] = {"C": data.C, "fit_intercept": data.intercept, "max_iter": MANY}
    peers: dict[str, Any] = {"tol": tol * scale / len(data.y)}
    if penalty == "l1":
        peers = {"l1_ratio": 1.0, "solver": "liblinear" if classes == 2 else "saga"}
        if classes > 2:
            options["max_iter"] = 1000
    ours = LogisticRegression(penalty, tol=tol, **options)
    peer = linear.LogisticRegression(**options, **peers)

    def fitted(model: Any) -> Callable[[], Any]:
        def fit() -> Any:
            solution = model.fit(data.X, data.y)
            return solution.coef_, solution.intercept_

        return fit

    def error(solution: Any) -> float:
        return float(abs(slopes(data, *solution, penalty)).max()) / scale

    return Pair(fitted(ours), fitted(peer), error, 1.01 * tol + 64 * np.finfo(data.X.dtype).eps)


CASES: tuple[tuple[str, Callable[[], Data]], ...] = (
    ("digits 500 x 64, 10 classes", digits(500)),
    ("100 x 200, 3 classes", drawn(100, 200, 3)),
    ("40 x 600, 5 classes", drawn(40, 600, 5)),
    ("40 x 600, 5 classes, means 100", drawn(40, 600, 5, offset=100)),
    ("300 x 1000, 10 classes", drawn(300, 1000, 10)),
    ("1000 x 20, 2 classes", drawn(1000, 20, 2)),
    ("20,000 x 50, 2 classes", drawn(20_000, 50, 2)),
    ("20,000 x 20, 5 classes", drawn(20_000, 20, 5)),
    ("2000 x 500, 2 classes", drawn(2000, 500, 2)),
    ("2000 x 500, 2 classes, float32", drawn(2000, 500, 2, dtype=np.float32)),
    ("200 x 20, 2 classes, separable, C 1000", drawn(200, 20, 2, 1e3, noise=0.03)),
    ("500 x 30, 3 classes, C 0.001", drawn(500, 30, 3, 1e-3)),
    ("500 x 30, 3 classes, units 0.01 to 100", drawn(500, 30, 3, 10.0, units=2.0)),
    ("sparse 5000 x 20,000, 2 classes", drawn(5000, 20_000, 2, density=0.003)),
    ("sparse 5000 x 5000, 4 classes", drawn(5000, 5000, 4, density=0.005)),
    ("sparse 20,000 x 1000, 3 classes, C 10", drawn(20_000, 1000, 3, 10.0, density=0.01)),
)
SPARSE: tuple[tuple[str, Callable[[], Data]], ...] = (
    ("20,000 x 50, 2 classes", drawn(20_000, 50, 2, intercept=False)),
    ("1000 x 100, 2 classes, C 1000", drawn(1000, 100, 2, 1e3, intercept=False)),
    ("500 x 5000, 2 classes, C 0.1", drawn(500, 5000, 2, 0.1, intercept=False)),
    ("sparse 5000 x 20,000, 2 classes", drawn(5000, 20_000, 2, density=0.003, intercept=False)),
    ("100 x 200, 3 classes", drawn(100, 200, 3)),
    ("20,000 x 20, 5 classes", drawn(20_000, 20, 5)),
    ("500 x 30, 3 classes, C 0.001", drawn(500, 30, 3, 1e-3)),
)
SHAPES = [
    Shape(
        f"logistic l2, {name}, tol {tol}",
        lambda make=make, tight=tight: pair(make, "l2", tight),
        is_quick=name[0] == "1",
    )  # type: ignore[misc]
    for name, make in CASES
    for tol, tight in (("of scikit-learn", False), ("1e-6", True))
]
SHAPES += [
    Shape(f"logistic l1, {name}", lambda make=make: pair(make, "l1", True))  # type: ignore[misc]
    for name, make in SPARSE
]
