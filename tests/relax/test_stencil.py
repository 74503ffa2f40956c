"""Stencils against the specification on the matrices they represent; many sweeps in one pass over the grid."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.reference import relax as reference
from fastiter.relax import Anderson, Chebyshev, Relaxation, Stencil, chebyshev, kaczmarz, sor
from tests.support.cases import Array, assert_same_bits

GRIDS = [(1, 1), (1, 9), (9, 1), (5, 4), (3, 37), (12, 20), (2, 3, 4), (4, 1, 19), (3, 5, 33), (1, 4, 6)]
DTYPES = ("float32", "float64")


def stencil(grid: tuple[int, ...], dtype: Any, is_constant: bool, has_mask: bool) -> Stencil:
    rng = np.random.default_rng([*grid, is_constant, has_mask])
    count = 2 * len(grid) + 1
    c = rng.uniform(0.5, 1.0, (count,) if is_constant else (count, *grid)) * rng.choice([-1, 1], count).reshape(
        -1, *(1,) * (0 if is_constant else len(grid))
    )
    c[0] = 7.5
    mask = rng.random(grid) < 0.8 if has_mask else None
    return Stencil(grid, c.astype(dtype), mask)


def every_stencil(dtype: Any) -> Any:
    for grid, is_constant, has_mask in itertools.product(GRIDS, (True, False), (False, True)):
        made = stencil(grid, dtype, is_constant, has_mask)
        rng = np.random.default_rng(1)
        b, x = (rng.standard_normal(grid).astype(dtype) for _ in range(2))
        yield made, b, x


def equations(s: Stencil, b: Array, x: Array) -> tuple[Array, Array]:
    """Return the matrix and right-hand side, with the equation x = x for each given point."""
    A, b = s.toarray().astype(np.float64), b.ravel().astype(np.float64)
    if s.mask is not None:
        given = ~s.mask.ravel()
        A[given, given], b[given] = 1, x.ravel()[given]
    return A, b


def assert_near(actual: Array, expected: Array, dtype: Any, what: Any = "") -> None:
    atol = 100 * float(np.finfo(dtype).eps) * max(1.0, float(abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual.ravel(), expected, rtol=0, atol=atol, err_msg=str(what))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sweeps(dtype: str) -> None:
    for k, (s, b, x) in enumerate(every_stencil(dtype)):
        A, rhs = equations(s, b, x)
        checkers = np.indices(s.grid).sum(axis=0).ravel() % 2
        omegas = (1.0, 1.3) if (k + k // 4) % 2 else (1.3, 1.0)  # by turns, with each kind of stencil
        for order, omega in zip(("natural", "red-black"), omegas, strict=True):
            rows = list(range(b.size)) if order == "natural" else reference.order_of(list(checkers))
            sweeps, both = (Relaxation(s, method, omega=omega, order=order) for method in ("sor", "ssor"))
            forward, backward, symmetric = x.copy(), x.copy(), x.copy()
            sweeps.sweep(forward, b, 3)
            sweeps.sweep(backward, b, 2, backward=True)
            both.sweep(symmetric, b, 2)
            ahead = back = two = x.ravel().astype(np.float64)
            for _ in range(3):
                ahead = reference.sor(A, ahead, rhs, omega, rows)
            for _ in range(2):
                back = reference.sor(A, back, rhs, omega, rows, backward=True)
                two = reference.ssor(A, two, rhs, omega, rows)
            for actual, expected in ((forward, ahead), (backward, back), (symmetric, two)):
                assert_near(actual, expected, dtype, (s.grid, order))
            if s.mask is not None:
                assert_same_bits(forward[~s.mask], x[~s.mask])
        jacobi = x.copy()
        Relaxation(s, "jacobi", omega=0.8).sweep(jacobi, b, 2)
        expected = reference.jacobi(A, reference.jacobi(A, x.ravel().astype(np.float64), rhs, 0.8), rhs, 0.8)
        assert_near(jacobi, expected, dtype, s.grid)
        assert_near(Relaxation(s, "jacobi").residual(x, b), rhs - A @ x.ravel().astype(np.float64), dtype, s.grid)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_sweeps_in_one_pass_equal_single_sweeps(dtype: str) -> None:
    """Equal also if consecutive half-sweeps are cut into groups, and on any number of threads."""
    for grid in ((300, 300), (700, 61), (20, 50, 70)):
        for is_constant, has_mask in ((True, False), (False, True)):
            s = stencil(grid, dtype, is_constant, has_mask)
            b, x = np.random.default_rng(0).standard_normal((2, *grid)).astype(dtype)
            sweeps = Relaxation(s, "ssor", omega=1.2, order="red-black")
            results = []
            for threads in (1, 2, 5):
                fastiter.set_num_threads(threads)
                try:
                    y, one = x.copy(), x.copy()
                    sweeps.sweep(y, b, 37)
                    for _ in range(37):
                        sweeps.sweep(one, b)
                    jacobi = x.copy()
                    Relaxation(s, "jacobi").sweep(jacobi, b, 3)
                    results.append((y, one, jacobi, sweeps.residual(x, b)))
                finally:
                    fastiter.set_num_threads(None)
            assert_same_bits(results[0][0], results[0][1])
            for other in results[1:]:
                for first, same in zip(results[0], other, strict=True):
                    assert_same_bits(same, first)


@pytest.mark.parametrize("grid", [(15, 15), (7, 8, 9)])
def test_solving(grid: tuple[int, ...]) -> None:
    count = len(grid)
    laplacian = Stencil(grid, np.array([2.0 * count, *[-1.0] * (2 * count)]))
    A, b = laplacian.toarray(), np.random.default_rng(0).standard_normal(grid)
    np.testing.assert_array_equal(A, reference.poisson(*grid))
    expected = np.linalg.solve(A, b.ravel()).reshape(grid)
    beta = sum(math.cos(math.pi / (n + 1)) for n in grid) / count
    omega = reference.optimal_omega(beta)
    for order in ("natural", "red-black"):
        solution = sor(laplacian, b, omega=omega, order=order, rtol=1e-10)
        assert solution.converged
        assert solution.value.shape == grid
        assert isinstance(solution.steps, int)
        np.testing.assert_allclose(solution.value, expected, atol=1e-7)
    fast = chebyshev(laplacian, b, bounds=(1 - beta, 1 + beta), rtol=1e-10)
    np.testing.assert_allclose(fast.value, expected, atol=1e-7)
    sweeps = Relaxation(laplacian, "ssor", order="red-black")
    for wrapper in (Chebyshev(sweeps), Anderson(sweeps)):
        assert wrapper.solve(b).steps < sweeps.solve(b).steps
    M = sweeps.as_preconditioner() if _has_scipy() else None
    if M is not None:
        x = np.zeros(grid)
        sweeps.sweep(x, b)
        np.testing.assert_array_equal(M @ b.ravel(), x.ravel())
        np.testing.assert_array_equal(M @ np.stack([b.ravel()] * 2, axis=1), np.stack([x.ravel()] * 2, axis=1))


def _has_scipy() -> bool:
    try:
        import scipy.sparse.linalg  # noqa: F401
    except ImportError:
        return False
    return True


def test_given_points_are_boundary_values() -> None:
    """A harmonic function is recovered from its values on the edge of an L."""
    i, j = np.indices((20, 24))
    exact = (i**2 - j**2).astype(np.float64)
    mask = np.zeros((20, 24), bool)
    mask[1:-1, 1:-1] = True
    mask[10:, 12:] = False
    laplacian = Stencil((20, 24), np.array([4.0, -1, -1, -1, -1]), mask)
    start = np.where(mask, 0, exact)
    junk = np.where(mask, 0, np.nan)  # b is not read where there is no equation
    for order in ("natural", "red-black"):
        solution = sor(laplacian, np.zeros((20, 24)), start, omega=1.7, order=order, atol=1e-10)
        np.testing.assert_allclose(solution.value, exact, atol=1e-8)
        again = sor(laplacian, junk, start, omega=1.7, order=order, atol=1e-10)
        assert_same_bits(again.value, solution.value)


def test_layouts_and_empty_grids() -> None:
    s = Stencil((6, 10), np.array([4.0, -1, -1, -1, -1]))
    b, x = np.random.default_rng(0).standard_normal((2, 6, 10))
    sweeps, expected = Relaxation(s, "sor", order="red-black"), x.copy()
    sweeps.sweep(expected, b)
    wide = np.full((12, 20), np.nan)
    for y in (np.asfortranarray(x), wide[::2, ::-2]):
        y[...] = x
        sweeps.sweep(y, np.asfortranarray(b))
        assert_same_bits(np.ascontiguousarray(y), expected)
    for grid in ((0, 4), (4, 0), (0, 0, 0)):
        empty = Stencil(grid, np.ones(2 * len(grid) + 1))
        for order in ("natural", "red-black", "cluster", []):
            assert sor(empty, np.zeros(grid), order=order).converged


@pytest.mark.parametrize("dtype", [("float32", "float64"), ("float32", "complex128"), ("float64", "complex128")])
@pytest.mark.parametrize("grid", [(6, 7), (4, 3, 5)])
def test_several_right_hand_sides_and_wider_dtypes(grid: tuple[int, ...], dtype: tuple[str, str]) -> None:
    """Each right-hand side is treated as if alone, each real part as if real, and all sums have the dtype of x."""
    for is_constant, has_mask in ((True, False), (False, True)):
        s = stencil(grid, dtype[0], is_constant, has_mask)
        wide = Stencil(grid, s.coefficients.astype("float64"), s.mask)
        rng = np.random.default_rng(0)
        parts_b, parts_x = rng.standard_normal((2, 2, *grid, 3))
        b, x = (p[0] if dtype[1] == "float64" else p[0] + 1j * p[1] for p in (parts_b, parts_x))
        for method, order in (("sor", "natural"), ("ssor", "red-black"), ("jacobi", "natural")):
            many, one = (Relaxation(of, method, omega=0.9, order=order) for of in (s, wide))
            swept, r, solution = x.copy(), many.residual(x, b), many.solve(b, x, rtol=1e-10)
            many.sweep(swept, b, 2)
            assert solution.converged.all()
            for c in range(3):
                for part in ("real", "imag") if dtype[1] == "complex128" else ("real",):
                    alone, rhs = (np.ascontiguousarray(getattr(v[..., c], part)) for v in (x, b))
                    assert_same_bits(np.ascontiguousarray(getattr(r[..., c], part)), one.residual(alone, rhs))
                    one.sweep(alone, rhs, 2)
                    assert_same_bits(np.ascontiguousarray(getattr(swept[..., c], part)), alone)
                column = many.solve(np.ascontiguousarray(b[..., c]), np.ascontiguousarray(x[..., c]), rtol=1e-10)
                assert column.steps == solution.steps[c]
            norms = np.linalg.norm(many.residual(solution.value, b).reshape(-1, 3), axis=0)
            np.testing.assert_allclose(solution.residual, norms, rtol=1e-6)
        laplacian = Stencil(grid, np.array([2.0 * len(grid), *[-1.0] * (2 * len(grid))], dtype[0]), s.mask)
        fast = chebyshev(laplacian, b)
        assert fast.converged.all()
        assert sor(laplacian, b[..., :0]).value.shape == (*grid, 0)


C5 = np.array([4.0, -1, -1, -1, -1])
B = np.ones((3, 3))
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Stencil(3, C5), TypeError, "Stencil: grid must be a tuple of ints, got int"),
    (lambda: Stencil((3,), C5), ValueError, r"grid must have two or three sizes from 0 on, got \(3,\)"),
    (lambda: Stencil((3, 3), C5[:4]), ValueError, r"shape \(5,\) or \(5, 3, 3\), got \(4,\)"),
    (lambda: Stencil((3, 3), C5.astype(int)), TypeError, "coefficients must be .*, got dtype int64"),
    (lambda: Stencil((3, 3), np.array([1, 2, 3, np.nan, 5])), ValueError, r"must be finite, got another at \(3,\)"),
    (lambda: Stencil((3, 3), C5, np.ones((3, 3))), TypeError, "mask must be a NumPy array of bool, got float64"),
    (lambda: Stencil((3, 3), C5, np.ones((3, 2), bool)), ValueError, r"mask must have shape \(3, 3\), got \(3, 2\)"),
    (lambda: Relaxation(Stencil((3, 3), C5 * 0)), ValueError, r"no zero on the diagonal, got 0 at point \(0, 0\)"),
    (lambda: Relaxation(Stencil((3, 3), C5), order="rows"), ValueError, "order must be one of 'natural', .* or an arr"),
    (lambda: Relaxation(Stencil((3, 3), C5), order=[0, 1]), ValueError, r"order must have shape \(9,\), got \(2,\)"),
    (lambda: sor(Stencil((3, 3), C5 + 0j), B), TypeError, "b must be .*complex128, got dtype float64"),
    (lambda: Stencil((3, 3), C5 * (1 + np.nan * 1j)), ValueError, r"must be finite, got another at \(0,\)"),
    (lambda: Stencil((3, 3), C5.astype("c8")), TypeError, "coefficients must be .*complex128, got dtype complex64"),
    (
        lambda: Relaxation(Stencil((1, 2), np.ones((5, 1, 2)) * [1j, 0]), "jacobi"),
        ValueError,
        r"got 0 at point \(0, 1\)",
    ),
    (
        lambda: Relaxation(Stencil((3, 3), C5), "gauss_seidel", omega="auto"),
        ValueError,
        "omega must be 1 for gauss_sei",
    ),
    (lambda: Relaxation(Stencil((3, 3), C5), "jacobi", order="red-black"), ValueError, "order must be 'natural'"),
    (lambda: Relaxation(Stencil((3, 3), C5), "kaczmarz", order="color"), ValueError, "order must be 'natural' or an"),
    (lambda: kaczmarz(Stencil((3, 3), C5), np.ones(9)), ValueError, r"kaczmarz: b must have shape \(3, 3\)"),
    (lambda: Relaxation(Stencil((3, 3), C5), block_size=3), ValueError, "block_size must be None for a Stencil"),
    (lambda: Relaxation(Stencil((3, 3), C5), "block_jacobi"), ValueError, "block_size must be an int if A has no"),
    (
        lambda: sor(Stencil((3, 3), C5), np.ones(9)),
        ValueError,
        r"shape \(3, 3\) or \(3, 3, k\) to go with A, got \(9,\)",
    ),
    (lambda: sor(Stencil((3, 3), C5), np.ones((3, 3, 2, 2))), ValueError, r"got \(3, 3, 2, 2\)"),
    (lambda: sor(Stencil((3, 3), C5), B.astype("f4")), TypeError, "b must be .*float64.*, got dtype float32"),
    (lambda: chebyshev(Stencil((3, 3), -C5), B), ValueError, "bounds must be given if A is not Hermitian"),
]


@pytest.mark.parametrize("case", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_refused(case: tuple[Callable[[], Any], type[Exception], str]) -> None:
    call, error, match = case
    with pytest.raises(error) as raised:
        call()
    assert re.search(match, str(raised.value)), raised.value
    assert re.fullmatch(r"[A-Za-z_.]+: \w+ must .+[,;] got .+", str(raised.value)), raised.value
