"""Relaxation on tensors: solving A x = b, and sweeps, differentiable in the values of A, b and other inputs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..._call.iterate import Callback, Limits
from ..._check import type_name
from ..._solution import ConvergenceError, judged
from ..._torch.autograd import differentiable_once, one_by_one
from ..._torch.ops import CPU_AND_CUDA, check_tensors, checked_integers, refuse_transforms
from .. import _vectors
from .._matrix import check_pattern
from .._result import LinearSolution
from . import ops, ops_cuda
from .ops import AUTO, REASONS, Solve, Sweeps, SweepsBackward, _Csr, relax_sweeps, relax_sweeps_bwd, rows, transposed
from .ops import relax_solve as _relax_solve
from .tensors import check_finite, check_matrix, rows_of

DTYPES = (torch.float32, torch.float64, torch.complex128)
METHODS = ("jacobi", "gauss_seidel", "sor", "ssor")
ORDERS = ("natural", "red-black", "color", "cluster")

Matrix = Tensor | tuple[Any, Any, Tensor]


def relax_solve(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    method: Literal["jacobi", "gauss_seidel", "sor", "ssor"] = "sor",
    omega: float | Literal["auto"] | None = None,
    order: Literal["natural", "red-black", "color", "cluster"] = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution:
    """Solve A x = b by relaxation; for the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor (CSR, CSC, BSR, BSC or COO), or its parts ``(crow, col, values)`` as in
        torch.sparse_csr_tensor: integers (n + 1,) and (entries,), and the values (entries,). float32, float64 or
        complex128. With the parts the call can be compiled by torch.compile.
    b : (n,) or (n, k)
        The right-hand side, in the dtype of A and on the device of its values.
    x0 : Tensor (n,) or (n, k), optional
        Initial guess, 0 by default, in the shape of b. The solution does not depend on it, so it has no gradient.
    method : {"jacobi", "gauss_seidel", "sor", "ssor"}
        "jacobi", "gauss_seidel", "sor" or "ssor", as for :class:`fastiter.relax.Relaxation`.
    omega : float or "auto", optional
        The relaxation factor, in (0, 2) except for Jacobi. ``"auto"`` estimates it for A, and again for A^H. By default
        it is "auto" for "sor" and "ssor", else 1.
    order : {"natural", "red-black", "color", "cluster"}
        As for :class:`fastiter.relax.Relaxation`. On a GPU "color" or "red-black", unless the method is "jacobi".
    rtol, atol : float
        The solution has converged when ``||b - A x|| <= rtol ||b|| + atol``; by default, rtol is 1e-5 for float32 and
        1e-8 otherwise.
    max_steps : int
        The maximum number of sweeps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check after which it would continue; if it returns True, the
        solution ends. Not under torch.compile.
    throw : bool
        Raise if it does not converge, instead of a warning. Under torch.compile there is neither.
    check_every : int
        The number of sweeps between two checks of the residual; on a GPU the host synchronizes once per check.

    Returns
    -------
    LinearSolution
        Its value is x, differentiable in the values of A and in b to any order (for second derivatives pass the parts,
        as torch cannot differentiate its sparse tensors twice). Its steps, residual, converged and reason are those of
        the forward solve.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge; also in the backward pass, if A^H l = g does not converge, as the
        gradient would be wrong.

    See Also
    --------
    sweeps : A given number of sweeps, differentiable in omega, too.
    Relaxation : One matrix for many solutions, without gradients.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import relax_solve
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> values = torch.tensor([4.0, -1, -2, 8], dtype=torch.float64, requires_grad=True)
    >>> x = relax_solve((crow, col, values), torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    >>> x.sum().backward()
    >>> values.grad
    tensor([-0.3111, -0.5778, -0.1556, -0.2889], dtype=torch.float64)
    """
    function = "relax_solve"
    refuse_transforms(function)
    crow, col, values = _checked(function, A, method, order)
    check_tensors(function, ("A", "b", *(() if x0 is None else ("x0",))), _given(values, b, x0), DTYPES, CPU_AND_CUDA)
    _check_shapes(function, crow, b, x0, "x0")
    omega = ("auto" if method in ("sor", "ssor") else 1.0) if omega is None else omega
    factor = AUTO if omega == "auto" and method != "gauss_seidel" else _number(function, omega)
    _check_factor(function, method, factor)
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every).checked(function)
    if torch.compiler.is_compiling() and (callback is not None or throw):
        raise ValueError(f"{function}: callback must be None and throw False under torch.compile, got others")
    start = None if x0 is None else x0.detach()
    ends = (limits.relative(b.dtype), limits.atol, limits.max_steps, limits.check_every)
    found = _Solve.apply(values, crow, col, b, start, (method, factor, order, *ends), callback)
    solution = _solution(found, b.dim() == 1, method)
    return solution if torch.compiler.is_compiling() else judged(function, solution, throw)


def _number(function: str, omega: object) -> float:
    if isinstance(omega, str):
        raise ValueError(f"{function}: omega must be a number, or 'auto' for a method that has one, got {omega!r}")
    return _vectors.positive(function, "omega", omega, zero=False)


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [x for x in tensors if x is not None]


def _solution(found: tuple[Tensor, ...], single: bool, method: str) -> LinearSolution:
    """Return the solution of the op's results; while tracing, all numbers are tensors, and reasons are codes."""
    x, residual, tolerance, steps, codes, omega = found
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
        found = tuple(_relax_solve(call) if callback is None else _with_callback(call, callback))
        ctx.save_for_backward(values, crow, col, found[0])
        ctx.options = options
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, x = ctx.saved_tensors
        adjoint = transposed(values, crow, col)
        if not torch.compiler.is_compiling():
            check_finite("relax_solve", "the gradient of x", g)
        found = _Solve.apply(*adjoint, g, None, ctx.options, None)
        l = found[0]
        if not torch.compiler.is_compiling():
            failure = _solution(found, g.dim() == 1, ctx.options[0])._failure()
            if failure is not None:
                raise ConvergenceError(f"relax_solve: for the gradient, with A^H for A, {failure}")
        dvalues = None
        if ctx.needs_input_grad[0]:
            row, column = (index.to(l.device, non_blocking=True) for index in (rows(crow, col), col))
            product = l[row] * x[column].conj()
            dvalues = -(product if product.dim() == 1 else product.sum(dim=1))
        return dvalues, None, None, l if ctx.needs_input_grad[3] else None, None, None, None


def _with_callback(call: Solve, callback: Callback) -> list[Tensor]:
    """Solve without the op, whose arguments cannot be functions."""
    return (ops.solve if call.values.is_cpu else ops_cuda.solve)(call, callback)


def sweeps(
    A: Matrix,
    b: Tensor,
    x: Tensor,
    *,
    omega: Tensor | float = 1.0,
    sweeps: int = 1,
    method: Literal["jacobi", "gauss_seidel", "sor", "ssor"] = "sor",
    order: Literal["natural", "red-black", "color", "cluster"] = "natural",
) -> Tensor:
    """Return x after some sweeps, differentiable in x, b, A and omega by adjoint sweeps in reverse.

    All iterates are saved. On a GPU there is no synchronization, so zeros on the diagonal and an omega on the GPU are
    not checked; b and x are never checked for infinities and NaN.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor or ``(crow, col, values)``, as for :func:`relax_solve`.
    b, x : (n,) or (n, k)
        The right-hand side, and the vectors before the first sweep.
    omega : float or Tensor of one number
        The relaxation factor; 1 for "gauss_seidel".
    sweeps : int
        The number of sweeps.
    method, order : str
        As for :func:`relax_solve`.

    Returns
    -------
    Tensor
        x after the sweeps, in the shape of x. Differentiating twice raises an error.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    relax_solve : Sweeps until the residual is small.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import sweeps
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> A = crow, col, torch.tensor([4.0, -1, -2, 8])
    >>> omega = torch.tensor(1.0, requires_grad=True)
    >>> x = sweeps(A, torch.tensor([2.0, 12.0]), torch.zeros(2), omega=omega, sweeps=2)
    >>> x.sum().backward()
    >>> x.detach(), omega.grad
    (tensor([0.9062, 1.7266]), tensor(1.1562))
    """
    function = "sweeps"
    refuse_transforms(function)
    crow, col, values = _checked(function, A, method, order)
    check_tensors(function, ("b", "x", "A"), (b, x, values), DTYPES, CPU_AND_CUDA)
    _check_shapes(function, crow, b, x, "x")
    count = _vectors.count(function, "sweeps", sweeps)
    _check_factor(function, method, omega)
    if not isinstance(omega, Tensor):
        omega = torch.tensor(_vectors.positive(function, "omega", omega, zero=False), dtype=torch.float64, device="cpu")
    if omega.numel() != 1 or omega.is_complex() or not omega.is_floating_point():
        raise ValueError(f"{function}: omega must be a number or a real tensor of one, got {tuple(omega.shape)}")
    return _Sweeps.apply(values, crow, col, x, b, omega, count, method, order)  # type: ignore[no-any-return]


class _Sweeps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        crow: Tensor,
        col: Tensor,
        x: Tensor,
        b: Tensor,
        omega: Tensor,
        k: int,
        method: str,
        order: str,
    ) -> Tensor:
        iterates = relax_sweeps(Sweeps(values, crow, col, x, b, omega, k, method, order))
        ctx.save_for_backward(values, crow, col, omega, iterates)
        ctx.how = (method, order)
        return iterates[-1].clone()

    @staticmethod
    @differentiable_once("sweeps")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, omega, iterates = ctx.saved_tensors
        dx, db, dvalues, domega = relax_sweeps_bwd(SweepsBackward(values, crow, col, omega, iterates, g, *ctx.how))
        own_domega = domega.to(omega.device) if ctx.needs_input_grad[5] else None  # synchronizes only if needed
        return dvalues, None, None, dx, db, own_domega, None, None, None


