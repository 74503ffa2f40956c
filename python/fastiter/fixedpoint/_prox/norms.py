"""Proximal operators of norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._backend import Backend
from ..._check import check_entries, positive
from ..._docs import documented
from . import formulas as formulas
from .docs import PARTS
from .groups import bounds, check_groups, check_sizes, checked, run

Array = npt.NDArray[Any]


@documented(PARTS)
def prox_l1(y: Array, t: Any = 1.0) -> Array:
    """Return the operator of t times the l1 norm, soft thresholding: sign(y) max(abs(y) - t, 0).

    Parameters
    ----------
    %(y)s
    t : float, or ndarray that broadcasts to y
        The threshold, at least 0.

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_l2 : For the norm of a group.
    prox_huber : A smooth variant.
    fastiter.torch.fixedpoint.prox.prox_l1 : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_l1(np.array([-3.0, 0.5, 2.0]), 1.0)
    array([-2.,  0.,  1.])
    """
    function = "prox_l1"
    y = checked(function, y)
    threshold = bounds(function, "t", t, y)
    check_entries(function, "t", threshold, (threshold >= 0) & np.isfinite(threshold), "be finite and at least 0")
    with np.errstate(invalid="ignore"):
        return np.asarray(formulas.soft_threshold(np, y, threshold))


@documented(PARTS)
def prox_l2(y: Array, t: float = 1.0, *, axis: int = -1) -> Array:
    """Return the operator of t times the l2 norm, the block soft threshold: y max(1 - t / norm(y), 0).

    Parameters
    ----------
    %(groups)s
    %(t)s
    %(axis)s

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_group : For groups of unequal sizes along one axis.
    prox_squared_l2 : For the square of the norm.
    fastiter.torch.fixedpoint.prox.prox_l2 : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_l2(np.array([[3.0, -4.0], [0.1, 0.2]]))
    array([[ 2.4, -3.2],
           [ 0. ,  0. ]])
    """
    function = "prox_l2"
    y = checked(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(formulas.shrunk(np, y, t, axis))


@documented(PARTS)
def prox_group(y: Array, sizes: Sequence[int], t: float = 1.0, *, axis: int = -1) -> Array:
    """Return the operator of t times the sum of the l2 norms of consecutive groups along an axis (group lasso).

    Parameters
    ----------
    %(y)s
    sizes : sequence of int
        The sizes of the groups, which sum to the size of the axis; an empty group is allowed.
    %(t)s
    axis : int
        The axis that is divided into groups.

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_l2 : For a whole axis.
    fastiter.torch.fixedpoint.prox.prox_group : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_group(np.array([3.0, -4.0, 0.5]), (2, 1))
    array([ 2.4, -3.2,  0. ])
    """
    function = "prox_group"
    y = checked(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    parts = check_sizes(function, sizes, y.shape[axis])
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(formulas.shrunk_groups(np, y, t, parts, axis))


@documented(PARTS)
def prox_squared_l2(y: Array, t: float = 1.0) -> Array:
    """Return the operator of t / 2 times the squared l2 norm: y / (1 + t).

    Parameters
    ----------
    %(y)s
    %(t)s

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_l2 : For the norm itself.
    fastiter.torch.fixedpoint.prox.prox_squared_l2 : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_squared_l2(np.array([2.0, -4.0]))
    array([ 1., -2.])
    """
    function = "prox_squared_l2"
    return np.asarray(checked(function, y) / (1 + positive(function, "t", t)))


@documented(PARTS)
def prox_linf(y: Array, t: float = 1.0, *, axis: int = -1, backend: Backend | None = None) -> Array:
    """Return the operator of t times the l-infinity norm: y minus its projection onto the l1 ball of radius t.

    The largest magnitudes are clipped to a common level such that the clipped amounts sum to t.

    Parameters
    ----------
    %(groups)s
    %(t)s
    %(axis)s
    %(backend)s

    %(returns)s

    %(raises)s

    See Also
    --------
    project_l1_ball : The projection, by Moreau's decomposition.
    fastiter.torch.fixedpoint.prox.prox_linf : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_linf(np.array([3.0, -2.5, 1.0]), 1.0)
    array([ 2.25, -2.25,  1.  ])
    """
    function = "prox_linf"
    y = checked(function, y)
    axis, t = check_groups(function, y, axis), positive(function, "t", t)
    return np.asarray(y - run(function, "l1_ball", y, t, axis, backend))
