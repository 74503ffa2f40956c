"""Schwarz methods and coloured SOR on the ranks of a group, against their specification and one process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
import torch.distributed as dist

from fastiter.reference import relax_partitioned as reference
from fastiter.relax._sweeps.matrix import read_csr
from fastiter.relax._sweeps.order import Arrangement
from fastiter.relax._sweeps.prepare import BACKWARD, FORWARD, Scalar
from fastiter.relax._torch.distributed.coloured import Coloured, ColouredSsor
from fastiter.relax._torch.distributed.partition import even
from fastiter.torch import distributed
from fastiter.torch.distributed import AdditiveSchwarz, ColouredSSOR, RowMatrix, solve
from tests.distributed.solvers.relax_jobs import general, laplacian

Array = npt.NDArray[Any]


def systems() -> list[tuple[Any, Array, int]]:
    """Return matrices, owners and part counts: grids, nonsymmetric patterns, scattered and empty parts, one row."""
    rng = np.random.default_rng(5)
    return [
        (laplacian(6, 7), np.repeat(np.arange(4), np.diff(even(42, 4))), 4),
        (general(37, 1, 0.04), rng.integers(0, 6, 37), 7),
        (general(37, 2, 0.01), rng.permutation(37) % 5, 5),
        (general(11, 3), np.full(11, 2), 4),
        (general(1, 3), np.zeros(1, np.int64), 3),
        (laplacian(3), np.arange(3), 3),
        (general(0, 0), np.zeros(0, np.int64), 2),
    ]


def applied(A: Any, owner: Array, parts: int, dtype: Any) -> tuple[RowMatrix, Array, Array]:
    """Return the matrix, two complete residuals, and this rank's rows of them."""
    M = RowMatrix.from_global(A.astype(dtype), owner, parts=parts)
    r = np.random.default_rng(A.shape[0]).standard_normal((A.shape[0], 2)).astype(dtype)
    return M, r, np.ascontiguousarray(r[M.rows.numpy()])


def options() -> list[tuple[AdditiveSchwarz, Any]]:
    """Return options and the local solvers of the specification."""
    found: list[tuple[AdditiveSchwarz, Any]] = []
    for overlap, restricted in itertools.product((0, 1, 3), (False, True)):
        found.append((AdditiveSchwarz(overlap, restricted, omega=1.3), reference.ssor(1.3)))
        found.append((AdditiveSchwarz(overlap, restricted, "exact", coarse=overlap == 1), reference.exact))
    return found


def schwarz() -> list[tuple[Array, Array]]:
    """Return rows and corrections for all options; one rank compares them with the specification."""
    found = []
    for at, (A, owner, parts) in enumerate(systems()):
        dtype = np.float32 if at % 3 == 1 else np.float64
        M, r, own = applied(A, owner, parts, dtype)
        dense = A.astype(dtype).toarray().astype(np.float64)
        for option, local in options():
            z = option._prepared(M).apply(own)
            found.append((M.rows.numpy(), z))
            if dist.get_world_size() > 1:
                continue
            how: Any = {"restricted": option.restricted, "local": local, "coarse": option.coarse}
            apply = reference.schwarz(dense, owner, option.overlap, **how)
            wide = r.astype(np.float64)
            expected = np.stack([apply(wide[:, 0]), apply(wide[:, 1])], axis=1)[M.rows.numpy()]
            # the diagonals dominate: the condition number is below 100, and the largest sum has 37 products
            size = np.abs(expected).max(initial=0) + np.abs(r).max(initial=0)
            assert np.abs(z - expected).max(initial=0) <= 100 * 37 * np.finfo(dtype).eps * size
    return found


