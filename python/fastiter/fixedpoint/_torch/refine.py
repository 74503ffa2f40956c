"""Iterative refinement on tensors, differentiable through the solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..._call.iterate import Callback, Limits
from ..._check import check_choice, type_name
from ..._torch.graph_break import graph_break
from ..._torch.ops import refuse_tangents, refuse_transforms
from ...relax._torch.arguments import entries_of
from .._problem import Stopping
from .._problems.refine import METHODS
from .._result import FixedPointSolution
from .functional import Solver
from .implicit import Problem, attach
from .layout import Layout, Map, checked_state
from .space import solve_tensors

_NAME = "refine"
Product = Callable[[Tensor], Tensor]
Operator = Product | Tensor


def refine(
    A: Operator,
    S: Operator,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    method: Literal["picard", "anderson", "broyden", "aitken"] = "picard",
    adjoint: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    **options: Any,
) -> FixedPointSolution[Tensor]:
    """x <- x + S(b - A x): iterative refinement of A x = b by any approximate solver S, such as a network.

    The gradient g of x gives u = A^-T g, by the refinement of A^T u = g with the transpose of S; then db = u, and
    dA = -u x^T. Gradients reach b, A if it is a tensor, the parameters of a module, and all other tensors that A
    depends on; S has none, as the solution does not depend on it. They can be differentiated again, except those of
    tensors that a function closes over.

    Parameters
    ----------
    A : callable or Tensor (n, n)
        ``A(x)`` or ``A @ x``; a function or module that is linear and differentiable, a dense tensor, or a sparse
        tensor of any layout in float32, float64 or complex128.
    S : callable or Tensor (n, n)
        ``S(r)`` or ``S @ r`` approximates the x with A x = r, also in another precision. If a gradient is required, it
        must be linear and differentiable.
    b : Tensor
        The right-hand side, of any shape, float32, float64, complex64 or complex128, on any device.
    x0 : Tensor, optional
        The first x; by default 0, so that the next x is S(b). It has no gradient.
    method : {"picard", "anderson", "broyden", "aitken"}
        How successive corrections are combined: ``"picard"`` adds them.
    adjoint : mapping, optional
        Options of the adjoint equation's solver, as in :func:`fastiter.torch.fixedpoint.fixed_point`.
    rtol : float, optional
        Relative tolerance: by default 1e-5 in 32 bits and 1e-8 in 64.
    atol : float
        Absolute tolerance: it has converged when ``||b - A x|| <= rtol ||b|| + atol``.
    max_steps : int
        The maximum number of corrections.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each residual; the solver ends where it
        returns True.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if it, or its adjoint equation, has not converged.
    **options : object
        Options of the method, as in :func:`fastiter.fixedpoint.fixed_point`.

    Returns
    -------
    FixedPointSolution
        x, differentiable, with ``||b - A x||`` as its residual.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what A or S returns, has a wrong type, dtype, shape or value.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    Warns
    -----
    ConvergenceWarning
        If it does not converge; the value is the x with the smallest residual.

    See Also
    --------
    fastiter.fixedpoint.refine : The same on arrays, with a reference.
    fastiter.torch.relax.flexible_cg : For a positive definite A, and an S that need not be linear.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import refine
    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    >>> b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> found = refine(A, torch.linalg.inv(A.detach()).half().float(), b, rtol=1e-14)
    >>> found.value.sum().backward()
    >>> found.steps <= 5, A.grad
    (True, tensor([[-0.0165, -0.1157],
            [-0.0248, -0.1736]], dtype=torch.float64))
    """
    refuse_transforms(_NAME, "because the number of iterations depends on the values")
    stopping = Stopping(Limits(rtol, atol, max_steps, callback, throw)).checked(_NAME)
    check_choice(_NAME, "method", method, METHODS)
    if adjoint is not None and not isinstance(adjoint, Mapping):
        raise TypeError(f"{_NAME}: adjoint must be a mapping of options or None, got {type_name(adjoint)}")
    solver = Solver(stopping, method, options)
    return graph_break(_refined, A, S, b, x0, solver, adjoint)


def _refined(
    A: Any, S: Any, b: Tensor, x0: Any, solver: Solver, adjoint: Mapping[str, Any] | None
) -> FixedPointSolution[Tensor]:
    """Check the tensors, iterate, and give the solution its gradient."""
    _, layout = checked_state(_NAME, b, batched=False, argument="b")
    start = torch.zeros_like(b) if x0 is None else x0
    checked_state(_NAME, start, batched=False, argument="x0")
    if start.shape != b.shape or start.dtype != b.dtype or start.device != b.device:
        expected, got = (f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (b, start))
        raise ValueError(f"{_NAME}: x0 must be {expected} like b, got {got}")
    (of_A, tensors), (of_S, values) = _read("A", A, b), _read("S", S, b)
    refuse_tangents(_NAME, (b, *tensors))
    params, solve = (b, *tensors), partial(_returned, "S", of_S, *[x.detach() for x in values])
    known = [x.detach().contiguous() for x in params]
    residual = _Residual(of_A)
    settings = (solver.stopping, solver.method, dict(solver.options))
    result = _solved(_NAME, lambda x: residual(x, *known), solve, known[0], start.detach().contiguous(), *settings)
    if not torch.is_grad_enabled() or b.numel() == 0:
        return result
    value, wrapped = result.value.reshape(1, -1), Map(_NAME, residual, layout, params)
    anchor = wrapped(value, [x.detach() for x in wrapped.tensors])
    if not (anchor.requires_grad or any(x.requires_grad for x in wrapped.tensors)):
        return result
    solver = solver.changed(_NAME, adjoint)
    back, forth = (
        _Backward(solver, layout, partial(_transposed, solve, known[0])),
        _Backward(solver, layout, lambda: solve),
    )
    closed = ("A closes", "pass a tensor or a module")
    problem = Problem(wrapped, back, _NAME, closed=closed, dual=forth)
    return result._with_value(layout.unpack(attach(problem, value, wrapped.tensors, anchor)))


class _Residual(nn.Module):
    """b - A x as a function of x, b and the tensors of A; the parameters of a module A are its own.

    The solution is a zero of it, not a fixed point, as is that of the adjoint map u -> g - A^T u.
    """

    def __init__(self, A: Callable[..., Any]) -> None:
        super().__init__()
        self.A = A

    def forward(self, x: Tensor, b: Tensor, *tensors: Tensor) -> Tensor:
        """Return b - A x."""
        return b - _returned("A", self.A, *tensors, x)


class _Measured:
    """x + S r(x), and the norms of r and b, from which convergence is decided."""

    def __init__(self, residual: Product, solve: Product, b: Tensor) -> None:
        self.residual, self.solve = residual, solve
        self.size = self.left = _norm(b)
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        r = self.residual(x)
        self.left, self.calls = _norm(r), 0
        return x + self.solve(r)

    def norm(self, state: Any) -> Any:
        """Return the norm of r for f(x) - x, which is requested first, and that of b for f(x)."""
        self.calls += 1
        return torch.tensor([self.left if self.calls == 1 else self.size], dtype=torch.float64)


def _solved(
    function: str,
    residual: Product,
    solve: Product,
    b: Tensor,
    start: Tensor,
    stopping: Stopping,
    method: str,
    options: Mapping[str, Any],
) -> FixedPointSolution[Tensor]:
    """Return the x with residual(x) = 0, by corrections S(residual(x))."""
    measured = _Measured(residual, solve, b)
    own, judged = stopping._replace(norm=measured.norm), "||b - A x||"
    return solve_tensors(function, measured, start, own, method, dict(options), batched=False, judged=judged)


@dataclass(frozen=True)
class _Backward:
    """The solver of g - A^T u = 0, or of the adjoint of this equation, by corrections with S^T, or S."""

    solver: Solver
    layout: Layout
    correct: Callable[..., Any]

    def __call__(self, adjoint: Product, right: Tensor) -> Tensor:
        correct, layout, solver = self.correct(), self.layout, self.solver

        def solve(r: Tensor) -> Tensor:
            return layout.pack([correct(layout.unpack(r))])

        settings = (solver.stopping, solver.method, solver.options)
        result: Tensor = _solved(f"{_NAME}, backward", adjoint, solve, right, torch.zeros_like(right), *settings).value
        return result


def _transposed(S: Product, b: Tensor) -> Product:
    """Return r -> S^T r, or S^H r, for a linear S of tensors like b."""
    with torch.enable_grad():
        at = torch.zeros_like(b).requires_grad_()
        image = S(at)
    if not image.requires_grad:
        raise TypeError(f"{_NAME}: S must be differentiable if a gradient is requested, got one that is not")
    return lambda r: torch.autograd.grad(image, at, r, retain_graph=True)[0]


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64))


def _read(name: str, operator: Any, b: Tensor) -> tuple[Any, list[Tensor]]:
    """Return a function of x and of the operator's tensors, and these."""
    if not isinstance(operator, Tensor):
        if not callable(operator):
            raise TypeError(f"{_NAME}: {name} must be callable or a torch.Tensor, got {type_name(operator)}")
        return operator, []
    if operator.dim() != 2 or operator.shape[0] != operator.shape[1] or tuple(b.shape[:1]) != tuple(operator.shape[:1]):
        got = f"{tuple(operator.shape)} and {tuple(b.shape)}"
        raise ValueError(f"{_NAME}: {name} must have shape (n, n), and b the shape (n,) or (n, k), got {got}")
    if operator.device != b.device:
        raise ValueError(f"{_NAME}: {name} must be on {b.device} like b, got {operator.device}")
    if operator.is_complex() and not b.is_complex():
        raise TypeError(f"{_NAME}: {name} must be real like b, got {operator.dtype}")
    if operator.layout == torch.strided:
        return _dense, [operator.contiguous()]  # products have the same bits for any layout
    row, column, values = entries_of(_NAME, name, operator)
    return partial(_sparse, row, column), [values]


