"""The CUDA kernels of relaxation against the CPU kernels: batches, Kaczmarz, Chebyshev acceleration, omega="auto"."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import BackendError, relax  # noqa: E402
from fastiter.relax import Stencil  # noqa: E402
from fastiter.relax._omega import spectrum  # noqa: E402
from fastiter.relax._sweeps.matrix import read_csr  # noqa: E402
from fastiter.relax._sweeps.order import arrange_disjoint  # noqa: E402
from fastiter.relax._torch import cuda  # noqa: E402
from tests.relax.cases import attempt, batch_of, csr, poisson, random_matrix, tolerance, vectors  # noqa: E402
from tests.relax.gpu import APART, TOGETHER, Gpu, folder_of, solve_by, stand_in  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support:UserWarning")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory)


@pytest.fixture
def gpu(device: str, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Return the device, with uninitialised memory filled with NaN."""
    if device == "cpu":
        stand_in(monkeypatch, programs)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield Gpu(device)
    torch.use_deterministic_algorithms(False)


def hermitian(n: int, dtype: str) -> Any:
    """Return a sparse, Hermitian positive definite matrix."""
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
    (batch_of(hermitian(9, "float64"), 2), "jacobi", {"omega": 0.8}, (2, 9), "float64"),
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
    monkeypatch.setattr(spectrum, "MAX_PRODUCTS", 8)
    cpu, ours = relax.Relaxation(A, method, **how), gpu.relaxation(A, method, **how)
    for bounds in (None, (0.2, 1.9)) if shape == (30,) else (None,):
        theirs, found = relax.Chebyshev(cpu, bounds), fastiter.torch.relax.Chebyshev(ours, bounds)
        assert_alike(found.solve(gpu.tensor(b), gpu.tensor(x0), **options), theirs.solve(b, x0, **options))
        assert found.bounds == pytest.approx(theirs.bounds, rel=1e-5)


