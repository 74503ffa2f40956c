"""The estimators of the lasso: large supports in little memory, sparse intercepts, constant columns, bad patterns."""

from __future__ import annotations

import contextlib
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

import fastiter
from fastiter.bcd import NNLS, ElasticNet, Lasso, LogisticRegression, lasso_path
from tests.bcd.cases import data
from tests.support.pairs import pairs


def relative_gap(X: Any, y: Any, l1: float, l2: float, model: Any) -> float:
    """Return the duality gap of a fitted model, relative to half the squares of the targets, from dense columns."""
    A, b = np.asarray(X.toarray() if sp.issparse(X) else X, np.float64), np.asarray(y, np.float64)
    if model.fit_intercept:
        A, b = A - A.mean(axis=0), b - b.mean()
    x = np.asarray(model.coef_, np.float64)
    u = A @ x - b
    rising = -(A.T @ u) if model.positive else abs(A.T @ u)
    objective = u @ u / 2 + l1 * abs(x).sum() + l2 / 2 * x @ x
    if l2 > 0:
        over = np.maximum(rising - l1, 0)
        return float((objective + u @ u / 2 + u @ b + over @ over / (2 * l2)) / (b @ b / 2))
    scale = l1 / max(rising.max(), l1)
    return float((objective + scale**2 * (u @ u) / 2 + scale * (u @ b)) / (b @ b / 2))


@pairs
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, sp.csr_array, sp.csc_matrix])
@pytest.mark.parametrize("shape", [(300, 20), (60, 60), (30, 200)])
def test_gaps_over_shapes_weights_and_ratios(
    shape: tuple[int, int], layout: Any, intercept: bool, positive: bool
) -> None:
    n, m = shape
    for dtype in (np.float64, np.float32):
        X, y = data(n, m, seed=n + m, density=0.4)
        X, y = (X + 0.3 * (X != 0)).astype(dtype), (y + 5).astype(dtype)
        largest = abs((X - intercept * X.mean(axis=0)).T @ (y - intercept * y.mean())).max() / n
        for share in (0.3, 0.01, 0.001):
            for ratio in (1.0, 0.5):
                model = ElasticNet(share * largest, l1_ratio=ratio, fit_intercept=intercept, positive=positive)
                model.fit(layout(X), y)
                l1, l2 = share * largest * n * ratio, share * largest * n * (1 - ratio)
                rounding = 64 * np.sqrt(n) * np.finfo(dtype).eps  # rounded coefficients
                assert relative_gap(X, y, l1, l2, model) <= model.tol + rounding
                assert not positive or model.coef_.min() >= 0


