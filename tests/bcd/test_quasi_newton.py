"""Quasi-Newton steps: the compiled losses against the specification, and solutions over many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import linear_model

import fastiter
from fastiter import _core
from fastiter.bcd import LogisticRegression, reference
from fastiter.bcd._quasi_newton import Classes, Samples, centre, minimise
from tests.support.pairs import pairs

Array = np.ndarray[Any, np.dtype[Any]]
LAYOUTS: tuple[Any, ...] = (np.ascontiguousarray, np.asfortranarray, sp.csr_array, sp.csc_array)


def samples(n: int, m: int, classes: int, seed: int = 0, noise: float = 1.0, density: float = 1.0) -> tuple[Array, Any]:
    """Return normal numbers, some of them 0, and labels of a linear model with noise; each class has a sample."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, m)) * (rng.random((n, m)) < density)
    scores = X @ rng.standard_normal((m, classes)) * 3 / np.sqrt(m) + noise * rng.gumbel(size=(n, classes))
    labels = scores.argmax(axis=1)
    labels[:classes] = np.arange(classes)
    return X, labels


def specified(X: Array, y: Any, l2: float, weights: Any = None, l1: float = 0.0) -> Any:
    """Return the specification's problem on columns centred with ``weights``, followed by a column of ones."""
    whole = np.ones(len(y)) if weights is None else weights
    A = np.column_stack([X - whole @ X / whole.sum(), np.ones(len(y))])
    k, n = int(y.max()) + 1, A.shape[1]
    classes = 1 if k == 2 else k
    penalised = np.repeat(np.append(np.ones(n - 1), 0.0), classes)
    sides = np.full(n * classes, -np.inf), np.full(n * classes, np.inf)
    return reference.Problem(
        "logistic" if k == 2 else "softmax", A, y.astype(float), l1 * penalised, l2 * penalised, *sides, classes
    )


def solution_of(model: Any, X: Array, weights: Any = None) -> Array:
    """Return coefficients and the intercepts of centred columns, in the specification's order."""
    whole = np.ones(len(X)) if weights is None else weights
    middle = whole @ X / whole.sum()
    return np.append(model.coef_.T, (model.intercept_ + model.coef_ @ middle)[None], axis=0).ravel()


