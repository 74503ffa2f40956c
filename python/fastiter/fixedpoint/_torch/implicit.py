"""Gradients of a fixed point x = f(x, t) without its iterations: u = g + J^T u with J = df/dx, then u^T df/dt.

The backward pass is differentiable to any order: u is the fixed point of a map of g, x and t, and gets its own gradient
in the same way; and x is the output of the same node, through which derivatives of x reach t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._torch.autograd import one_by_one
from ..._torch.ops import autocast_device, autocast_dtype

Function = Callable[[Tensor, Sequence[Tensor]], Tensor]
#: (u -> g + J^T u, first u) -> u; also reports a failure to converge
Solver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A map of (B, n) and tensors, the solver of adjoint equations, and the name of the public function.

    ``exact`` is False for a solver that truncates, whose gradients cannot be differentiated. ``closed`` is the part of
    messages that names the user's function that may close over tensors, and the alternative. ``dual`` solves the
    adjoint equations of adjoint equations, by default ``solve`` does.
    """

    function: Function
    solve: Solver
    name: str
    exact: bool = True
    closed: tuple[str, str] = ("f closes", "pass them in params, or a module as f")
    dual: Solver | None = None


def attach(problem: Problem, value: Tensor, tensors: Sequence[Tensor], anchor: Tensor | None = None) -> Tensor:
    """Return the fixed point ``value`` (B, n), differentiable in the tensors.

    Parameters
    ----------
    problem : Problem
        The map, whose fixed point for these tensors is ``value``.
    value : Tensor (B, n)
        The fixed point, without a graph.
    tensors : sequence of Tensor
        The tensors that the map is given.
    anchor : Tensor, optional
        The map's value there, with the graph of the tensors that it closes over instead of receiving as arguments.
    """
    if not torch.is_grad_enabled():
        return value.clone()
    result: Tensor = _Implicit.apply(problem, value, anchor, *tensors)
    return result.clone()  # users may write to it, which must not change the tensor saved by the node


class _Implicit(torch.autograd.Function):
    """Map (anchor, *tensors) to the already known fixed point."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, value: Tensor, anchor: Tensor | None, *tensors: Tensor) -> Tensor:
        own = value.clone()
        ctx.save_for_backward(own, *tensors)
        ctx.problem, ctx.autocast = problem, autocast_dtype(own)
        ctx.anchor = None if anchor is None else anchor.detach()
        ctx.foreign = anchor if anchor is not None and anchor.requires_grad else None
        return own

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        problem, (value, *tensors) = ctx.problem, ctx.saved_tensors
        twice = torch.is_grad_enabled()
        refused = twice and (ctx.foreign is not None or not problem.exact)
        recorded = twice and not refused
        with torch.autocast(autocast_device(value), ctx.autocast, ctx.autocast is not None):
            u, result = _gradients(problem, value, tensors, g, recorded, ctx.anchor)
        if refused:
            sources = [x for x in (ctx.foreign, g, *tensors) if x is not None and x.requires_grad]
            built = refusing(_sentence(problem), [u, *result], sources)
        else:
            built = [u, *result]
        return (None, None, built[0] if ctx.needs_input_grad[2] else None, *built[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        name = ctx.problem.name
        raise NotImplementedError(f"{name}: forward-mode derivatives are not supported; use torch.autograd.grad")


def _sentence(problem: Problem) -> str:
    if not problem.exact:
        return f"{problem.name}: the gradient has no derivative, as it is truncated (grad='implicit' has one)"
    who, remedy = problem.closed
    return f"{problem.name}: the gradient has no derivative where {who} over tensors that require a gradient; {remedy}"


def _gradients(
    problem: Problem, value: Tensor, tensors: Sequence[Tensor], g: Tensor, recorded: bool, expected: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Return u and the gradients of the tensors, with their graph if ``recorded``."""
    with torch.enable_grad():
        x, arguments = _independent(value, recorded), [_independent(t, recorded, t.requires_grad) for t in tensors]
        y = problem.function(x, arguments)
    if expected is not None:
        _check_unchanged(problem.name, y.detach(), expected)
    right = g.detach()

    def adjoint(u: Tensor) -> Tensor:
        return right + _product(y, x, u)

    with torch.no_grad():
        u = problem.solve(adjoint, right.clone())
    if recorded:
        u = attach(_adjoint_of(problem), u, [g, value, *tensors])
    wanted = [t for t in arguments if t.requires_grad]
    if not wanted or not y.requires_grad:
        return u, [None] * len(arguments)
    result = iter(torch.autograd.grad(y, wanted, u, create_graph=recorded, allow_unused=True))
    return u, [next(result) if t.requires_grad else None for t in arguments]