@contextlib.contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Refuse to allocate more than that."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text().split()
    used = int(status[status.index("VmData:") + 1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (megabytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process on Linux")
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_memory_of_large_supports_is_that_of_their_entries(shift: float) -> None:
    """14,000 columns in the support, whose products with each other would take 1.5 GB."""
    n = 14_000
    X = sp.csc_array(sp.diags_array([np.full(n, 2.0), np.full(n - 1, shift)], offsets=[0, -1], shape=(n, n)))
    X.eliminate_zeros()
    y = 1 + np.arange(n) % 7 / 7.0
    with at_most(128):
        model = Lasso(1e-3 / n, fit_intercept=False).fit(X, y)
        path = lasso_path(X, y, [0.1, 1e-3])
    assert np.count_nonzero(model.coef_) == n and path.converged.all()
    if not shift:
        assert np.allclose(model.coef_, (y - 1e-3 / 2) / 2, rtol=1e-12)
    u = X @ model.coef_ - y
    assert abs(X.T @ u + 1e-3).max() <= 1e-2  # slopes reach 4


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process on Linux")
def test_memory_of_sparse_columns_that_overlap() -> None:
    rng = np.random.default_rng(0)
    X = sp.csc_array(sp.random_array((16_000, 9000), density=3e-4, rng=rng, data_sampler=rng.standard_normal))
    y = X @ rng.standard_normal(9000) + 0.1 * rng.standard_normal(16_000)
    with at_most(128):  # products of all pairs: 650 MB
        models = [Lasso(1e-5, fit_intercept=intercept).fit(X, y) for intercept in (False, True)]
    for model in models:
        assert np.count_nonzero(model.coef_) > 7000 and model.gap_ <= model.tol * (y @ y) / 2


@pytest.mark.parametrize("seed", range(40))
def test_sparse_intercepts_with_more_columns_than_rows(seed: int) -> None:
    """Small weights: each converges, to an objective that is not above scikit-learn's."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(15, 60))
    m = n + int(rng.integers(1, 120))
    X = rng.standard_normal((n, m)) * (rng.random((n, m)) < rng.uniform(0.05, 0.5))
    y = X[:, : m // 3].sum(axis=1) + rng.standard_normal(n) + 10
    alpha = 1e-3 * abs((X - X.mean(axis=0)).T @ (y - y.mean())).max() / n
    positive = bool(seed % 2)
    mine = Lasso(alpha, positive=positive).fit(sp.csr_array(X), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it does not always
        peer = linear_model.Lasso(alpha, positive=positive, max_iter=20_000, tol=1e-8).fit(X, y)

    def objective(model: Any) -> float:
        u = X @ model.coef_ + model.intercept_ - y
        return float(u @ u / (2 * n) + alpha * abs(model.coef_).sum())

    assert relative_gap(X, y, n * alpha, 0.0, mine) <= 1.01 * mine.tol
    assert objective(mine) <= objective(peer) + 1.01 * mine.tol * y.var() / 2


@pairs
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, sp.csc_array, sp.csr_matrix])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("constant", [0.1, -0.7, 1e5 / 3, 1e-7 / 7])
def test_constant_columns_have_the_coefficient_0(constant: float, weighted: bool, layout: Any) -> None:
    """Their means round, so that centring leaves rounding errors, which are no columns."""
    for n in (11, 100, 3001):
        X, y = data(n, 4, seed=n)
        X[:, 2] = constant
        weights = np.linspace(0, 2, n) if weighted else None
        models = [Lasso(0.0), ElasticNet(0.0), NNLS(fit_intercept=True), Lasso(0.0, positive=True)]
        for model in models:
            model.fit(layout(X), y, weights)
            assert model.coef_[2] == 0 and abs(model.coef_).max() < 3
            others = type(model)(**model.get_params()).fit(layout(np.delete(X, 2, axis=1)), y, weights)
            assert np.allclose(np.delete(model.coef_, 2), others.coef_, atol=1e-5)
            assert np.isclose(model.intercept_, others.intercept_, atol=1e-5)


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_columns_whose_squares_nearly_underflow_have_the_coefficient_0(layout: Any, l1_ratio: float) -> None:
    X, y = data(40, 6)
    others = ElasticNet(1e-3, l1_ratio=l1_ratio, tol=1e-12).fit(layout(np.delete(X, 4, axis=1)), y)
    for scale in (1e-154, 1e-155, 1e-158, 1e-160, 1e-162, 1e-165):
        small = X.copy()
        small[:, 4] *= scale
        model = ElasticNet(1e-3, l1_ratio=l1_ratio, tol=1e-12).fit(layout(small), y)
        path = lasso_path(layout(small), y, [0.1, 0.01])
        assert model.coef_[4] == 0 and (path.value[:, 4] == 0).all() and path.converged.all()
        assert np.allclose(np.delete(model.coef_, 4), others.coef_, atol=1e-5)


@pairs
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("n", "m", "share"), [(600, 150, 1e-3), (90, 400, 1e-2), (90, 400, 0.2)])
def test_solutions_have_the_same_bits_on_each_run_and_any_number_of_threads(
    n: int, m: int, share: float, dtype: Any, layout: Any
) -> None:
    """Sweeps, extrapolations and Newton steps are chosen by counted operations, not by times."""
    X, y = data(n, m, dtype=dtype, density=0.4)
    A, alpha = layout(X), share * abs(X.T @ (y - y.mean())).max() / n
    labels = (y > 0).astype(np.int64) + (y > 1)

    def found() -> list[bytes]:
        models = [Lasso(alpha), Lasso(alpha, positive=True, fit_intercept=False), ElasticNet(alpha)]
        fits = [model.fit(A, y).coef_ for model in models]
        fits += [LogisticRegression(C=0.1, tol=1e-4).fit(A, some).coef_ for some in (labels > 0, labels)]
        return [x.tobytes() for x in (*fits, lasso_path(A, y, n * alpha * np.array([8.0, 2.0, 1.0])).value)]

    before, first = fastiter.get_num_threads(), found()
    try:
        for threads in (1, 2, 3):
            fastiter.set_num_threads(threads)
            assert found() == first
    finally:
        fastiter.set_num_threads(before)


def test_columns_that_nearly_are_constant_keep_their_coefficients() -> None:
    X, y = data(200, 3)
    X[:, 1] = 1e6 + 1e-4 * X[:, 1]
    assert abs(Lasso(1e-6).fit(X, 1e4 * (X[:, 1] - 1e6) + y).coef_[1]) > 1


def broken(layout: str, fault: str) -> Any:
    """A sparse matrix (12, 7) with a pattern that leads outside of it."""
    X, _ = data(12, 7, density=0.5)
    A = sp.csr_array(X).asformat(layout)
    if fault == "large index":
        A.indices[3] = 2**30
    elif fault == "negative index":
        A.indices[-1] = -5
    elif fault == "end beyond the arrays":
        A.indptr[-1] = 10**6
    elif fault == "decreasing":
        A.indptr[2] = A.indptr[-1]
    elif fault == "negative start":
        A.indptr[0] = -3
    else:
        A.indices = A.indices[:-2]
    return A


FAULTS = ("large index", "negative index", "end beyond the arrays", "decreasing", "negative start", "short indices")
METHODS = ("fit", "predict", "score", "decision_function", "predict_proba", "predict_log_proba")


@pairs
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layout", ["csr", "csc", "bsr"])
@pytest.mark.parametrize("model", [Lasso(), ElasticNet(), NNLS(), LogisticRegression()], ids=repr)
def test_broken_patterns_are_refused(model: Any, layout: str, fault: str) -> None:
    X, y = data(12, 7, density=0.5)
    y = y > 0 if isinstance(model, LogisticRegression) else y
    model.fit(X, y)
    for method in METHODS:
        if hasattr(model, method):
            arguments = (y,) if method in ("fit", "score") else ()
            with pytest.raises(ValueError, match=rf"^{type(model).__name__}: X must have a pattern inside its arrays"):
                getattr(model, method)(broken(layout, fault), *arguments)


@pytest.mark.parametrize("side", ["row", "col"])
@pytest.mark.parametrize("index", [2**30, -2, 12])
def test_broken_coordinates_are_refused(side: str, index: int) -> None:
    A = sp.coo_array(sp.csr_array(data(12, 12, density=0.5)[0]))
    getattr(A, side)[5] = index
    with pytest.raises(ValueError, match="Lasso: X must have a pattern inside its arrays"):
        Lasso().fit(A, np.ones(12))
