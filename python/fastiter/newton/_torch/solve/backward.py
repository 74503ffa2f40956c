"""Gradients of a solution, independent of its iterations: lam[t] = g[t] + J[t+1]^T lam[t+1], then products with df/dx.

However the states were found, their gradient is that of the loop. The result of the reversed scan is verified at no
extra cost, as the vector-Jacobian products of all steps with lam contain J^T lam. If the structure does not contain the
whole Jacobian, a loop of products is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...._torch.autograd import differentiable_once
from ...._torch.ops import autocast_device, autocast_dtype
from .cell import WIDEST, Cell, Linearised, Structure
from .newton import before, flat_steps, jacobians, scan

#: Corrections of the scan's result before falling back to the loop; rounding errors alone need at most one.
_CORRECTIONS = 2


@dataclass
class Problem:
    """The non-tensor inputs of the gradient; ``find`` determines the structure when the first gradient is computed."""

    cell: Cell
    rebuild: Callable[[Sequence[Tensor]], tuple[Any, ...]]  # builds params from its tensors
    find: Callable[[], Structure]
    window: int
    parts: tuple[int, int]  # numbers of parts of the state and of x


def with_gradient(
    problem: Problem,
    values: Sequence[Tensor],
    first: Sequence[Tensor],
    x: Sequence[Tensor],
    params: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the values, differentiable in first, x and params."""
    result: tuple[Tensor, ...] = _Recurrence.apply(problem, list(values), *first, *x, *params)
    return result


class _Recurrence(torch.autograd.Function):
    """Map (*first, *x, *params) to the states of all steps, which are already known."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, values: list[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        own = tuple(values)
        values.clear()
        ctx.save_for_backward(*own, *inputs)
        ctx.problem = problem
        ctx.autocast = autocast_dtype(own[0])
        return tuple([x.clone() for x in own])  # copies, as users may write to them

    @staticmethod
    @differentiable_once("solve_recurrence")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, inputs = ctx.problem.parts
        saved = ctx.saved_tensors  # read only once, as checkpoints require
        values, leaves = saved[:states], [x.detach() for x in saved[states:]]
        first, x, params = leaves[:states], leaves[states : states + inputs], leaves[states + inputs :]
        needs = ctx.needs_input_grad[2:]
        for leaf, needed in zip((*x, *params), needs[states:], strict=True):
            leaf.requires_grad_(needed)
        is_on = ctx.autocast is not None
        with torch.autocast(
            autocast_device(values[0]), ctx.autocast, is_on
        ):  # the cell runs under the same autocast as in the forward pass
            dfirst, dx, dparams = _Adjoint(ctx.problem, values, first, x, params).run(gradients)
        return (None, None, *dfirst, *dx, *dparams)


class _Adjoint:
    """The backward pass, window by window, from the last to the first."""

    def __init__(
        self,
        problem: Problem,
        values: Sequence[Tensor],
        first: Sequence[Tensor],
        x: Sequence[Tensor],
        params: Sequence[Tensor],
    ) -> None:
        self.structure = problem.find()
        self.cell = problem.cell.with_run(self.structure.run)
        self.first, self.h = self.cell.layout.pack(first), self.cell.layout.pack_steps(values)
        self.x, self.params, self.window = x, params, problem.window
        self.with_graph = replace(self.cell, params=problem.rebuild(params))
        self.dx = [torch.zeros_like(part) if part.requires_grad else None for part in x]
        self.dparams = [torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in params]

    def run(
        self, gradients: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor | None], Sequence[Tensor | None]]:
        g = self.cell.layout.pack_steps(gradients)
        carry = torch.zeros_like(self.first)
        for start in reversed(range(0, g.shape[1], self.window)):
            steps = slice(start, start + self.window)
            cotangent = g[:, steps].clone()
            cotangent[:, -1] += carry
            carry = self._window(steps, cotangent)
        return self.cell.layout.unpack(carry), self.dx, self.dparams

    def _window(self, steps: slice, g: Tensor) -> Tensor:
        """Add a window's contribution to all gradients; return the gradient of the state before it."""
        ahead = self.first if steps.start == 0 else self.h[:, steps.start - 1]
        h = before(ahead, self.h[:, steps])
        x = [part[:, steps] for part in self.x]
        with torch.enable_grad():
            inputs = [part.detach().requires_grad_(part.requires_grad) for part in x]
            linear = Linearised(self.with_graph, h.flatten(0, 1), flat_steps(inputs))
        wanted = [leaf for leaf in (*inputs, *self.params) if leaf.requires_grad]
        results = self._by_scan(linear, g, wanted)
        if results is None:
            results = linear.products(self._by_loop(h, x, g).flatten(0, 1), wanted)
        dh, *others = results
        self._add(steps, others)
        return dh.view_as(g)[:, 0]

    def _add(self, steps: slice, gradients: Sequence[Tensor]) -> None:
        left = iter(gradients)
        for part in self.dx:
            if part is not None:
                part[:, steps] += next(left)
        for total in self.dparams:
            if total is not None:
                total += next(left)

    def _by_scan(self, linear: Linearised, g: Tensor, wanted: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the products of all steps with lam, or None if the scan does not find lam."""
        if self.structure.size > WIDEST:
            return None
        jacobian = jacobians(linear, self.structure, g)
        ahead = torch.zeros_like(jacobian)
        ahead[:, :-1] = jacobian[:, 1:] if jacobian.dim() == 3 else jacobian[:, 1:].transpose(-1, -2)
        lam = scan(ahead, g, reverse=True)
        for _ in range(1 + _CORRECTIONS):
            results = linear.products(lam.flatten(0, 1), wanted)
            product = torch.zeros_like(g)
            product[:, :-1] = results[0].view_as(g)[:, 1:]
            error = g + product - lam
            size = (lam.abs() + product.abs()).amax(2, keepdim=True)
            if bool((error.abs() <= 64 * torch.finfo(g.dtype).eps * size).all()):
                return results
            lam += scan(ahead, error, reverse=True)
        return None

    def _by_loop(self, h: Tensor, x: Sequence[Tensor], g: Tensor) -> Tensor:
        """Return lam, with one product with J^T per step."""
        lam = g.clone()
        inputs = [part.detach() for part in x]
        for t in range(g.shape[1] - 1, 0, -1):
            linear = Linearised(self.cell, h[:, t], [part[:, t] for part in inputs])
            lam[:, t - 1] += linear.transposed(lam[:, t])
        return lam