@pytest.mark.parametrize(("stored", "dtype"), [("float32", "float64"), ("complex128", "complex128")])
@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_batches(place: str, stored: str, dtype: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "cpu":
        monkeypatch.undo()
        gpu = Gpu("cpu")
    for n, count, method, how in (
        (40, 3, "sor", {"omega": 1.2, "order": "color"}),
        (9, 2, "jacobi", {"omega": 0.8}),
        (9, 1, "ssor", {"order": "color"}),
    ):
        systems = batch_of(csr(random_matrix(n, stored), np.int64), count)
        ours, cpu = gpu.relaxation(systems, method, **how), relax.Relaxation(systems, method, **how)
        b, x = vectors((count, n), dtype, 1), vectors((count, n), dtype, 2)
        found, expected = gpu.tensor(x).T.contiguous().T, x.copy()
        ours.sweep(found, gpu.tensor(np.repeat(b, 2, axis=1))[:, ::2], 2)
        cpu.sweep(expected, b, 2)
        limit = tolerance(dtype, n) * np.abs(b).max()
        np.testing.assert_allclose(found.cpu(), expected, rtol=0, atol=limit)
        residual = ours.residual(gpu.tensor(x), gpu.tensor(b))
        np.testing.assert_allclose(residual.cpu(), cpu.residual(x, b), rtol=0, atol=100 * limit)
    options: dict[str, Any] = {"rtol": 1e-4, "check_every": 4}
    assert_alike(ours.solve(gpu.tensor(b), gpu.tensor(x), **options), cpu.solve(b, x, **options))
    far = ours.solve(gpu.tensor(b * np.array([[1e-200]])), **options)  # values whose squares underflow
    assert far.reason == ("converged",) and far.value.shape == b.shape


def test_batches_refused(gpu: Gpu) -> None:
    pattern = csr(random_matrix(6, "float64"), np.int64)
    good = gpu.batch(pattern, np.stack([pattern.data] * 2))
    col = good.col_indices().clone()
    col[1, 0] = next(j for j in range(6) if j not in col[1, : good.crow_indices()[0, 1]])
    other = torch.sparse_csr_tensor(good.crow_indices(), col, good.values(), good.shape, check_invariants=False)
    with pytest.raises(ValueError, match="A must have one pattern for all its matrices, got another in matrix 1"):
        fastiter.torch.relax.Relaxation(other, "jacobi")
    with pytest.raises(BackendError, match="A must be one matrix on a GPU if there is a block_size, got a batch"):
        fastiter.torch.relax.Relaxation(good, "block_jacobi", block_size=2)
    with pytest.raises(ValueError, match=r"b must have shape \(2, 6\) to go with A, got \(6,\)"):
        fastiter.torch.relax.Relaxation(good, "jacobi").solve(gpu.tensor(np.ones(6)))
    with pytest.raises(BackendError, match="order must be 'color' or 'red-black' on a GPU"):
        fastiter.torch.relax.Relaxation(good, "sor")


def rectangle(shape: tuple[int, int], dtype: str) -> Any:
    """Return a sparse rectangular matrix with a row of zeros, a full row, and a row with many entries."""
    A = random_matrix(max(shape), dtype, 1 / max(shape))[: shape[0], : shape[1]]
    A[2], A[3, : shape[1] // 2] = 0, 1
    return csr(A, np.int64)


def in_colours(A: Any) -> tuple[Any, int]:
    """Return the rows of A by colours, within which no two rows share a column."""
    found = arrange_disjoint(read_csr("test", A))
    of = np.asarray(found.colours)
    for first, last in itertools.pairwise(of):
        counts = (A.toarray()[found.order[first:last]] != 0).sum(axis=0)
        assert counts.max(initial=0) <= 1
    return found.order, len(of) - 1


@pytest.mark.parametrize(
    ("shape", "dtype", "k", "symmetric"), [((60, 45), "float64", None, False), ((9, 11), "complex128", 2, True)]
)
def test_kaczmarz(
    shape: tuple[int, int], dtype: str, k: int | None, symmetric: bool, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    A, more = rectangle(shape, dtype), () if k is None else (k,)
    order, colours = in_colours(A)
    how: dict[str, Any] = {"omega": 1.2, "symmetric": symmetric}
    cpu, ours = relax.Relaxation(A, "kaczmarz", order=order, **how), gpu.relaxation(A, "kaczmarz", order="color", **how)
    assert (ours.colors, ours.shape) == (colours, shape)
    b, x = vectors((shape[0], *more), dtype, 1), vectors((shape[1], *more), dtype, 2)
    for apart, backward in ((TOGETHER, False), (APART, not symmetric)):
        monkeypatch.setattr(cuda, "APART", apart)
        found, expected = gpu.tensor(x), x.copy()
        ours.sweep(found, gpu.tensor(b), 1, backward=backward)
        cpu.sweep(expected, b, 1, backward=backward)
        np.testing.assert_allclose(found.cpu(), expected, rtol=0, atol=tolerance(dtype, 60) * np.abs(x).max())
    residual = ours.residual(gpu.tensor(x), gpu.tensor(b))
    np.testing.assert_allclose(residual.cpu(), cpu.residual(x, b), rtol=0, atol=100 * tolerance(dtype, 60))
    b[2] = 0
    options: dict[str, Any] = {"check_every": 2, "max_steps": 4}
    assert_alike(attempt(ours.solve, gpu.tensor(b), **options), attempt(cpu.solve, b, **options))


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_projections_and_norms_under_sanitizers(
    sanitizer: str, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = stand_in(monkeypatch, programs, sanitizer)
    A = rectangle((40, 33), "float64")
    order, _ = in_colours(A)
    cpu, ours = relax.Relaxation(A, "kaczmarz", order=order), Gpu("cpu").relaxation(A, "kaczmarz", order="color")
    b = vectors((40,), "float64", 1)
    assert_alike(attempt(ours.solve, torch.from_numpy(b), max_steps=1), attempt(cpu.solve, b, max_steps=1))
    assert {"relax_projections_kernel", "relax_projections_residual_kernel", "relax_norms_kernel"} == set(host.launched)


def test_kaczmarz_with_empty_systems_refusals_and_other_sweeps(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    A = rectangle((9, 7), "float64")
    empty = gpu.relaxation(csr(np.zeros((0, 3))), "kaczmarz", order="color")
    assert empty.solve(gpu.tensor(np.zeros((0, 2)))).value.shape == (3, 2)
    ours = gpu.relaxation(A, "kaczmarz", order="color")
    with pytest.raises(ValueError, match=r"x must have shape \(7,\) to go with A and b, got \(9,\)"):
        ours.sweep(gpu.tensor(np.ones(9)), gpu.tensor(np.ones(9)))
    for order in ("natural", "red-black", np.arange(9)):
        with pytest.raises(BackendError, match="Relaxation: order must be 'color' for kaczmarz on a GPU, got"):
            gpu.relaxation(A, "kaczmarz", order=order)
    both = gpu.relaxation(A, "kaczmarz", order="color", symmetric=True)
    monkeypatch.setattr(spectrum, "MAX_PRODUCTS", 6)
    accelerated = fastiter.torch.relax.Chebyshev(both)
    attempt(accelerated.solve, gpu.tensor(np.ones(9)), max_steps=1)
    rows, _ = in_colours(A)
    expected = relax.Chebyshev(relax.Relaxation(A, "kaczmarz", order=rows, symmetric=True))
    assert accelerated.bounds == pytest.approx(expected.bounds, rel=1e-6)
    monkeypatch.undo()
    x, y = torch.zeros(7, dtype=torch.float64), np.zeros(7)
    on_cpu = Gpu("cpu").relaxation(A, "kaczmarz", order="color")
    on_cpu.sweep(x, torch.ones(9, dtype=torch.float64), 2)
    relax.Relaxation(A, "kaczmarz", order=rows).sweep(y, np.ones(9), 2)
    assert np.array_equal(x, y) and on_cpu.colors == ours.colors


@pytest.mark.parametrize("factor", [1e-200, 1e170])
def test_kaczmarz_on_rows_of_any_size_with_stored_zeros(factor: float, gpu: Gpu) -> None:
    A = rectangle((12, 9), "float64")
    rows, colours = in_colours(A)
    b = vectors((12,), "float64", 1)
    expected = attempt(relax.Relaxation(A, "kaczmarz", order=rows).solve, b, rtol=0.0, max_steps=3)
    stored = A.tocoo()
    row, column = (np.concatenate([x, y]) for x, y in zip(stored.coords, (np.arange(9), np.arange(9)), strict=True))
    data = np.concatenate([factor * stored.data, np.zeros(9)])
    given = type(stored)((data, (row, column)), A.shape).tocsr()
    ours = gpu.relaxation(given, "kaczmarz", order="color")
    assert ours.colors == colours
    found = attempt(ours.solve, gpu.tensor(factor * b), rtol=0.0, max_steps=3)
    np.testing.assert_allclose(found.value.cpu(), expected.value, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.residual / factor, expected.residual, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_functions_of_methods(dtype: str, gpu: Gpu) -> None:
    A, b = csr(random_matrix(12, dtype)), vectors((12,), dtype, 1)
    A = csr((A + A.conj().T + 40 * np.eye(12)).astype(dtype))
    options: dict[str, dict[str, Any]] = {
        "block_jacobi": {"block_size": 3, "omega": 0.8},
        "kaczmarz": {"symmetric": True},
        "chebyshev": {"bounds": (0.1, 1.9)},
    }
    for name, how in options.items():
        order = {"order": "color"} if name == "kaczmarz" else {}
        solver, tensor = getattr(fastiter.torch.relax, name), gpu.tensor(b).requires_grad_()
        found = solver(gpu.sparse(A), tensor, rtol=1e-10, **how, **order)
        np.testing.assert_allclose(A @ found.value.detach().cpu().numpy(), b, rtol=0, atol=1e-8)
        assert found.method == name and found.value.device == tensor.device
        (g,) = torch.autograd.grad(found.value.abs().square().sum(), tensor)
        np.testing.assert_allclose(A @ g.cpu().numpy(), 2 * found.value.detach().cpu().numpy(), rtol=0, atol=1e-7)
    with pytest.raises(BackendError, match=r"^kaczmarz: order must be 'color' for kaczmarz on a GPU, got"):
        fastiter.torch.relax.kaczmarz(gpu.sparse(A), gpu.tensor(b))
    with pytest.raises(BackendError, match=r"^ssor_cg: A must be on the CPU, as it has no GPU kernels yet, got"):
        fastiter.torch.relax.ssor_cg(gpu.sparse(A), gpu.tensor(b))


def test_chebyshev_on_the_cpu() -> None:
    A, b = hermitian(20, "float64"), vectors((20, 2), "float64", 1)
    found = fastiter.torch.relax.Chebyshev(fastiter.torch.relax.Relaxation(Gpu("cpu").sparse(A), "jacobi", omega=0.8))
    expected = relax.Chebyshev(relax.Relaxation(A, "jacobi", omega=0.8))
    assert_alike(found.solve(torch.from_numpy(b)), expected.solve(b))
    assert found.bounds == expected.bounds


def test_chebyshev_refused(gpu: Gpu) -> None:
    with pytest.raises(
        TypeError, match=r"Chebyshev: relaxation must be a fastiter.torch.relax.Relaxation, got fastiter.relax"
    ):
        fastiter.torch.relax.Chebyshev(relax.Relaxation(np.eye(2), "jacobi"))  # type: ignore[arg-type]
    sor = gpu.relaxation(hermitian(6, "float64"), "sor", order="color")
    with pytest.raises(ValueError, match="Chebyshev: relaxation must have a symmetric sweep, got method sor"):
        fastiter.torch.relax.Chebyshev(sor)
    far = fastiter.torch.relax.Chebyshev(gpu.relaxation(csr(np.array([[1.0, 3.0], [3.0, 1.0]])), "jacobi"))
    with pytest.raises(ValueError, match="Chebyshev: bounds must be given if the sweep alone does not converge"):
        far.solve(gpu.tensor(np.ones(2)))
    with pytest.raises(ValueError, match=r"Chebyshev: bounds must be \(low, high\) with low <= high"):
        fastiter.torch.relax.Chebyshev(gpu.relaxation(hermitian(6, "float64"), "jacobi"), (2.0, 1.0))
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
def test_estimated_omega(kind: str, method: str, order: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "MAX_PRODUCTS", 21)
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
    found = solve_by((*pattern, values), gpu.tensor(b), **how)
    expected = relax.Relaxation(A, method, order=order, omega="auto").solve(b, **limits)
    assert found.steps == expected.steps and found.reason == expected.reason == "converged"
    np.testing.assert_allclose(found.value.detach().cpu(), expected.value, rtol=0, atol=1e-7)
    if kind == "complex" and method == "sor":
        found.value.abs().sum().backward()
        assert values.grad is not None and bool(values.grad.isfinite().all())