def _check_factor(function: str, method: str, omega: Tensor | float | str) -> None:
    """Refuse an omega other than 1 for gauss_seidel; on a GPU, or while tracing, it is not checked."""
    if method != "gauss_seidel" or torch.compiler.is_compiling() or (isinstance(omega, Tensor) and not omega.is_cpu):
        return
    number = omega.item() if isinstance(omega, Tensor) and omega.numel() == 1 else omega
    if isinstance(number, (int, float)) and number != 1:
        raise ValueError(f"{function}: omega must be 1 for gauss_seidel (see sor), got {number}")


def _checked(function: str, A: Any, method: object, order: object) -> tuple[Tensor, Tensor, Tensor]:
    """Check the matrix and the options; return crow, col and the values."""
    for name, given, known in (("method", method, METHODS), ("order", order, ORDERS)):
        if not isinstance(given, str):
            raise TypeError(f"{function}: {name} must be a str, got {type_name(given)}")
        if given not in known:
            raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, known))}, got {given!r}")
    if method == "jacobi" and order != "natural":
        raise ValueError(f"{function}: order must be 'natural' for jacobi, got {order!r}")
    return checked_parts(function, A)


def checked_parts(function: str, A: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Check a sparse tensor or its parts; return crow and col on the CPU, and the values."""
    if not isinstance(A, (tuple, list)):
        check_matrix(function, A, " or (crow, col, values)")
        if A.dim() != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"{function}: A must have shape (n, n), got {tuple(A.shape)}")
        return rows_of(A)
    if len(A) != 3:
        raise TypeError(f"{function}: A must be a sparse tensor or (crow, col, values), got {len(A)} parts")
    crow, col = (checked_integers(function, name, x) for name, x in zip(("crow", "col"), A, strict=False))
    values = A[2]
    check_tensors(function, ("values",), (values,), DTYPES, CPU_AND_CUDA)
    if crow.dim() != 1 or crow.shape[0] == 0:
        raise ValueError(f"{function}: crow must have shape (n + 1,), got {tuple(crow.shape)}")
    if values.dim() != 1 or col.shape != values.shape:
        raise ValueError(
            f"{function}: col must have the shape (entries,) of values, "
            f"got {tuple(col.shape)} and {tuple(values.shape)}"
        )
    return crow, col, values


def entries_of(function: str, name: str, A: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows, the columns and the values of a sparse tensor or its parts, on the device of the values."""
    crow, col, values = checked_parts(function, A)
    check_pattern(function, name, _Csr(torch.ones(col.shape, dtype=torch.float32, device=col.device), crow, col))
    return rows(crow, col).to(values.device), col.to(values.device), values


def _check_shapes(function: str, crow: Tensor, b: Tensor, x: Tensor | None, name: str) -> None:
    n = crow.shape[0] - 1
    if b.dim() not in (1, 2) or b.shape[0] != n:
        raise ValueError(f"{function}: b must have shape ({n},) or ({n}, k) to go with A, got {tuple(b.shape)}")
    if x is not None and x.shape != b.shape:
        raise ValueError(f"{function}: {name} must have shape {tuple(b.shape)} like b, got {tuple(x.shape)}")