@pairs
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7, 10])
def test_values_and_gradients_are_those_of_the_specification(classes: int, layout: Any, dtype: Any) -> None:
    """Sizes have remainders of vectors, of blocks of rows and of groups of columns."""
    for n, m in ((11, 3), (67, 9), (1100, 13)):
        X, y = samples(n, m, classes, density=0.5)
        X = X.astype(dtype) + dtype(2)
        A = centre(layout(X), None, True, True)
        exact = specified(X.astype(np.float64), y, 0.3)
        if not sp.issparse(A.matrix):  # centred columns are rounded to the dtype
            exact = exact._replace(A=A.matrix.astype(np.float64))
        x = np.random.default_rng(1).standard_normal((m + 1, exact.classes))
        parts = Samples(n, m, exact.classes, True, y.astype(float), None, A.middle, A.subtracts, 0.0, 0.3)
        by_rows = layout is sp.csr_array
        solver = _core.bcd.quasi_newton(A.dtype.itemsize * 8, A.entries, by_rows, parts, x)
        slopes, eps = abs(reference.gradient(exact, x.ravel())), np.finfo(dtype if sp.issparse(A.matrix) else float).eps
        size = abs(exact.A).sum() + 0.3 * abs(x).sum()
        assert abs(solver.objective() - reference.objective(exact, x.ravel())) <= 8 * eps * size * abs(x).max()
        assert abs(solver.residual() - slopes.max()) <= 64 * eps * size
    h, step = 1e-5, np.zeros(x.size)
    for c in (0, x.size // 2, x.size - 1):  # the specification's gradient is that of its objective
        step[:] = np.arange(x.size) == c
        both = [reference.objective(exact, x.ravel() + side * h * step) for side in (1, -1)]
        assert np.isclose((both[0] - both[1]) / (2 * h), reference.gradient(exact, x.ravel())[c], atol=1e-4)


@pytest.mark.parametrize("C", [1e-3, 0.3, 1e3])
@pytest.mark.parametrize(
    ("n", "m", "classes", "offset"),
    [(60, 4, 2, 0), (90, 7, 3, 30), (31, 120, 4, 0), (27, 200, 3, 1e3), (200, 12, 10, 1e4), (45, 33, 2, 1e6)],
)
def test_solutions_satisfy_the_specification_in_few_steps(
    n: int, m: int, classes: int, offset: float, C: float
) -> None:
    """The means of columns change neither the number of steps nor the coefficients."""
    X, y = samples(n, m, classes, seed=n)
    moved = X + offset * np.linspace(-1, 2, m)
    for layout in (np.asarray, sp.csr_array):
        mine = LogisticRegression("l2", C=C, tol=1e-9).fit(layout(moved), y)
        exact = specified(moved, y, 1 / C)
        slopes = abs(reference.gradient(exact, solution_of(mine, moved)))
        scale = abs(reference.gradient(exact, np.zeros(exact.l1.shape))).max()
        rounding = np.finfo(float).eps * max(offset, 1) * 64
        assert slopes.max() <= (2e-9 + rounding) * scale + rounding * n
        assert mine.n_iter_[0] <= 400
    plain = LogisticRegression("l2", C=C, tol=1e-9).fit(X, y)
    assert np.allclose(plain.predict_proba(X), mine.predict_proba(moved), atol=1e-6 + 1e3 * rounding)


@pytest.mark.parametrize("C", [1e-2, 0.3, 30.0])
@pytest.mark.parametrize(
    ("n", "m", "classes", "offset"),
    [(60, 4, 2, 0), (90, 7, 3, 30), (31, 120, 4, 0), (400, 9, 5, 0), (200, 12, 10, 1e4), (75, 70, 2, 100)],
)
def test_sparse_solutions_satisfy_the_specification(n: int, m: int, classes: int, offset: float, C: float) -> None:
    """With l1, even numbers of classes have medians that are intervals, and columns may vanish in all classes."""
    X, y = samples(n, m, classes, seed=n, noise=0.5)
    moved = X + offset * np.linspace(-1, 2, m)
    for layout in (np.asarray, sp.csc_array):
        mine = LogisticRegression("l1", C=C, tol=1e-7).fit(layout(moved), y)
        exact, x = specified(moved, y, 0.0, l1=1 / C), solution_of(mine, moved)
        scale = abs(reference.gradient(exact, np.zeros(x.shape))).max()
        assert abs(reference.least_subgradient(exact, x)).max() <= 1.1e-7 * scale + 1e-12 * n * max(offset, 1)
        assert mine.n_iter_[0] <= 1500
        if classes > 2:
            ordered = np.sort(mine.coef_, axis=0)
            assert (ordered[(classes - 1) // 2] <= 0).all() and (ordered[classes // 2] >= 0).all()


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_and_weights_as_in_scikit_learn(layout: Any, intercept: bool) -> None:
    for classes, n, m in ((2, 70, 6), (3, 50, 90), (6, 130, 10)):
        X, y = samples(n, m, classes, density=0.6)
        for weights in (None, np.arange(float(n)) % 3 + (np.arange(n) < classes)):
            how: dict[str, Any] = {"C": 2.0, "fit_intercept": intercept, "max_iter": 10_000}
            mine = LogisticRegression("l2", tol=1e-10, **how).fit(layout(X), y, weights)
            peer = linear_model.LogisticRegression(solver="newton-cg", tol=1e-12, **how).fit(X, y, weights)
            assert np.allclose(mine.coef_, peer.coef_, atol=1e-6)
            assert np.allclose(mine.predict_proba(layout(X)), peer.predict_proba(X), atol=1e-6)


def test_columns_in_different_units_and_separable_classes() -> None:
    """Scales from 1e-4 to 1e4 need no more steps than one scale; coefficients follow the units where C is infinite."""
    X, y = samples(300, 12, 4, noise=2.0)
    units = np.geomspace(1e-4, 1e4, 12)
    plain = LogisticRegression("l2", C=np.inf, tol=1e-10).fit(X, y)
    scaled = LogisticRegression("l2", C=np.inf, tol=1e-10).fit(X * units, y)
    assert np.allclose(scaled.coef_ * units, plain.coef_, rtol=1e-5) and scaled.n_iter_[0] <= 60
    X, y = samples(80, 10, 3, noise=0.0)
    for C in (1.0, 1e3, 1e6):
        model = LogisticRegression("l2", C=C, tol=1e-8).fit(X, y)
        exact = specified(X, y, 1 / C)
        scale = abs(reference.gradient(exact, np.zeros(exact.l1.shape))).max()
        assert abs(reference.gradient(exact, solution_of(model, X))).max() <= 1.01e-8 * scale
        assert model.n_iter_[0] <= 500


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_constant_columns_have_coefficients_of_0(C: float) -> None:
    """The mean of a constant column may be rounded, and the column is then not 0 after its subtraction."""
    X, y = samples(90, 5, 3, noise=3.0)
    X[:, 1], X[:, 3] = 0.1, 1e7 / 3
    for layout in (np.asarray, sp.csr_array, sp.csc_array):
        model = LogisticRegression("l2", C=C, tol=1e-8).fit(layout(X), y)
        assert not model.coef_[:, [1, 3]].any()
        rest = LogisticRegression("l2", C=C, tol=1e-8).fit(X[:, [0, 2, 4]], y)
        assert np.allclose(model.predict_proba(X), rest.predict_proba(X[:, [0, 2, 4]]), atol=1e-6)


def test_zero_weights_and_warm_starts() -> None:
    X, y = samples(80, 6, 3)
    weights = np.where(np.arange(80) < 60, 1.0, 0.0)
    some = LogisticRegression("l2", tol=1e-10).fit(X, y, weights)
    fewer = LogisticRegression("l2", tol=1e-10).fit(X[:60], y[:60])
    assert np.allclose(some.coef_, fewer.coef_, atol=1e-7) and np.allclose(some.intercept_, fewer.intercept_, atol=1e-7)
    warm = LogisticRegression("l2", warm_start=True, tol=1e-6).fit(X + 5, y)
    first = warm.coef_
    assert warm.fit(X + 5, y).n_iter_[0] == 1 and np.array_equal(warm.coef_, first)


def test_threads_change_no_bit() -> None:
    before, found = fastiter.get_num_threads(), []
    try:
        for layout in LAYOUTS:
            X, y = samples(2100, 70, 5)
            for threads in (1, 2, 3):
                fastiter.set_num_threads(threads)
                found.append(LogisticRegression("l2").fit(layout(X), y).coef_)
            assert np.array_equal(found[-1], found[-2]) and np.array_equal(found[-1], found[-3])
    finally:
        fastiter.set_num_threads(before)


def test_ends_without_convergence_say_so() -> None:
    X, y = samples(60, 8, 3)
    classes = Classes(y, 3, None, 0.0, 1.0)
    A = centre(X, None, True, True)
    reasons = {}
    for most, rtol in ((2, 1e-9), (1000, 0.0)):
        found = minimise(A, classes, np.zeros((9, 3)), rtol, most)
        reasons[found.reason] = found
        assert not found.converged and found.residual > found.tolerance and found.steps <= 1000
        assert len(found.history) == len(found.objectives) and found.history[-1] == found.residual
    assert set(reasons) == {"max_steps", "stagnated"} and reasons["max_steps"].steps == 2
    assert reasons["stagnated"].residual <= 1e-11
    with pytest.warns(
        fastiter.ConvergenceWarning, match=r"^LogisticRegression: the residual must fall to .*larger max_iter"
    ):
        LogisticRegression("l2", max_iter=2, tol=1e-9).fit(X, y)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^LogisticRegression: the residual must fall to"):
        LogisticRegression("l2", fit_intercept=False).fit(1e200 * X, y)