def coloured() -> list[tuple[Array, Array]]:
    """Return rows and sweeps, after a check against the bits of one process that relaxes the rows in this order."""
    found = []
    for at, (A, owner, parts) in enumerate(systems()):
        dtype = np.float32 if at % 3 == 1 else np.float64
        M, b, own = applied(A, owner, parts, dtype)
        rows, order = M.rows.numpy(), np.array(reference.order(A.toarray(), owner), np.int32)
        sweep = _one_process(A.astype(dtype), owner, order)
        x0 = np.random.default_rng(1).standard_normal(b.shape).astype(dtype)
        expected, z = x0.copy(), np.zeros_like(b)
        mine = Coloured(M, 1.3)
        mine.begin(np.ascontiguousarray(x0[rows]), own.shape, dtype)
        mine.right(own)
        for backward in (False, False, True, False):
            mine.sweep(backward)
            sweep(expected, b, backward)
            assert np.array_equal(mine.value, expected[rows])
        sweep(z, b, False)
        sweep(z, b, True)
        once = ColouredSSOR(1.3)._prepared(M)
        for _ in range(2):
            assert np.array_equal(once.apply(own), z[rows])
        found += [(rows, mine.value), (rows, once.apply(own))]
    return found


def _one_process(A: Any, owner: Array, order: Array) -> Callable[[Array, Array, bool], None]:
    """Return a sweep over all rows in an order in which the rows of each part form a cluster."""
    if not len(order):
        return lambda x, b, backward: None
    ends = np.flatnonzero(np.diff(owner[order])) + 1
    clusters = np.array([0, *ends, len(order)])
    how = Arrangement(order, clusters, np.arange(len(clusters)))  # each is its own colour
    system = Scalar("test", read_csr("test", A), how)

    def sweep(x: Array, b: Array, backward: bool) -> None:
        kind = BACKWARD if backward else FORWARD
        system.of(x.dtype).sweep(x, b, 0, x.shape[1], np.array([1.3]), 0, 1, kind)

    return sweep


def traffic() -> list[tuple[int, int]]:
    """Return rounds and bytes of one correction on the Laplacian of 12 x 10 points."""
    M = RowMatrix.from_global(laplacian(12, 10))
    r = np.ones((len(M.rows), 2))
    found = []
    options: list[Any] = [AdditiveSchwarz(3), AdditiveSchwarz(3, restricted=True), AdditiveSchwarz(0)]
    options += [AdditiveSchwarz(0, coarse=True), ColouredSSOR()]
    for option in options:
        prepared = option._prepared(M)
        assert not isinstance(prepared, ColouredSsor) or prepared.colours == 2
        with distributed.record_traffic() as sent:
            prepared.apply(r)
        found.append((sent.rounds, sent.bytes))
    return found


#: A method and its iterates by the specification: all x, for dense A, owners, b and a number of steps
Way = tuple[dict[str, Any], Callable[[Array, Array, Array, int], list[Array]]]


def ways() -> list[Way]:
    """Return ways to solve a system, with their specification."""

    def cg(make: Callable[[Array, Array], Any], run: Any = reference.cg) -> Callable[..., list[Array]]:
        return lambda A, owner, b, steps: run(A, b, np.zeros_like(b), make(A, owner), steps)

    def sor(A: Array, owner: Array, b: Array, steps: int) -> list[Array]:
        found = [np.zeros_like(b)]
        for _ in range(steps):
            found.append(reference.coloured_sor(A, owner, found[-1], b, 1.4))
        return found[1:]

    local = reference.ssor(1.5)
    flexible = functools.partial(reference.flexible_cg, memory=1)
    richardson: dict[str, Any] = {"method": "richardson"}
    other: dict[str, Any] = {"method": "flexible_cg"}
    return [
        ({"preconditioner": AdditiveSchwarz(2, omega=1.5)}, cg(lambda A, o: reference.schwarz(A, o, 2, local=local))),
        (
            {"preconditioner": AdditiveSchwarz(1, local="exact", coarse=True)},
            cg(lambda A, o: reference.schwarz(A, o, 1, coarse=True)),
        ),
        ({"preconditioner": ColouredSSOR(1.3)}, cg(lambda A, o: reference.coloured_ssor(A, o, 1.3))),
        (
            other | {"preconditioner": AdditiveSchwarz(2, True, omega=1.5)},
            cg(lambda A, o: reference.schwarz(A, o, 2, restricted=True, local=local), flexible),
        ),
        (
            richardson | {"preconditioner": AdditiveSchwarz(2, True, "exact")},
            cg(lambda A, o: reference.schwarz(A, o, 2, restricted=True), reference.richardson),
        ),
        ({"method": "sor", "omega": 1.4}, sor),
    ]


