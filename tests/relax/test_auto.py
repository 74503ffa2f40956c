"""omega="auto" and the bounds of Chebyshev are no worse than the plain method for any matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

from fastiter import relax  # noqa: E402
from fastiter.relax import Chebyshev, Relaxation  # noqa: E402
from fastiter.relax._omega import auto, spectrum  # noqa: E402
from tests.relax.cases import attempt, poisson  # noqa: E402
from tests.support.cases import Array  # noqa: E402


def laplacian(shape: tuple[int, ...], *, periodic: bool = False) -> Any:
    """The singular Laplacian of a grid, with Neumann or periodic boundary conditions."""
    A = sparse.csr_array((1, 1))
    for m in shape:
        line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m)).tolil()
        if periodic:
            line[0, m - 1] = line[m - 1, 0] = -1
        else:
            line[0, 0] = line[m - 1, m - 1] = 1
        A = sparse.kron(A, sparse.eye_array(m)) + sparse.kron(sparse.eye_array(A.shape[0]), line)
    return A.tocsr()


def graph(n: int, radius: float) -> Any:
    """Return the Laplacian of random points in a square, linked to nearby points and along a path through all."""
    points = np.random.default_rng(n).random((n, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    linked = (distance < radius) & (distance > 0)
    order = np.argsort(points[:, 0])
    linked[order[:-1], order[1:]] = linked[order[1:], order[:-1]] = True
    return sparse.csr_array(np.diag(linked.sum(axis=1)) - linked.astype(float))


def image(A: Any, seed: int = 0) -> Array:
    """Return a right-hand side in the range of A."""
    return np.asarray(A @ np.random.default_rng(seed).standard_normal(A.shape[0]))


def scaled(A: Any, factor: float) -> Any:
    D = sparse.diags_array(10.0 ** np.random.default_rng(1).uniform(-8, 8, A.shape[0]))
    return sparse.csr_array(factor * (D @ A @ D))


def skew(m: int, strength: float) -> Any:
    n = m * m
    return (poisson(m, m) + sparse.diags_array([strength, -strength], offsets=[1, -1], shape=(n, n))).tocsr()


def unit_square() -> Any:
    pyamg = pytest.importorskip("pyamg")
    return sparse.csr_array(pyamg.gallery.load_example("unit_square")["A"])


def correlated(n: int, c: float) -> Any:
    return sparse.csr_array((1 - c) * np.eye(n) + c * np.ones((n, n)))


SINGULAR: dict[str, Callable[[], Any]] = {
    "Neumann 8": lambda: laplacian((8, 8)),
    "Neumann 13 x 20": lambda: laplacian((13, 20)),
    "Neumann 32": lambda: laplacian((32, 32)),
    "Neumann 6 x 6 x 6": lambda: laplacian((6, 6, 6)),
    "periodic 9": lambda: laplacian((9, 9), periodic=True),
    "periodic 16": lambda: laplacian((16, 16), periodic=True),
    "ring": lambda: laplacian((40,), periodic=True),
    "graph 20": lambda: graph(20, 0.4),
    "graph 150": lambda: graph(150, 0.15),
    "unit square": unit_square,
}
OTHERS: dict[str, Callable[[], Any]] = {
    **{f"Neumann + {shift}": lambda shift=shift: laplacian((12, 12)) + shift * sparse.eye_array(144)
       for shift in (1e-4, 1e-6, 1e-8, 1e-11)},
    **{f"graph + {shift}": lambda shift=shift: graph(25, 0.35) + shift * sparse.eye_array(25)
       for shift in (1e-5, 1e-8, 1e-12)},
    **{f"scaled {factor}": lambda factor=factor: scaled(laplacian((10, 10)), factor) for factor in (1e-30, 1.0, 1e30)},
    **{f"scaled Poisson {factor}": lambda factor=factor: scaled(poisson(12, 12), factor) for factor in (1e-30, 1e30)},
    **{f"skew {strength}": lambda strength=strength: skew(17, strength) for strength in (0.2, -0.3, 0.9, -0.9, 1.5)},
    **{f"correlated {n}, {c}": lambda n=n, c=c: correlated(n, c) for n, c in ((40, 0.3), (20, 0.9), (150, 0.05))},
    "indefinite": lambda: poisson(9, 9) - sparse.eye_array(81),
    "blocks that b does not reach": lambda: sparse.block_diag([poisson(12, 12), sparse.eye_array(40)]),
}  # fmt: skip


def is_no_worse(auto: Any, plain: Any) -> bool:
    return not plain.converged or (bool(auto.converged) and auto.steps <= 1.1 * plain.steps)


@pytest.mark.parametrize("name", sorted({*SINGULAR, *OTHERS} - {"Neumann 32"}))
def test_omega_auto_is_no_worse_than_1(name: str) -> None:
    A = sparse.csr_array({**SINGULAR, **OTHERS}[name]())
    b = image(A)
    for solve in (relax.sor, relax.ssor, relax.jacobi):
        with np.errstate(over="ignore"):
            plain, auto = (attempt(solve, A, b, omega=omega, max_steps=4000) for omega in (1.0, "auto"))
        assert is_no_worse(auto, plain), (solve.__name__, plain.steps, auto.reason, auto.steps, auto.omega)
    every = [attempt(relax.sor, A, b, omega=omega, max_steps=4000, check_every=7) for omega in (1.0, "auto")]
    assert not every[0].converged or every[1].steps <= 1.1 * every[0].steps + 7
    if name in SINGULAR:
        damped = relax.jacobi(A, b, omega=0.95, max_steps=4000)
        assert is_no_worse(relax.jacobi(A, b, omega="auto", max_steps=4000), damped)
        assert is_no_worse(relax.chebyshev(A, b, max_steps=4000), damped)
        plain, auto = (relax.ssor_cg(A, b, omega=omega, check_every=1) for omega in (1.0, "auto"))
        assert auto.converged
        assert auto.steps <= 1.1 * plain.steps + 1


@pytest.mark.parametrize("name", ["Neumann 6 x 6 x 6", "periodic 9", "graph 20", "graph + 1e-08", "graph + 1e-12"])
def test_kaczmarz_is_no_worse_either(name: str) -> None:
    A = sparse.csr_array({**SINGULAR, **OTHERS}[name]())
    plain, auto = (relax.kaczmarz(A, image(A), omega=omega, max_steps=3000) for omega in (1.0, "auto"))
    assert plain.converged
    assert is_no_worse(auto, plain)


@pytest.mark.parametrize("factor", [1e-30, 1e-24, 1.0, 1e25])
@pytest.mark.parametrize("name", ["Neumann 13 x 20", "graph 150", "unit square"])
def test_the_same_in_float32(name: str, factor: float) -> None:
    A = sparse.csr_array((factor * SINGULAR[name]()).astype(np.float32))
    b = (image(A.astype(np.float64))).astype(np.float32)
    for solve in (relax.sor, relax.ssor):
        plain, auto = (solve(A, b, omega=omega, rtol=1e-4) for omega in (1.0, "auto"))
        assert is_no_worse(auto, plain)
    assert is_no_worse(relax.chebyshev(A, b, rtol=1e-4), relax.jacobi(A, b, omega=0.95, rtol=1e-4))


@pytest.mark.parametrize("name", ["Neumann 13 x 20", "Neumann 32", "periodic 16", "graph 150"])
def test_singular_systems_converge_faster(name: str) -> None:
    """b has no component of Jacobi's eigenvalue 1, so the next eigenvalue determines omega."""
    A = SINGULAR[name]()
    b = image(A)
    assert relax.sor(A, b, omega="auto").steps < relax.gauss_seidel(A, b).steps / 2
    d = 1 / np.sqrt(A.diagonal())
    exact = np.linalg.eigvalsh(d[:, None] * A.toarray() * d)
    found = spectrum.jacobi_spectrum(auto.jacobi_of("test", Relaxation(A)._system))
    assert found.is_real
    assert found.high == pytest.approx(1 - exact[1], abs=1e-4)
    ssor = Relaxation(A, "ssor", omega=1.5)
    assert Chebyshev(ssor).solve(b).steps < ssor.solve(b).steps / 1.5


def test_many_columns_and_a_trial_that_fails() -> None:
    A = correlated(40, 0.3)
    b = np.random.default_rng(0).standard_normal((40, 3))
    plain, auto = (relax.sor(A, b, omega=omega) for omega in (1.0, "auto"))
    assert auto.converged.all()
    assert auto.steps.max() <= 1.1 * plain.steps.max()
    assert len(auto.history) == auto.steps.max() + 1
    np.testing.assert_allclose(A @ auto.value, b, atol=1e-6)


def test_a_tolerance_of_zero_and_a_zero_right_hand_side() -> None:
    A = poisson(8, 8)
    assert attempt(relax.sor, A, np.ones(64), omega="auto", rtol=0.0, max_steps=3000).reason == "stagnated"
    assert relax.sor(A, np.zeros(64), omega="auto").steps == 0
