"""Copies and pickles, numbers out of range, stored zeros."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

from fastiter import relax  # noqa: E402
from fastiter.relax import (  # noqa: E402
    Anderson,
    Batch,
    ChebCB,
    Chebyshev,
    ContextualTsallisINF,
    Relaxation,
    Stencil,
    TsallisINF,
)
from fastiter.relax._sweeps import pieces  # noqa: E402
from tests.relax.cases import attempt, csr, poisson, random_matrix, vectors  # noqa: E402

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}
SYSTEMS: dict[str, Callable[[], Any]] = {
    "csr": lambda: poisson(6, 7),
    "csr float32": lambda: poisson(6, 7).astype(np.float32),
    "dense": lambda: random_matrix(30, "complex128"),
    "bsr": lambda: poisson(6, 7).tobsr((2, 2)),
    "batch": lambda: Batch(poisson(5, 5), np.stack([poisson(5, 5).data, 1.5 * poisson(5, 5).data])),
    "stencil": lambda: Stencil((6, 7), np.array([4.0, -1, -1, -1, -1]), np.random.default_rng(0).random((6, 7)) < 0.9),
}


def rhs(A: Any) -> Any:
    shape = A.grid if isinstance(A, Stencil) else (2, 25) if isinstance(A, Batch) else A.shape[:1]
    return vectors(shape, A.values.dtype if isinstance(A, Batch) else A.dtype, 3)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_copies_of_relaxations_have_the_same_bits(name: str, how: str) -> None:
    A = SYSTEMS[name]()
    b = rhs(A)
    methods: list[tuple[str, dict[str, Any]]] = [
        ("jacobi", {"omega": "auto"}),
        ("sor", {"omega": "auto", "order": "color"}),
        ("kaczmarz", {"omega": 1.2}),
        ("ssor", {"omega": 1.3}),
    ]
    if name == "bsr":
        methods.append(("block_gauss_seidel", {}))
    for method, options in methods:
        relaxation = Relaxation(A, method, **options)
        if name in ("csr", "bsr", "csr float32"):
            A.data *= 2  # the copy has the matrix before the change
        other = COPIES[how](relaxation)
        if name in ("csr", "bsr", "csr float32"):
            A.data /= 2
        assert (other.omega, other.method, other.colors) == (relaxation.omega, relaxation.method, relaxation.colors)
        one, two = (attempt(of.solve, b, max_steps=30) for of in (relaxation, other))
        assert one.value.tobytes() == two.value.tobytes()
        if b.dtype == np.float32:
            wide = b.astype(np.float64)
            one, two = (attempt(of.solve, wide, max_steps=5) for of in (relaxation, other))
            assert one.value.tobytes() == two.value.tobytes()


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_accelerators(how: str) -> None:
    A, b = poisson(6, 7), np.ones(42)
    for made in (Chebyshev(Relaxation(A, "ssor", omega=1.4)), Anderson(Relaxation(A, "sor"), 4)):
        other = COPIES[how](made)
        assert other.solve(b).value.tobytes() == made.solve(b).value.tobytes()
    stencil, batch = SYSTEMS["stencil"](), SYSTEMS["batch"]()
    assert np.array_equal(COPIES[how](stencil).toarray(), stencil.toarray())
    assert np.array_equal(COPIES[how](batch).values, batch.values)


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_tuners_are_independent(how: str) -> None:
    arms = [1.0, 1.4, 1.8]
    for make in (
        lambda: TsallisINF(arms, rng=3),
        lambda: ContextualTsallisINF(arms, bounds=(0.0, 1.0), bins=3, rng=3),
        lambda: ChebCB(arms, bounds=(0.0, 1.0), rng=3),
    ):
        tuner: Any = make()
        for t in range(20):
            tuner.predict(t / 20)
            tuner.update(10 + t)
        other, drawn = COPIES[how](tuner), [[], []]  # type: ignore[var-annotated]
        assert not other.arms.flags.writeable
        for which, of in enumerate((tuner, other)):  # one after the other, as they share no state
            for t in range(30):
                drawn[which].append(of.predict(t / 30))
                of.update(5 + t % 7)
        assert drawn[0] == drawn[1]


def test_reprs_are_one_line() -> None:
    A, stencil = poisson(6, 7), SYSTEMS["stencil"]()
    ssor = Relaxation(A, "ssor", omega=1.4, order="color")
    texts = {
        ssor: "Relaxation(ssor, omega=1.4, order='color', 2 colours, A: 42 x 42 float64)",
        Relaxation(A): "Relaxation(sor, omega='auto', A: 42 x 42 float64)",
        Relaxation(SYSTEMS["batch"](), "gauss_seidel", symmetric=True): (
            "Relaxation(gauss_seidel, omega=1, symmetric, A: 2 of 25 x 25 float64)"
        ),
        Chebyshev(ssor, (0.1, 1.0)): f"Chebyshev({ssor!r}, bounds=(0.1, 1))",
        Anderson(ssor): f"Anderson({ssor!r}, memory=5)",
        stencil: f"Stencil((6, 7), 5 constant coefficients, float64, {(~stencil.mask).sum()} given points)",
        SYSTEMS["batch"](): "Batch(2 matrices, 25 x 25, 105 entries, float64)",
        TsallisINF([1.0, 1.5], rng=0): "TsallisINF(2 arms from 1 to 1.5, 0 updates)",
    }
    for made, text in texts.items():
        assert repr(made) == text
    relaxation = Relaxation(A)
    assert f"omega='auto' ({relaxation.omega:.4g})" in repr(relaxation)
    assert dir(relax.compat) == sorted(relax.compat.__all__)


def test_scipy_accepts_relaxations_and_stencils() -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    for shape in ((5, 6), (4, 3, 5)):
        mask = np.random.default_rng(0).random(shape) < 0.8
        c = np.random.default_rng(1).random((2 * len(shape) + 1, *shape))
        for stencil in (Stencil(shape, c), Stencil(shape, c, mask), Stencil(shape, c.reshape(len(c), -1)[:, 0].copy())):
            dense = stencil.toarray()
            assert np.array_equal(stencil.tocsr().toarray(), dense)
            x = vectors((*shape, 2), "complex128")
            expected = dense @ x.reshape(-1, 2)
            for given in (x, x.reshape(-1, 2), x[..., 0], x[..., 0].ravel()):
                found = stencil @ given
                assert found.shape == given.shape
                np.testing.assert_allclose(found.reshape(len(dense), -1)[:, 0], expected[:, 0])
    laplacian = Stencil((12, 13), np.array([4.0, -1, -1, -1, -1]))
    b, counts = np.ones(156), []
    for A, M in ((laplacian, Relaxation(laplacian, "ssor", omega=1.4)), (laplacian.tocsr(), None)):
        steps: list[Any] = []
        x, failed = linalg.cg(A, b, rtol=1e-8, M=M, callback=steps.append)
        assert not failed
        np.testing.assert_allclose(laplacian @ x, b, atol=1e-6)
        counts.append(len(steps))
    assert counts[0] < counts[1] / 1.5
    with pytest.raises(ValueError, match=r"^Relaxation.matvec: r must have shape .*, got \(12, 13\)$"):
        Relaxation(laplacian).matvec(np.ones((12, 13)))
    with pytest.raises(ValueError, match=r"^Stencil.matvec: x must have shape .*, got \(13, 12\)$"):
        laplacian @ np.ones((13, 12))


@pytest.mark.parametrize("order", ["natural", "color"])
def test_long_sweeps_in_pieces_have_the_same_bits(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    A, b = poisson(9, 8), vectors(72, "float64")
    for method in ("jacobi", "sor", "ssor", "kaczmarz"):
        relaxation = Relaxation(A, method, order="natural" if method in ("jacobi", "kaczmarz") else order)
        found = []
        for entries in (2**23, 1):
            monkeypatch.setattr(pieces, "ENTRIES", entries)
            x = np.zeros(72)
            relaxation.sweep(x, b, 57)
            found.append(x)
        assert found[0].tobytes() == found[1].tobytes()
    monkeypatch.undo()
    assert list(pieces.pieces(5, 10)) == [5]
    assert sum(pieces.pieces(1000, 10**9)) == 1000


@pytest.mark.parametrize("factor", [1e-300, 1e-200, 1e-160, 1e155, 1e160, 1e280])
def test_projections_on_rows_of_any_size(factor: float) -> None:
    for dtype in ("float64", "complex128"):
        A = random_matrix(24, dtype)
        b = A @ vectors(24, dtype)
        plain = attempt(relax.kaczmarz, A, b, max_steps=60, rtol=1e-12)
        rows = np.where(np.arange(24) % 3 == 0, factor, 1.0)
        for scale in (np.full(24, factor), rows):
            own = attempt(relax.kaczmarz, scale[:, None] * A, scale * b, rtol=0.0, max_steps=60)
            same = attempt(relax.kaczmarz, A, b, rtol=0.0, max_steps=60)
            np.testing.assert_allclose(own.value, same.value, rtol=1e-9)
        assert plain.steps > 5
        batch = Batch(csr(np.ones((24, 24))), np.stack([A.ravel(), factor * A.ravel()]))
        two = attempt(relax.kaczmarz, batch, np.stack([b, factor * b]), rtol=0.0, max_steps=20).value
        np.testing.assert_allclose(two[1], two[0], rtol=1e-9)
    grid = Stencil((5, 6), factor * np.array([4.0, -1, -1, -1, -1]))
    b = vectors((5, 6), "float64")
    same = attempt(relax.kaczmarz, Stencil((5, 6), np.array([4.0, -1, -1, -1, -1])), b, max_steps=30).value
    own = attempt(relax.kaczmarz, grid, factor * b, max_steps=30).value
    np.testing.assert_allclose(own, same, rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-36, 1e-30, 1e-24, 1e20, 1e30])
def test_hermitian_matrices_are_recognised_at_any_scale(factor: float) -> None:
    A = (factor * poisson(8, 8)).astype(np.float32)
    b = np.full(64, factor, np.float32)
    assert relax.chebyshev(A, b, rtol=1e-4).converged
    assert Relaxation(A, "sor", omega="auto").omega == pytest.approx(
        Relaxation(poisson(8, 8), omega="auto").omega, 1e-3
    )
    assert relax.chebyshev(factor**7 * poisson(8, 8), np.full(64, factor**7)).converged
    skew = A.toarray()
    skew[0, 1] *= 2
    with pytest.raises(ValueError, match="not Hermitian"):
        relax.chebyshev(skew, b)


def with_zeros(A: Any) -> Any:
    """Return the same matrix with a stored 0 wherever the square of the pattern has an entry."""
    pattern = (abs(A) @ abs(A)).tocoo()
    data = np.concatenate([A.tocoo().data, np.zeros(pattern.nnz)])
    row, column = (np.concatenate([x, y]) for x, y in zip(A.tocoo().coords, pattern.coords, strict=True))
    return sparse.coo_array((data, (row, column)), A.shape).tocsr()


@pytest.mark.parametrize("order", ["red-black", "color", "cluster"])
def test_stored_zeros_are_not_links(order: str) -> None:
    A, b = poisson(6, 6), vectors(36, "float64")
    plain = Relaxation(A, "sor", order=order)
    assert with_zeros(A).nnz > A.nnz
    for given in (with_zeros(A), A.tobsr((2, 2)), A.tobsr((3, 3)), A.toarray()):
        own = Relaxation(given, "sor", order=order)
        assert own.colors == plain.colors
        assert own.solve(b).value.tobytes() == plain.solve(b).value.tobytes()
    assert relax.ssor_cg(with_zeros(A), b, order=order).steps == relax.ssor_cg(A, b, order=order).steps
    blocks = with_zeros(A).tobsr((2, 2))
    assert Relaxation(blocks, "block_gauss_seidel", order="color").colors == (
        Relaxation(A, "block_gauss_seidel", block_size=2, order="color").colors
    )
