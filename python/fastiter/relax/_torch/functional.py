"""Relaxation on tensors: solving A x = b, and sweeps, differentiable in the values of A, b and other inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._check import type_name
from ..._solution import Solution
from ..._torch.autograd import differentiable_once, one_by_one
from ..._torch.ops import CPU_AND_CUDA, check_tensors, checked_integers, refuse_transforms
from .. import _vectors
from . import ops_cuda  # noqa: F401 as it registers the ops for CUDA
from .ops import AUTO, REASONS, Solve, Sweeps, SweepsBackward, relax_sweeps, relax_sweeps_bwd, rows, transposed
from .ops import relax_solve as _relax_solve

DTYPES = (torch.float32, torch.float64, torch.complex128)
METHODS = ("jacobi", "gauss_seidel", "sor", "ssor")
ORDERS = ("natural", "red-black", "color", "cluster")

Pattern = tuple[Tensor, Tensor] | Sequence[Any]


def relax_solve(
    A_values: Tensor,
    pattern: Pattern,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    method: str = "sor",
    omega: float | str = 1.0,
    order: str = "natural",
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """Solve A x = b by relaxation; for the gradients, solve A^H l = g: db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    A_values : (entries,)
        The values of A: float32, float64 or complex128.
    pattern
        (crow, col) as in a torch sparse CSR tensor: integers (n + 1,) and (entries,).
    b : (n,) or (n, k)
    x0
        Initial guess, 0 by default. The solution does not depend on it, so it has no gradient.
    method, omega, order
        As for :class:`fastiter.relax.Relaxation`: "jacobi", "gauss_seidel", "sor" or "ssor"; ``omega="auto"`` estimates
        it for A, and again for A^H, and is None in the solution.

    The pattern is on the CPU. A_values, b and x0 may be on a GPU, for "jacobi" or in the orders "color" and
    "red-black"; the host then synchronizes once per check.

    Returns
    -------
    Solution
        Its value is x, differentiable in A_values and b to any order. Its steps, residual, converged and reason are
        those of the forward solve.

    Raises
    ------
    RuntimeError
        In the backward pass, if A^H l = g does not converge, as the gradient would be wrong.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import relax_solve
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> values = torch.tensor([4.0, -1, -2, 8], dtype=torch.float64, requires_grad=True)
    >>> x = relax_solve(values, (crow, col), torch.tensor([2.0, 12.0], dtype=torch.float64)).value
    >>> x.sum().backward()
    >>> values.grad
    tensor([-0.3111, -0.5778, -0.1556, -0.2889], dtype=torch.float64)
    """
    function = "relax_solve"
    refuse_transforms(function)
    crow, col = _checked(function, A_values, pattern, method, order)
    check_tensors(
        function, ("A_values", "b", *(() if x0 is None else ("x0",))), _given(A_values, b, x0), DTYPES, CPU_AND_CUDA
    )
    _check_shapes(function, crow, b, x0, "x0")
    factor = AUTO if omega == "auto" and method != "gauss_seidel" else _number(function, omega)
    _check_factor(function, method, factor)
    limits = (_vectors.positive(function, "rtol", rtol), _vectors.positive(function, "atol", atol))
    counts = (_vectors.count(function, "max_steps", max_steps), _vectors.count(function, "check_every", check_every, 1))
    options = (method, factor, order, *limits, *counts)
    start = None if x0 is None else x0.detach()
    x, residual, steps, codes = _Solve.apply(A_values, crow, col, b, start, options)
    return _solution(x, residual, steps, codes, b.dim() == 1, method, factor or None)


def _number(function: str, omega: object) -> float:
    if isinstance(omega, str):
        raise ValueError(f"{function}: omega must be a number, or 'auto' for a method that has one, got {omega!r}")
    return _vectors.positive(function, "omega", omega, zero=False)


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [x for x in tensors if x is not None]


def _solution(
    x: Tensor, residual: Tensor, steps: Tensor, codes: Tensor, single: bool, method: str, omega: float | None
) -> Solution:
    converged = codes == 0
    if torch.compiler.is_compiling():
        return Solution(value=x, converged=converged, steps=steps, residual=residual, method=method, omega=omega)
    reasons = tuple(REASONS[code] for code in codes.tolist())
    if single:
        return Solution(
            value=x,
            converged=bool(converged),
            steps=int(steps),
            residual=float(residual),
            reason=reasons[0],
            method=method,
            omega=omega,
        )
    return Solution(
        value=x, converged=converged, steps=steps, residual=residual, reason=reasons, method=method, omega=omega
    )


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, crow: Tensor, col: Tensor, b: Tensor, x0: Tensor | None, options: tuple[Any, ...]
    ) -> tuple[Tensor, ...]:
        found = tuple(_relax_solve(Solve(values, crow, col, b, x0, *options)))
        ctx.save_for_backward(values, crow, col, found[0])
        ctx.options = options
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, x = ctx.saved_tensors
        adjoint = transposed(values, crow, col)
        l, residual, _, codes = _Solve.apply(*adjoint, g, None, ctx.options)
        if not torch.compiler.is_compiling() and bool((codes != 0).any()):
            reason = REASONS[int(codes.max())]
            raise RuntimeError(
                f"relax_solve: the adjoint system must converge to give gradients, got {reason!r} "
                f"with residual {float(residual.max()):.1e}"
            )
        dvalues = None
        if ctx.needs_input_grad[0]:
            row, column = (index.to(l.device, non_blocking=True) for index in (rows(crow, col), col))
            product = l[row] * x[column].conj()
            dvalues = -(product if product.dim() == 1 else product.sum(dim=1))
        return dvalues, None, None, l if ctx.needs_input_grad[3] else None, None, None


def sweeps(
    x: Tensor,
    b: Tensor,
    A_values: Tensor,
    omega: Tensor | float,
    k: int,
    pattern: Pattern,
    *,
    method: str = "sor",
    order: str = "natural",
) -> Tensor:
    """Return x after k sweeps, differentiable in x, b, A_values and omega by adjoint sweeps in reverse.

    Arguments are those of :func:`relax_solve`; omega may be a tensor of one number. ``"gauss_seidel"`` is "sor" with
    omega = 1. All k iterates are saved. Differentiating twice raises an error. On a GPU nothing synchronizes, so
    values (a zero on the diagonal) and an omega on the GPU are not checked.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import sweeps
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> values = torch.tensor([4.0, -1, -2, 8])
    >>> omega = torch.tensor(1.0, requires_grad=True)
    >>> x = sweeps(torch.zeros(2), torch.tensor([2.0, 12.0]), values, omega, 2, (crow, col))
    >>> x.sum().backward()
    >>> x.detach(), omega.grad
    (tensor([0.9062, 1.7266]), tensor(1.1562))
    """
    function = "sweeps"
    refuse_transforms(function)
    crow, col = _checked(function, A_values, pattern, method, order)
    check_tensors(function, ("x", "b", "A_values"), (x, b, A_values), DTYPES, CPU_AND_CUDA)
    _check_shapes(function, crow, b, x, "x")
    count = _vectors.count(function, "k", k)
    _check_factor(function, method, omega)
    if not isinstance(omega, Tensor):
        omega = torch.tensor(_vectors.positive(function, "omega", omega, zero=False), dtype=torch.float64, device="cpu")
    if omega.numel() != 1 or omega.is_complex() or not omega.is_floating_point():
        raise ValueError(f"{function}: omega must be a number or a real tensor of one, got {tuple(omega.shape)}")
    return _Sweeps.apply(A_values, crow, col, x, b, omega, count, method, order)  # type: ignore[no-any-return]


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
    @differentiable_once
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


def _checked(function: str, values: Any, pattern: Any, method: object, order: object) -> tuple[Tensor, Tensor]:
    for name, given, known in (("method", method, METHODS), ("order", order, ORDERS)):
        if not isinstance(given, str):
            raise TypeError(f"{function}: {name} must be a str, got {type_name(given)}")
        if given not in known:
            raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, known))}, got {given!r}")
    if method == "jacobi" and order != "natural":
        raise ValueError(f"{function}: order must be 'natural' for jacobi, got {order!r}")
    if not isinstance(pattern, (tuple, list)) or len(pattern) != 2:
        raise TypeError(f"{function}: pattern must be a pair (crow, col), got {type_name(pattern)}")
    crow, col = (checked_integers(function, name, x) for name, x in zip(("crow", "col"), pattern, strict=True))
    check_tensors(function, ("A_values",), (values,), DTYPES, CPU_AND_CUDA)
    if crow.dim() != 1 or crow.shape[0] == 0:
        raise ValueError(f"{function}: crow must have shape (n + 1,), got {tuple(crow.shape)}")
    if values.dim() != 1 or col.shape != values.shape:
        raise ValueError(
            f"{function}: col must have the shape (entries,) of A_values, "
            f"got {tuple(col.shape)} and {tuple(values.shape)}"
        )
    return crow, col


def _check_shapes(function: str, crow: Tensor, b: Tensor, x: Tensor | None, name: str) -> None:
    n = crow.shape[0] - 1
    if b.dim() not in (1, 2) or b.shape[0] != n:
        raise ValueError(f"{function}: b must have shape ({n},) or ({n}, k) to go with A, got {tuple(b.shape)}")
    if x is not None and x.shape != b.shape:
        raise ValueError(f"{function}: {name} must have shape {tuple(b.shape)} like b, got {tuple(x.shape)}")
