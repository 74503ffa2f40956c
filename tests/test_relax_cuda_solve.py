"""What solves with the CUDA kernels of relaxation, against the CPU's: Chebyshev, and omega by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import relax  # noqa: E402
from fastiter.relax import Stencil, _spectrum  # noqa: E402
from relax_cases import csr, poisson, random_matrix, vectors  # noqa: E402
from relax_gpu import Gpu, folder_of, stand_in  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support:UserWarning")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory)


@pytest.fixture
def gpu(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """The device; uninitialised memory is NaN."""
    if device == "cpu":
        stand_in(monkeypatch, programs)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield Gpu(device)
    torch.use_deterministic_algorithms(False)


def hermitian(n: int, dtype: str) -> Any:
    """Sparse and positive definite."""
    A = random_matrix(n, dtype)
    A = A + A.conj().T
    np.fill_diagonal(A, 0)
    return csr((A + np.diag(0.6 * np.abs(A).sum(axis=1) + 1)).astype(dtype))


def assert_alike(actual: Any, expected: Any, rtol: float = 1e-7) -> None:
    scale = np.abs(expected.value).max()
    np.testing.assert_allclose(actual.value.cpu(), expected.value, rtol=0, atol=rtol * scale)
    assert np.array_equal(actual.steps, expected.steps) and actual.reason == expected.reason
    assert actual.omega == expected.omega


MASK = np.random.default_rng(0).random((5, 6)) < 0.9
CASES: list[tuple[Any, str, dict[str, Any], tuple[int, ...], str]] = [
    (hermitian(30, "float64"), "jacobi", {"omega": 0.9}, (30,), "float64"),
    (hermitian(12, "float32"), "ssor", {"order": "color"}, (12,), "float64"),
    (hermitian(9, "complex128"), "sor", {"order": "color", "symmetric": True, "omega": 1.1}, (9, 2), "complex128"),
    (hermitian(9, "float64"), "block_jacobi", {"block_size": 3}, (9,), "float64"),
    (Stencil((5, 6), np.array([4.0, -1, -1, -1, -1]), MASK), "jacobi", {}, (5, 6), "float64"),
    (Stencil((5, 6), np.array([4.0, -1, -1, -1, -1])), "ssor", {"order": "red-black"}, (5, 6), "float64"),
]


@pytest.mark.parametrize(("A", "method", "how", "shape", "dtype"), CASES, ids=[f"{c[1]}-{c[3]}" for c in CASES])
def test_chebyshev(
    A: Any,
    method: str,
    how: dict[str, Any],
    shape: tuple[int, ...],
    dtype: str,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b, x0 = vectors(shape, dtype, 1), vectors(shape, dtype, 2)
    options: dict[str, Any] = {"rtol": 1e-3, "check_every": 5}
    monkeypatch.setattr(_spectrum, "MOST", 8)
    cpu, ours = relax.Relaxation(A, method, **how), gpu.relaxation(A, method, **how)
    for bounds in (None, (0.2, 1.9)) if shape == (30,) else (None,):
        theirs, found = relax.Chebyshev(cpu, bounds), fastiter.torch.Chebyshev(ours, bounds)
        assert_alike(found.solve(gpu.tensor(b), gpu.tensor(x0), **options), theirs.solve(b, x0, **options))
        assert found.bounds == pytest.approx(theirs.bounds, rel=1e-5)


def test_chebyshev_on_the_cpu() -> None:
    A, b = hermitian(20, "float64"), vectors((20, 2), "float64", 1)
    found = fastiter.torch.Chebyshev(fastiter.torch.Relaxation(Gpu("cpu").sparse(A), "jacobi", omega=0.8))
    expected = relax.Chebyshev(relax.Relaxation(A, "jacobi", omega=0.8))
    assert_alike(found.solve(torch.from_numpy(b)), expected.solve(b))
    assert found.bounds == expected.bounds


def test_chebyshev_refused(gpu: Gpu) -> None:
    with pytest.raises(
        TypeError, match=r"Chebyshev: relaxation must be a fastiter.torch.Relaxation, got fastiter.relax"
    ):
        fastiter.torch.Chebyshev(relax.Relaxation(np.eye(2), "jacobi"))  # type: ignore[arg-type]
    sor = gpu.relaxation(hermitian(6, "float64"), "sor", order="color")
    with pytest.raises(ValueError, match="Chebyshev: relaxation must have a symmetric sweep, got method sor"):
        fastiter.torch.Chebyshev(sor)
    far = fastiter.torch.Chebyshev(gpu.relaxation(csr(np.array([[1.0, 3.0], [3.0, 1.0]])), "jacobi"))
    with pytest.raises(ValueError, match="Chebyshev: bounds must be given where the sweep alone does not converge"):
        far.solve(gpu.tensor(np.ones(2)))
    with pytest.raises(ValueError, match=r"Chebyshev: bounds must be \(low, high\) with low <= high"):
        fastiter.torch.Chebyshev(gpu.relaxation(hermitian(6, "float64"), "jacobi"), (2.0, 1.0))
    with pytest.raises(ValueError, match=r"Chebyshev\.solve: max_steps must be at least 0, got -1"):
        far.solve(gpu.tensor(np.ones(2)), max_steps=-1)


ESTIMATED = [
    ("poisson", "ssor", "color"),
    *(
        (kind, *how)
        for kind in ("poisson", "complex", "unsymmetric")
        for how in (("jacobi", "natural"), ("sor", "color"))
    ),
    ("indefinite", "sor", "color"),
]


@pytest.mark.parametrize(("kind", "method", "order"), ESTIMATED)
def test_an_omega_that_is_estimated(
    kind: str, method: str, order: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spectrum, "MOST", 21)
    matrices = {
        "poisson": lambda: poisson(5, 6),
        "complex": lambda: hermitian(12, "complex128"),
        "unsymmetric": lambda: csr(random_matrix(15, "float64")),
        "indefinite": lambda: csr(np.diag(np.where(np.arange(12) % 5, 1.0, -1.0)) + 0.01 * np.ones((12, 12))),
    }
    A = matrices[kind]()
    b = vectors(A.shape[0], A.dtype, 1)
    pattern = torch.from_numpy(A.indptr.astype(np.int64)), torch.from_numpy(A.indices.astype(np.int64))
    values = gpu.tensor(A.data).requires_grad_()
    limits: dict[str, Any] = {"check_every": 4, "rtol": 1e-5}
    how: dict[str, Any] = {"method": method, "order": order, "omega": "auto", **limits}
    found = fastiter.torch.relax_solve(values, pattern, gpu.tensor(b), **how)
    expected = relax.Relaxation(A, method, order=order, omega="auto").solve(b, **limits)
    assert found.steps == expected.steps and found.reason == expected.reason == "converged"
    np.testing.assert_allclose(found.value.detach().cpu(), expected.value, rtol=0, atol=1e-7)
    if kind == "complex" and method == "sor":
        found.value.abs().sum().backward()
        assert values.grad is not None and bool(values.grad.isfinite().all())
