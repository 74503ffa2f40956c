"""Lasso paths, non-negative least squares and linear systems by random sketches, on tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..._call.iterate import Callback
from ..._torch.graph_break import graph_break
from ..._torch.ops import FLOATS, check_tensors, refuse_tangents, refuse_transforms
from .. import _nnls, _path, _sketch
from .._path import LassoPath
from .._result import BCDSolution
from .._sketch import SketchSolution
from .equations import Equations
from .functional import bcd, on_tensors, with_tensors
from .matrix import DEVICES, array_of, read_matrix
from .problem import LeastSquares

Matrix = Tensor | tuple[Any, Any, Tensor, tuple[int, int]]


def lasso_path(
    A: Matrix,
    b: Tensor,
    l1: Tensor | None = None,
    *,
    l2: Tensor | float = 0.0,
    nonnegative: bool = False,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 100,
    callback: Callback | None = None,
    throw: bool = False,
) -> LassoPath[Tensor]:
    """Minimise ||A x - b||^2 / 2 + l1 ||x||_1 + l2 ||x||^2 / 2 for several l1, differentiably, with warm starts.

    Parameters
    ----------
    A : Tensor (n, m), or (crow, col, values, (n, m))
        The data, float32 or float64 on the CPU: dense, CSR or CSC, or the parts of a CSR matrix.
    b : Tensor (n,)
        The targets, in the dtype of A.
    l1 : Tensor (k,), optional
        The weights, above 0, preferably in decreasing order. By default 50, spaced evenly in their logarithm, from the
        smallest for which x is 0 down to a hundredth of it.
    l2 : float or Tensor of one number
        The weight of ||x||^2 / 2.
    nonnegative : bool
        Whether x is constrained to be non-negative.
    rtol : float
        Converged if the duality gap is at most ``rtol`` ||b||^2 / 2 + ``atol``.
    atol : float
        A tolerance in the units of the objective.
    max_steps : int
        The maximum number of working sets for each weight.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each weight but the last, as in :func:`fastiter.bcd.lasso_path`;
        True ends the path.
    throw : bool
        Raise if one does not converge, instead of a warning.

    Returns
    -------
    LassoPath
        The solutions, differentiable to any order in A, b, l1 and l2 where each has a fixed active set, and their
        duality gaps, as tensors.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    BackendError
        If a tensor is not on the CPU.
    ConvergenceError
        If ``throw`` is True and one does not converge.
    RuntimeError
        Under a transform of torch.func; in the backward pass, if a solution is not unique.

    See Also
    --------
    bcd : One problem, also with other losses.
    fastiter.bcd.lasso_path : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import lasso_path
    >>> l1 = torch.tensor([2.0, 0.5], requires_grad=True)
    >>> path = lasso_path(torch.eye(2), torch.tensor([3.0, 1.0]), l1)
    >>> path.value.sum().backward()
    >>> path.value.detach(), l1.grad
    (tensor([[1.0000, 0.0000],
            [2.5000, 0.5000]]), tensor([-1., -2.]))
    """
    function = "lasso_path"
    refuse_transforms(function, "because the number of steps depends on the values")
    matrix = read_matrix(function, "A", A)
    named: dict[str, Tensor] = {"b": b} | ({} if l1 is None else {"l1": l1})
    if isinstance(l2, Tensor):
        named["l2"] = l2
    check_tensors(function, ("A", *named), (matrix.values, *named.values()), FLOATS, DEVICES)
    refuse_tangents(function, (matrix.values, *named.values()))
    if isinstance(l2, Tensor) and l2.numel() != 1:
        raise ValueError(f"{function}: l2 must be a number or a tensor of one, got shape {tuple(l2.shape)}")

    def call() -> LassoPath[Tensor]:
        path = on_tensors(
            lambda: _path.lasso_path(
                matrix.array(function),
                array_of(b),
                None if l1 is None else array_of(l1),
                l2=float(l2.detach()) if isinstance(l2, Tensor) else l2,
                nonnegative=nonnegative,
                rtol=rtol,
                atol=atol,
                max_steps=max_steps,
                callback=with_tensors(callback),
                throw=throw,
            )
        )
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in (matrix.values, *named.values())):
            return path
        lower = 0.0 if nonnegative else None
        weights = path.l1 if l1 is None else l1
        one = LeastSquares(A, b, l1=1.0, l2=l2.reshape(()) if isinstance(l2, Tensor) else l2, lower=lower)
        rows = []
        for k, (x, weight) in enumerate(zip(path.value, weights, strict=True)):
            equations = Equations(one, x, one._tensors | {"l1": weight.to(x.dtype)})
            at_start = l1 is None and k == 0  # where x starts to differ from 0
            rows.append(equations.solution(function, x, None, warns=not at_start))
        return replace(path, value=torch.stack(rows) if rows else path.value)

    return graph_break(call)


class NonNegative(LeastSquares):
    """The problem of nnls, which its error messages name."""

    _twin = _nnls.NonNegative


def nnls(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> BCDSolution[Tensor]:
    """Minimise ||A x - b|| over x >= 0, differentiably.

    Parameters
    ----------
    A : Tensor (n, m), or (crow, col, values, (n, m))
        The data, float32 or float64 on the CPU: dense, CSR or CSC, or the parts of a CSR matrix.
    b : Tensor (n,)
        The targets, in the dtype of A.
    x0 : Tensor (m,), optional
        The starting point, 0 by default, in the dtype of A.
    rtol : float
        Converged if the largest entry of the minimum-norm subgradient is at most ``rtol`` times that of A' b, plus
        ``atol``.
    atol : float
        A tolerance in the units of A' b.
    max_steps : int
        The maximum number of updates of a coordinate.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, which has the ``objective``; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.

    Returns
    -------
    BCDSolution
        Its value is x, differentiable in A and b like that of :func:`bcd`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    BackendError
        If a tensor is not on the CPU.
    ConvergenceError
        If ``throw`` is True and it does not converge.
    RuntimeError
        Under a transform of torch.func; in the backward pass, if x is not unique.

    See Also
    --------
    bcd : Other losses, bounds and penalties.
    fastiter.bcd.nnls : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import nnls
    >>> b = torch.tensor([2.0, 1.0, -1.0], requires_grad=True)
    >>> x = nnls(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), b).value
    >>> x.sum().backward()
    >>> x.detach(), b.grad
    (tensor([1.5000, 0.0000]), tensor([0.5000, 0.5000, 0.0000]))
    """
    limits: Any = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "callback": callback, "throw": throw}
    return bcd(NonNegative(A, b, lower=0.0), x0, **limits)


def sketch_solve(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    sketch: Literal["kaczmarz", "block", "gaussian", "count"] = "kaczmarz",
    size: int = 16,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 1_000_000,
    callback: Callback | None = None,
    throw: bool = False,
    rng: Any = None,
) -> SketchSolution[Tensor]:
    """Solve A x = b by projections x <- x + A' S (S' A A' S)^+ S' (b - A x) with random S; it has no gradient.

    Parameters
    ----------
    A : Tensor (m, n), or (crow, col, values, (m, n))
        The matrix of a system that has a solution, float32 or float64 on the CPU: dense, CSR or CSC, or the parts of a
        CSR matrix.
    b : Tensor (m,)
        The right-hand side, in the dtype of A.
    x0 : Tensor (n,), optional
        The starting point, 0 by default, in the dtype of A; the limit is the solution nearest to it.
    sketch : {"kaczmarz", "block", "gaussian", "count"}
        S, as in :func:`fastiter.bcd.sketch_solve`.
    size : int
        The number of columns of S, except for "kaczmarz".
    rtol : float
        Converged if ||b - A x|| <= ``rtol`` ||b|| + ``atol``.
    atol : float
        A tolerance in the units of b.
    max_steps : int
        The maximum number of projections.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    rng : numpy.random.Generator or int, optional
        The source of S; an int is a seed, and None is 0.

    Returns
    -------
    SketchSolution
        The solution, a tensor, and its residual.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or requires a gradient.
    BackendError
        If a tensor is not on the CPU.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    fastiter.torch.relax.sor : Linear systems with gradients.
    fastiter.bcd.sketch_solve : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import sketch_solve
    >>> A, b = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([3.0, 4.0])
    >>> sketch_solve(A, b).value.round(decimals=3)
    tensor([1., 1.])
    """
    function = "sketch_solve"
    refuse_transforms(function, "because the number of steps depends on the values")
    matrix = read_matrix(function, "A", A)
    named = {"A": matrix.values, "b": b} | ({} if x0 is None else {"x0": x0})
    check_tensors(function, tuple(named), tuple(named.values()), FLOATS, DEVICES)
    refuse_tangents(function, (matrix.values, b))
    for name, x in named.items():
        if torch.is_grad_enabled() and x.requires_grad:
            remedy = "(fastiter.torch.relax and torch.linalg.solve have gradients), got one that requires it"
            raise ValueError(f"{function}: {name} must not require a gradient {remedy}")

    def call() -> SketchSolution[Tensor]:
        first = None if x0 is None else array_of(x0)
        limits: Any = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "throw": throw}
        options: Any = {"sketch": sketch, "size": size, "callback": with_tensors(callback), "rng": rng}
        return on_tensors(lambda: _sketch.sketch_solve(matrix.array(function), array_of(b), first, **limits, **options))

    return graph_break(call)
