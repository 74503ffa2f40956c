"""Solutions of A x = b by relaxation on tensors, differentiable in the values of A and in b to any order."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..._call.iterate import Callback, Limits
from ..._solution import ConvergenceError, judged
from ..._torch.autograd import one_by_one
from ..._torch.ops import CPU_AND_CUDA, check_tensors, refuse_transforms
from .._docs import TENSOR_SOLVER
from .._solvers.methods import check_omega
from .._solvers.result import LinearSolution
from . import ops, ops_cuda
from .arguments import DTYPES, Matrix, check_options, check_shapes, checked_parts
from .ops import AUTO, REASONS, Solve, gradient_of_values, transposed
from .ops import relax_solve as _relax_solve
from .tensors import check_finite

Order = Literal["natural", "red-black", "color", "cluster"]


@TENSOR_SOLVER
def jacobi(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x <- x + omega D^-1 (b - A x) until the residual is small: Jacobi's method on tensors.

    For the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(fixed_omega)s above 0, by default 1
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    sor : Uses the newest x in each row; fewer steps.
    fastiter.relax.jacobi : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import jacobi
    >>> A = torch.tensor([[4.0, -1.0], [-2.0, 8.0]], dtype=torch.float64).to_sparse_coo()
    >>> jacobi(A, torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    tensor([0.9333, 1.7333], dtype=torch.float64)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return _solved("jacobi", A, b, x0, limits, omega)


@TENSOR_SOLVER
def gauss_seidel(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    order: Order = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x_i <- (b_i - sum over j != i of a_ij x_j) / a_ii until the residual is small: Gauss-Seidel on tensors.

    For the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(order)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    sor : The same with an omega, which usually needs far fewer steps.
    fastiter.relax.gauss_seidel : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import gauss_seidel
    >>> A = torch.tensor([[4.0, -1.0], [-2.0, 8.0]], dtype=torch.float64).to_sparse_coo()
    >>> gauss_seidel(A, torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    tensor([0.9333, 1.7333], dtype=torch.float64)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return _solved("gauss_seidel", A, b, x0, limits, 1.0, order)


@TENSOR_SOLVER
def sor(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = "auto",
    order: Order = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii until the residual is small.

    For the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(omega)s
    %(order)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    sweeps : A given number of sweeps, differentiable in omega, too.
    Relaxation : One matrix for many solutions, without gradients.
    fastiter.relax.sor : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import sor
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> values = torch.tensor([4.0, -1, -2, 8], dtype=torch.float64, requires_grad=True)
    >>> x = sor((crow, col, values), torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    >>> x.sum().backward()
    >>> values.grad
    tensor([-0.3111, -0.5778, -0.1556, -0.2889], dtype=torch.float64)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return _solved("sor", A, b, x0, limits, omega, order)


@TENSOR_SOLVER
def ssor(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = "auto",
    order: Order = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """Relax A x = b by sweeps of SOR forward and backward until the residual is small.

    For the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(omega)s
    %(order)s
    %(limits)s one sweep forward and one backward

    %(result)s

    See Also
    --------
    sor : Forward sweeps alone; fewer steps with the best omega.
    fastiter.relax.ssor : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import ssor
    >>> A = torch.tensor([[4.0, -1.0], [-2.0, 8.0]], dtype=torch.float64).to_sparse_coo()
    >>> ssor(A, torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    tensor([0.9333, 1.7333], dtype=torch.float64)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return _solved("ssor", A, b, x0, limits, omega, order)


def _solved(
    method: str,
    A: Matrix,
    b: Tensor,
    x0: Tensor | None,
    limits: Limits,
    omega: float | Literal["auto"],
    order: Order = "natural",
) -> LinearSolution[Tensor]:
    """Check the arguments and solve; warn or raise if it has not converged."""
    refuse_transforms(method)
    check_options(method, method, order)
    crow, col, values = checked_parts(method, A)
    tensors = {"A": values, "b": b} if x0 is None else {"A": values, "b": b, "x0": x0}
    check_tensors(method, tuple(tensors), tuple(tensors.values()), DTYPES, CPU_AND_CUDA)
    check_shapes(method, crow, b, x0, "x0")
    check_omega(method, method, omega)
    factor = AUTO if isinstance(omega, str) else float(omega)
    limits = limits.checked(method, b.dtype)
    if torch.compiler.is_compiling() and (limits.callback is not None or limits.throw):
        raise ValueError(f"{method}: callback must be None and throw False under torch.compile, got others")
    ends = (limits.rtol, limits.atol, limits.max_steps, limits.check_every)
    start = None if x0 is None else x0.detach()
    result = _Solve.apply(values, crow, col, b, start, (method, factor, order, *ends), limits.callback)
    solution = _solution(result, b.dim() == 1, method)
    return solution if torch.compiler.is_compiling() else judged(method, solution, limits.throw)


def _solution(result: tuple[Tensor, ...], single: bool, method: str) -> LinearSolution[Tensor]:
    """Return the solution of the op's results; while tracing, all numbers are tensors, and reasons are codes."""
    x, residual, tolerance, steps, codes, omega = result
    numbers: dict[str, Any] = {
        "converged": codes == 0,
        "steps": steps,
        "residual": residual,
        "tolerance": tolerance,
        "reason": codes,
        "omega": omega,
    }
    if not torch.compiler.is_compiling():
        reasons = tuple(REASONS[code] for code in codes.tolist())
        numbers |= {"reason": reasons[0] if single else reasons, "omega": omega.item()}
        if single:
            numbers |= {name: numbers[name].item() for name in ("converged", "steps", "residual", "tolerance")}
    return LinearSolution(value=x, method=method, **numbers)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        crow: Tensor,
        col: Tensor,
        b: Tensor,
        x0: Tensor | None,
        options: tuple[Any, ...],
        callback: Callback | None,
    ) -> tuple[Tensor, ...]:
        call = Solve(values, crow, col, b, x0, *options)
        result = tuple(_relax_solve(call) if callback is None else _with_callback(call, callback))
        ctx.save_for_backward(values, crow, col, result[0])
        ctx.options = options
        ctx.mark_non_differentiable(*result[1:])
        return result

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, x = ctx.saved_tensors
        adjoint = transposed(values, crow, col)
        if not torch.compiler.is_compiling():
            check_finite(ctx.options[0], "the gradient of x", g)
        result = _Solve.apply(*adjoint, g, None, ctx.options, None)
        l = result[0]
        if not torch.compiler.is_compiling():
            failure = _solution(result, g.dim() == 1, ctx.options[0])._failure()
            if failure is not None:
                raise ConvergenceError(f"{ctx.options[0]}: for the gradient, with A^H for A, {failure}")
        dvalues = None
        if ctx.needs_input_grad[0]:
            dvalues = gradient_of_values(l, x, crow, col)
        return dvalues, None, None, l if ctx.needs_input_grad[3] else None, None, None, None


def _with_callback(call: Solve, callback: Callback) -> list[Tensor]:
    """Solve without the op, whose arguments cannot be functions."""
    return (ops.solve if call.values.is_cpu else ops_cuda.solve)(call, callback)
