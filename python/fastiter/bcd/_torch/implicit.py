"""Gradients of solutions with a fixed active set: the implicit function theorem for the coordinates that are free.

These satisfy s_F(x_F, t) = 0, where s is the gradient of the objective with the signs of x in place of |x|, and t are
the tensors of the problem. Hence x_F is the fixed point of x_F - s_F, whose Jacobian is I - H with the second
derivatives H, and the adjoint equations of `fixedpoint`, of any order, are systems with H.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._solution import ConvergenceError, outside
from ...fixedpoint._torch import implicit

#: Maximum number of free coordinates for which H is factorised; larger systems are solved by conjugate gradients
LARGEST = 4096
#: Maximum number of elements that a batch of products with H computes at once
_BATCH = 1 << 22

Slope = Callable[[Tensor, Sequence[Tensor]], Tensor]


class ActiveSet(NamedTuple):
    """The coordinates of a solution, flat: free ones with their signs, and those at a bound; the others are 0 by l1."""

    free: Tensor
    signs: Tensor
    at_lower: Tensor
    at_upper: Tensor


def active_set(value: Tensor, l1: Tensor, lower: Tensor, upper: Tensor) -> ActiveSet:
    """Classify the coordinates of a solution (m,), in the precision of the solver."""
    is_zero = (value == 0) & (l1 > 0)
    at_lower = (value <= lower) & ~is_zero
    at_upper = (value >= upper) & ~is_zero & ~at_lower
    free = _places(~(is_zero | at_lower | at_upper))
    return ActiveSet(free, value[free].sign(), _places(at_lower), _places(at_upper))


def _places(chosen: Tensor) -> Tensor:
    return torch.nonzero(chosen).flatten()


class Problem(NamedTuple):
    """A solution's equations: s_F as a function of x_F (k,) and of tensors, in any precision.

    ``cost``: the number of elements that a product with H computes; ``exact``: H is computed in float64, whatever the
    tensors' dtype; ``definite``: H is positive definite if the solution is unique; ``matrix``: H of the same arguments,
    or None.
    """

    name: str
    slope: Slope
    cost: int
    exact: bool = True
    definite: bool = True
    matrix: Callable[[Tensor, Sequence[Tensor]], Tensor | None] | None = None


def attach(problem: Problem, value: Tensor, tensors: Sequence[Tensor], anchored: bool = False) -> Tensor:
    """Return the free coordinates ``value`` (k,), differentiable in the tensors.

    Parameters
    ----------
    problem : Problem
        The equations.
    value : Tensor (k,)
        Their solution.
    tensors : sequence of Tensor
        The tensors that are passed to the equations.
    anchored : bool
        Whether the equations close over other tensors that require a gradient.
    """

    def function(x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        own = x.squeeze(0)
        return (own - problem.slope(own, tensors)).unsqueeze(0)

    solver = _Systems(problem, value.detach(), [x.detach() for x in tensors])
    anchor = function(value.detach().unsqueeze(0), [x.detach() for x in tensors]) if anchored else None
    fixed_point = implicit.Problem(function, solver.solve, problem.name)
    return implicit.attach(fixed_point, value.detach().unsqueeze(0), tensors, anchor).squeeze(0)


class _Systems:
    """Solves H u = g, with H from one factorisation for all right-hand sides, or by conjugate gradients."""

    def __init__(self, problem: Problem, value: Tensor, tensors: list[Tensor]) -> None:
        self._problem, self._value, self._tensors = problem, value, tensors
        self._factor: Tensor | None = None

    def solve(self, adjoint: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        """Return u = adjoint(u) = g + (I - H) u, for the right-hand side g (1, k)."""
        k = right.shape[1]
        if k == 0:
            return right
        if not self._problem.definite:
            return self._by_elimination(right)
        if k > LARGEST:
            return self._by_conjugate_gradients(adjoint, right)
        if self._factor is None:
            self._factor = self._factorised()
        g = right.to(self._factor.dtype).mT
        return torch.cholesky_solve(g, self._factor).mT.to(right.dtype)

    def _factorised(self) -> Tensor:
        H = self._matrix()
        factor, info = torch.linalg.cholesky_ex((H + H.mT) / 2)
        pivots, scale = factor.diagonal().square(), H.diagonal().amax()
        if int(info) or not bool(pivots.amin() > 16 * len(H) * torch.finfo(H.dtype).eps * scale):
            raise RuntimeError(
                f"{self._problem.name}: the solution has no derivative, as it is not unique or not finite: the second "
                f"derivatives in its {len(H)} free coordinates must be positive definite, as they are for l2 above 0"
            )
        return factor

    def _by_elimination(self, right: Tensor) -> Tensor:
        if self._factor is None:
            H = self._matrix()
            if not bool(torch.linalg.svdvals(H)[-1] > 16 * len(H) * torch.finfo(H.dtype).eps * H.abs().amax()):
                raise RuntimeError(
                    f"{self._problem.name}: the solution has no derivative, as the matrix of the first-order "
                    "conditions is singular or not finite"
                )
            self._factor = (H + H.mT) / 2
        return torch.linalg.solve(self._factor, right.to(self._factor.dtype).mT).mT.to(right.dtype)

    def _matrix(self) -> Tensor:
        """Return H, by its formula or by products with the columns of I."""
        x, tensors = self._value.clone(), self._tensors
        if self._problem.exact:
            x, tensors = x.double(), [t.double() for t in tensors]
        known = self._problem.matrix(x, tensors) if self._problem.matrix is not None else None
        if known is not None:
            return known
        with torch.enable_grad():
            y = self._problem.slope(x.requires_grad_(), tensors)
        k = len(x)
        unit, rows = torch.eye(k, dtype=x.dtype, device=x.device), max(1, _BATCH // max(self._problem.cost, 1))
        if not y.requires_grad:
            return torch.zeros_like(unit)
        parts = [
            torch.autograd.grad(y, x, unit[i : i + rows], retain_graph=True, is_grads_batched=True)[0]
            for i in range(0, k, rows)
        ]
        return torch.cat(parts)

    def _by_conjugate_gradients(self, adjoint: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        u, r = torch.zeros_like(right), right.clone()
        p, rho = r.clone(), r.square().sum()
        target = (16 * torch.finfo(right.dtype).eps) ** 2 * rho
        for _ in range(10 * right.shape[1]):
            if bool(rho <= target):
                return u
            image = right + p - adjoint(p)
            step = rho / (p * image).sum()
            u, r = u + step * p, r - step * image
            before, rho = rho, r.square().sum()
            p = r + rho / before * p
        raise ConvergenceError(
            f"{self._problem.name}: the residual of the gradient's system must fall to {float(target) ** 0.5:.2g}, got "
            f"{float(rho) ** 0.5:.2g}; are the second derivatives positive definite?"
        )


def margins(
    x: Tensor, slope: Tensor, parts: tuple[Tensor, Tensor, Tensor], free: Tensor, curvature: Tensor | float
) -> Tensor:
    """Return the distance of each coordinate from a change between held and free, as a slope that is 0 at a kink.

    ``slope``: the gradient of all terms but l1; ``parts``: l1, lower and upper; ``curvature``: converts distances to
    slopes.
    """
    l1, lower, upper = parts
    is_zero, signed = x == 0, l1 * x.sign()
    rising = torch.where(x < upper, slope + torch.where(is_zero, l1, signed), torch.inf)
    falling = torch.where(x > lower, -(slope + torch.where(is_zero, -l1, signed)), torch.inf)
    distance = torch.minimum(torch.minimum(x - lower, upper - x), torch.where(l1 > 0, x.abs(), torch.inf))
    is_free = torch.zeros_like(x, dtype=torch.bool).index_fill(0, free, True)
    return torch.where(is_free, distance * curvature, torch.minimum(rising, falling))


def warn_of_ties(name: str, ties: Tensor) -> None:
    """Warn about coordinates that are between held and free, (m,) or (m, classes) bool."""
    count = int(ties.sum())
    if count:
        place = torch.nonzero(ties)[0].tolist()
        index: Any = place[0] if len(place) == 1 else tuple(place)
        verb = "coordinates are" if count > 1 else "coordinate is"
        message = f"{name}: {count} {verb} at the border of being held, the first {index}"
        warnings.warn(f"{message}: the derivatives are those of one side", UserWarning, stacklevel=outside())
