"""The correspondences of docs/coming_from/fixed_points.md: iterates, stopping tests and counts of SciPy and jaxopt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.fixedpoint import fixed_point

optimize = pytest.importorskip("scipy.optimize")
pytestmark = pytest.mark.filterwarnings("ignore::fastiter.ConvergenceWarning", "ignore::DeprecationWarning")


def affine(n: int) -> tuple[Any, Any]:
    """Return a contraction and its vector; the eigenvalues spread, so that the differences are independent."""
    rng = np.random.default_rng(n)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (Q * np.linspace(-0.5, 0.8, n)) @ Q.T, rng.normal(size=n)


@pytest.mark.parametrize(("w0", "alpha"), [(0.01, 1.0), (0.1, 1.0), (0.1, 0.6)])
def test_iterates_of_scipys_anderson(w0: float, alpha: float) -> None:
    """M is m, alpha is damping, and w0 the root of the ridge."""
    M, b = affine(12)
    for steps in (1, 3, 6, 9):
        theirs = optimize.anderson(
            lambda x: M @ x + b - x, np.zeros(12), M=5, alpha=alpha, w0=w0, iter=steps, line_search=None
        )
        ours = fixed_point(
            lambda x: M @ x + b,
            np.zeros(12),
            m=5,
            damping=alpha,
            ridge=w0**2,
            batched=False,
            rtol=0.0,
            max_steps=steps,
        )
        np.testing.assert_allclose(ours.value, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_evaluations_of_scipys_fixed_point(steps: int) -> None:
    """Two per step; here there is one more than there are steps."""
    count = [0]

    def f(x: Any) -> Any:
        count[0] += 1
        return np.cos(x)

    with pytest.raises(RuntimeError, match="Failed to converge"):
        optimize.fixed_point(f, np.zeros(3), xtol=0.0, maxiter=steps)
    assert count == [2 * steps]
    ours = fixed_point(f, np.zeros(3), method="aitken", componentwise=True, batched=False, rtol=0.0, max_steps=steps)
    assert (ours.steps, ours.evaluations) == (steps, steps + 1)


def test_stopping_test_of_scipy() -> None:
    """The largest component of the residual is at most f_tol when it stops, and was larger at the step before."""
    M, b = affine(12)
    residuals: list[float] = []
    optimize.anderson(
        lambda x: M @ x + b - x,
        np.zeros(12),
        f_tol=1e-6,
        line_search=None,
        callback=lambda x, f: residuals.append(float(np.abs(f).max())),
    )
    assert residuals[-1] <= 1e-6 < min(residuals[:-1])
    with pytest.raises(optimize.NoConvergence):
        optimize.anderson(lambda x: M @ x + b - x, np.zeros(12), f_tol=1e-6, maxiter=2)


def test_picard_iterates_and_tolerance_of_jaxopt() -> None:
    jax, jaxopt = pytest.importorskip("jax"), pytest.importorskip("jaxopt")
    M, b = (x.astype(np.float32) for x in affine(12))
    for tol in (1e-2, 1e-4):
        solver = jaxopt.FixedPointIteration(lambda x: jax.numpy.asarray(M) @ x + b, maxiter=99, tol=tol, jit=False)
        theirs = solver.run(np.zeros(12, np.float32))
        how: Any = {"method": "picard", "batched": False, "rtol": 0.0}
        ours = fixed_point(lambda x: M @ x + b, np.zeros(12, np.float32), atol=tol, **how)
        assert abs(int(theirs.state.iter_num) - int(ours.steps)) <= 1
        assert float(theirs.state.error) <= tol and ours.converged
        np.testing.assert_allclose(np.asarray(theirs.params), ours.value, atol=5 * tol)
