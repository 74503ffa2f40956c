"""Solutions of systems whose rows are divided among the ranks of a group."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import torch
import torch.distributed as dist

import fastiter
from fastiter.torch import distributed
from fastiter.torch.distributed import RowMatrix, solve
from tests.distributed.solvers.relax_jobs import general, laplacian

Array = npt.NDArray[Any]

WAYS: list[dict[str, Any]] = [
    {},
    {"preconditioner": "jacobi"},
    {"preconditioner": "block_jacobi", "omega": 1.5},
    {"method": "chebyshev", "preconditioner": "jacobi", "check_every": 5},
    {"method": "chebyshev", "preconditioner": "block_jacobi", "omega": 1.2},
    {"method": "chebyshev", "bounds": (1.0, 11.0)},
    {"method": "richardson", "omega": 0.16},
    {"method": "jacobi", "omega": 0.9},
    {"method": "block_jacobi", "omega": 1.4},
]


def solutions() -> list[tuple[Array, Array, list[int], str]]:
    """Return rows, values, steps and reasons of every method, after a check of the reported residuals."""
    found = []
    A = laplacian(6, 7) + scipy.sparse.diags_array(np.linspace(1, 3, 42))
    owner = np.random.default_rng(1).integers(0, 5, 42)
    for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-9)):
        M = RowMatrix.from_global(scipy.sparse.csr_array(A.astype(dtype)), owner, parts=6)
        every = np.random.default_rng(2).standard_normal((3, 42)).astype(dtype).T
        every = every * np.array([1, 1e-3, 1], dtype)
        b = torch.from_numpy(every[M.rows.numpy()].T.copy()).T  # not contiguous
        for at, way in enumerate(WAYS):
            own = b if at % 2 == (dtype == np.float64) else b[:, 1]
            solution = solve(M, own, rtol=rtol, **way)
            _check(A, every[:, 1] if own.dim() == 1 else every, M, solution)
            steps = np.atleast_1d(solution.steps).tolist()
            found.append((M.rows.numpy(), solution.value.numpy(), steps, str(solution.reason)))
    return found


def _check(A: Any, b: Array, M: RowMatrix, solution: Any) -> None:
    """Compare the residual of the whole solution with the reported one."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (M.rows.numpy(), solution.value.numpy()))
    x = np.empty(b.shape)
    for rows, value in parts:
        x[rows] = value
    b = b.astype(np.float64)
    true = np.linalg.norm(b - A @ x, axis=0)
    eps = np.finfo(solution.value.numpy().dtype).eps
    slack = 10 * eps * np.linalg.norm(abs(A) @ abs(x) + abs(b), axis=0)  # rounding of the residual in the dtype of b
    assert np.all(abs(true - np.asarray(solution.residual)) <= slack)
    assert np.all(np.asarray(solution.converged)) and np.all(true <= np.asarray(solution.tolerance) + slack)


