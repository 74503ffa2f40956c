"""Solutions of A x = b on tensors by the methods without an op, differentiable in the values of A and in b.

On the CPU they are those of arrays, which share the tensors' memory; on a GPU those of :class:`Relaxation`. The
gradient g of x gives l with A^H l = g, by the same method, and db = l, dA = -l x^H on the pattern. As l is
differentiable in the same way, so are these, to any order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._call.iterate import Limits
from ..._solution import ConvergenceError, judged
from ..._torch.autograd import one_by_one
from ..._torch.graph_break import graph_break
from ..._torch.ops import CPU_AND_CUDA, check_tensors, contiguous, refuse_transforms
from .._solvers import accelerate, eisenstat
from .._solvers.methods import checked_block_size, own_block_size
from .._solvers.relaxation import Relaxation as OnArrays
from .._solvers.result import LinearSolution
from .._sweeps.stencil import Stencil
from .arguments import DTYPES, checked_parts
from .chebyshev import Chebyshev
from .ops import _Csr, gradient_of_values, transposed
from .relaxation import Relaxation
from .tensors import check_finite, limits_on_tensors, on_tensors

#: The solvers on arrays, as functions of (method, A, b, x0, limits, **options)
_ON_ARRAYS: dict[str, Callable[..., LinearSolution[Any]]] = {
    "kaczmarz": OnArrays._solved,
    "block_jacobi": OnArrays._solved,
    "chebyshev": accelerate.solve_chebyshev,
    "ssor_cg": eisenstat.solve,
}


@dataclass(frozen=True)
class Solver:
    """A method with its options, and when it ends; ``columns`` is the number of columns of A."""

    method: str
    limits: Limits
    options: Mapping[str, Any]
    columns: int

    def solve(self, values: Tensor, crow: Tensor, col: Tensor, b: Tensor, x0: Tensor | None) -> LinearSolution[Tensor]:
        """Return the solution without its gradient, and without a warning."""
        on_device = _on_cpu if values.is_cpu else _on_gpu
        return on_device(self, (crow, col, values.detach()), b.detach(), x0)


def _on_cpu(solver: Solver, A: tuple[Tensor, Tensor, Tensor], b: Tensor, x0: Tensor | None) -> LinearSolution[Tensor]:
    crow, col, values = A
    arrays = (None if x is None else contiguous(x).numpy() for x in (b, x0))
    matrix, limits = _Csr(values, crow, col, solver.columns), limits_on_tensors(solver.limits)
    return on_tensors(_ON_ARRAYS[solver.method](solver.method, matrix, *arrays, limits, **solver.options))


def _on_gpu(solver: Solver, A: tuple[Tensor, Tensor, Tensor], b: Tensor, x0: Tensor | None) -> LinearSolution[Tensor]:
    crow, col, values = A
    if solver.method == "ssor_cg":
        raise BackendError(f"ssor_cg: A must be on the CPU, as it has no GPU kernels yet, got {values.device}")
    parts = crow.to(values.device), col.to(values.device), values, (len(crow) - 1, solver.columns)
    return solve_on_card(solver.method, parts, b, x0, solver.limits, **solver.options)


def solve(
    method: str, A: Any, b: Tensor, x0: Tensor | None, limits: Limits, *, rectangular: bool = False, **options: Any
) -> LinearSolution[Tensor]:
    """Check the tensors and solve; warn or raise if it has not converged."""
    refuse_transforms(method, "because the number of iterations depends on the values")
    return graph_break(_solve, method, A, b, x0, limits, rectangular, options)


def _solve(
    method: str,
    A: Any,
    b: Tensor,
    x0: Tensor | None,
    limits: Limits,
    rectangular: bool,
    options: dict[str, Any],
) -> LinearSolution[Tensor]:
    crow, col, values = checked_parts(method, A, rectangular=rectangular)
    tensors = {"A": values, "b": b} if x0 is None else {"A": values, "b": b, "x0": x0}
    check_tensors(method, tuple(tensors), tuple(tensors.values()), DTYPES, CPU_AND_CUDA)
    n = len(crow) - 1
    columns = A.shape[1] if rectangular and isinstance(A, Tensor) else n
    if columns != n and torch.is_grad_enabled() and (values.requires_grad or b.requires_grad):
        raise ValueError(f"{method}: A must be square for a gradient, got shape {(n, columns)}")
    solver = Solver(method, limits.checked(method, b.dtype), options, columns)
    results: list[LinearSolution[Tensor]] = []
    start = None if x0 is None else x0.detach()
    value = _Solve.apply(values, crow, col, b, start, solver, results)
    return judged(method, replace(results[0], value=value), limits.throw)


class _Solve(torch.autograd.Function):
    """x = A^-1 b; the solution is appended to ``results``."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        crow: Tensor,
        col: Tensor,
        b: Tensor,
        x0: Tensor | None,
        solver: Solver,
        results: list[LinearSolution[Tensor]],
    ) -> Tensor:
        results.append(solver.solve(values, crow, col, b, x0))
        x: Tensor = results[0].value
        ctx.save_for_backward(values, crow, col, x)
        ctx.solver = solver
        return x

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, x = ctx.saved_tensors
        method, limits = ctx.solver.method, ctx.solver.limits._replace(callback=None)
        check_finite(method, "the gradient of x", g)
        results: list[LinearSolution[Tensor]] = []
        adjoint = transposed(values, crow, col)
        l = _Solve.apply(*adjoint, g, None, replace(ctx.solver, limits=limits), results)
        failure = results[0]._failure()
        if failure is not None:
            raise ConvergenceError(f"{method}: for the gradient, with A^H for A, {failure}")
        dvalues = gradient_of_values(l, x, crow, col) if ctx.needs_input_grad[0] else None
        return dvalues, None, None, l if ctx.needs_input_grad[3] else None, None, None, None


def block_size_of(function: str, A: Any, block_size: int | None) -> int:
    """Return a block size, by default that of a BSR or BSC tensor."""
    if block_size is not None:
        return checked_block_size(function, function, block_size)
    has_blocks = isinstance(A, Tensor) and A.layout in (torch.sparse_bsr, torch.sparse_bsc)
    return own_block_size(function, tuple(A.values().shape[1:]) if has_blocks else None)


def solve_on_card(
    method: str, A: Any, b: Tensor, x0: Tensor | None, limits: Limits, *, bounds: Any = None, **options: Any
) -> LinearSolution[Tensor]:
    """Return the solution by the kernels of a GPU; A is a Stencil, dense, or (crow, col, values, shape)."""
    sweep = "jacobi" if method == "chebyshev" else method
    relaxation = Relaxation._of(method, _matrix(A), sweep, **options)
    solver = Chebyshev(relaxation, bounds) if method == "chebyshev" else relaxation
    return solver._solve(method, b, x0, limits)


def _matrix(A: Any) -> Tensor | Stencil:
    with warnings.catch_warnings():  # torch's beta warning about CSR tensors, which the user did not create
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        if isinstance(A, tuple):
            return torch.sparse_csr_tensor(*A, check_invariants=False)
        return A.to_sparse_csr() if isinstance(A, Tensor) else A  # type: ignore[no-any-return]
