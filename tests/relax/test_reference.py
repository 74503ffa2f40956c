"""The specification of relaxation against sweeps by hand, dense splittings and known counts of iterations."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from fastiter.reference import relax as reference

A3 = np.array([[4.0, -1.0, 0.0], [-2.0, 8.0, 1.0], [0.0, 3.0, -2.0]])
B3 = np.array([8.0, 4.0, 2.0])


def test_sor_by_hand() -> None:
    # omega 1.5, from 0: x0 = 1.5 * 8/4 = 3; x1 = 1.5 (4 + 6) / 8 = 1.875; x2 = 1.5 (2 - 5.625) / -2 = 2.71875
    x = reference.sor(A3, np.zeros(3), B3, 1.5)
    assert x.tolist() == [3.0, 1.875, 2.71875]
    # second sweep: x keeps -0.5 times its old value
    x0 = -1.5 + 1.5 * 9.875 / 4
    x1 = -0.9375 + 1.5 * (4 + 2 * x0 - 2.71875) / 8
    x2 = -1.359375 + 1.5 * (2 - 3 * x1) / -2
    assert reference.sor(A3, x, B3, 1.5).tolist() == [x0, x1, x2]


def test_sor_backward_by_hand() -> None:
    # from 0: x2 = 1.5 * 2 / -2 = -1.5; x1 = 1.5 (4 + 1.5) / 8 = 1.03125; x0 = 1.5 (8 + 1.03125) / 4
    x = reference.sor(A3, np.zeros(3), B3, 1.5, backward=True)
    assert x.tolist() == [1.5 * 9.03125 / 4, 1.03125, -1.5]
    both = reference.ssor(A3, np.zeros(3), B3, 1.5)
    assert both.tolist() == reference.sor(A3, np.array([3.0, 1.875, 2.71875]), B3, 1.5, backward=True).tolist()


def test_jacobi_by_hand() -> None:
    x = reference.jacobi(A3, np.array([1.0, 2.0, 3.0]), B3)
    assert x.tolist() == [(8 + 2) / 4, (4 + 2 - 3) / 8, (2 - 6) / -2]


def test_an_order_by_hand() -> None:
    # rows 2, 0, 1: x2 = 2 / -2; x0 = 8 / 4; x1 = (4 + 2 * 2 + 1) / 8
    assert reference.sor(A3, np.zeros(3), B3, order=[2, 0, 1]).tolist() == [2.0, 9 / 8, -1.0]


def test_kaczmarz_by_hand() -> None:
    A, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([25.0, 2.0])
    # onto 3 x + 4 y = 25: (3, 4); then onto x = 2: (2, 4)
    assert reference.kaczmarz(A, np.zeros(2), b).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("omega", [0.7, 1.0, 1.6])
def test_sweeps_are_their_splittings(omega: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((7, 7)).astype(dtype) + 5 * np.eye(7)
    if dtype is np.complex128:
        A += 1j * rng.standard_normal((7, 7))
    x, b = (rng.standard_normal((7, 2)).astype(dtype) for _ in range(2))
    sweeps = {
        "jacobi": reference.jacobi(A, x, b, omega),
        "sor": reference.sor(A, x, b, omega),
        "backward sor": reference.sor(A, x, b, omega, backward=True),
        "ssor": reference.ssor(A, x, b, omega),
    }
    for name, new in sweeps.items():
        M = reference.splitting(A, name, omega)
        np.testing.assert_allclose(new, x + np.linalg.solve(M, b - A @ x), rtol=1e-12, atol=1e-12, err_msg=name)
    order = rng.permutation(7)
    permuted = reference.sor(reference.permuted(A, order), x[order], b[order], omega)
    np.testing.assert_allclose(reference.sor(A, x, b, omega, order)[order], permuted, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blocks(size: int) -> None:
    rng = np.random.default_rng(1)
    A, x, b = rng.standard_normal((7, 7)) + 5 * np.eye(7), rng.standard_normal(7), rng.standard_normal(7)
    mask = np.equal.outer(np.arange(7) // size, np.arange(7) // size)
    lower = np.greater.outer(np.arange(7) // size, np.arange(7) // size)
    jacobi, sor = reference.block_jacobi(A, x, b, size, 0.9), reference.block_sor(A, x, b, size, 0.9)
    r = b - A @ x
    np.testing.assert_allclose(jacobi, x + 0.9 * np.linalg.solve(A * mask, r), rtol=1e-12)
    np.testing.assert_allclose(sor, x + np.linalg.solve(A * mask / 0.9 + A * lower, r), rtol=1e-12)
    if size == 1:
        np.testing.assert_allclose(sor, reference.sor(A, x, b, 0.9), rtol=1e-12)
    if size == 7:
        np.testing.assert_allclose(reference.block_sor(A, x, b, size), np.linalg.solve(A, b), rtol=1e-12)


def test_colours() -> None:
    grid = reference.poisson(3, 4)
    checkers = [(i + j) % 2 for i in range(3) for j in range(4)]
    assert reference.first_fit(grid) == checkers
    assert reference.first_fit(grid, red_black=True) == checkers
    triangle = np.ones((3, 3))
    assert reference.first_fit(triangle) == [0, 1, 2]
    with pytest.raises(ValueError, match="rows 1 and 2"):
        reference.first_fit(triangle, red_black=True)
    one_way = np.eye(3) + np.diag([1.0, 1.0], 1)  # a link counts in either direction
    assert reference.first_fit(one_way) == [0, 1, 0]
    assert reference.order_of([1, 0, 1, 0]) == [1, 3, 0, 2]


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_chebyshev_is_its_polynomial(steps: int) -> None:
    rng = np.random.default_rng(2)
    A = reference.poisson(3, 3)
    x, b, low, high = rng.standard_normal(9), rng.standard_normal(9), 0.3, 1.8
    values, vectors = np.linalg.eigh(A / 4)
    polynomial = np.polynomial.Chebyshev.basis(steps)
    factor = polynomial((high + low - 2 * values) / (high - low)) / polynomial((high + low) / (high - low))
    solution = np.linalg.solve(A, b)
    expected = solution + vectors @ (factor * (vectors.T @ (x - solution)))
    np.testing.assert_allclose(reference.chebyshev(A, b, x, low, high, steps), expected, rtol=1e-12)


def test_optimal_omega_of_a_square() -> None:
    for m in (3, 15, 63):
        beta = math.cos(math.pi / (m + 1))
        assert reference.optimal_omega(beta) == pytest.approx(2 / (1 + math.sin(math.pi / (m + 1))), rel=1e-12)
    assert reference.optimal_omega(math.cos(math.pi / 64)) == pytest.approx(1.906455, abs=5e-7)


def test_counts_on_a_small_grid() -> None:
    """The splitting matrices, computed independently of the sweeps, give the same counts."""
    A, b = reference.poisson(7, 7), np.ones(49)
    omega = reference.optimal_omega(math.cos(math.pi / 8))
    sweeps = {
        ("jacobi", 1.0): partial(reference.jacobi, A, b=b),
        ("sor", 1.0): partial(reference.sor, A, b=b),
        ("sor", omega): partial(reference.sor, A, b=b, omega=omega),
        ("ssor", omega): partial(reference.ssor, A, b=b, omega=omega),
    }
    for (name, w), sweep in sweeps.items():
        M = reference.splitting(A, name, w)
        _, expected = reference.solve(A, b, lambda x, M=M: x + np.linalg.solve(M, b - A @ x))
        x, steps = reference.solve(A, b, sweep)
        assert steps == expected > 1, name
        np.testing.assert_allclose(A @ x, b, atol=1e-6)