def gradients() -> None:
    """Compare gradients of b and of the values, for one and two columns, with those of a dense solution."""
    n, rank = 14, dist.get_rank()
    owner = np.random.default_rng(3).integers(0, 4, n)
    symmetric = scipy.sparse.csr_array(laplacian(2, 7) + scipy.sparse.eye_array(n))
    ways: list[tuple[Any, dict[str, Any]]] = [
        (symmetric, {}),
        (symmetric, {"method": "chebyshev", "preconditioner": "block_jacobi"}),
        (general(n, 4), {"method": "jacobi"}),
        (general(n, 4), {"method": "block_jacobi"}),
        (symmetric, {"method": "richardson", "preconditioner": "jacobi"}),
    ]
    for A, way in ways:
        crow, col = (torch.from_numpy(x.astype(np.int64)) for x in (A.indptr, A.indices))
        values = torch.from_numpy(A.data.copy()).requires_grad_()
        row = torch.repeat_interleave(torch.arange(n), crow.diff())
        for shape in ((n,), (n, 2)):
            every = torch.from_numpy(np.random.default_rng(5).standard_normal(shape)).requires_grad_()
            weight = torch.from_numpy(np.random.default_rng(6).standard_normal(shape))
            dense = torch.zeros(n, n, dtype=torch.float64).index_put((row, col), values)
            expected = torch.autograd.grad((torch.linalg.solve(dense, every) * weight).sum(), (values, every))
            M = RowMatrix.from_global((crow, col, values), owner)
            x = solve(M, every[M.rows], rtol=1e-13, **way).value
            got = torch.autograd.grad((x * weight[M.rows]).sum(), (values, every))
            size = torch.linalg.cond(dense.detach())
            for one, other in zip(expected, got, strict=True):
                dist.all_reduce(other)
                assert (one - other).abs().max() <= 100 * float(size) * 1e-13 * one.abs().max(), way
    M = RowMatrix.from_global(symmetric, owner)
    b = torch.ones(len(M.rows), dtype=torch.float64, requires_grad=rank == 0)  # a rank without gradients participates
    x = solve(M, b).value
    x.square().sum().backward()
    assert (b.grad is None) == (rank != 0)
    own = b.detach().requires_grad_()
    (g,) = torch.autograd.grad(solve(M, own).value.square().sum(), own, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^solve: the gradient has no derivative"):
        g.sum().backward()


def ends() -> dict[str, Any]:
    """Return reasons, warnings and errors of solutions that do not converge, and of extreme and degenerate systems."""
    found: dict[str, Any] = {}
    rank, size = dist.get_rank(), dist.get_world_size()
    A = laplacian(5, 5)
    M = RowMatrix.from_global(A, parts=4)
    one = torch.ones(len(M.rows), dtype=torch.float64)
    for name, most in {"max_steps": 2, "zero steps": 0}.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found[name] = solve(M, one, max_steps=most)
        assert caught[0].category is fastiter.ConvergenceWarning and len(caught) == 1
    found["throw"] = _error(lambda: solve(M, one, max_steps=1, throw=True))
    found["stopped"] = solve(M, one, callback=lambda p: rank == size - 1 and p.steps == 3)
    seen: list[Any] = []
    solve(M, torch.stack([one, 2 * one], 1), callback=seen.append)
    assert seen[0].value.shape == (len(one), 2) and seen[0].residual.shape == (2,)
    signs = scipy.sparse.csr_array(
        scipy.sparse.diags_array(np.where(np.arange(25) % 5 == 0, -1.0, 1.0)) @ laplacian(25)
    )
    indefinite = scipy.sparse.csr_array((signs + signs.T) / 2)
    for name, B in {"indefinite": indefinite, "negative": scipy.sparse.csr_array(-A)}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = solve(RowMatrix.from_global(B, parts=4), one)
    for scale in (1e200, 1e-200, 5e-324 * 2**60):
        x = solve(M, one * scale)
        found[f"scaled {scale}"] = (
            x.reason,
            x.steps,
            (x.value / solve(M, one).value / scale - 1).abs().amax().item() if len(one) else 0.0,
        )
    found["zero"] = solve(M, 0 * one)
    found["from x"] = solve(M, one, solve(M, one, rtol=1e-12).value)
    found["from far"] = solve(M, 0 * one, one, atol=1e-9)
    found["columns"] = solve(M, torch.stack([one, 0 * one, 1e-3 * one], 1))
    twice = scipy.sparse.block_diag([laplacian(3, 3), 5 * laplacian(4, 4)], format="csr")
    M = RowMatrix.from_global(twice, parts=3)
    found["disconnected"] = solve(M, torch.ones(len(M.rows), dtype=torch.float64), preconditioner="block_jacobi")
    M = RowMatrix.from_global(scipy.sparse.csr_array([[4.0]]))
    found["one row"] = solve(M, torch.full((len(M.rows),), 2.0, dtype=torch.float64))
    M = RowMatrix.from_global(scipy.sparse.csr_array((0, 0)))
    found["no row"] = solve(M, torch.ones(0, dtype=torch.float64))
    return found


def refused() -> dict[str, str]:
    """Return the error of each call that all ranks refuse."""
    rank = dist.get_rank()
    M = RowMatrix.from_global(laplacian(9))
    b = torch.ones(3, dtype=torch.float64)
    bad = torch.full_like(b, torch.nan if rank == 1 else 1.0)
    other = 1 + (rank == 2)
    values = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
    changed = RowMatrix((torch.arange(4), torch.arange(3 * rank, 3 * rank + 3), values))
    if rank == 1:  # as an optimizer does
        values.detach().mul_(2)
    calls = {
        "A": lambda: solve(laplacian(9), b),
        "nan": lambda: solve(M, bad),
        "x0": lambda: solve(M, b, bad),
        "shape": lambda: solve(M, torch.ones(3 + rank // 2, dtype=torch.float64)),
        "no column": lambda: solve(M, b[:, None][:, :0]),
        "columns": lambda: solve(M, torch.ones(3, other, dtype=torch.float64)),
        "dtype": lambda: solve(M, b.float()),
        "rtol": lambda: solve(M, b, rtol=1e-8 * other),
        "method": lambda: solve(M, b, method="gmres"),  # type: ignore[arg-type]
        "preconditioner": lambda: solve(M, b, preconditioner="ilu"),  # type: ignore[arg-type]
        "both": lambda: solve(M, b, method="jacobi", preconditioner="jacobi"),
        "omega": lambda: solve(M, b, preconditioner="block_jacobi", omega=2.0),
        "no omega": lambda: solve(M, b, preconditioner="jacobi", omega=1.5),
        "bounds": lambda: solve(M, b, bounds=(1.0, 2.0)),
        "asymmetric": lambda: solve(RowMatrix.from_global(general(9, 1)), b),
        "definite": lambda: solve(RowMatrix.from_global(-laplacian(9)), b, method="chebyshev"),
        "written": lambda: solve(changed, b),
        "other call": lambda: M @ b if rank == 1 else solve(M, b),
    }
    return {name: _error(call) for name, call in calls.items()}


def _error(call: Any) -> str:
    try:
        call()
    except (TypeError, ValueError, fastiter.ConvergenceError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def fault(what: str) -> str:
    """Let rank 1 die, stop or raise in a step of a solution; return the error of this rank."""
    M = RowMatrix.from_global(laplacian(12, 12))

    def happen(progress: Any) -> None:
        if dist.get_rank() == 1 and progress.steps == 3:
            if what == "raise":
                raise ArithmeticError("a rank's own error")
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[what])

    try:
        solve(M, torch.ones(len(M.rows), dtype=torch.float64), callback=happen)
    except distributed.CommunicationError as error:
        return str(error)
    return ""


def traffic() -> list[tuple[int, int]]:
    """Return the rounds and bytes of one more step of each method; steps of CG have two rounds."""
    M = RowMatrix.from_global(laplacian(12, 10))
    b = torch.from_numpy(np.random.default_rng(0).standard_normal(120))[M.rows]
    solve(M, b)  # checks once whether A is symmetric
    found = []
    for way in ({}, {"preconditioner": "block_jacobi"}, {"method": "jacobi"}, {"method": "jacobi", "check_every": 2}):
        counts: list[tuple[int, int]] = []
        for steps in (2, 4):
            with distributed.record_traffic() as sent, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solve(M, b, max_steps=steps, **way)
            counts.append((sent.rounds, sent.bytes))
        found.append((counts[1][0] - counts[0][0], counts[1][1] - counts[0][1]))
    return found
