"""fastiter.torch.relax.Relaxation on CPU tensors equals fastiter.relax.Relaxation on arrays."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import BackendError  # noqa: E402
from fastiter._call.iterate import Limits  # noqa: E402
from fastiter.relax import LinearSolution, Relaxation, Stencil  # noqa: E402
from fastiter.relax._torch import cupy  # noqa: E402
from tests.relax.cases import attempt, csr, random_matrix, vectors  # noqa: E402
from tests.relax.gpu import Gpu  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support:UserWarning")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_tensors_equal_arrays(dtype: str) -> None:
    A = csr(random_matrix(24, dtype))
    s = Stencil((4, 6), np.array([4.0, -1, -1, -1, -1], dtype))
    cases: list[tuple[Any, str, dict[str, Any], tuple[int, ...]]] = [
        (A, "sor", {"omega": "auto"}, (24,)),
        (A, "jacobi", {}, (24, 3)),
        (A.tobsr((2, 2)), "block_gauss_seidel", {"order": "cluster"}, (24, 2)),
        (A.tobsr((2, 2)), "sor", {"block_size": 3}, (24,)),
        (A.tobsr((2, 3)), "kaczmarz", {}, (24,)),
        (s, "ssor", {"order": "red-black"}, (4, 6)),
        (s, "kaczmarz", {}, (4, 6)),
    ]
    for matrix, method, how, shape in cases:
        given = matrix if isinstance(matrix, Stencil) else Gpu("cpu").sparse(matrix)
        ours, arrays = fastiter.torch.relax.Relaxation(given, method, **how), Relaxation(matrix, method, **how)
        assert (ours.omega, ours.colors, ours.shape, ours.symmetric) == (
            *(arrays.omega, arrays.colors, arrays.shape, arrays.symmetric),
        )
        b, x = vectors(shape, dtype, 1), vectors(shape, dtype, 2)
        wide, whole = torch.from_numpy(np.repeat(x, 2, axis=-1)), torch.from_numpy(x.copy())
        ours.sweep(wide[..., ::2], torch.from_numpy(b), 2, backward=method == "sor")
        ours.sweep(whole, torch.from_numpy(b), 2, backward=method == "sor")
        arrays.sweep(x, b, 2, backward=method == "sor")
        assert np.array_equal(wide[..., ::2], x) and np.array_equal(whole, x), (method, how)
        assert np.array_equal(ours.residual(whole, torch.from_numpy(b)), arrays.residual(x, b))
        actual, expected = ours.solve(torch.from_numpy(b), rtol=1e-3), arrays.solve(b, rtol=1e-3)
        for name in ("value", "steps", "residual", "history", "converged"):
            found = getattr(actual, name)
            assert np.array_equal(found, getattr(expected, name)) and isinstance(found, (torch.Tensor, int, float))
        assert (actual.reason, actual.omega) == (expected.reason, expected.omega)


def test_other_backends_and_devices_are_refused() -> None:
    A = Gpu("cpu").sparse(csr(random_matrix(4, "float64")))
    with pytest.raises(BackendError, match="backend must go with the device of A, cpu, got 'cuda'"):
        fastiter.torch.relax.Relaxation(A, "jacobi", backend="cuda")
    s = Stencil((2, 2), np.array([4.0, -1, -1, -1, -1]))
    with pytest.raises(BackendError, match="b must be on one GPU for backend 'cuda', got cpu"):
        fastiter.torch.relax.Relaxation(s, "jacobi", backend="cuda").solve(torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(BackendError, match="b must be on the CPU for backend 'cpu', got meta"):
        fastiter.torch.relax.Relaxation(s, "jacobi").solve(torch.ones(2, 2, dtype=torch.float64, device="meta"))


def test_ops_have_cuda_kernels() -> None:
    for name in ("_relax_solve", "_relax_sweeps", "_relax_sweeps_bwd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastiter::{name}", "CUDA")


def test_copies_have_the_same_bits() -> None:
    A, b = csr(random_matrix(24, "float64")), torch.from_numpy(vectors((24,), "float64"))
    for make in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        made = fastiter.torch.relax.Relaxation(Gpu("cpu").sparse(A), "sor", omega="auto", order="color")
        other = make(made)
        assert torch.equal(made.solve(b).value, other.solve(b).value)


def test_singular_systems_and_stored_zeros() -> None:
    """omega="auto" is that of arrays; colours of a fixed matrix ignore stored zeros, those of a pattern count them."""
    m = 12
    line = np.diag(np.r_[1.0, np.full(m - 2, 2.0), 1.0]) - np.eye(m, k=1) - np.eye(m, k=-1)
    A = csr(np.kron(np.eye(m), line) + np.kron(line, np.eye(m)))
    b = A @ vectors((m * m,), "float64")
    ours = fastiter.torch.relax.Relaxation(Gpu("cpu").sparse(A), "sor", omega="auto").solve(torch.from_numpy(b))
    plain = Relaxation(A, "sor", omega=1.0).solve(b)
    assert ours.converged and ours.steps < plain.steps / 2
    pattern = torch.from_numpy(A.indptr), torch.from_numpy(A.indices)
    found = fastiter.torch.relax.sor((*pattern, torch.from_numpy(A.data)), torch.from_numpy(b), omega="auto")
    assert found.steps == ours.steps
    blocks = A.tobsr((2, 2))
    assert fastiter.torch.relax.Relaxation(Gpu("cpu").sparse(blocks), "sor", order="color").colors == 2


def twice(A: Any) -> Any:
    """Return a COO tensor in which each entry is the sum of two."""
    row_col, values = A.to_sparse().indices(), A.to_sparse().values()
    return torch.sparse_coo_tensor(row_col.repeat(1, 2), torch.cat([0.25 * values, 0.75 * values]))


#: Conversions to each layout, and from its values to the same tensor, differentiably
LAYOUTS: dict[str, tuple[Any, Any]] = {
    "csr": (
        lambda A: A.to_sparse_csr(),
        lambda A, v: torch.sparse_csr_tensor(A.crow_indices(), A.col_indices(), v, A.shape),
    ),
    "csc": (
        lambda A: A.to_sparse_csc(),
        lambda A, v: torch.sparse_csc_tensor(A.ccol_indices(), A.row_indices(), v, A.shape),
    ),
    "bsr": (
        lambda A: A.to_sparse_bsr((2, 3)),
        lambda A, v: torch.sparse_bsr_tensor(A.crow_indices(), A.col_indices(), v, A.shape),
    ),
    "bsc": (
        lambda A: A.to_sparse_bsc((3, 2)),
        lambda A, v: torch.sparse_bsc_tensor(A.ccol_indices(), A.row_indices(), v, A.shape),
    ),
    "coo": (lambda A: A.to_sparse(), lambda A, v: torch.sparse_coo_tensor(A._indices(), v)),
    "coo with duplicates": (twice, lambda A, v: torch.sparse_coo_tensor(A._indices(), v)),
}


@pytest.mark.filterwarnings("ignore:Sparse (CSC|BSC) tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_sparse_layouts_are_differentiable(layout: str) -> None:
    convert, rebuild = LAYOUTS[layout]
    dense = torch.from_numpy(random_matrix(6, "float64"))
    A, b, x = convert(dense), torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    exact = torch.linalg.solve(dense, b)
    torch.testing.assert_close(fastiter.torch.relax.sor(A, b, rtol=1e-12).value, exact)
    torch.testing.assert_close(fastiter.torch.relax.sweeps(A, b, x, sweeps=200), exact)
    torch.testing.assert_close(fastiter.torch.relax.Relaxation(A, "sor", omega=1.1).solve(b, rtol=1e-12).value, exact)
    values = (A._values() if A.layout == torch.sparse_coo else A.values()).clone().requires_grad_()

    def solve(values: Any) -> Any:
        return fastiter.torch.relax.sor(rebuild(A, values), b, rtol=1e-13, max_steps=2000).value

    assert torch.autograd.gradcheck(solve, values, fast_mode=True)


def test_reports_of_tensors() -> None:
    """Refusals, warnings, exceptions and callbacks of the solvers on tensors are those on arrays."""
    laplacian = Stencil((9, 9), np.array([4.0, -1, -1, -1, -1]))
    A, b = Gpu("cpu").sparse(csr(laplacian.toarray())), torch.ones(81, dtype=torch.float64)
    jacobi = fastiter.torch.relax.Relaxation(A, "jacobi")
    solvers = {
        "Relaxation.solve": jacobi.solve,
        "Chebyshev.solve": fastiter.torch.relax.Chebyshev(jacobi).solve,
        "jacobi": lambda *args, **how: fastiter.torch.relax.jacobi(A, *args, **how),
    }
    for name, solve in solvers.items():
        with pytest.raises(ValueError, match=f"^{name}: b must be finite, got inf at index 0$"):
            solve(b / 0)
        with pytest.raises(ValueError, match=rf"^{name}: x0 must be finite, got nan at index \(0, 1\)$"):
            solve(torch.ones(81, 2, dtype=torch.float64), torch.tensor([0.0, torch.nan]).double().expand(81, 2))
        match = rf"^{name}: \|\|b - A x\|\| must fall to 9e-08, got [\d.]+ after 2 steps \('max_steps'\)"
        with pytest.warns(fastiter.ConvergenceWarning, match=match) as caught:
            found = solve(b, max_steps=2)
        assert caught[0].filename == __file__
        assert isinstance(found, LinearSolution) and not found.converged
        with pytest.raises(fastiter.ConvergenceError, match=match) as raised:
            solve(b, max_steps=2, throw=True)
        assert torch.equal(raised.value.solution.value, found.value)
        seen: list[Any] = []

        def look(progress: Any, seen: list[Any] = seen) -> bool:
            residual = torch.linalg.vector_norm(b - A @ progress.value)
            assert progress.residual == pytest.approx(residual.item(), rel=1e-6)
            seen.append(progress.steps)
            return progress.steps >= 6

        stopped = attempt(solve, b, check_every=3, callback=look)
        assert (seen, stopped.reason, stopped.steps) == ([0, 3, 6], "callback", 6)
        columns = attempt(solve, torch.stack([b, 0 * b], 1), callback=lambda progress: progress.residual[0].item() < 5)
        first: list[Any] = []
        attempt(solve, torch.stack([b, 0 * b], 1), callback=first.append, max_steps=1)
        assert torch.equal(first[0].active, torch.tensor([0])) and first[0].tolerance.shape == (2,)
        assert columns.reason == ("callback", "converged") and isinstance(columns.tolerance, torch.Tensor)


def test_cupy_arrays_give_cupy_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend "cuda" of the functions on arrays: x is a CuPy array (here NumPy), and all numbers are NumPy's."""
    fake: Any = types.ModuleType("cupy")
    fake.from_dlpack = np.from_dlpack
    monkeypatch.setitem(sys.modules, "cupy", fake)
    A, b, seen = torch.from_numpy(random_matrix(20, "float64", 0.9)), torch.ones(20, 2, dtype=torch.float64), []

    def look(progress: Any) -> bool:
        seen.append(progress.value)
        return bool(progress.steps == 2)

    found = cupy.solve("sor", A, b, None, Limits(callback=look), omega=1.0)
    assert found.reason == ("callback",) * 2 and found.steps.tolist() == [len(seen) - 1] * 2
    numbers = (*seen, found.steps, found.converged, found.residual, found.tolerance, found.history)
    assert all(isinstance(x, np.ndarray) for x in numbers)
    with pytest.raises(ValueError, match=r"^sor: b must be finite, got inf at index \(0, 0\)$"):
        cupy.solve("sor", A, b / 0, None, Limits())


def test_reprs_are_one_line() -> None:
    A = Gpu("cpu").sparse(csr(random_matrix(6, "float64")))
    made = fastiter.torch.relax.Relaxation(A, "ssor", omega=1.5)
    assert repr(made) == "Relaxation(ssor, omega=1.5, A: 6 x 6 float64, backend='cpu')"
    assert repr(fastiter.torch.relax.Chebyshev(made, (0.1, 1.0))) == f"Chebyshev({made!r}, bounds=(0.1, 1.0))"
