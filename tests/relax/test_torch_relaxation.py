"""fastiter.torch.Relaxation on CPU tensors equals fastiter.relax.Relaxation on arrays."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter import BackendError  # noqa: E402
from fastiter.relax import Relaxation, Stencil  # noqa: E402
from tests.relax.cases import csr, random_matrix, vectors  # noqa: E402
from tests.relax.gpu import Gpu  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|BSR) tensor support:UserWarning")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_tensors_are_arrays(dtype: str) -> None:
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
        ours, arrays = fastiter.torch.Relaxation(given, method, **how), Relaxation(matrix, method, **how)
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


def test_what_is_not_for_the_cpu() -> None:
    A = Gpu("cpu").sparse(csr(random_matrix(4, "float64")))
    with pytest.raises(BackendError, match="backend must go with the device of A, cpu, got 'cuda'"):
        fastiter.torch.Relaxation(A, "jacobi", backend="cuda")
    s = Stencil((2, 2), np.array([4.0, -1, -1, -1, -1]))
    with pytest.raises(BackendError, match="b must be on one GPU for backend 'cuda', got cpu"):
        fastiter.torch.Relaxation(s, "jacobi", backend="cuda").solve(torch.ones(2, 2, dtype=torch.float64))
    with pytest.raises(BackendError, match="b must be on the CPU for backend 'cpu', got meta"):
        fastiter.torch.Relaxation(s, "jacobi").solve(torch.ones(2, 2, dtype=torch.float64, device="meta"))


def test_ops_have_kernels_for_cards() -> None:
    for name in ("_relax_solve", "_relax_sweeps", "_relax_sweeps_bwd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastiter::{name}", "CUDA")


def test_copies_have_the_same_bits() -> None:
    A, b = csr(random_matrix(24, "float64")), torch.from_numpy(vectors((24,), "float64"))
    for make in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        made = fastiter.torch.Relaxation(Gpu("cpu").sparse(A), "sor", omega="auto", order="color")
        other = make(made)
        assert torch.equal(made.solve(b).value, other.solve(b).value)


def test_singular_systems_and_stored_zeros() -> None:
    """omega="auto" equals the arrays'; colours of a fixed matrix ignore stored zeros, those of a pattern count them."""
    m = 12
    line = np.diag(np.r_[1.0, np.full(m - 2, 2.0), 1.0]) - np.eye(m, k=1) - np.eye(m, k=-1)
    A = csr(np.kron(np.eye(m), line) + np.kron(line, np.eye(m)))
    b = A @ vectors((m * m,), "float64")
    ours = fastiter.torch.Relaxation(Gpu("cpu").sparse(A), "sor", omega="auto").solve(torch.from_numpy(b))
    plain = Relaxation(A, "sor").solve(b)
    assert ours.converged and ours.steps < plain.steps / 2
    pattern = torch.from_numpy(A.indptr), torch.from_numpy(A.indices)
    found = fastiter.torch.relax_solve(torch.from_numpy(A.data), pattern, torch.from_numpy(b), omega="auto")
    assert found.steps == ours.steps
    blocks = A.tobsr((2, 2))
    assert fastiter.torch.Relaxation(Gpu("cpu").sparse(blocks), "sor", order="color").colors == 2
