"""Matrices whose rows are divided among the ranks of a group."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from fastiter.torch import distributed
from fastiter.torch.distributed import RowMatrix

Array = npt.NDArray[Any]


def laplacian(*grid: int) -> scipy.sparse.csr_array:
    """Return the finite-difference matrix of -Δ on a grid, times the square of its spacing."""
    found = scipy.sparse.csr_array((1, 1))
    for n in grid:
        line = scipy.sparse.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
        here, there = scipy.sparse.eye_array(found.shape[0]), scipy.sparse.eye_array(n)
        found = scipy.sparse.csr_array(scipy.sparse.kron(found, there) + scipy.sparse.kron(here, line))
    found.eliminate_zeros()
    return found


def general(n: int, seed: int, extent: float = 0.2) -> scipy.sparse.csr_array:
    """Return a nonsymmetric, diagonally dominant matrix."""
    rng = np.random.default_rng(seed)
    A = scipy.sparse.random_array((n, n), density=extent, rng=rng, data_sampler=rng.standard_normal, format="csr")
    return scipy.sparse.csr_array(A + scipy.sparse.diags_array(abs(A).sum(axis=1) + 1))


def tensor_of(A: Any) -> Tensor:
    A = A.tocsr()
    start, column, value = (torch.from_numpy(np.array(x)) for x in (A.indptr, A.indices, A.data))
    with warnings.catch_warnings():  # torch's beta warning about its CSR tensors
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(start, column, value, A.shape, check_invariants=True)


def owners() -> list[tuple[int, Array | None, int]]:
    """Return n, owners and the number of parts: scattered and uneven parts, empty ones, one row, no row."""
    rng = np.random.default_rng(5)
    return [
        (37, rng.integers(0, 6, 37), 6),
        (37, None, 5),
        (37, np.sort(rng.integers(0, 4, 37)), 7),
        (11, np.full(11, 2), 4),
        (1, np.zeros(1, np.int64), 3),
        (3, None, 3),
        (0, None, 2),
    ]


def products() -> list[tuple[Array, Array, Array]]:
    """Return rows, their products and inner products for each division; checked against SciPy's by a bound."""
    found = []
    for n, owner, parts in owners():
        for dtype in (np.float32, np.float64):
            A = general(n, n).astype(dtype)
            M = RowMatrix.from_global(A, owner, parts=parts)
            every = np.random.default_rng(n).standard_normal((4, n)).astype(dtype).T  # not contiguous
            every.setflags(write=False)
            for x in (every, every[:, 1]):
                y = (M @ torch.from_numpy(x.copy())[M.rows]).numpy()
                exact = A.astype(np.float64) @ x.astype(np.float64)
                size = (abs(A) @ abs(x))[M.rows.numpy()]
                entries = np.diff(A.indptr).max(initial=0)
                # one rounding of each product and sum, and two to the dtype of x
                assert (abs(y - exact[M.rows.numpy()]) <= (entries + 3) * np.finfo(dtype).eps * size).all()
                found.append((M.rows.numpy(), y, M._dots([(_columns(y), _columns(y))])))
    return found


def _columns(y: Array) -> Array:
    return np.ascontiguousarray(y if y.ndim > 1 else y[:, None])


def local_rows() -> None:
    """Return the rows of each rank by offsets, by the ranks' counts and by owners, as tensors and as lists."""
    rank, size = dist.get_rank(), dist.get_world_size()
    A, x = general(23, 1), torch.randn(23, dtype=torch.float64)
    offsets = np.array([0, *np.sort(np.random.default_rng(size).integers(0, 24, size - 1)), 23])
    mine = slice(offsets[rank], offsets[rank + 1])
    rows = A[mine]
    expected = (RowMatrix.from_global(A, np.repeat(np.arange(size), np.diff(offsets)), parts=size) @ x[mine]).numpy()
    crow, col, values = (torch.from_numpy(np.array(v)) for v in (rows.indptr, rows.indices, rows.data))
    back = np.concatenate([np.arange(a, b)[::-1] for a, b in zip(rows.indptr, rows.indptr[1:], strict=False)])
    back = back.astype(np.int64)
    given = [rows, rows.tocoo(), rows.tocsc(), (crow, col, values), (crow, col[back], values[back])]
    given += [tensor_of(rows), tensor_of(rows).to_sparse_coo()]
    owner = np.repeat(np.arange(size), np.diff(offsets))
    for A_local in given:
        for how in ({}, {"offsets": torch.from_numpy(offsets)}, {"owner": owner, "parts": size}):
            M = RowMatrix(A_local, **how)
            assert M.shape == (len(M.rows), 23) and M.rows.tolist() == list(range(23))[mine]
            assert np.array_equal(M @ x[mine], expected)


