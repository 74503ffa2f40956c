"""Paths of lassos: each gap bounds the error from the minimum that coordinate descent finds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import fastiter
from fastiter.bcd import LeastSquares, bcd, lasso_path
from tests.bcd.cases import data
from tests.support.pairs import pairs


@pairs
@pytest.mark.parametrize("l2", [0.0, 0.7])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("shape", [(40, 15), (20, 300), (1, 5), (5, 1)])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_each_point_is_the_minimum(layout: Any, shape: tuple[int, int], nonnegative: bool, l2: float) -> None:
    A, b = data(*shape, density=0.5)
    path = lasso_path(layout(A), b, l2=l2, nonnegative=nonnegative, rtol=1e-9)
    assert path.converged.all() and path.value.shape == (len(path.l1), shape[1])
    assert not path.value[0].any() and (path.residual <= path.tolerance).all()
    for k in range(0, len(path.l1), 7):
        problem = LeastSquares(A, b, l1=path.l1[k], l2=l2, lower=0 if nonnegative else None)
        best = bcd(problem, path.value[k], rtol=1e-9)
        assert -1e-12 * (b @ b) <= path.objective[k] - best.objective <= path.residual[k] + 1e-12 * (b @ b)
        residual = A @ path.value[k] - b
        x = path.value[k]
        own = residual @ residual / 2 + path.l1[k] * abs(x).sum() + l2 / 2 * x @ x
        assert np.isclose(own, path.objective[k], rtol=1e-12)


def test_equal_columns_and_weights_in_any_order() -> None:
    A, b = data(12, 4)
    twice = np.concatenate([A, A, np.zeros((12, 2))], axis=1)
    l1 = np.array([0.5, 3.0, 0.1])
    one, two = lasso_path(A, b, l1, rtol=1e-10), lasso_path(twice, b, l1, rtol=1e-10)
    assert np.allclose(one.objective, two.objective, rtol=1e-9)
    assert np.allclose(two.value[:, :4] + two.value[:, 4:8], one.value, atol=1e-6)
    single = lasso_path(A.astype(np.float32), b.astype(np.float32), l1)
    assert single.value.dtype == np.float32 and np.allclose(single.value, one.value, atol=1e-3)
    assert lasso_path(A, np.zeros(12)).value.shape == (1, 4)
    for empty in ((0, 3), (3, 0)):
        assert lasso_path(np.ones(empty), np.ones(empty[0]), [1.0]).converged.all()


@pytest.mark.parametrize("nonnegative", [False, True])
def test_small_weights_with_as_many_columns_as_rows_in_the_solution(nonnegative: bool) -> None:
    """Supports that grow to a singular Gram matrix; each gap is recomputed."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 30))
        A, b = rng.standard_normal((n, n + int(rng.integers(2, 90)))), rng.standard_normal(n)
        path = lasso_path(A, b, [0.3, 0.02, 0.1], rtol=1e-9, nonnegative=nonnegative)
        assert path.converged.all()
        for x, l1 in zip(path.value, path.l1, strict=True):
            u = A @ x - b
            rising = (-(A.T @ u) if nonnegative else abs(A.T @ u)).max()
            theta = min(1.0, l1 / max(rising, l1)) * u
            gap = u @ u / 2 + l1 * abs(x).sum() + theta @ theta / 2 + theta @ b
            assert gap <= 1.1e-9 * (b @ b) / 2 and (not nonnegative or x.min() >= 0)


def test_overflow_of_squares_is_reported_once() -> None:
    A, b = data(20, 30)
    for layout in (np.asarray, sp.csr_array):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            found = lasso_path(layout(1e160 * A), b, [1e150, 1e100])
            assert not found.converged.all() and np.isfinite(found.value).all()
        assert [each.category for each in seen] == [fastiter.ConvergenceWarning]


def test_wrong_arguments_and_failures_to_converge() -> None:
    A, b = data(30, 10)
    with pytest.raises(ValueError, match="lasso_path: l1 must be a list of finite numbers above 0, got 0"):
        lasso_path(A, b, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"lasso_path: l1 must be a list .*, got shape \(\)"):
        lasso_path(A, b, 1.0)
    with pytest.raises(ValueError, match=r"lasso_path: b must have shape \(30,\)"):
        lasso_path(A, b[1:])
    with pytest.raises(TypeError, match="lasso_path: nonnegative must be a bool"):
        lasso_path(A, b, nonnegative=1)  # type: ignore[arg-type]
    with pytest.warns(fastiter.ConvergenceWarning, match="lasso_path: the duality gaps must fall to"):
        assert lasso_path(*data(20, 300), [0.1], max_steps=1).reason == ("max_steps",)
    with pytest.raises(fastiter.ConvergenceError):
        lasso_path(*data(20, 300), [0.1], max_steps=1, throw=True)


def test_solutions_beyond_the_range_of_the_dtype_have_not_converged() -> None:
    with pytest.warns(fastiter.ConvergenceWarning, match="lasso_path: the duality gaps"):
        found = lasso_path(1e-15 * np.eye(2, dtype=np.float32), np.array([1e30, 1.0]), [1.0])
    assert found.reason == ("diverged",) and not found.converged[0] and np.isinf(found.value[0, 0])


def test_targets_whose_squares_overflow_end_at_once() -> None:
    A, b = data(20, 30)
    with pytest.warns(fastiter.ConvergenceWarning, match="lasso_path: the duality gaps"):
        found = lasso_path(A, 1e200 * b, [1e199])
    assert not found.converged[0] and found.steps[0] < 10
