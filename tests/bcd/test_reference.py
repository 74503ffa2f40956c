"""The specification against numerical derivatives and SciPy; the documented equivalents of SciPy and LIBLINEAR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize

from fastiter.bcd import LeastSquares, Logistic, bcd, lasso_path, nnls, reference
from tests.bcd.cases import LOSSES, PAIRS, PARTS, data, specified

EPS = float(np.finfo(np.float64).eps)


def derivative(f: Any, x: Any, h: float) -> Any:
    return np.array([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))])


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives(loss: str) -> None:
    p = specified(loss, *data(7, 3), l2=0.5)
    x = np.random.default_rng(1).standard_normal(len(p.l1))
    h = EPS ** (1 / 3)
    scale = abs(reference.objective(p, x)) + np.abs(reference.hessian(p)).sum()
    assert np.allclose(
        derivative(lambda y: reference.objective(p, y), x, h), reference.gradient(p, x), 0, h * h * 10 * scale
    )
    assert np.allclose(
        derivative(lambda y: reference.gradient(p, y), x, h), reference.hessian(p, x), 0, h * h * 10 * scale
    )
    apart = np.linalg.eigvalsh(reference.hessian(p) - reference.hessian(p, x))
    assert apart.min() >= -1e2 * EPS * scale
    assert (reference.curvature(p) >= np.diag(reference.hessian(p, x)) * (1 - 8 * EPS)).all()


@pytest.mark.parametrize(("loss", "parts", "update"), PAIRS)
def test_minimum_is_that_of_scipy(loss: str, parts: str, update: str) -> None:
    """For L-BFGS-B, l1 is the sum of the two parts of x = u - v, u and v >= 0."""
    p = specified(loss, *data(9, 3), **PARTS[parts])
    m = len(p.l1)

    def halves(w: Any) -> tuple[float, Any]:
        x = w[:m] - w[m:]
        g = reference.gradient(p, x)
        plain = reference.objective(p._replace(l1=0 * p.l1), x)
        return plain + p.l1 @ (w[:m] + w[m:]), np.concatenate([g + p.l1, p.l1 - g])

    bounds = [(0, max(hi, 0)) for hi in p.upper] + [(0, max(-lo, 0)) for lo in p.lower]
    best = optimize.minimize(
        halves, np.zeros(2 * m), jac=True, bounds=bounds, options={"ftol": 0, "gtol": 1e-9, "maxiter": 5000}
    )
    blocks = [np.arange(m)[k::2] for k in range(2)]
    found = reference.descend(p, np.zeros(m), lambda x, step: blocks[step % 2], update, 40)
    values = [reference.objective(p, x) for x in found]
    assert (np.diff(values) <= 8 * EPS * max(map(abs, values))).all()
    assert values[-1] >= best.fun - 1e-9 * abs(best.fun)
    if update == "newton" or (update == "matrix" and loss in ("squares", "quadratic")):  # others are slow
        assert abs(reference.least_subgradient(p, found[-1])).max() < 1e-4
        assert values[-1] - best.fun < 1e-7 * max(1, abs(best.fun))


def test_equivalents_of_scipy() -> None:
    """docs/bcd: how SciPy's calls are written."""
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((40, 12)), rng.standard_normal(40)
    x, norm = optimize.nnls(A, b)
    found = nnls(A, b)
    assert np.allclose(found.value, x, 0, 1e-6) and (2 * found.objective) ** 0.5 == pytest.approx(norm, rel=1e-9)
    lower, upper = np.full(12, -0.05), np.full(12, 0.1)
    x = optimize.lsq_linear(A, b, (lower, upper), tol=1e-13).x
    assert np.allclose(bcd(LeastSquares(A, b, lower=lower, upper=upper)).value, x, 0, 1e-6)


@pytest.mark.parametrize("C", [0.3, 2.0])
def test_equivalents_of_scikit_learn_and_liblinear(C: float) -> None:
    linear: Any = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((40, 12)), rng.standard_normal(40)
    y = np.where(A[:, 0] + b > 0, 1.0, -1.0)
    how: Any = {"solver": "liblinear", "l1_ratio": 1.0, "fit_intercept": False, "tol": 1e-10, "max_iter": 10_000}
    x = linear.LogisticRegression(C=C, **how).fit(A, y).coef_[0]
    assert np.allclose(bcd(Logistic(A, y, weights=np.full(40, C), l1=1.0)).value, x, 0, 1e-5)
    assert np.allclose(bcd(Logistic(A, y, l1=1 / C)).value, x, 0, 1e-5)
    alphas, coefs, _ = linear.lasso_path(A, b, alphas=C * np.array([0.1, 0.02]), tol=1e-10)
    path = lasso_path(A, b, 40 * alphas)
    assert np.allclose(path.l1, 40 * alphas) and np.allclose(path.value.T, coefs, 0, 1e-5)
