"""Projections onto convex sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._array_like import as_arrays
from ..._backend import Backend
from ..._check import check_arrays, check_entries, check_finite, positive
from ..._docs import documented
from . import formulas as formulas
from .docs import PARTS
from .groups import bounds, check_groups, check_not_empty, checked, finite, run

Array = npt.NDArray[Any]


@documented(PARTS)
def project_simplex(y: Array, radius: float = 1.0, *, axis: int = -1, backend: Backend | None = None) -> Array:
    """Project onto the simplex: the nearest x >= 0 with sum x = radius, max(y - tau, 0) for a threshold tau.

    tau is found by Newton's method on its piecewise linear equation, which terminates exactly. -inf gives 0; a group
    with +inf, or with only -inf, becomes NaN.

    Parameters
    ----------
    %(groups)s
    radius : float
        The sum of x, at least 0.
    %(axis)s
    %(backend)s

    %(returns)s

    %(raises)s

    See Also
    --------
    project_l1_ball : For numbers of both signs.
    prox_softmax_entropy : A smooth map onto the simplex.
    fastiter.torch.fixedpoint.prox.project_simplex : The same on tensors, with gradients.

    References
    ----------
    Michelot, "A finite algorithm for finding the projection of a point onto the canonical simplex of R^n" (1986).

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_simplex(np.array([0.5, 1.0, -1.0]))
    array([0.25, 0.75, 0.  ])
    """
    function = "project_simplex"
    y = checked(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    check_not_empty(function, y, axis)
    return run(function, "simplex", y, radius, axis, backend)


@documented(PARTS)
def project_l1_ball(y: Array, radius: float = 1.0, *, axis: int = -1, backend: Backend | None = None) -> Array:
    """Project onto the l1 ball: the nearest x with sum |x| <= radius; y itself, bit for bit, inside.

    Outside, x = sign(y) max(abs(y) - tau, 0) as for the simplex. A group with NaN, or whose sum of magnitudes is not
    finite, becomes NaN.

    Parameters
    ----------
    %(groups)s
    radius : float
        The radius, at least 0.
    %(axis)s
    %(backend)s

    %(returns)s

    %(raises)s

    See Also
    --------
    project_simplex : The face with non-negative numbers.
    prox_linf : The operator of the dual norm.
    fastiter.torch.fixedpoint.prox.project_l1_ball : The same on tensors, with gradients.

    References
    ----------
    Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions" (2008).

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_l1_ball(np.array([1.5, -1.0, 0.25]))
    array([ 0.75, -0.25,  0.  ])
    """
    function = "project_l1_ball"
    y = checked(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    return run(function, "l1_ball", y, radius, axis, backend)


@documented(PARTS)
def project_l2_ball(y: Array, radius: float = 1.0, *, axis: int = -1) -> Array:
    """Project onto the l2 ball: y min(radius / norm(y), 1), without overflow of the squares.

    Parameters
    ----------
    %(groups)s
    radius : float
        The radius, at least 0.
    %(axis)s

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_l2 : The operator of the norm.
    fastiter.torch.fixedpoint.prox.project_l2_ball : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_l2_ball(np.array([3.0, -4.0]))
    array([ 0.6, -0.8])
    """
    function = "project_l2_ball"
    y = checked(function, y)
    axis, radius = check_groups(function, y, axis), positive(function, "radius", radius)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(formulas.onto_l2_ball(np, y, radius, axis))


@documented(PARTS)
def project_box(y: Array, low: Any, high: Any) -> Array:
    """Project onto the box low <= x <= high: min(max(y, low), high); NaN stays.

    Parameters
    ----------
    %(y)s
    low, high : float, or ndarray that broadcasts to y
        The bounds, which may be infinite; low must not exceed high anywhere.

    %(returns)s

    %(raises)s

    See Also
    --------
    project_nonnegative : The box from 0 to infinity.
    fastiter.torch.fixedpoint.prox.project_box : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_box(np.array([-2.0, 0.5, 2.0]), -1.0, 1.0)
    array([-1. ,  0.5,  1. ])
    """
    function = "project_box"
    y = checked(function, y)
    lowest, highest = bounds(function, "low", low, y), bounds(function, "high", high, y)
    lower, upper = np.broadcast_arrays(lowest, highest)
    check_entries(function, "low", lower, lower <= upper, "be at most high everywhere, and neither NaN")
    return np.asarray(np.minimum(np.maximum(y, lowest), highest))


@documented(PARTS)
def project_nonnegative(y: Array) -> Array:
    """Project onto the non-negative orthant: max(y, 0), which is relu; NaN stays.

    Parameters
    ----------
    %(y)s

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_leaky_relu : With a slope below 0.
    fastiter.torch.fixedpoint.prox.project_nonnegative : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_nonnegative(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return np.asarray(np.maximum(checked("project_nonnegative", y), 0))


@documented(PARTS)
def project_halfspace(y: Array, a: Array, b: float) -> Array:
    """Project onto the half-space of x with a . x <= b: y - max(a . y - b, 0) a / (a . a).

    Parameters
    ----------
    y : ndarray (..., n), float32 or float64
        The points.
    a : ndarray (n,)
        The normal vector, in the dtype of y: finite and not 0.
    b : float
        The offset.

    %(returns)s

    %(raises)s

    See Also
    --------
    project_affine : Several equations.
    fastiter.torch.fixedpoint.prox.project_halfspace : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_halfspace(np.array([2.0, 1.0]), np.array([1.0, 1.0]), 1.0)
    array([1., 0.])
    """
    function = "project_halfspace"
    y, a = as_arrays(function, ("y", "a"), (y, a))
    check_arrays(function, ("y", "a"), (y, a))
    offset = check_halfspace(function, y, a, b)
    check_finite(function, "a", a)
    if not a.any():
        raise ValueError(f"{function}: a must have an entry other than 0, got none")
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(formulas.onto_halfspace(np, np.ascontiguousarray(y), np.ascontiguousarray(a), offset))


def check_halfspace(function: str, y: Any, a: Any, b: Any) -> float:
    """Return the offset as a float, after checking the shapes."""
    if y.ndim == 0 or tuple(a.shape) != (y.shape[-1],):
        expected = "y (..., n)" if y.ndim == 0 else f"({y.shape[-1]},) to go with y"
        raise ValueError(f"{function}: a must have shape {expected}, got {tuple(a.shape)}")
    return finite(function, "b", b)


@documented(PARTS)
def project_affine(y: Array, A: Array, b: Array) -> Array:
    """Project onto the x with A x = b: y - pinv(A) (A y - b); if there are none, onto the least-squares solutions.

    Parameters
    ----------
    y : ndarray (..., n), float32 or float64
        The points.
    A : ndarray (m, n)
        The finite matrix, in the dtype of y, of any rank: singular values below max(m, n) eps times the largest are
        treated as 0.
    b : ndarray (m,) or (..., m)
        The right-hand side, one for all points or one for each.

    %(returns)s

    %(raises)s

    See Also
    --------
    project_halfspace : One inequality.
    fastiter.torch.fixedpoint.prox.project_affine : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.project_affine(np.zeros(2), np.array([[1.0, 1.0]]), np.array([1.0])).round(12)
    array([0.5, 0.5])
    """
    function = "project_affine"
    y, A, b = as_arrays(function, ("y", "A", "b"), (y, A, b))
    check_arrays(function, ("y", "A", "b"), (y, A, b))
    check_affine(function, y, A, b)
    if not np.isfinite(A).all():
        raise ValueError(f"{function}: A must be finite, got infinities or NaN")
    y, A, b = np.ascontiguousarray(y), np.ascontiguousarray(A), np.ascontiguousarray(b)
    inverse = np.linalg.pinv(A, max(A.shape) * float(np.finfo(A.dtype).eps)) if A.size else A.T
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(y - (y @ A.T - b) @ inverse.T)


def check_affine(function: str, y: Any, A: Any, b: Any) -> None:
    """Check the shapes of points and equations."""
    if y.ndim == 0 or A.ndim != 2 or A.shape[1] != y.shape[-1]:
        got = f"{tuple(A.shape)} with y {tuple(y.shape)}"
        raise ValueError(f"{function}: A must have shape (m, n) to go with y (..., n), got {got}")
    if tuple(b.shape) not in ((A.shape[0],), (*y.shape[:-1], A.shape[0])):
        raise ValueError(f"{function}: b must have shape (m,) = ({A.shape[0]},) or (..., m), got {tuple(b.shape)}")
