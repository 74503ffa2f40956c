"""Sinkhorn's iteration against the specification, against linear programming, and at the edges of its dtypes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, minimize

import fastiter
from fastiter.fixedpoint import reference, sinkhorn
from tests.support.pairs import pairs


def problem(*shape: int, dtype: str = "float64", seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng([seed, *shape])
    C, a, b = rng.random(shape), 0.1 + rng.random(shape[:-1]), 0.1 + rng.random((*shape[:-2], shape[-1]))
    a, b = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
    return C.astype(dtype), a.astype(dtype), b.astype(dtype)


def run_steps(C: Any, a: Any, b: Any, epsilon: float, steps: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        return sinkhorn(C, a, b, epsilon=epsilon, rtol=0.0, max_steps=steps)


def test_the_specification_is_the_regularised_optimum() -> None:
    """The dual f.a + g.b - epsilon sum P is concave: its maximum by BFGS is the fixed point."""
    C, a, b = problem(3, 4)
    eps = 0.3

    def negative(x: Any) -> float:
        f, g = x[:3], x[3:]
        return float(eps * np.exp((f[:, None] + g - C) / eps).sum() - f @ a - g @ b)

    best = minimize(negative, np.zeros(7), method="BFGS", options={"gtol": 1e-9})
    f, g = reference.sinkhorn(C, a, b, eps, 300)
    assert abs(negative(np.concatenate([f, g])) - best.fun) < 1e-8


@pairs
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 1), (3, 4), (17, 33), (40, 65), (5, 600)])
@pytest.mark.parametrize("epsilon", [1.0, 0.05])
def test_kernel_is_the_specification(dtype: str, n: int, m: int, epsilon: float) -> None:
    C, a, b = problem(n, m, dtype=dtype)
    found = run_steps(C, a, b, epsilon, 6)
    wide = [x.astype(np.float64) for x in (C, a, b)]
    f, g = reference.sinkhorn(wide[0], wide[1], wide[2], epsilon, found.steps)
    # Each update rounds the log of a sum, in units of epsilon, and potentials and costs of magnitude about 1.
    error = 40 * float(np.finfo(dtype).eps) * (1 + epsilon * np.log(n * m + 1))
    assert found.value[0].dtype == dtype
    assert np.abs(found.value[0] - f).max() <= error and np.abs(found.value[1] - g).max() <= error
    P = np.exp((f[:, None] + g - wide[0]) / epsilon)
    assert abs(found.residual - np.abs(P.sum(axis=1) - wide[1]).sum()) <= error / epsilon
    assert np.allclose(found.plan, P, rtol=4 * error / epsilon)


def test_a_batch_is_its_problems_on_any_number_of_threads() -> None:
    C, a, b = problem(5, 30, 50)

    def run(threads: int, *arrays: Any) -> Any:
        before = fastiter.get_num_threads()
        fastiter.set_num_threads(threads)
        try:
            return sinkhorn(*arrays, epsilon=0.05)
        finally:
            fastiter.set_num_threads(before)

    found, two = run(1, C, a, b), run(2, C, a, b)
    assert found.converged.all() and np.array_equal(found.value[0], two.value[0])
    assert np.array_equal(found.value[1], two.value[1]) and np.array_equal(found.residual, two.residual)
    for k in range(5):
        for threads in (1, 2):
            alone = run(threads, C[k], a[k], b[k])
            assert np.array_equal(alone.value[0], found.value[0][k]) and alone.steps == found.steps[k]
            assert np.isclose(alone.cost, found.cost[k], rtol=1e-14)
    assert len(set(found.steps.tolist())) > 1  # the problems end at different steps
    wide = problem(2, 200, 300)
    assert np.array_equal(run(1, *wide).value[0], run(2, *wide).value[0])


def test_a_small_epsilon_gives_the_assignment() -> None:
    """With entropy weight epsilon, the cost exceeds that of the optimal assignment by at most epsilon log n."""
    C, *_ = problem(12, 12)
    rows, columns = linear_sum_assignment(C)
    best = C[rows, columns].mean()
    for epsilon in (0.1, 0.02):
        found = sinkhorn(C, epsilon=epsilon, rtol=1e-8)
        assert best - 1e-7 <= found.cost <= best + epsilon * np.log(12)
        assert found.dual - epsilon <= best + 1e-8 and np.isclose(found.plan.sum(), 1)
        assert np.allclose(found.plan.sum(axis=0), 1 / 12, rtol=1e-9)


def test_costs_may_be_huge_shifted_and_in_any_layout() -> None:
    C, a, b = problem(6, 9)
    base = sinkhorn(C, a, b, epsilon=0.1)
    shifted = sinkhorn(C + 1e3, a, b, epsilon=0.1, rtol=1e-8)
    assert np.allclose(shifted.plan, base.plan, atol=1e-7)
    scaled = sinkhorn(1e200 * C, a, b, epsilon=1e199)
    assert np.allclose(scaled.plan, base.plan, atol=1e-9)
    turned = sinkhorn(np.asfortranarray(C), np.repeat(a, 2)[::2], b[::-1].copy()[::-1], epsilon=0.1)
    assert np.array_equal(turned.value[0], base.value[0])
    before = C.copy(), a.copy(), b.copy()
    warm = sinkhorn(C, a, b, epsilon=0.1, x0=base.value)
    assert warm.steps == 0 and all(np.array_equal(x, y) for x, y in zip(before, (C, a, b), strict=True))
    assert repr(base).startswith("SinkhornSolution(sinkhorn, 'converged' after ") and "\n" not in repr(base)
    with np.errstate(all="ignore"):
        sharp = sinkhorn(1e4 * C, a, b, epsilon=1e-4, max_steps=3, rtol=10.0)  # exponents up to 1e8
    assert np.isfinite(sharp.value[0]).all() and np.isfinite(sharp.value[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "m"), [(3, 5), (18, 37), (40, 9)])
def test_rows_and_columns_without_mass_are_as_if_absent(dtype: str, n: int, m: int) -> None:
    C, a, b = problem(n, m, dtype=dtype)
    rows, columns = np.arange(n) % 3 != 1, np.arange(m) % 4 != 2
    rows[-1] = columns[0] = False
    a, b = np.where(rows, a, 0), np.where(columns, b, 0)
    a, b = (a / a.sum()).astype(dtype), (b / b.sum()).astype(dtype)
    found = run_steps(C, a, b, 0.1, 7)
    part = run_steps(C[np.ix_(rows, columns)], a[rows], b[columns], 0.1, 7)
    # Sums of n and m terms in another order, in units of epsilon
    error = 10 * float(np.finfo(dtype).eps) * (1 + 0.1 * np.log(n * m))
    for has, whole, one in ((rows, found.value[0], part.value[0]), (columns, found.value[1], part.value[1])):
        np.testing.assert_allclose(whole[has], one, rtol=0, atol=error)
        assert (whole[~has] == -np.inf).all()
    assert (found.plan[~rows] == 0).all() and (found.plan[:, ~columns] == 0).all()
    assert np.isclose(found.dual, part.dual, rtol=1e-5) and np.isclose(found.cost, part.cost, rtol=1e-5)
    wide = [x.astype(np.float64) for x in (C, a, b)]
    f, g = reference.sinkhorn(wide[0], wide[1], wide[2], 0.1, found.steps)
    assert np.allclose(found.value[0], f, rtol=0, atol=4 * error) and np.allclose(
        found.value[1], g, rtol=0, atol=4 * error
    )
    solved = sinkhorn(C, a, b, epsilon=0.1)
    assert solved.converged and sinkhorn(C, a, b, epsilon=0.1, x0=solved.value).steps == 0
    even = np.full(n, 1 / n, dtype)
    assert sinkhorn(C, even, x0=(solved.value[0], np.zeros(m, dtype))).converged  # from -inf where there is mass


def test_an_empty_batch() -> None:
    found = sinkhorn(np.ones((0, 2, 3)))
    assert found.value[0].shape == (0, 2) and found.plan.shape == (0, 2, 3) and found.converged.all()


@pytest.mark.parametrize(
    ("error", "message", "wrong"),
    [
        (TypeError, "C must be a NumPy array of .*, got dtype int64", {"C": np.ones((2, 2), np.int64)}),
        (ValueError, r"C must have shape \(n, m\) or \(B, n, m\), got \(2,\)", {"C": np.ones(2)}),
        (ValueError, "C must have rows and columns, got shape", {"C": np.ones((2, 0))}),
        (ValueError, "C must be finite, got NaN or infinite elements", {"C": np.full((2, 2), np.inf)}),
        (ValueError, r"a must have shape \(2,\) to go with C, got \(3,\)", {"a": np.ones(3)}),
        (ValueError, "a must be finite and at least 0, got -1", {"a": np.array([1.0, -1.0])}),
        (ValueError, "a must have a sum above 0, got 0", {"a": np.zeros(2), "b": np.zeros(2)}),
        (ValueError, "b must have the sum of a, 1, got 2", {"b": np.ones(2)}),
        (TypeError, "b must have dtype float64 like C, got float32", {"b": np.ones(2, np.float32)}),
        (ValueError, "epsilon must be finite and above 0, got 0", {"epsilon": 0}),
        (ValueError, "rtol must be finite and at least 0, got -1", {"rtol": -1}),
        (ValueError, "max_steps must be at least 0, got -1", {"max_steps": -1}),
        (TypeError, r"x0 must be two arrays \(f, g\) or None, got list", {"x0": [1]}),
        (ValueError, r"x0\[1\] must have shape \(2,\) to go with C, got \(3,\)", {"x0": (np.ones(2), np.ones(3))}),
        (TypeError, "throw must be a bool, got int", {"throw": 1}),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"C": np.ones((2, 2)), **wrong}
    with pytest.raises(error, match=f"^sinkhorn: {message}"):
        sinkhorn(given.pop("C"), given.pop("a", None), given.pop("b", None), **given)


def test_no_convergence_raises_with_throw() -> None:
    C, a, b = problem(3, 3)
    with pytest.raises(fastiter.ConvergenceError, match=r"got \S+ after 1 step; try a larger max_steps or epsilon"):
        sinkhorn(C, a, b, epsilon=0.01, max_steps=1, throw=True)
