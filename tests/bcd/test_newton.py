"""Newton steps in blocks of logistic losses that are too large for a matrix: minima, few steps, and difficult data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import optimize

import fastiter
from fastiter.bcd import Blocks, Logistic, LogisticRegression, bcd, reference
from tests.bcd.cases import data
from tests.support.pairs import pairs

Array = np.ndarray[Any, np.dtype[Any]]
#: More columns than the largest block with a matrix; with only l2, a block may have more
WIDE, SMOOTH = 301, 2101


def problem_of(m: int, dtype: Any = np.float64, density: float = 0.1) -> tuple[Array, Array]:
    A, b = data(90, m, density=density, dtype=dtype)
    A[:, 7] = A[:, 3]  # equal columns, an empty one, and one of ones
    A[:, 11], A[:, 5] = 0, 1
    return A, (b > 0).astype(np.int64)


def slope_of(A: Array, y: Array, x: Array, parts: Any, weights: Any) -> float:
    """Return the largest entry of the specification's minimum-norm subgradient; weights count repeated rows."""
    rows = np.arange(len(y)) if weights is None else np.repeat(np.arange(len(y)), weights.astype(int))
    vectors: Any = [np.broadcast_to(np.float64(v), x.shape) for v in parts]
    make: Any = reference.Problem
    p = make("logistic", A[rows].astype(np.float64), y[rows].astype(float), *vectors)
    return float(abs(reference.least_subgradient(p, x)).max())


@pairs
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, sp.csr_array])
@pytest.mark.parametrize("parts", [(0.6, 0.0, -np.inf, np.inf), (0.2, 0.3, 0.0, np.inf), (0.0, 0.4, -0.1, 0.2)])
def test_few_steps_to_the_specifications_minimum(parts: tuple[float, ...], layout: Any, dtype: Any) -> None:
    A, y = problem_of(WIDE, dtype)
    l1, l2, lower, upper = parts
    penalties: Any = np.where(np.arange(WIDE) == 5, 0, l1), np.where(np.arange(WIDE) == 5, 0, l2)  # 5 is an intercept
    for weights in (None, np.arange(90.0) % 4):
        own = dict(zip(("l1", "l2", "lower", "upper"), (*penalties, lower, upper), strict=True))
        problem = Logistic(layout(A), y, weights=weights, **own)
        values: list[Array] = []
        for blocks, rule in ((WIDE, "cyclic"), (Blocks(280, "variable"), "gsd"), ([range(0), list(range(WIDE))], "gs")):
            # a partial last block leaves few coordinates for the next step
            how: Any = {"blocks": [list(b) for b in blocks] if isinstance(blocks, list) else blocks, "rule": rule}
            found = bcd(problem, update="newton", rtol=1e-8, **how)
            assert found.converged and found.steps <= 40 and found.value.dtype == dtype, (rule, found.steps)
            values.append(found.value.astype(np.float64))
            near = 1e-6 if dtype == np.float64 else 2e-4  # the value is rounded to the dtype
            assert slope_of(A, y, values[-1], (*penalties, lower, upper), weights) <= near * 90
        sweeps = bcd(problem, rtol=1e-8)
        assert np.isclose(found.objective, sweeps.objective, rtol=1e-10)
        if l2:  # otherwise equal columns may share their coefficient arbitrarily
            assert np.allclose(values, sweeps.value, atol=1e-5)
        assert (np.diff(bcd(problem, blocks=WIDE, update="newton", rtol=1e-8).objectives) <= 0).all()


def test_more_columns_with_only_l2() -> None:
    A, y = problem_of(SMOOTH)

    def smooth(x: Array) -> tuple[float, Array]:
        z = A @ x
        p = np.exp(-np.logaddexp(0, -z))
        return float((np.logaddexp(0, z) - y * z).sum() + x @ x / 4), A.T @ (p - y) + x / 2

    found = bcd(Logistic(sp.csr_array(A), y, l2=0.5), blocks=SMOOTH, update="newton", rtol=1e-9)
    peer = optimize.minimize(smooth, np.zeros(SMOOTH), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0})
    assert found.converged and found.steps <= 12 and np.allclose(found.value, peer.x, atol=1e-6)


def test_the_last_steps_are_fast_and_threads_change_no_bit() -> None:
    A, y = problem_of(WIDE)
    problem = Logistic(sp.csr_array(A), y, l1=0.3)
    history = bcd(problem, blocks=WIDE, update="newton", rtol=1e-12).history
    assert len(history) <= 20 and (history[3:] <= 0.5 * history[2:-1]).all()
    threads, values = fastiter.get_num_threads(), []
    try:
        for number in (1, 2):
            fastiter.set_num_threads(number)
            values.append(bcd(problem, blocks=WIDE, update="newton").value)
    finally:
        fastiter.set_num_threads(threads)
    assert np.array_equal(*values)


def test_separable_huge_and_tiny_data_and_no_samples() -> None:
    A, y = problem_of(WIDE, density=1)
    free = bcd(Logistic(A, y), blocks=WIDE, update="newton", rtol=1e-6)  # the losses tend to 0
    assert free.converged and free.objective < 1e-2
    unit = bcd(Logistic(A, y, l1=0.3), blocks=WIDE, update="newton", rtol=1e-5).objective
    for scale in (1e-20, 1e12):
        found = bcd(Logistic(scale * A, y, l1=0.3 * scale), blocks=WIDE, update="newton", rtol=1e-5)
        assert found.converged and np.isclose(found.objective, unit, rtol=1e-4)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = bcd(Logistic(1e200 * A, y, l1=3e199), blocks=WIDE, update="newton", max_steps=50)  # squares overflow
    assert np.isfinite(found.value).all() and found.converged == (not seen)
    assert {each.category for each in seen} <= {fastiter.ConvergenceWarning}
    with pytest.raises(ValueError, match="Logistic: A must have a column whose squares sum to"):
        Logistic(1e-160 * A, y, l1=3e-161)
    assert not bcd(Logistic(np.zeros((0, WIDE)), np.zeros(0, int), l1=1.0), blocks=WIDE, update="newton").value.any()
    assert not bcd(Logistic(np.zeros((9, WIDE)), np.ones(9, int), l1=1.0), blocks=WIDE, update="newton").value.any()


@pytest.mark.parametrize(("penalty", "solver"), [("l1", "liblinear"), ("l2", "lbfgs")])
def test_the_classifier_of_many_columns_is_that_of_scikit_learn(penalty: str, solver: str) -> None:
    linear: Any = pytest.importorskip("sklearn.linear_model")
    A, y = problem_of(600)
    intercept = solver == "lbfgs"  # LIBLINEAR penalises it
    mine = LogisticRegression(penalty, C=2.0, fit_intercept=intercept, tol=1e-9).fit(sp.csr_array(A), y)
    how: Any = {"C": 2.0, "fit_intercept": intercept, "tol": 1e-8, "max_iter": 10_000, "solver": solver}
    peer = linear.LogisticRegression(l1_ratio=1.0 if penalty == "l1" else 0.0, **how).fit(A, y)
    assert mine.n_iter_[0] <= (20 if penalty == "l1" else 60)
    assert np.allclose(mine.predict_proba(A), peer.predict_proba(A), atol=1e-5)
