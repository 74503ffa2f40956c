"""Proximal operators of functions of one number, applied elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._backend import Backend
from ..._check import positive
from ..._docs import documented
from . import formulas as formulas
from .docs import PARTS
from .groups import check_weight, checked, run

Array = npt.NDArray[Any]

#: Maximum weight of the unconstrained entropy, in float32
LARGEST = 1e30


@documented(PARTS)
def prox_entropy(y: Array, t: float = 1.0, *, backend: Backend | None = None) -> Array:
    """Return the operator of t times the negative entropy sum x log x: the x > 0 with t (1 + log x) + x = y.

    The closed form t W(exp(y / t - 1) / t), with Lambert's W, overflows. Newton's method on the equation for log x does
    not; it is compiled and converges to rounding.

    Parameters
    ----------
    %(y)s
    t : float
        The weight of f, from 1e-30 to 1e30.
    %(backend)s

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_softmax_entropy : On the simplex, with a shift.
    prox_log_barrier : Another barrier at 0.
    fastiter.torch.fixedpoint.prox.prox_entropy : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_entropy(np.array([2.0, -1.0, 1e6])).round(6)
    array([1.0000000e+00, 1.2002800e-01, 9.9998518e+05])
    """
    function = "prox_entropy"
    y = checked(function, y)
    t = check_weight(function, "t", positive(function, "t", t), LARGEST)
    return run(function, "entropy", y.reshape(1, -1), t, 1, backend).reshape(y.shape)


@documented(PARTS)
def prox_log_barrier(y: Array, t: float = 1.0) -> Array:
    """Return the operator of -t sum log x: (y + sqrt(y^2 + 4 t)) / 2, which is positive, without cancellation.

    Parameters
    ----------
    %(y)s
    t : float
        The weight of f, above 0.

    %(returns)s

    %(raises)s

    See Also
    --------
    project_nonnegative : The limit for small t.
    fastiter.torch.fixedpoint.prox.prox_log_barrier : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_log_barrier(np.array([-1e6, 0.0, 1.5]))
    array([1.e-06, 1.e+00, 2.e+00])
    """
    function = "prox_log_barrier"
    y = checked(function, y)
    with np.errstate(over="ignore"):
        return np.asarray(formulas.log_barrier(np, y, positive(function, "t", t, zero=False)))


@documented(PARTS)
def prox_huber(y: Array, t: float = 1.0, *, delta: float = 1.0) -> Array:
    """Return the operator of t times Huber's function: y / (1 + t), or y - t delta sign(y) where that is above delta.

    Huber's function is x^2 / 2 up to abs(x) = delta, and delta (abs(x) - delta / 2) beyond.

    Parameters
    ----------
    %(y)s
    %(t)s
    delta : float
        The magnitude up to which the function is quadratic, at least 0.

    %(returns)s

    %(raises)s

    See Also
    --------
    prox_l1 : Without the square.
    fastiter.torch.fixedpoint.prox.prox_huber : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_huber(np.array([1.0, -4.0]))
    array([ 0.5, -3. ])
    """
    function = "prox_huber"
    y = checked(function, y)
    t, delta = positive(function, "t", t), positive(function, "delta", delta)
    with np.errstate(invalid="ignore"):
        return np.asarray(formulas.huber(np, y, t, delta))


@documented(PARTS)
def prox_leaky_relu(y: Array, alpha: float = 1.0, *, slope: float = 0.01) -> Array:
    """Return the operator of alpha f, where that of f is leaky relu: y, and a multiple of it below 0.

    f = (1 / slope - 1) / 2 min(x, 0)^2, so that the multiple is slope / (slope + alpha (1 - slope)). relu, which has
    slope 0, is :func:`project_nonnegative` for every alpha.

    Parameters
    ----------
    %(y)s
    alpha : float
        The weight of f, at least 0.
    slope : float
        The slope of leaky relu for negative numbers, above 0 and at most 1.

    %(returns)s

    %(raises)s

    See Also
    --------
    project_nonnegative : The operator of relu.
    prox_softmax_entropy : The operator of softmax.
    fastiter.torch.fixedpoint.prox.prox_leaky_relu : The same on tensors, with gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> prox.prox_leaky_relu(np.array([-1.0, 2.0]), slope=0.25)
    array([-0.25,  2.  ])
    """
    function = "prox_leaky_relu"
    y = checked(function, y)
    alpha, slope = positive(function, "alpha", alpha), check_slope(function, slope)
    return np.asarray(formulas.leaky_relu(np, y, alpha, slope))


def check_slope(function: str, slope: Any) -> float:
    """Return the slope of leaky relu, after checking that it makes f convex."""
    value = positive(function, "slope", slope, zero=False)
    if value > 1:
        raise ValueError(f"{function}: slope must be at most 1, got {value:g}")
    return value
