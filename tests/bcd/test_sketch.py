"""Sketches: steps equal to the formula, solutions of every kind of system, and published Newton iterations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import fastiter
from fastiter import _core
from fastiter.bcd import sketch_solve, sketched_newton
from tests.bcd.cases import data
from tests.support.pairs import pairs

SKETCHES: tuple[Any, ...] = ("kaczmarz", "block", "gaussian", "count")


@pairs
@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (7, 7), (1, 3), (3, 1)])
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix])
def test_the_solution_is_the_nearest_to_the_start(layout: Any, shape: tuple[int, int], sketch: Any) -> None:
    A, _ = data(*shape)
    rng = np.random.default_rng(1)
    b, x0 = A @ rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    found = sketch_solve(layout(A), b, x0, sketch=sketch, size=4, rtol=1e-9, rng=3)
    assert found.converged and found.residual <= 1e-9 * np.linalg.norm(b)
    nearest = x0 + np.linalg.lstsq(A, b - A @ x0, rcond=None)[0]
    error = 2e-9 * np.linalg.norm(b) * np.linalg.norm(np.linalg.pinv(A), 2)
    assert np.allclose(found.value, nearest, rtol=0, atol=error)


def test_one_kaczmarz_step_is_a_projection_and_bits_do_not_depend_on_threads() -> None:
    A, b = data(6, 9)
    with pytest.warns(fastiter.ConvergenceWarning, match="max_steps"):
        found = sketch_solve(A, b, max_steps=1)
    steps = [np.isclose(A[i] @ found.value, b[i], rtol=1e-12) for i in range(6)]
    assert sum(steps) == 1
    i = steps.index(True)
    assert np.allclose(found.value, A[i] * b[i] / (A[i] @ A[i]), rtol=1e-12)
    threads, bits = fastiter.get_num_threads(), set()
    try:
        for number in (1, 2):
            fastiter.set_num_threads(number)
            bits.add(sketch_solve(A, b, rtol=1e-6).value.tobytes())
    finally:
        fastiter.set_num_threads(threads)
    assert len(bits) == 1
    assert sketch_solve(A.astype(np.float32), b.astype(np.float32), rtol=1e-5).value.dtype == np.float32


@pytest.mark.parametrize("m", [1, 2, 7, 1000])
def test_rows_are_drawn_by_their_norms(m: int) -> None:
    rng = np.random.default_rng(m)
    for squares in (np.ones(m), rng.random(m) ** 20, np.where(np.arange(m) % 3 == 0, rng.random(m) + 1e-9, 0.0)):
        ends, order = np.cumsum(squares), np.empty(4000, np.int32)
        u = np.concatenate([rng.random(3000), np.arange(997) / 997, [0.0, 0.5, np.nextafter(1, 0)]])
        _core.bcd.draw(ends, m, u, len(u), order)
        assert np.array_equal(order, np.minimum(np.searchsorted(ends, u * ends[-1], side="right"), m - 1))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("n", [1, 7, 33, 130])
def test_kaczmarz_steps_are_those_of_a_loop(n: int, layout: Any, dtype: Any) -> None:
    A, b = data(25, n, dtype=dtype, density=0.8)
    A[3] = 0
    rng = np.random.default_rng(0)
    with pytest.warns(fastiter.ConvergenceWarning):
        found = sketch_solve(layout(A), b, rtol=0, max_steps=60, rng=rng)
    norms = (A.astype(np.float64) ** 2).sum(axis=1)
    ends, x, draws = np.cumsum(norms), np.zeros(n), np.random.default_rng(0)
    for some in (25, 25, 10):  # a check after each sweep
        for u in draws.random(some):
            i = int(np.searchsorted(ends, u * ends[-1], side="right"))
            x += (b[i] - A[i].astype(np.float64) @ x) / norms[i] * A[i]
    eps = float(np.finfo(dtype).eps)
    assert np.allclose(found.value, x, rtol=4 * eps, atol=60 * n * 2.0**-52 * abs(x).max() + eps * abs(x).max())


@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_array])
def test_huge_and_tiny_systems(layout: Any, sketch: Any) -> None:
    A, _ = data(6, 3)
    for scale in (1e300, 1e200, 1e-200, 1e-300):
        b = scale * A @ np.ones(3)
        found = sketch_solve(layout(scale * A), b, sketch=sketch, size=2)
        assert found.converged and 0 < found.residual <= 1e-6 * scale * 6 * abs(A).max()
        assert np.allclose(found.value, 1, rtol=1e-4)
        with pytest.warns(fastiter.ConvergenceWarning, match="stagnated"):
            assert not sketch_solve(layout(scale * A), scale * np.arange(6.0), sketch=sketch, size=2).converged
        found = sketch_solve(layout(A), b, sketch=sketch, size=2)
        assert found.converged and np.allclose(found.value / scale, 1, rtol=1e-4)


def test_inconsistent_systems_are_reported_and_empty_ones_end() -> None:
    A, b = data(30, 3)
    for sketch in SKETCHES:
        with pytest.warns(fastiter.ConvergenceWarning, match="stagnated"):
            assert not sketch_solve(A, b, sketch=sketch, size=2).converged
    with pytest.raises(fastiter.ConvergenceError):
        sketch_solve(A, b, throw=True, max_steps=10)
    with pytest.warns(fastiter.ConvergenceWarning):
        sketch_solve(np.zeros((2, 2)), np.ones(2))
    assert sketch_solve(np.zeros((2, 2)), np.zeros(2)).converged
    for shape in ((0, 3), (0, 0)):
        assert sketch_solve(np.ones(shape), np.zeros(0)).converged


@pytest.mark.parametrize(
    ("error", "message", "how"),
    [
        (ValueError, "sketch_solve: sketch must be one of", {"sketch": "rows"}),
        (ValueError, "sketch_solve: size must be at least 1", {"size": 0}),
        (ValueError, r"sketch_solve: b must have shape \(3,\)", {"b": np.ones(2)}),
        (ValueError, r"sketch_solve: x0 must have shape \(2,\)", {"x0": np.ones(3)}),
        (TypeError, "sketch_solve: rng must be", {"rng": 1.5}),
        (ValueError, "sketch_solve: rng must be at least 0", {"rng": -1}),
        (ValueError, "sketch_solve: A must be finite", {"A": np.full((3, 2), np.nan)}),
    ],
)
def test_wrong_arguments(error: type[Exception], message: str, how: Any) -> None:
    with pytest.raises(error, match=message):
        sketch_solve(**{"A": np.ones((3, 2)), "b": np.ones(3), **how})


# ---- Newton steps: problems of Hock and Schittkowski ----------------------------------------------------------------


def hs6() -> Any:
    def f(x: Any) -> Any:
        return (1 - x[0]) ** 2, np.array([2 * x[0] - 2, 0]), np.diag([2.0, 0])

    def c(x: Any, lam: Any) -> Any:
        return np.array([10 * (x[1] - x[0] ** 2)]), np.array([[-20 * x[0], 10]]), lam.sum() * np.diag([-20.0, 0])

    return f, c, [-1.2, 1.0], [1.0, 1.0]


def hs7() -> Any:
    def f(x: Any) -> Any:
        s = 1 + x[0] ** 2
        second = (2 - 2 * x[0] ** 2) / s**2
        return np.log(s) - x[1], np.array([2 * x[0] / s, -1]), np.diag([second, 0])

    def c(x: Any, lam: Any) -> Any:
        s = 1 + x[0] ** 2
        return (
            np.array([s**2 + x[1] ** 2 - 4]),
            np.array([[4 * x[0] * s, 2 * x[1]]]),
            lam.sum() * np.diag([4 + 12 * x[0] ** 2, 2.0]),
        )

    return f, c, [2.0, 2.0], [0.0, 3**0.5]


def hs28() -> Any:
    M = np.array([[1.0, 1, 0], [0, 1, 1]])

    def f(x: Any) -> Any:
        return (M @ x) @ (M @ x), 2 * M.T @ (M @ x), 2 * M.T @ M

    def c(x: Any, lam: Any) -> Any:
        return np.array([x @ [1, 2, 3] - 1]), np.array([[1.0, 2, 3]]), np.zeros((3, 3))

    return f, c, [-4.0, 1.0, 1.0], [0.5, -0.5, 0.5]


def bt12() -> Any:
    """Problem 12 of Boggs and Tolle, whose systems need more projections than one round has."""

    def f(x: Any) -> Any:
        return x[0] ** 2 / 100 + x[1] ** 2, np.array([x[0] / 50, 2 * x[1], 0, 0, 0]), np.diag([0.02, 2, 0, 0, 0])

    def c(x: Any, lam: Any) -> Any:
        lam = lam if len(lam) else np.zeros(3)
        values = [x[0] + x[1] - x[2] ** 2 - 25, x[0] ** 2 + x[1] ** 2 - x[3] ** 2 - 25, x[0] - x[4] ** 2 - 2]
        rows = [[1, 1, -2 * x[2], 0, 0], [2 * x[0], 2 * x[1], 0, -2 * x[3], 0], [1, 0, 0, 0, -2 * x[4]]]
        second = [2 * lam[1], 2 * lam[1], -2 * lam[0], -2 * lam[1], -2 * lam[2]]
        return np.array(values), np.array(rows), np.diag(second)

    return f, c, [15.811, 1.5811, 0.0, 15.083, 3.7164]


def test_steps_continue_after_a_round_that_was_too_short() -> None:
    f, c, x0 = bt12()
    found = sketched_newton(f, c, x0)
    assert found.converged and found.steps <= 9  # 5 to 9 are published
    assert np.isclose(found.objective, 6.1881, atol=1e-3)  # the published minimum


#: The published numbers of Newton steps and the last residuals
PUBLISHED = [(hs6, 9, 5.2e-11), (hs7, 10, 5.6e-7), (hs28, 1, 1.1e-10)]


@pytest.mark.parametrize("sketch", ["kaczmarz", "gaussian"])
@pytest.mark.parametrize(("problem", "steps", "residual"), PUBLISHED)
def test_published_iterations(problem: Any, steps: int, residual: float, sketch: Any) -> None:
    f, c, x0, expected = problem()
    found = sketched_newton(f, c, x0, sketch=sketch)
    assert found.converged and found.steps == steps
    assert found.residual < 2 * residual  # their last digits depend on the random steps
    assert np.allclose(found.value, expected, atol=1e-5)
    n = len(x0)
    zero = np.concatenate([f(found.value)[1] + c(found.value, found.multipliers)[1].T @ found.multipliers])
    assert np.linalg.norm(zero) <= 1e-4 and zero.shape == (n,)


def test_control_of_an_equation_and_failures() -> None:
    """min |w - 1|^2 / 2 + |z|^2 / 20 with A w + z = 0 on a grid of 3 x 3, against the solution of the linear system."""
    line = 2 * np.eye(3) - np.eye(3, k=1) - np.eye(3, k=-1)
    J = np.hstack([4 * (np.kron(line, np.eye(3)) + np.kron(np.eye(3), line)), np.eye(9)])
    H, target = np.diag([1.0] * 9 + [0.1] * 9), np.array([1.0] * 9 + [0.0] * 9)

    def f(x: Any) -> Any:
        return (x - target) @ H @ (x - target) / 2, H @ (x - target), H

    def c(x: Any, lam: Any) -> Any:
        return J @ x, J, np.zeros((18, 18))

    exact = np.linalg.solve(np.block([[H, J.T], [J, np.zeros((9, 9))]]), np.concatenate([H @ target, np.zeros(9)]))
    found = sketched_newton(f, c, np.ones(18), multipliers0=np.ones(9))
    assert found.converged and np.allclose(found.value, exact[:18], atol=1e-4)

    def twice(x: Any, lam: Any) -> Any:
        return np.zeros(2), np.ones((2, 18)), np.zeros((18, 18))

    with pytest.warns(fastiter.ConvergenceWarning, match=r"\('stagnated': the constraints are linearly dependent\)$"):
        assert sketched_newton(f, twice, np.ones(18)).reason == "stagnated"
    with pytest.raises(fastiter.ConvergenceError):
        sketched_newton(f, c, np.ones(18), max_steps=0, throw=True)
    with pytest.raises(ValueError, match=r"sketched_newton: the Jacobian must have shape \(9, 18\), got \(9, 17\)"):
        sketched_newton(f, lambda x, lam: (J @ x, J[:, 1:], np.zeros((18, 18))), np.ones(18))
    with pytest.raises(TypeError, match="sketched_newton: objective must be callable"):
        sketched_newton(1, c, np.ones(18))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sketched_newton: x0 must be a finite vector"):
        sketched_newton(f, c, np.ones((3, 6)))
    with pytest.raises(ValueError, match="sketched_newton: atol must be finite and above 0"):
        sketched_newton(f, c, np.ones(18), atol=0)


def plane(scale: float = 1.0, **replaced: Any) -> Any:
    """Return |x|^2 / 2 in two dimensions and the plane x_1 + x_2 = 2 in some unit, with replaced parts."""
    parts: dict[str, Any] = {"f": None, "H": np.eye(2), "c": None, **replaced}

    def f(x: Any) -> Any:
        return parts["f"] or x @ x / 2, x, parts["H"]

    def c(x: Any, lam: Any) -> Any:
        value = scale * np.array([x.sum() - 2])
        return value if parts["c"] is None else parts["c"], scale * np.ones((1, 2)), np.zeros((2, 2))

    return f, c


def on_plane(**how: Any) -> Any:
    f, c = plane(**how)
    return sketched_newton(f, c, np.zeros(2))


def test_the_unit_of_constraints_and_functions_that_are_not_finite() -> None:
    for scale in (0.03, 1.0, 100.0):
        found = on_plane(scale=scale)
        assert found.converged and np.allclose(found.value, 1, atol=1e-2)
    for bad, reason in ((np.nan, "nan"), (np.inf, "diverged")):
        for replaced in ({"H": np.full((2, 2), bad)}, {"f": bad}):
            with pytest.warns(fastiter.ConvergenceWarning, match=f"'{reason}'"):
                assert on_plane(**replaced).reason == reason
    f, c = plane()
    with pytest.raises(ValueError, match=r"sketched_newton: the constraints must have shape \(k,\), got \(\)"):
        on_plane(c=1.0)
    with pytest.raises(TypeError, match=r"objective must return a value and its first and second derivatives, got 2"):
        sketched_newton(lambda x: f(x)[:2], c, np.zeros(2))
    with pytest.raises(TypeError, match=r"constraints must return a value and .* derivatives, got NoneType"):
        sketched_newton(f, lambda x, lam: None, np.zeros(2))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("sketch", SKETCHES)
def test_solutions_beyond_the_range_of_the_dtype_have_not_converged(sketch: Any) -> None:
    small = 1e-30 * np.eye(2, dtype=np.float32)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"must be within the range of float32, .* \('diverged'\)$"):
        found = sketch_solve(small, np.full(2, 1e10), sketch=sketch, size=2)
    assert found.reason == "diverged" and np.isinf(found.value).all()
    with pytest.warns(fastiter.ConvergenceWarning, match="within the range of float64, got inf after 0 steps"):
        assert sketch_solve(1e-200 * np.eye(2), np.full(2, 1e120), sketch=sketch).reason == "diverged"
