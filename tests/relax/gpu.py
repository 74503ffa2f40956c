"""Runs the GPU kernels of relaxation on the CPU, which public functions then treat as a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import fastiter.torch
from fastiter._torch import launch
from fastiter.relax._torch import cuda, implicit, ops_cuda, relaxation, solvers, sweeps
from tests.gpu.host.host import Host

#: All phases in one launch, and one launch per phase
TOGETHER, APART = 1 << 60, 0


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, sanitizer: str = "none") -> Host:
    host = Host(folder, sanitizer)
    monkeypatch.setattr(launch, "launch_cuda", host)
    monkeypatch.setattr(cuda, "THREADS", 64)
    monkeypatch.setattr(relaxation, "_GPUS", ("cpu",))
    monkeypatch.setattr(solvers, "_relax_solve", ops_cuda.solve)
    monkeypatch.setattr(implicit, "_on_cpu", implicit._on_gpu)
    monkeypatch.setattr(sweeps, "relax_sweeps", ops_cuda.sweeps)
    monkeypatch.setattr(sweeps, "relax_sweeps_bwd", ops_cuda.sweeps_bwd)
    return host


def solve_by(A: Any, b: Any, x0: Any = None, *, method: str = "sor", order: str = "natural", **options: Any) -> Any:
    """Solve by the function of this name; Jacobi's has no order."""
    options |= {} if method == "jacobi" else {"order": order}
    return getattr(fastiter.torch.relax, method)(A, b, x0, **options)


_FOLDERS: list[Path] = []


def folder_of(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of compiled kernels, which all test files share so that each compiles once."""
    if not _FOLDERS:
        _FOLDERS.append(factory.mktemp("relax_cuda"))
    return _FOLDERS[0]


class Gpu:
    """Creates the matrices and vectors of a test on its device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def tensor(self, x: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(x)).to(self.device)

    def sparse(self, A: Any) -> torch.Tensor:
        """Return the matrix as a scipy matrix in CSR or BSR."""
        A.sort_indices()  # the only index dtypes that torch takes
        arrays = [torch.from_numpy(np.array(x)).to(self.device) for x in (A.indptr, A.indices, A.data)]
        make = torch.sparse_csr_tensor if A.format == "csr" else torch.sparse_bsr_tensor
        return make(*arrays, A.shape, check_invariants=True)

    def batch(self, pattern: Any, values: Any) -> torch.Tensor:
        """Return a batch of matrices with one sparsity pattern."""
        shape = (len(values), -1)
        start, column = (torch.from_numpy(np.array(x)).expand(shape) for x in (pattern.indptr, pattern.indices))
        arrays = [x.contiguous().to(self.device) for x in (start, column, torch.from_numpy(np.array(values)))]
        return torch.sparse_csr_tensor(*arrays, (len(values), *pattern.shape), check_invariants=True)

    def relaxation(self, A: Any, method: str, **how: Any) -> fastiter.torch.relax.Relaxation:
        if isinstance(A, fastiter.relax.Stencil):
            return fastiter.torch.relax.Relaxation(A, method, **{"backend": "cuda", **how})
        if isinstance(A, fastiter.relax.Batch):
            given = scipy.sparse.csr_array((A.values[0], A.column.astype(np.int64), A.start), A.shape)
            return fastiter.torch.relax.Relaxation(self.batch(given, A.values), method, **how)
        return fastiter.torch.relax.Relaxation(self.sparse(A), method, **how)
