"""Optimisation with equality constraints, of functions of torch operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev

from ..._call.iterate import Callback
from ..._check import check_takes, type_name
from ..._torch.graph_break import graph_break
from ..._torch.ops import check_tensors, refuse_tangents, refuse_transforms
from .. import _sketched_newton
from .._sketched_newton import ConstrainedSolution
from . import implicit
from .functional import on_tensors, with_tensors
from .matrix import DEVICES, array_of

_NAME = "sketched_newton"


def sketched_newton(
    objective: Callable[..., Tensor],
    constraints: Callable[..., Tensor],
    x0: Tensor,
    *params: Any,
    multipliers0: Tensor | None = None,
    sketch: Literal["kaczmarz", "gaussian"] = "kaczmarz",
    atol: float = 1e-4,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    rng: Any = None,
) -> ConstrainedSolution[Tensor]:
    """Minimise f(x) with c(x) = 0 by inexact Newton steps on the first-order conditions; derivatives are automatic.

    Parameters
    ----------
    objective : callable
        ``objective(x, *params)`` returns f, a tensor of one number, by operations that torch.func differentiates twice.
    constraints : callable
        ``constraints(x, *params)`` returns c (k,), in the same way.
    x0 : Tensor (n,)
        The starting point, float64 on the CPU.
    *params : object
        Further arguments of both functions; the solution is differentiable in those that are tensors.
    multipliers0 : Tensor (k,), optional
        The first multipliers, 0 by default.
    sketch : {"kaczmarz", "gaussian"}
        The method for the linear systems: projections onto single rows, or onto random normal combinations of them.
    atol : float
        Converged if the norm of (f' + c'^T multipliers, c) is at most this; above 0.
    max_steps : int
        The maximum number of Newton steps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` before each step, which has the ``objective`` and the ``multipliers``;
        True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    rng : numpy.random.Generator or int, optional
        The source of sketches; an int is a seed, and None is 0.

    Returns
    -------
    ConstrainedSolution
        The point and its multipliers, tensors, both differentiable to any order in ``params``, and once in other
        tensors that the functions read. The error of the derivatives is about that of the point; a smaller ``atol``
        makes them more accurate.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what a function returns, is not as described.
    BackendError
        If a tensor is not on the CPU.
    ConvergenceError
        If ``throw`` is True and it does not converge.
    RuntimeError
        Under a transform of torch.func; in the backward pass, if the matrix of the first-order conditions is singular.

    See Also
    --------
    bcd : Bounds on each coordinate.
    fastiter.bcd.sketched_newton : The same on arrays, with explicit derivatives.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import sketched_newton
    >>> def f(x, radius):
    ...     return x.sum()
    >>> def c(x, radius):
    ...     return (x @ x - radius**2).reshape(1)
    >>> radius = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    >>> x = sketched_newton(f, c, -torch.ones(2, dtype=torch.float64), radius, atol=1e-9).value
    >>> x.sum().backward()
    >>> x.detach().round(decimals=4), radius.grad.round(decimals=4)
    (tensor([-1.4142, -1.4142], dtype=torch.float64), tensor(-1.4142, dtype=torch.float64))
    """
    refuse_transforms(_NAME, "because the number of steps depends on the values")
    for name, f in (("objective", objective), ("constraints", constraints)):
        check_takes(_NAME, name, f, "(x, *params)", 1 + len(params), "the first multipliers are given as multipliers0=")
    named = {"x0": x0} | ({} if multipliers0 is None else {"multipliers0": multipliers0})
    check_tensors(_NAME, tuple(named), tuple(named.values()), (torch.float64,), DEVICES)
    refuse_tangents(_NAME, params)
    first = None if multipliers0 is None else array_of(multipliers0)
    problem = _Problem(objective, constraints, params)
    limits: Any = {"atol": atol, "max_steps": max_steps, "callback": with_tensors(callback), "throw": throw}
    options: Any = {"multipliers0": first, "sketch": sketch, "rng": rng, **limits}

    def call() -> ConstrainedSolution[Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            arrays = problem.objective, problem.constraints, array_of(x0)
            solution = on_tensors(lambda: _sketched_newton.sketched_newton(*arrays, **options))
        return problem.with_gradient(solution)

    return graph_break(call)


class _Problem:
    """The functions with their derivatives."""

    def __init__(self, objective: Any, constraints: Any, params: tuple[Any, ...]) -> None:
        self._objective, self._constraints, self._params = objective, constraints, params
        self._places = [i for i, x in enumerate(params) if isinstance(x, Tensor) and x.is_floating_point()]
        self._tensors = [params[i] for i in self._places]

    def objective(self, x: Any) -> tuple[float, Any, Any]:
        """Return f, its gradient and its second derivatives, as arrays."""
        at = torch.from_numpy(x)
        g, value = grad_and_value(self._f)(at)
        return float(value), g.numpy(), jacrev(grad(self._f))(at).numpy()

    def constraints(self, x: Any, multipliers: Any) -> tuple[Any, Any, Any]:
        """Return c, its Jacobian, and the second derivatives of its product with the multipliers, as arrays."""
        at, lam = torch.from_numpy(x), torch.from_numpy(multipliers)
        c = self._c(at)
        if len(lam) != len(c):
            return c.numpy(), np.zeros((len(c), len(x))), np.zeros((len(x), len(x)))

        def product(x: Tensor) -> Tensor:
            return lam @ self._c(x)

        return c.numpy(), jacrev(self._c)(at).numpy(), jacrev(grad(product))(at).numpy()

    def _arguments(self, tensors: Sequence[Tensor]) -> list[Any]:
        params = list(self._params)
        for i, x in zip(self._places, tensors, strict=True):
            params[i] = x
        return params

    def _f(self, x: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        result = self._objective(x, *self._arguments(self._tensors if tensors is None else tensors))
        return _checked("objective", result, 0, "of one number")

    def _c(self, x: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        result = self._constraints(x, *self._arguments(self._tensors if tensors is None else tensors))
        return _checked("constraints", result, 1, "of shape (k,)")

    def with_gradient(self, solution: ConstrainedSolution[Tensor]) -> ConstrainedSolution[Tensor]:
        """Return the solution with its value and multipliers differentiable."""
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return solution
        x, detached, n = solution.value, [t.detach() for t in self._tensors], len(solution.value)
        closes_over = self._f(x, detached).requires_grad or self._c(x, detached).requires_grad
        if not closes_over and not any(t.requires_grad for t in self._tensors):
            return solution

        def conditions(both: Tensor, tensors: Sequence[Tensor]) -> Tensor:
            with torch.enable_grad():
                both = both if both.requires_grad else both.detach().requires_grad_()
                x, lam = both[:n], both[n:]
                c = self._c(x, tensors)
                lagrangian = self._f(x, tensors) + lam @ c
                (slope,) = torch.autograd.grad(lagrangian, x, create_graph=True, materialize_grads=True)
                return torch.cat([slope, c])

        both = torch.cat([x, solution.multipliers])
        equations = implicit.Problem(_NAME, conditions, len(both), exact=False, definite=False)
        attached = implicit.attach(equations, both, self._tensors, closes_over)
        return replace(solution, value=attached[:n], multipliers=attached[n:])


def _checked(name: str, result: Any, dim: int, expected: str) -> Tensor:
    if not isinstance(result, Tensor) or result.dim() != dim or result.dtype != torch.float64:
        got = f"{result.dtype} of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type_name(result)
        raise TypeError(f"{_NAME}: {name} must return a float64 tensor {expected}, got {got}")
    return result