def groups() -> list[list[int]]:
    """Return the numbers of this rank's rows in a mesh, and in a group of two ranks, after a product in each."""
    A, x = general(9, 2), torch.arange(9.0, dtype=torch.float64)
    some = dist.new_group([2, 1])
    found = []
    for group in (init_device_mesh("cpu", (3,)), some):
        if group is some and dist.get_rank() == 0:
            continue
        M = RowMatrix.from_global(A, group=group)
        assert np.allclose(M @ x[M.rows], (A @ x.numpy())[M.rows.numpy()], rtol=1e-14)
        found.append(M.rows.tolist())
    return found


def traffic() -> tuple[int, int, int]:
    """Return the bytes that this rank sends for one product with the Laplacian of 12 x 10 points."""
    M = RowMatrix.from_global(laplacian(12, 10))
    x = torch.ones(len(M.rows), 2, dtype=torch.float64)
    with distributed.record_traffic() as sent:
        M._residual(x, None)
    return sent.rounds, sent.messages, sent.bytes


def refused() -> dict[str, str]:
    """Return the error of each call that all ranks refuse."""
    rank = dist.get_rank()
    A, offsets = general(9, 0), [0, 3, 6, 9]
    mine = A[3 * rank : 3 * rank + 3]
    broken, zero, other = mine.copy(), mine.copy(), A.copy()
    broken.data[2 if rank == 1 else 0] = np.nan if rank == 1 else 1
    zero.data[(zero.indices == 4) & (np.repeat(np.arange(3), np.diff(zero.indptr)) == 1)] = 0
    other.data += rank // 2
    col = torch.tensor([3 * rank, 3 * rank, 3 * rank + 1, 3 * rank + 2])
    calls = {
        "dtype": lambda: RowMatrix(mine.astype(np.float32) if rank == 1 else mine, offsets=offsets),
        "offsets": lambda: RowMatrix(mine, offsets=[0, 3, 5, 9] if rank == 2 else offsets),
        "owner": lambda: RowMatrix(
            mine, owner=[0, 0, 1, 0, 1, 1, 2, 2, 2] if rank == 1 else [0, 0, 0, 1, 1, 1, 2, 2, 2]
        ),
        "both": lambda: RowMatrix(mine, owner=[0, 0, 0, 1, 1, 1, 2, 2, 2], offsets=offsets),
        "no owner": lambda: RowMatrix(mine[:2] if rank == 2 else mine),
        "rows": lambda: RowMatrix(mine[:2] if rank == 2 else mine, offsets=offsets),
        "kind": lambda: RowMatrix(mine, offsets=None if rank == 2 else offsets),
        "nan": lambda: RowMatrix(broken, offsets=offsets),
        "diagonal": lambda: RowMatrix(zero if rank == 1 else mine),
        "complex": lambda: RowMatrix(mine.astype(np.complex128)),
        "global": lambda: RowMatrix.from_global(other),
        "twice": lambda: RowMatrix((torch.tensor([0, 2, 3, 4]), col, torch.ones(4))),
        "parts": lambda: RowMatrix(mine, offsets=offsets, parts=3),
        "x": lambda: RowMatrix(mine) @ torch.ones(3 + rank // 2, dtype=torch.float64),
        "group": lambda: RowMatrix(mine, group="gloo"),
    }
    return {name: _error(call) for name, call in calls.items()}


def _error(call: Any) -> str:
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)
    raise AssertionError("no error")
