"""Projections onto convex sets, on tensors, differentiable to any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._check import positive
from ..._docs import documented_like
from ..._torch.ops import CPU_AND_CUDA, check_entries, check_tensors
from .. import prox as arrays
from .._prox import formulas as formulas
from .._prox.groups import check_groups, check_not_empty
from .._prox.sets import check_affine, check_halfspace
from .prox_checks import bound_of, check_points, tensor
from .prox_groups import run


@documented_like(arrays.project_simplex)
def project_simplex(y: Tensor, radius: float = 1.0, *, axis: int = -1) -> Tensor:
    """Project onto the simplex: the nearest x >= 0 with sum x = radius; at a tie the gradient is the smaller face's.

    %(sections)s

    See Also
    --------
    project_l1_ball : Without the signs.
    fastiter.fixedpoint.prox.project_simplex : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_simplex(torch.tensor([0.5, 1.0, -1.0]))
    tensor([0.2500, 0.7500, 0.0000])
    """
    function = "project_simplex"
    check_points(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    check_not_empty(function, y, axis)
    return run("simplex", y, radius, axis)


@documented_like(arrays.project_l1_ball)
def project_l1_ball(y: Tensor, radius: float = 1.0, *, axis: int = -1) -> Tensor:
    """Project onto the l1 ball: the nearest x with sum |x| <= radius.

    %(sections)s

    See Also
    --------
    project_simplex : The face of positive numbers.
    fastiter.fixedpoint.prox.project_l1_ball : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_l1_ball(torch.tensor([1.5, -1.0, 0.25]))
    tensor([ 0.7500, -0.2500,  0.0000])
    """
    function = "project_l1_ball"
    check_points(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    return run("l1_ball", y, radius, axis)


@documented_like(arrays.project_l2_ball)
def project_l2_ball(y: Tensor, radius: float = 1.0, *, axis: int = -1) -> Tensor:
    """Project onto the l2 ball: y min(radius / norm(y), 1).

    %(sections)s

    See Also
    --------
    prox_l2 : The operator of the norm.
    fastiter.fixedpoint.prox.project_l2_ball : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_l2_ball(torch.tensor([3.0, -4.0]))
    tensor([ 0.6000, -0.8000])
    """
    function = "project_l2_ball"
    check_points(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    return tensor(formulas.onto_l2_ball(torch, y, radius, axis))


@documented_like(arrays.project_box)
def project_box(y: Tensor, low: Any, high: Any) -> Tensor:
    """Project onto the box low <= x <= high; differentiable in y and in bounds that are tensors.

    %(sections)s

    See Also
    --------
    project_nonnegative : The box from 0 to infinity.
    fastiter.fixedpoint.prox.project_box : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_box(torch.tensor([-2.0, 0.5, 2.0]), -1.0, 1.0)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    function = "project_box"
    check_points(function, y)
    lowest, highest = bound_of(function, "low", low, y), bound_of(function, "high", high, y)
    lower, upper = torch.broadcast_tensors(lowest, highest)
    check_entries(function, "low", lower, lower <= upper, "be at most high everywhere, and neither NaN")
    return torch.minimum(torch.maximum(y, lowest), highest)


@documented_like(arrays.project_nonnegative)
def project_nonnegative(y: Tensor) -> Tensor:
    """Project onto the non-negative orthant: max(y, 0), which is relu.

    %(sections)s

    See Also
    --------
    prox_leaky_relu : With a slope below 0.
    fastiter.fixedpoint.prox.project_nonnegative : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_nonnegative(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    function = "project_nonnegative"
    check_points(function, y)
    return torch.relu(y)


@documented_like(arrays.project_halfspace)
def project_halfspace(y: Tensor, a: Tensor, b: float) -> Tensor:
    """Project onto the half-space of x with a . x <= b; differentiable in y and a.

    %(sections)s

    See Also
    --------
    project_affine : Several equations.
    fastiter.fixedpoint.prox.project_halfspace : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_halfspace(torch.tensor([2.0, 1.0]), torch.ones(2), 1.0)
    tensor([1., 0.])
    """
    function = "project_halfspace"
    check_tensors(function, ("y", "a"), (y, a), devices=CPU_AND_CUDA)
    offset = check_halfspace(function, y, a, b)
    check_entries(function, "a", a, a.isfinite(), "be finite")
    if not bool(a.any()):
        raise ValueError(f"{function}: a must have an entry other than 0, got none")
    return tensor(formulas.onto_halfspace(torch, y, a, offset))


@documented_like(arrays.project_affine)
def project_affine(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Project onto the x with A x = b; differentiable in y, A (of constant rank) and b.

    %(sections)s

    See Also
    --------
    project_halfspace : One inequality.
    fastiter.fixedpoint.prox.project_affine : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.project_affine(torch.zeros(2), torch.ones(1, 2), torch.ones(1)).round(decimals=6)
    tensor([0.5000, 0.5000])
    """
    function = "project_affine"
    check_tensors(function, ("y", "A", "b"), (y, A, b), devices=CPU_AND_CUDA)
    check_affine(function, y, A, b)
    if not bool(A.isfinite().all()):
        raise ValueError(f"{function}: A must be finite, got infinities or NaN")
    y, A = y.contiguous(), A.contiguous()  # products have the same bits for any layout
    return y - (y @ A.mT - b) @ torch.linalg.pinv(A).mT
