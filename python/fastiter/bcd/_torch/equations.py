"""First-order conditions of problems with data: gradients of the losses of A x, and of quadratics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import implicit
from .implicit import active_set
from .problem import Problem

#: Distance from a border, relative to the magnitudes there, that rounding hides if no tolerance is known
_ROUNDING = 0.5


class Equations:
    """The equations s_F(x_F, t) = 0 of a problem and a solution (m,) or (m, classes)."""

    def __init__(self, problem: Problem, value: Tensor, tensors: dict[str, Tensor] | None = None) -> None:
        self._problem = problem
        self.tensors = problem._tensors if tensors is None else tensors
        flat = value.reshape(-1)
        l1, _, lower, upper = (torch.from_numpy(part) for part in problem._arrays._separable)
        if tensors is not None and "l1" in tensors:
            l1 = tensors["l1"].detach().double().expand(l1.shape)
        rounded = [bound.to(flat.dtype) for bound in (lower, upper)]
        self.limits = l1, lower, upper
        self._sides = [bound.double() for bound in rounded]
        self.active = active_set(flat, l1, *rounded)
        self._moving = {name: self._that_matter(flat, name) for name in ("lower", "upper")}
        places = torch.cat(list(self._moving.values()))
        used = torch.cat([self.active.free, places]) // self._classes
        self._columns = torch.unique(used)
        self._part = problem._pattern.part(self._columns)
        self._own_places, self._bound_places = self._within(self.active.free), self._within(places)

    @property
    def _classes(self) -> int:
        return self._problem._arrays._classes

    def _that_matter(self, flat: Tensor, name: str) -> Tensor:
        """Return the coordinates at a bound that affect the equations of others: those not 0, or differentiable."""
        at = self.active.at_lower if name == "lower" else self.active.at_upper
        return at if name in self.tensors else at[flat[at] != 0]

    def _within(self, places: Tensor) -> Tensor:
        """Return the positions of coordinates among those of the columns in use."""
        return torch.searchsorted(self._columns, places // self._classes) * self._classes + places % self._classes

    def at(self, name: str, places: Tensor, tensors: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return a penalty or a bound at some coordinates."""
        x = tensors.get(name)
        if x is None:
            l1, lower, upper = self.limits
            known = {"l1": l1, "lower": lower, "upper": upper, "l2": self._l2}
            return known[name][places].to(dtype)
        return x.expand(len(places)) if x.dim() == 0 else x.index_select(0, places // self._classes)

    @property
    def _l2(self) -> Tensor:
        return torch.from_numpy(self._problem._arrays._separable[1])

    def bounds(self, tensors: dict[str, Tensor], dtype: torch.dtype, every: bool) -> Tensor:
        """Return the values of coordinates at a bound: all, or those that affect others."""
        chosen = {"lower": self.active.at_lower, "upper": self.active.at_upper} if every else self._moving
        return torch.cat([self.at(name, places, tensors, dtype) for name, places in chosen.items()])

    def slope(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Return s_F at x_F."""
        named = dict(zip(self.tensors, tensors, strict=True))
        own, X = self._part.of(named["A"]), self._whole(x, named)
        if self._problem._loss == "quadratic":
            g = self._quadratic(own, X, named)
        else:
            z = self._part.times(own, X.reshape(-1, self._classes))
            u = derivative(self._problem, z, named)
            g = self._part.transposed(own, u).reshape(-1).index_select(0, self._own_places)
        free = self.active.free
        l1, l2 = (self.at(name, free, named, x.dtype) for name in ("l1", "l2"))
        return g + l2 * x + l1 * self.active.signs.to(x)

    def _whole(self, x: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Return the coordinates of the columns in use."""
        X = x.new_zeros(len(self._columns) * self._classes).index_copy(0, self._own_places, x)
        return X.index_copy(0, self._bound_places, self.bounds(named, x.dtype, False))

    def matrix(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor | None:
        """Return H, the derivative of s_F, by products of matrices; None for sparse data."""
        if self._problem._pattern.row is not None:
            return None
        named, places = dict(zip(self.tensors, tensors, strict=True)), self._own_places
        own = self._part.of(named["A"])
        if self._problem._loss == "quadratic":
            H = own.index_select(0, self.active.free).index_select(1, places)
        else:
            z = self._part.times(own, self._whole(x, named).reshape(-1, self._classes))
            H = second(self._problem, own.index_select(1, places // self._classes), z, places % self._classes, named)
        return H + self.at("l2", self.active.free, named, x.dtype).diag()

    def _quadratic(self, own: Tensor, X: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Return (A + A') x / 2 - b, so that the gradient of A is symmetric."""
        free, n = self.active.free, self._problem._pattern.shape[0]
        by_rows = self._part.times(own, X.unsqueeze(1)).flatten().index_select(0, free)
        whole = X.new_zeros(n).index_copy(0, self._columns, X)
        by_columns = self._part.transposed(own, whole.unsqueeze(1)).flatten().index_select(0, self._own_places)
        return (by_rows + by_columns) / 2 - named["b"].index_select(0, free)

    def solution(self, name: str, value: Tensor, tolerance: float | None, warns: bool = True) -> Tensor:
        """Return the solution, differentiable in the tensors of the problem, after a warning about ties.

        ``tolerance``: the slope within which the solution is known; None if only rounding limits it.
        """
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in self.tensors.values()):
            return value
        if warns:
            implicit.warn_of_ties(name, self._ties(value, tolerance))
        flat, free = value.reshape(-1), self.active.free
        equations = implicit.Problem(name, self.slope, self._part.size * self._classes, matrix=self.matrix)
        x = implicit.attach(equations, flat[free], list(self.tensors.values()))
        places = torch.cat([self.active.at_lower, self.active.at_upper])
        attached = torch.zeros_like(flat).index_copy(0, free, x)
        return attached.index_copy(0, places, self.bounds(self.tensors, flat.dtype, True)).reshape(value.shape)

    def _ties(self, value: Tensor, tolerance: float | None) -> Tensor:
        """Return the mask of coordinates between held and free: with slopes or distances within the tolerance."""
        problem, flat = self._problem, value.detach().reshape(-1).double()
        l1, (lower, upper) = self.limits[0], self._sides
        tensors = {name: x.detach().double() for name, x in self.tensors.items()}
        g = gradient(problem, flat, tensors)
        l2 = self.at("l2", torch.arange(len(flat), device=flat.device), tensors, torch.float64)
        curvature = torch.from_numpy(problem._arrays._curvature)
        share = torch.finfo(value.dtype).eps ** _ROUNDING
        limit = share * torch.maximum(l1, g.abs()) if tolerance is None else torch.full_like(flat, tolerance)
        margin = implicit.margins(flat, g + l2 * flat, (l1, lower, upper), self.active.free, curvature)
        return (margin <= limit).reshape(value.shape)


def derivative(problem: Problem, z: Tensor, tensors: dict[str, Any]) -> Tensor:
    """Return the derivative of the losses with respect to z = A x (n, classes)."""
    if problem._loss == "squares":
        u = z - tensors["b"].unsqueeze(1)
    elif problem._loss == "logistic":
        assert problem._labels is not None
        u = torch.sigmoid(z) - problem._labels.to(z.dtype).unsqueeze(1)
    else:
        assert problem._labels is not None
        one = torch.zeros_like(z).scatter(1, problem._labels.long().unsqueeze(1), 1.0)
        u = torch.softmax(z, 1) - one
    weights = tensors.get("weights")
    return u if weights is None else weights.unsqueeze(1) * u


def second(problem: Problem, columns: Tensor, z: Tensor, classes: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Return the second derivatives of the losses in coordinates, given by their columns of A and their classes."""
    weights = tensors.get("weights")
    w = columns.new_ones(1, 1) if weights is None else weights.unsqueeze(1)
    if problem._loss == "squares":
        return columns.mT @ (w * columns)
    if problem._loss == "logistic":
        p = torch.sigmoid(z)
        return columns.mT @ (w * p * (1 - p) * columns)
    part = torch.softmax(z, 1).index_select(1, classes) * columns
    same = classes.unsqueeze(1) == classes
    return same * (columns.mT @ (w * part)) - part.mT @ (w * part)


def gradient(problem: Problem, flat: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Return the gradient of the losses, or of the quadratic, at all coordinates."""
    part, A = problem._pattern.part(None), tensors["A"]
    z = part.times(A, flat.reshape(-1, problem._arrays._classes))
    if problem._loss == "quadratic":
        return z.flatten() - tensors["b"]
    return part.transposed(A, derivative(problem, z, tensors)).reshape(-1)
