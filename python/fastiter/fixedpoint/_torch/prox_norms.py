"""Proximal operators of norms and of scalar functions, on tensors, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._check import positive
from ..._docs import documented_like
from ..._torch.ops import check_entries
from .. import prox as arrays
from .._prox import formulas as formulas
from .._prox.groups import check_groups, check_not_empty, check_sizes, check_weight
from .._prox.scalar import LARGEST, check_slope
from .prox_checks import bound_of, check_points, tensor
from .prox_groups import run


@documented_like(arrays.prox_l1)
def prox_l1(y: Tensor, t: Any = 1.0) -> Tensor:
    """Return the operator of t times the l1 norm, soft thresholding; differentiable in y and in t that is a tensor.

    %(sections)s

    See Also
    --------
    prox_l2 : For the norm of a group.
    fastiter.fixedpoint.prox.prox_l1 : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_l1(torch.tensor([-3.0, 0.5, 2.0]))
    tensor([-2.,  0.,  1.])
    """
    function = "prox_l1"
    check_points(function, y)
    threshold = bound_of(function, "t", t, y)
    check_entries(function, "t", threshold, (threshold >= 0) & threshold.isfinite(), "be finite and at least 0")
    return tensor(formulas.soft_threshold(torch, y, threshold))


@documented_like(arrays.prox_l2)
def prox_l2(y: Tensor, t: float = 1.0, *, axis: int = -1) -> Tensor:
    """Return the operator of t times the l2 norm: y max(1 - t / norm(y), 0).

    %(sections)s

    See Also
    --------
    prox_group : For groups of unequal sizes along one axis.
    fastiter.fixedpoint.prox.prox_l2 : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_l2(torch.tensor([3.0, -4.0]))
    tensor([ 2.4000, -3.2000])
    """
    function = "prox_l2"
    check_points(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    return tensor(formulas.shrunk(torch, y, t, axis))


@documented_like(arrays.prox_group)
def prox_group(y: Tensor, sizes: Sequence[int], t: float = 1.0, *, axis: int = -1) -> Tensor:
    """Return the operator of t times the sum of the l2 norms of consecutive groups along an axis.

    %(sections)s

    See Also
    --------
    prox_l2 : For a whole axis.
    fastiter.fixedpoint.prox.prox_group : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_group(torch.tensor([3.0, -4.0, 0.5]), (2, 1))
    tensor([ 2.4000, -3.2000,  0.0000])
    """
    function = "prox_group"
    check_points(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    parts = check_sizes(function, sizes, y.shape[axis])
    return tensor(formulas.shrunk_groups(torch, y, t, parts, axis))


@documented_like(arrays.prox_squared_l2)
def prox_squared_l2(y: Tensor, t: float = 1.0) -> Tensor:
    """Return the operator of t / 2 times the squared l2 norm: y / (1 + t).

    %(sections)s

    See Also
    --------
    prox_l2 : For the norm itself.
    fastiter.fixedpoint.prox.prox_squared_l2 : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_squared_l2(torch.tensor([2.0, -4.0]))
    tensor([ 1., -2.])
    """
    function = "prox_squared_l2"
    check_points(function, y)
    return y / (1 + positive(function, "t", t))


@documented_like(arrays.prox_linf)
def prox_linf(y: Tensor, t: float = 1.0, *, axis: int = -1) -> Tensor:
    """Return the operator of t times the l-infinity norm: y minus its projection onto the l1 ball of radius t.

    %(sections)s

    See Also
    --------
    project_l1_ball : The projection, by Moreau's decomposition.
    fastiter.fixedpoint.prox.prox_linf : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_linf(torch.tensor([3.0, -2.5, 1.0]))
    tensor([ 2.2500, -2.2500,  1.0000])
    """
    function = "prox_linf"
    check_points(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    return y - run("l1_ball", y, t, axis)


@documented_like(arrays.prox_entropy)
def prox_entropy(y: Tensor, t: float = 1.0) -> Tensor:
    """Return the operator of t times the negative entropy: the x > 0 with t (1 + log x) + x = y.

    %(sections)s

    See Also
    --------
    prox_softmax_entropy : On the simplex, with a shift.
    fastiter.fixedpoint.prox.prox_entropy : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_entropy(torch.tensor([2.0, 1.0]))
    tensor([1.0000, 0.5671])
    """
    function = "prox_entropy"
    check_points(function, y)
    t = check_weight(function, "t", positive(function, "t", t), LARGEST)
    return run("entropy", y.reshape(1, -1), t, 1).reshape(y.shape)


@documented_like(arrays.prox_log_barrier)
def prox_log_barrier(y: Tensor, t: float = 1.0) -> Tensor:
    """Return the operator of -t sum log x: (y + sqrt(y^2 + 4 t)) / 2.

    %(sections)s

    See Also
    --------
    project_nonnegative : The limit for small t.
    fastiter.fixedpoint.prox.prox_log_barrier : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_log_barrier(torch.tensor([0.0, 1.5]))
    tensor([1., 2.])
    """
    function = "prox_log_barrier"
    check_points(function, y)
    return tensor(formulas.log_barrier(torch, y, positive(function, "t", t, zero=False)))


@documented_like(arrays.prox_huber)
def prox_huber(y: Tensor, t: float = 1.0, *, delta: float = 1.0) -> Tensor:
    """Return the operator of t times Huber's function: y / (1 + t), or y - t delta sign(y).

    %(sections)s

    See Also
    --------
    prox_l1 : Without the square.
    fastiter.fixedpoint.prox.prox_huber : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_huber(torch.tensor([1.0, -4.0]))
    tensor([ 0.5000, -3.0000])
    """
    function = "prox_huber"
    check_points(function, y)
    t, delta = positive(function, "t", t), positive(function, "delta", delta)
    return tensor(formulas.huber(torch, y, t, delta))


@documented_like(arrays.prox_leaky_relu)
def prox_leaky_relu(y: Tensor, alpha: float = 1.0, *, slope: float = 0.01) -> Tensor:
    """Return the operator of alpha f, where that of f is leaky relu.

    %(sections)s

    See Also
    --------
    project_nonnegative : The operator of relu.
    fastiter.fixedpoint.prox.prox_leaky_relu : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_leaky_relu(torch.tensor([-1.0, 2.0]), slope=0.25)
    tensor([-0.2500,  2.0000])
    """
    function = "prox_leaky_relu"
    check_points(function, y)
    alpha, slope = positive(function, "alpha", alpha), check_slope(function, slope)
    return tensor(formulas.leaky_relu(torch, y, alpha, slope))


@documented_like(arrays.prox_softmax_entropy)
def prox_softmax_entropy(y: Tensor, alpha: float = 1.0, *, axis: int = -1) -> Tensor:
    """Return the operator of alpha times the shifted entropy on the simplex; alpha = 1 is softmax.

    %(sections)s

    See Also
    --------
    project_simplex : The limit for small alpha.
    fastiter.fixedpoint.prox.prox_softmax_entropy : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import prox
    >>> prox.prox_softmax_entropy(torch.tensor([0.0, 1.0, 2.0])).round(decimals=4)
    tensor([0.0900, 0.2447, 0.6652])
    """
    function = "prox_softmax_entropy"
    check_points(function, y)
    axis = check_groups(function, y, axis)
    weight = check_weight(function, "alpha", positive(function, "alpha", alpha))
    check_not_empty(function, y, axis)
    return run("softmax_entropy", y, weight, axis)