def _independent(x: Tensor, recorded: bool, varies: bool = True) -> Tensor:
    """Return x as an independent input: a view if its graph is recorded, a leaf otherwise."""
    return x.view_as(x) if recorded and x.requires_grad else x.detach().requires_grad_(varies)


def _product(y: Tensor, x: Tensor, u: Tensor, recorded: bool = False) -> Tensor:
    """Return J^T u for y = f(x)."""
    if not y.requires_grad:
        return torch.zeros_like(u)
    (result,) = torch.autograd.grad(y, x, u, retain_graph=True, create_graph=recorded, allow_unused=True)
    return torch.zeros_like(u) if result is None else result


def _adjoint_of(problem: Problem) -> Problem:
    """Return the problem whose fixed point is u, as a map of u and of (g, x, *tensors)."""

    def function(u: Tensor, arguments: Sequence[Tensor]) -> Tensor:
        g, x, *tensors = arguments
        with torch.enable_grad():
            x = _independent(x, True)
            return g + _product(problem.function(x, tensors), x, u, recorded=True)

    return Problem(function, problem.dual or problem.solve, problem.name, dual=problem.dual and problem.solve)


def _check_unchanged(name: str, value: Tensor, expected: Tensor) -> None:
    """Check that f returns the same in the backward pass as in the forward pass, up to rounding."""
    far = (value - expected).abs().nan_to_num(0.0).amax() if value.numel() else value.new_zeros(())
    size = expected.abs().nan_to_num(0.0, 0.0, 0.0).amax() if value.numel() else far
    if bool(far > torch.finfo(value.dtype).eps ** 0.5 * (1 + size)):
        raise RuntimeError(
            f"{name}: f must return the same in the backward pass as in the forward pass, got a difference of "
            f"{float(far):.2g}; has something that it uses been changed?"
        )


class _Refusing(torch.autograd.Function):
    """Return the first ``count`` tensors; differentiating them raises."""

    @staticmethod
    def forward(ctx: Any, message: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.message = message
        return tuple([x.detach() for x in tensors[:count]])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise RuntimeError(ctx.message)


def refusing(message: str, tensors: Sequence[Tensor | None], sources: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the tensors; differentiating them in the sources raises an error with the message."""
    arguments = [x for x in tensors if x is not None]
    result = iter(_Refusing.apply(message, len(arguments), *arguments, *sources))
    return [None if x is None else next(result) for x in tensors]


class _Once(torch.autograd.Function):
    """Map (y, *sources) to y; the gradient passes unchanged, and its derivatives are refused."""

    @staticmethod
    def forward(ctx: Any, message: str, y: Tensor, *sources: Tensor) -> Tensor:
        ctx.message = message
        ctx.save_for_backward(y, *sources)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        sources = [x for x in ctx.saved_tensors if x.requires_grad]
        if torch.is_grad_enabled():
            (guarded,) = refusing(ctx.message, [g], [x for x in (g, *sources) if x.requires_grad])
        else:
            guarded = g
        return (None, guarded, *[None] * (len(ctx.needs_input_grad) - 2))


def differentiable_once(message: str, y: Tensor) -> Tensor:
    """Return y; differentiating its gradient raises an error with the message."""
    if not (torch.is_grad_enabled() and y.requires_grad):
        return y.detach().clone()
    result: Tensor = _Once.apply(message, y)
    return result
