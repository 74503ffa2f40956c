"""Conjugate directions on tensors, with the gradients of the solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._call.iterate import Callback, Limits
from ..._check import type_name
from ..._solution import ConvergenceError, judged
from ..._torch.autograd import differentiable_once
from ..._torch.graph_break import graph_break
from ..._torch.ops import check_tensors, refuse_tangents, refuse_transforms
from .._docs import SOLVER
from .._solvers.accelerate import MAX_MEMORY
from .._solvers.flexible import Directions
from .._solvers.iteration import Run
from .._solvers.result import LinearSolution
from .._sweeps import vectors
from .arguments import Matrix, entries_of
from .cuda import _Matrix, norm_of
from .ops_cuda import iterate, view_of
from .tensors import DTYPES, check_finite

Product = Callable[[Tensor], Tensor]


@SOLVER
def flexible_cg(
    A: Matrix | Product,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    precond: Product | Tensor | None = None,
    memory: int = 2,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """d = P(r / ||r||), A-orthogonal to the last directions; x <- x + (d^H r / d^H A d) d, on tensors.

    The gradient g of x gives l = A^-1 g by the same directions: db = l, and dA = -l x^H by the products A x. They reach
    b, the values of A, and the tensors that a function A depends on. Second derivatives are refused.

    Parameters
    ----------
    A : (n, n) or callable
        A dense tensor, a sparse tensor of any layout, its parts ``(crow, col, values)`` as for :func:`sor`, or
        a function or module ``A(x)`` of an x in the shape of b; Hermitian and positive definite.
    b : (n,) or (n, k)
        The right-hand side, or several; one of any shape if A is a function. float32, float64 or complex128, on any
        device, in the dtype of A.
    x0 : Tensor like b, optional
        The initial guess; zeros by default. It has no gradient.
    precond : callable or Tensor (n, n), optional
        ``precond(r)`` or ``precond @ r`` approximates A^-1 r up to a factor, for an r in the shape of b whose columns
        have norm 1; it may be a module such as a network, which is called without gradients. By default r itself.
    memory : int
        The number of earlier directions to which a new one is made orthogonal, at most 1000; each takes the memory of
        two vectors.
    %(limits)s one direction

    Returns
    -------
    LinearSolution
        x, which is differentiable, as ``value``, and ``converged``, ``steps``, ``residual``, ``reason`` and others.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what A or precond returns, is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge; also in the backward pass, if A l = g does not converge, as the
        gradient would be wrong.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and it does not converge.

    See Also
    --------
    sor : Sweeps, for an A that is not symmetric.
    fastiter.relax.flexible_cg : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import flexible_cg
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> b = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    >>> found = flexible_cg(A, b, precond=lambda r: r / A.diagonal())
    >>> found.value.sum().backward()
    >>> found.steps, b.grad
    (2, tensor([0.1818, 0.2727], dtype=torch.float64))
    """
    function = "flexible_cg"
    refuse_transforms(function, "because the number of iterations depends on the values")
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every).checked(function)
    return graph_break(_solved, A, b, x0, precond, memory, limits)


def _solved(A: Any, b: Tensor, x0: Tensor | None, precond: Any, memory: Any, limits: Limits) -> LinearSolution[Tensor]:
    """Check the tensors, solve, and give the solution its gradient."""
    function = "flexible_cg"
    size = vectors.count(function, "memory", memory, 0, MAX_MEMORY)
    tensors = {"b": b} if x0 is None else {"b": b, "x0": x0}
    check_tensors(function, tuple(tensors), tuple(tensors.values()), tuple(DTYPES), ("cpu", "cuda"))
    refuse_tangents(function, (b, *(A if isinstance(A, (tuple, list)) else (A,))))
    system = _System(function, A, b, precond, size)
    if x0 is not None and x0.shape != b.shape:
        raise ValueError(f"{function}: x0 must have shape {tuple(b.shape)} like b, got {tuple(x0.shape)}")
    for name, x in (("b", b), ("x0", x0)):
        if x is not None:
            check_finite(function, name, x.detach())
    with torch.no_grad():
        result = system.solve(b.detach(), None if x0 is None else x0.detach(), limits)
    if torch.is_grad_enabled():
        remainder = b - system.product(result.value, tracked=True)
        refuse_tangents(function, (remainder,))  # for the tensors that a function A depends on
        if remainder.requires_grad:
            own = limits._replace(callback=None, throw=False)
            result = _with_value(result, _Adjoint.apply(remainder, result.value, lambda g: system.solve(g, None, own)))
    return judged(function, result, limits.throw)


def _with_value(result: LinearSolution[Tensor], value: Tensor) -> LinearSolution[Tensor]:
    return LinearSolution(**{**vars(result), "value": value})


class _Adjoint(torch.autograd.Function):
    """x, with the gradient A^-1 g for b - A x."""

    @staticmethod
    def forward(ctx: Any, remainder: Tensor, x: Tensor, solve: Callable[[Tensor], LinearSolution[Tensor]]) -> Tensor:
        ctx.solve = solve
        ctx.save_for_backward(remainder)
        return x.clone()

    @staticmethod
    @differentiable_once("flexible_cg")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None]:
        check_finite("flexible_cg", "the gradient of x", g)
        result = ctx.solve(g)
        failure = result._failure()
        if failure is not None:
            raise ConvergenceError(f"flexible_cg: for the gradient, {failure}")
        return result.value, None, None


class _System:
    """A and the preconditioner, on vectors in the shape of b."""

    def __init__(self, function: str, A: Any, b: Tensor, precond: Any, memory: int) -> None:
        self.function, self.memory, self.shape = function, memory, b.shape
        self.is_matrix = isinstance(A, (Tensor, tuple, list))
        self.A = self._read("A", A, b)
        self.precond = None if precond is None else self._read("precond", precond, b)

    def _read(self, name: str, operator: Any, b: Tensor) -> Any:
        """Return a function, a dense tensor, or the rows, columns and values of a sparse tensor, checked."""
        function, is_parts = self.function, name == "A" and isinstance(operator, (tuple, list))
        if not isinstance(operator, Tensor) and not is_parts:
            if not callable(operator):
                raise TypeError(f"{function}: {name} must be a torch.Tensor or a function, got {type_name(operator)}")
            return operator
        if not self.is_matrix:
            raise TypeError(f"{function}: {name} must be a function if A is one, got torch.Tensor")
        if not is_parts and (operator.dim() != 2 or operator.shape[0] != operator.shape[1]):
            raise ValueError(f"{function}: {name} must have shape (n, n), got {tuple(operator.shape)}")
        if not is_parts and operator.layout == torch.strided:
            self._check_rhs(name, operator, operator.shape[0], b)
            return operator.contiguous()  # products have the same bits for any layout
        row, col, values = entries_of(function, name, operator)
        self._check_rhs(name, values, len(operator[0]) - 1 if is_parts else operator.shape[0], b)
        return row, col, values

    def _check_rhs(self, name: str, values: Tensor, n: int, b: Tensor) -> None:
        """Check that b matches a matrix of n rows, and that its values are finite."""
        function = self.function
        if values.dtype != b.dtype or values.device != b.device:
            got = f"{values.dtype} on {values.device}"
            raise TypeError(f"{function}: {name} must have dtype {b.dtype} on {b.device} like b, got {got}")
        if b.dim() not in (1, 2) or b.shape[0] != n:
            expected = f"({n},) or ({n}, k)"
            raise ValueError(f"{function}: b must have shape {expected} to go with {name}, got {tuple(b.shape)}")
        check_finite(function, name, values.detach())

    def product(self, x: Tensor, *, tracked: bool = False) -> Tensor:
        """Return A x."""
        return self._apply("A", self.A, x, tracked=tracked)

    def _apply(self, name: str, operator: Any, x: Tensor, *, tracked: bool = False) -> Tensor:
        if isinstance(operator, Tensor):
            return (operator if tracked else operator.detach()) @ x
        if isinstance(operator, tuple):
            row, column, values = operator
            values = values if tracked else values.detach()
            entries = values.reshape(-1, *(1,) * (x.dim() - 1)) * x[column]
            return torch.zeros_like(x).index_add(0, row, entries)
        result = operator(x.clone())  # the function may modify its argument in place
        if not isinstance(result, Tensor):
            raise TypeError(f"{self.function}: {name} must return a torch.Tensor, got {type_name(result)}")
        is_number = result.dtype.is_floating_point or (result.dtype.is_complex and x.dtype.is_complex)
        if result.shape != x.shape or not is_number or result.device != x.device:
            expected = f"numbers like b, shape {tuple(x.shape)} on {x.device}"
            got = f"{result.dtype}, shape {tuple(result.shape)} on {result.device}"
            raise ValueError(f"{self.function}: {name} must return {expected}, got {got}")
        return result.to(x.dtype)

    def solve(self, b: Tensor, x0: Tensor | None, limits: Limits) -> LinearSolution[Tensor]:
        """Return the solution, without its gradient."""
        own_b = self._inside(b).contiguous()

        def residual(x: Tensor) -> tuple[Tensor, np.ndarray[Any, Any]]:
            r = own_b - self._inside(self.product(self._outside(x)))
            return r, norm_of(r)

        def apply(r: Tensor) -> Tensor:
            if self.precond is None:
                return r
            result = self._apply("precond", self.precond, self._outside(r))
            if not bool(result.isfinite().all()) and bool(r.isfinite().all()):
                raise ValueError(f"{self.function}: precond must return finite numbers, got infinite ones or NaN")
            return self._inside(result)

        def product(d: Tensor) -> Tensor:
            return self._inside(self.product(self._outside(d)))

        directions = Directions(self.function, torch, product, apply, residual, self.memory)
        run = Run(directions.steps, self.function, residual=directions.residual, overflows=self.is_matrix)
        start = torch.zeros_like(own_b) if x0 is None else self._inside(x0).clone(memory_format=torch.contiguous_format)
        matrix = _Matrix()
        return iterate(matrix, start, own_b, limits, run, view_of(matrix, own_b.dim() == 1, self._outside))

    def _inside(self, x: Tensor) -> Tensor:
        return x if self.is_matrix else x.reshape(-1)

    def _outside(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)