def _dense(matrix: Tensor, x: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, matrix.dtype)
    return matrix.to(dtype) @ x.to(dtype)


def _sparse(row: Tensor, column: Tensor, values: Tensor, x: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, values.dtype)
    x, values = x.to(dtype), values.to(dtype)
    entries = values.reshape(-1, *(1,) * (x.dim() - 1)) * x[column]
    return torch.zeros_like(x).index_add(0, row, entries)


def _returned(name: str, operator: Callable[..., Any], *arguments: Tensor) -> Tensor:
    """Apply an operator to its tensors and x, the last argument; return the result in the dtype of x, checked."""
    value, x = operator(*arguments), arguments[-1]
    if not isinstance(value, Tensor):
        raise TypeError(f"{_NAME}: {name} must return a torch.Tensor, got {type_name(value)}")
    if value.shape != x.shape or not (value.dtype.is_floating_point or value.is_complex()):
        expected = f"floating-point numbers of shape {tuple(x.shape)}"
        raise ValueError(f"{_NAME}: {name} must return {expected} like b, got {value.dtype} {tuple(value.shape)}")
    if value.is_complex() and not x.is_complex():
        raise TypeError(f"{_NAME}: {name} must return real numbers like b, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{_NAME}: {name} must return a tensor on {x.device} like b, got {value.device}")
    return value.to(x.dtype)