def solutions() -> list[tuple[Array, Array, int]]:
    """Return rows, values and steps of each way; one rank compares the steps with the specification."""
    found = []
    for owner in (np.repeat(np.arange(4), 18), np.random.default_rng(1).integers(0, 4, 72)):
        A = laplacian(8, 9)
        M = RowMatrix.from_global(A, owner)
        b = np.random.default_rng(2).standard_normal(72)
        for how, iterates in ways():
            solution = solve(M, torch.from_numpy(b[M.rows.numpy()]), rtol=1e-7, **how)
            assert solution.converged
            found.append((M.rows.numpy(), solution.value.numpy(), int(solution.steps)))
            if dist.get_world_size() == 1:
                expected = iterates(A.toarray(), owner, b, solution.steps + 2)
                assert solution.steps == reference.steps_until(A.toarray(), b, expected, 1e-7), how
    return found


def gradients() -> None:
    """Compare gradients of b and of the values, by the adjoint system with the same preconditioner, with dense ones."""
    n, owner = 14, np.random.default_rng(3).integers(0, 4, 14)
    symmetric = scipy.sparse.csr_array(laplacian(2, 7) + scipy.sparse.eye_array(n))
    given: list[tuple[Any, dict[str, Any]]] = [
        (symmetric, {"preconditioner": AdditiveSchwarz(1)}),
        (symmetric, {"method": "flexible_cg", "preconditioner": AdditiveSchwarz(1, True)}),
        (general(n, 4), {"method": "richardson", "preconditioner": AdditiveSchwarz(1, True, omega=1.1)}),
        (general(n, 4), {"method": "sor", "omega": 1.1}),
    ]
    for A, how in given:
        crow, col = (torch.from_numpy(x.astype(np.int64)) for x in (A.indptr, A.indices))
        values = torch.from_numpy(A.data.copy()).requires_grad_()
        row = torch.repeat_interleave(torch.arange(n), crow.diff())
        every = torch.from_numpy(np.random.default_rng(5).standard_normal((n, 2))).requires_grad_()
        weight = torch.from_numpy(np.random.default_rng(6).standard_normal((n, 2)))
        dense = torch.zeros(n, n, dtype=torch.float64).index_put((row, col), values)
        expected = torch.autograd.grad((torch.linalg.solve(dense, every) * weight).sum(), (values, every))
        M = RowMatrix.from_global((crow, col, values), owner)
        x = solve(M, every[M.rows], rtol=1e-13, **how).value
        got = torch.autograd.grad((x * weight[M.rows]).sum(), (values, every))
        size = float(torch.linalg.cond(dense.detach()))
        for one, other in zip(expected, got, strict=True):
            dist.all_reduce(other)
            assert (one - other).abs().max() <= 100 * size * 1e-13 * one.abs().max(), how


def refused() -> list[str]:
    """Return the messages for a part that is singular on one rank, and for arguments that a method does not support."""
    singular = torch.tensor([[2.0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.float64)
    M = RowMatrix.from_global(singular.to_sparse(), [0, 1, 1], parts=2)
    b = torch.ones(len(M.rows), dtype=torch.float64)
    restricted = AdditiveSchwarz(restricted=True)
    calls = [
        {"preconditioner": AdditiveSchwarz(0, local="exact")},
        {"preconditioner": restricted},
        {"preconditioner": restricted, "method": "chebyshev"},
        {"preconditioner": restricted, "method": "sor"},
        {"preconditioner": AdditiveSchwarz(1 + dist.get_rank())},
        {"method": "sor", "omega": 2.0},
        {"preconditioner": restricted, "method": "jacobi"},
    ]
    found = []
    for how in calls:
        try:
            solve(M, b, **how)  # type: ignore[arg-type]
        except ValueError as error:
            found.append(str(error))
    return found
