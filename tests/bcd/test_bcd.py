"""Iterates equal to the specification's, minima of every loss, rule and update, gaps, and refusals."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import optimize

import fastiter
from fastiter.bcd import (
    Blocks,
    LeastSquares,
    Logistic,
    Quadratic,
    Softmax,
    _bcd,
    bcd,
    forest_bcd,
    lasso_path,
    nnls,
    reference,
)
from fastiter.bcd._gap import duality_gap
from tests.bcd.cases import LOSSES, PAIRS, PARTS, data, make, specified
from tests.support.error_cases import assert_named

RULES = ("cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq")
UPDATES = ("gradient", "matrix", "newton", "two-metric")


def after(problem: Any, steps: int, **how: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        return bcd(problem, rtol=0, max_steps=steps, check_every=steps, **how)


@pytest.mark.parametrize(("loss", "parts", "update"), PAIRS)
def test_iterates_are_the_specifications(loss: str, parts: str, update: Any) -> None:
    A, b = data(8, 5, density=0.7)
    p, steps, size = specified(loss, A, b, **PARTS[parts]), 8, 2
    near = 1e-7 if update == "newton" else 1e-11  # the square root of the rounding that ends the search
    m = len(p.l1)
    blocks = [np.arange(m)[k : k + size] for k in range(0, m, size)]
    choices: dict[str, Any] = {"cyclic": lambda x, step: blocks[step % len(blocks)]}
    for rule in ("gs", "gsl", "gsd", *(("gsq",) if parts == "smooth" else ())):
        choices[rule] = lambda x, step, rule=rule: max(
            blocks, key=lambda block: reference.block_score(p, x, block, rule)
        )
    for rule, choose in choices.items():
        expected = reference.descend(p, np.zeros(m), choose, update, steps)[-1]
        for matrix in (A, sp.csr_array(A)):
            found = after(make(loss, matrix, b, **PARTS[parts]), steps, blocks=size, rule=rule, update=update)
            assert np.allclose(found.value.ravel(), expected, rtol=1e-10, atol=near), (rule, type(matrix))
            assert np.isclose(found.objective, reference.objective(p, expected), rtol=1e-11)
            slope = abs(reference.least_subgradient(p, expected)).max()
            assert np.isclose(found.residual, slope, rtol=1e-6, atol=1e2 * near)
    if update == "gradient":
        return  # with another bound for variable blocks
    size = size if parts == "smooth" else 1  # otherwise rounding would choose the second coordinate of a block
    for rule in ("gs", "gsd"):
        choose = lambda x, _, rule=rule: reference.variable_block(p, x, size, rule)  # noqa: E731
        expected = reference.descend(p, np.zeros(m), choose, update, steps)[-1]
        variable, problem = Blocks(size, "variable"), make(loss, sp.csr_array(A), b, **PARTS[parts])
        found = after(problem, steps, blocks=variable, rule=rule, update=update)
        assert np.allclose(found.value.ravel(), expected, rtol=1e-10, atol=near), rule


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("parts", PARTS)
def test_all_rules_and_updates_find_one_minimum(loss: str, parts: str) -> None:
    A, b = data(30, 6, density=0.8)
    lists = [[3, 1], [0], [2, 4, 5]] + ([list(range(6, 18))] if loss == "softmax" else [])
    kinds = (1, 4, 100, Blocks(2, "sort"), Blocks(2, "average"), Blocks(2, "variable"), lists)
    problem = make(loss, sp.csr_array(A), b, **PARTS[parts])
    best = bcd(problem, update="newton", blocks=100, rtol=1e-10)
    assert (best.converged and best.gap < 1e-8) or loss == "quadratic" or parts == "l1 and half-line"
    first = [*LOSSES].index(loss) + [*PARTS].index(parts)  # every two of an update, a rule and blocks; then others
    every = itertools.product(enumerate(UPDATES), enumerate(RULES), enumerate(kinds))
    for (i, update), (j, rule), (k, blocks) in every:
        is_variable = getattr(blocks, "partition", "") == "variable"
        if (update == "two-metric" and parts == "l1") or (is_variable and rule not in RULES[3:]):
            continue
        if (first + i + j + k) % 3 == 0 or is_variable:
            found = bcd(problem, blocks=blocks, rule=rule, update=update, rtol=1e-7)  # type: ignore[arg-type]
            assert found.converged and found.value.shape == problem.shape
            assert abs(found.objective - best.objective) <= 1e-9 * abs(best.objective), (rule, update, blocks)
            assert np.array_equal(found.active, best.active)
            assert 0 <= found.identified <= found.steps


def test_against_scipy_and_scikit_learn() -> None:
    A, b = data(40, 15)
    found = bcd(LeastSquares(A, b, lower=0), rtol=1e-12, rule="gs", update="two-metric", blocks=Blocks(15, "variable"))
    assert np.allclose(found.value, optimize.nnls(A, b)[0], rtol=0, atol=1e-9)
    box = bcd(LeastSquares(sp.csr_array(A), b, lower=-0.1, upper=0.2), rtol=1e-12)
    assert np.allclose(box.value, optimize.lsq_linear(A, b, (-0.1, 0.2), tol=1e-15).x, rtol=0, atol=1e-5)
    linear = pytest.importorskip("sklearn.linear_model")
    peer = linear.Lasso(alpha=0.2, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(A, b)
    lasso = bcd(LeastSquares(A, b, l1=0.2 * len(b)), rtol=1e-10)
    assert np.allclose(lasso.value, peer.coef_, rtol=0, atol=1e-8)
    assert np.array_equal(lasso.active, peer.coef_ == 0)


@pytest.mark.parametrize("kind", ["squares", "logistic", "softmax"])
def test_the_gap_bounds_the_error_and_ends_the_solution(kind: str) -> None:
    A, b = data(25, 8)
    for parts in ({"l1": 2.0}, {"l1": 1.0, "l2": 0.3}, {"lower": -0.05, "upper": 0.1}, {"l2": 1.0, "lower": 0.0}):
        problem = make(kind, A, b, **parts)
        best = bcd(problem, update="newton", blocks=100, rtol=1e-11).objective
        for steps in (1, 5, 20):
            found = after(problem, steps)
            assert found.gap >= found.objective - best - 1e-12 * abs(best)
        found = bcd(problem, stop="gap", rtol=1e-9)
        assert found.converged and found.residual == found.gap <= found.tolerance
        assert found.objective - best <= found.gap + 1e-12 * abs(best)


def test_gaps_are_finite_wherever_the_dual_point_is_rounded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):  # the dual point is scaled so that one product is l1, which rounding may exceed
        A, x, l1 = rng.standard_normal((4, 3)), rng.standard_normal(3), float(rng.random())
        u = A @ x - rng.standard_normal(4)
        b, g = A @ x - u, A.T @ u
        objective, scale = u @ u / 2 + l1 * abs(x).sum(), min(1.0, l1 / abs(g).max())
        exact = objective + scale**2 * (u @ u) / 2 + scale * (u @ b)
        assert np.isclose(duality_gap(LeastSquares(A, b, l1=l1), objective, u[None], g), exact, rtol=1e-12, atol=1e-12)


def test_weights_count_samples() -> None:
    A, b = data(12, 4)
    weights = np.arange(12.0) % 4
    repeated = np.repeat(np.arange(12), (np.arange(12) % 4))
    for loss in LOSSES[:3]:
        for matrix in (A, sp.csr_array(A)):
            one = bcd(make(loss, matrix, b, l1=0.3, l2=0.1, weights=weights), rtol=1e-10, update="matrix", blocks=3)
            two = bcd(make(loss, A[repeated], b[repeated], l1=0.3, l2=0.1), rtol=1e-10)
            assert np.isclose(one.objective, two.objective, rtol=1e-10)
            assert np.allclose(one.value, two.value, atol=1e-6)


def test_results_do_not_depend_on_dtype_layout_or_threads() -> None:
    A, b = data(33, 9, dtype=np.float32)
    exact = bcd(LeastSquares(A.astype(np.float64), b.astype(np.float64), l1=1.0), rtol=1e-9)
    layouts = [A, np.asfortranarray(A), np.repeat(np.repeat(A, 2, 0), 2, 1)[::2, ::2], A[::-1][::-1], sp.csc_array(A)]
    frozen = A.copy()
    frozen.flags.writeable = False
    threads = fastiter.get_num_threads()
    found = [bcd(LeastSquares(layout, b, l1=1.0), rtol=1e-9) for layout in (*layouts, frozen)]
    try:
        for number in (1, 2):
            fastiter.set_num_threads(number)
            found.append(bcd(LeastSquares(A, b, l1=1.0), rtol=1e-9))
    finally:
        fastiter.set_num_threads(threads)
    for each in found:
        assert each.value.dtype == np.float32 and each.converged
        assert np.allclose(each.value, exact.value, rtol=1e-6, atol=1e-7)
    same = [each.value.tobytes() for k, each in enumerate(found) if k != 4]
    assert len(set(same)) == 1


def test_empty_single_zero_and_huge() -> None:
    for n, m in ((0, 3), (3, 0), (1, 1), (0, 0)):
        for A in (np.ones((n, m)), sp.csr_array(np.ones((n, m)))):
            for rule in ("cyclic", "gs", "lipschitz"):
                found = bcd(LeastSquares(A, np.ones(n), l1=0.25), rule=rule)
                assert found.converged and np.allclose(found.value, np.full(m, 0.75 * (n > 0)))
    zero = bcd(LeastSquares(np.zeros((4, 2)), np.ones(4), l1=0.5), np.array([3.0, -2.0]))
    assert zero.converged and not zero.value.any() and zero.objective == 2
    still = bcd(LeastSquares(np.eye(2), np.zeros(2)), np.ones(2))
    assert still.converged and np.allclose(still.value, 0)
    big = bcd(LeastSquares(1e150 * np.eye(2), np.array([1e150, -1e150])))
    assert np.allclose(big.value, (1, -1))
    tiny = bcd(LeastSquares(1e-150 * np.eye(2), np.array([1e-150, -1e-150])))
    assert np.allclose(tiny.value, (1, -1))
    separable = Logistic(np.array([[1.0], [-1.0]]), np.array([1, 0]), upper=5.0)
    assert bcd(separable).value == 5


def test_the_active_set_is_identified_before_the_end() -> None:
    A, b = data(60, 40, seed=3)
    problem = LeastSquares(A, b, l1=8.0)
    found = bcd(problem, rule="gsd", update="matrix", blocks=Blocks(20, "variable"), rtol=1e-10, check_every=1)
    assert (~found.active).sum() <= 20 and 0 < found.identified <= found.steps
    again = after(problem, found.identified, rule="gsd", update="matrix", blocks=Blocks(20, "variable"))
    assert np.array_equal(again.active, found.active)
    assert found.steps <= found.identified + 3  # a block that contains the support is solved in one step


def test_a_fresh_gradient_at_the_end_keeps_the_identification(monkeypatch: pytest.MonkeyPatch) -> None:
    A, b = data(60, 40, seed=3)
    how: dict[str, Any] = {"rule": "gs", "update": "matrix", "blocks": 8, "rtol": 1e-10}
    plain, own, seen = bcd(LeastSquares(A, b, l1=8.0), **how), _bcd.Descent._is_true, []

    def first_refused(descent: Any, tolerance: float, steps: int) -> bool:
        seen.append(steps)
        return own(descent, -1.0 if len(seen) == 1 else tolerance, steps)

    monkeypatch.setattr(_bcd.Descent, "_is_true", first_refused)
    found = bcd(LeastSquares(A, b, l1=8.0), **how)
    assert found.converged and len(seen) >= 2 and 0 < plain.identified < seen[0]
    assert found.identified == plain.identified and np.array_equal(found.active, plain.active)


def test_a_warm_start_ends_at_once_and_callbacks_stop() -> None:
    A, b = data(20, 6)
    problem = LeastSquares(A, b, l1=1.0)
    first = bcd(problem, rtol=1e-8)
    assert bcd(problem, first.value, rtol=1e-6).steps == 0
    seen: list[Any] = []

    def watch(now: Any) -> bool:
        seen.append(now.value)
        return bool(now.steps == 3)

    stopped = bcd(problem, check_every=1, callback=watch)
    assert stopped.reason == "callback" and stopped.steps == 3 and len(seen) == 4
    assert np.array_equal(seen[-1], stopped.value) and len(stopped.history) == len(stopped.objectives) == 4
    assert (np.diff(stopped.objectives) <= 0).all()
    one, two = (bcd(problem, rule="random", rng=np.random.default_rng(5), max_steps=10**5) for _ in range(2))
    assert np.array_equal(one.value, two.value)


def test_failures_to_converge_are_reported() -> None:
    A, b = data(20, 6)
    with pytest.warns(fastiter.ConvergenceWarning, match="max_steps"):
        assert not bcd(LeastSquares(A, b), max_steps=1).converged
    with pytest.raises(fastiter.ConvergenceError, match="bcd: the residual must fall to"):
        bcd(LeastSquares(A, b), max_steps=1, throw=True)
    with pytest.warns(fastiter.ConvergenceWarning, match="stagnated"):
        bcd(LeastSquares(A, b), rtol=0)
    with pytest.warns(fastiter.ConvergenceWarning):
        bcd(Quadratic(np.zeros((1, 1)), np.ones(1)), max_steps=50)


def test_frequent_checks_and_rare_blocks_do_not_end_it_early() -> None:
    b = np.zeros(300)
    b[299] = 1.0
    for blocks in (1, 2):  # all blocks except the last are at their minimum
        assert np.isclose(bcd(LeastSquares(np.eye(300), b), blocks=blocks, check_every=1).value[299], 1)
    assert forest_bcd(sp.eye_array(300, format="csr"), b, blocks=np.arange(300), check_every=1).value[299] == 1
    scales = np.append(np.full(9, 1e2), 1.0)  # the last coordinate has one update in 10^5
    found = bcd(LeastSquares(np.diag(scales), scales), rule="lipschitz", rtol=1e-9)
    assert found.converged and np.allclose(found.value, 1, rtol=1e-6)


A, B = data(4, 3)
SQUARES = LeastSquares(A, B)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: bcd(A), TypeError, "bcd: problem"),  # type: ignore[arg-type]
    (lambda: LeastSquares(A.astype(int), B), TypeError, "LeastSquares: A"),
    (lambda: LeastSquares("A", B), TypeError, "LeastSquares: A"),
    (lambda: LeastSquares(sp.coo_array(A), B), TypeError, "LeastSquares: A"),
    (lambda: LeastSquares(B, B), ValueError, "LeastSquares: A"),
    (lambda: LeastSquares(A * np.nan, B), ValueError, "LeastSquares: A"),
    (lambda: LeastSquares(sp.csr_array(A * np.inf), B), ValueError, "LeastSquares: A"),
    (lambda: LeastSquares(sp.csr_array(B), B), ValueError, "LeastSquares: A"),
    (lambda: LeastSquares(B, B, weights=B), ValueError, "LeastSquares: A"),
    (lambda: LeastSquares(A, B, l1=np.full(3, np.inf)), ValueError, "LeastSquares: l1"),
    (lambda: LeastSquares(A, B, lower=B > 0), TypeError, "LeastSquares: lower"),
    (lambda: LeastSquares(A, B[:3]), ValueError, "LeastSquares: b"),
    (lambda: LeastSquares(A, B * np.inf), ValueError, "LeastSquares: b"),
    (lambda: LeastSquares(A, B, l1=-1.0), ValueError, "LeastSquares: l1"),
    (lambda: LeastSquares(A, B, l2=np.ones(2)), ValueError, "LeastSquares: l2"),
    (lambda: LeastSquares(A, B, lower=1, upper=0), ValueError, "LeastSquares: lower"),
    (lambda: LeastSquares(A, B, lower=np.nan), ValueError, "LeastSquares: lower"),
    (lambda: LeastSquares(A, B, upper="1"), TypeError, "LeastSquares: upper"),
    (lambda: LeastSquares(A, B, weights=-np.ones(4)), ValueError, "LeastSquares: weights"),
    (lambda: Logistic(A, B), ValueError, "Logistic: y"),
    (lambda: Softmax(A, np.array([0, 1, 2, 0]), 2), ValueError, "Softmax: y"),
    (lambda: Softmax(A, B), TypeError, "Softmax: y"),
    (lambda: Quadratic(A, B), ValueError, "Quadratic: A"),
    (lambda: Quadratic(np.triu(np.ones((2, 2))), np.ones(2)), ValueError, "Quadratic: A"),
    (lambda: Quadratic(-np.eye(2), np.ones(2)), ValueError, "Quadratic: A"),
    (
        lambda: Quadratic(np.eye(2)[::-1] + 1, np.ones(2)),
        ValueError,
        "Quadratic: A must be positive semidefinite, got 2 beside 1 and 1",
    ),
    (
        lambda: Quadratic(sp.csr_array(np.eye(2)[::-1]), np.ones(2)),
        ValueError,
        "Quadratic: A must be positive semidefinite, got 1 beside 0 and 0",
    ),
    (lambda: Blocks(0), ValueError, "Blocks: size"),
    (lambda: Blocks(1, "tree"), ValueError, "Blocks: partition"),  # type: ignore[arg-type]
    (lambda: bcd(SQUARES, blocks=[[0, 1], [1]]), ValueError, "bcd: blocks"),
    (lambda: bcd(SQUARES, blocks="order"), TypeError, "bcd: blocks"),
    (lambda: bcd(SQUARES, blocks=Blocks(2, "variable")), ValueError, "bcd: rule"),
    (lambda: bcd(SQUARES, rule="best"), ValueError, "bcd: rule"),  # type: ignore[arg-type]
    (lambda: bcd(LeastSquares(A, B, l1=1.0), update="two-metric"), ValueError, "bcd: update"),
    (lambda: bcd(SQUARES, stop="gap"), ValueError, "bcd: stop"),
    (lambda: bcd(SQUARES, np.ones(2)), ValueError, "bcd: x0"),
    (lambda: bcd(SQUARES, np.full(3, np.nan)), ValueError, "bcd: x0"),
    (lambda: bcd(SQUARES, rtol=np.inf), ValueError, "bcd: rtol"),
    (lambda: bcd(SQUARES, rng="0"), TypeError, "bcd: rng"),
    (lambda: bcd(SQUARES, callback=1), TypeError, "bcd: callback"),  # type: ignore[arg-type]
    (lambda: bcd(SQUARES, throw=1), TypeError, "bcd: throw"),  # type: ignore[arg-type]
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)


def test_integer_bounds_and_weights_and_copies_of_problems() -> None:
    exact = bcd(LeastSquares(A, B, l1=1.0, lower=-1.0, upper=2.0)).value
    whole: list[dict[str, Any]] = [
        {"l1": np.int64(1), "lower": np.int32(-1), "upper": 2},
        {"l1": np.ones(3, int), "lower": np.full(3, -1), "upper": [2, 2, 2]},
    ]
    for parts in whole:
        assert np.array_equal(bcd(LeastSquares(A, B, **parts)).value, exact)
    for matrix in (A, sp.csr_array(A), np.asfortranarray(A, np.float32)):
        problem = LeastSquares(matrix, B, l1=1.0)
        value = bcd(problem).value
        for other in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
            assert np.array_equal(bcd(other).value, value)


def test_singular_quadratics_are_solved() -> None:
    for dtype in (np.float32, np.float64):
        for rows in (1, 2, 5):  # products of rank 1 and 2, with equal columns
            half: Any = np.repeat(data(rows, 4)[0], 3, axis=1).astype(dtype)
            gram: Any = half.T @ half
            for matrix in (gram, sp.csr_array(gram), 1e-30 * gram, np.zeros((3, 3), dtype)):
                found = bcd(Quadratic(matrix, np.asarray(matrix @ np.ones(matrix.shape[0], dtype))), rtol=1e-3)
                assert found.converged


def test_nnls_is_scipys() -> None:
    for n, m in ((20, 8), (8, 8), (5, 9)):
        matrix, target = data(n, m, seed=n)
        known, norm = optimize.nnls(matrix, target)
        for given in (matrix, sp.csr_array(matrix)):
            found = nnls(given, target, rtol=1e-12)
            assert np.isclose((2 * found.objective) ** 0.5, norm, rtol=1e-9, atol=1e-9)
            assert n < m or np.allclose(found.value, known, atol=1e-8)
            assert (found.value >= 0).all() and nnls(given, target, found.value, rtol=1e-6).steps == 0


@pytest.mark.parametrize(
    ("error", "message", "how"),
    [
        (TypeError, "A must be a NumPy array of float32", {"A": A.astype(int)}),
        (TypeError, "A must be CSR or CSC", {"A": sp.coo_array(A)}),
        (ValueError, r"b must have shape \(4,\)", {"b": B[:3]}),
        (ValueError, "A must have", {"A": 1e-200 * A}),
        (ValueError, r"x0 must have shape \(3,\)", {"x0": B}),
        (ValueError, "rtol must be finite", {"rtol": -1.0}),
        (TypeError, "throw must be a bool", {"throw": 1}),
        (fastiter.ConvergenceError, "", {"max_steps": 1, "throw": True}),
    ],
)
def test_nnls_is_named_in_its_errors(error: type[Exception], message: str, how: dict[str, Any]) -> None:
    with pytest.raises(error, match=f"^nnls: {message}"):
        nnls(**{"A": A, "b": B, **how})


@pytest.mark.parametrize("scale", [1e-200, 1e-160])
def test_data_whose_squares_vanish_are_refused(scale: float) -> None:
    """If squares underflow, gradients do, too, and 0 would seem to be a solution."""
    y, classes = (B > 0).astype(float), (B > 0).astype(int)
    for matrix in (scale * A, sp.csr_array(scale * A)):
        calls: dict[str, Any] = {
            "LeastSquares": lambda matrix=matrix: LeastSquares(matrix, scale * B),
            "Logistic": lambda matrix=matrix: Logistic(matrix, y),
            "Softmax": lambda matrix=matrix: Softmax(matrix, classes),
            "lasso_path": lambda matrix=matrix: lasso_path(matrix, scale * B),
        }
        for name, call in calls.items():
            with pytest.raises(
                ValueError, match=f"^{name}: A must have a column whose squares sum to at least 2.3e-308"
            ):
                call()
    assert not bcd(LeastSquares(0 * A, B, l2=1.0)).value.any()
    assert not bcd(Logistic(A, y, weights=0 * B)).value.any()
    some = np.concatenate([A, 1e-200 * A], axis=1)  # noise that no unknown can amplify
    assert np.allclose(bcd(LeastSquares(some, B), rtol=1e-9).value[:3], bcd(LeastSquares(A, B), rtol=1e-9).value)


def test_a_broken_pattern_is_refused() -> None:
    broken = sp.csr_array(A)
    broken.indices[0] = 7
    with pytest.raises(ValueError, match="LeastSquares: A must have a pattern inside"):
        LeastSquares(broken, B)


@pytest.mark.parametrize("rule", ["cyclic", "gs"])
def test_numbers_beyond_the_range_of_the_dtype_have_not_converged(rule: Any) -> None:
    """Neither overflowing gradients, as infinity is not above infinity, nor values that overflow in float32."""
    for problem, stop in (
        (LeastSquares(1e150 * np.eye(2), np.full(2, 1e200)), "slope"),
        (LeastSquares(1e10 * np.eye(2), np.full(2, 1e200), l1=1.0), "gap"),
        (LeastSquares(1e-15 * np.eye(2, dtype=np.float32), np.full(2, 1e30)), "slope"),
        (Quadratic(1e-30 * np.eye(2, dtype=np.float32), np.full(2, 1e30)), "slope"),
    ):
        with pytest.warns(fastiter.ConvergenceWarning, match="'diverged'"):
            found = bcd(problem, rule=rule, stop=stop)  # type: ignore[arg-type]
        assert found.reason == "diverged" and not found.converged
    matrix = sp.csr_array(1e-30 * np.eye(2, dtype=np.float32))
    with pytest.warns(fastiter.ConvergenceWarning, match="'diverged'"):
        assert not forest_bcd(matrix, np.full(2, 1e30)).converged
