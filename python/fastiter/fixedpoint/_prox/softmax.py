"""The proximal operator that generalises softmax."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from ..._backend import Backend
from ..._check import positive
from ..._docs import documented
from .docs import PARTS
from .groups import check_groups, check_not_empty, check_weight, checked, run

Array = npt.NDArray[Any]


@documented(PARTS)
def prox_softmax_entropy(y: Array, alpha: float = 1.0, *, axis: int = -1, backend: Backend | None = None) -> Array:
    """Return the operator of alpha times the shifted entropy sum x log x - norm(x)^2 / 2 on the simplex.

    x > 0 sums to 1, and alpha (1 + log x) + (1 - alpha) x = y + nu for one nu in each group. alpha = 1 gives softmax,
    and small alpha nearly the projection onto the simplex. With this operator, the mean field of a monotone Boltzmann
    machine is a monotone inclusion. It is computed by Newton's method in all log x and nu at once, safeguarded by
    bounds of nu and started from bounds of Lambert's W, which converges to rounding. The derivative is
    diag(g) - g g^T / sum g with g = x / (alpha + (1 - alpha) x).

    -inf gives 0; a group with NaN or +inf, or with only -inf, becomes NaN.

    Parameters
    ----------
    %(groups)s
    alpha : float
        The weight of f, from 1e-30 to 100.
    %(axis)s
    %(backend)s

    %(returns)s

    %(raises)s

    See Also
    --------
    project_simplex : The limit for small alpha.
    prox_entropy : Without the simplex and the shift.
    fastiter.torch.fixedpoint.prox.prox_softmax_entropy : The same on tensors, with gradients.

    References
    ----------
    Feng, Winston and Kolter, "Monotone deep Boltzmann machines" (2023), https://arxiv.org/abs/2307.04990.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import prox
    >>> y = np.array([0.0, 1.0, 2.0])
    >>> prox.prox_softmax_entropy(y).round(4)
    array([0.09  , 0.2447, 0.6652])
    >>> prox.prox_softmax_entropy(y, 0.1).round(4)
    array([0.    , 0.0801, 0.9199])
    """
    function = "prox_softmax_entropy"
    y = checked(function, y)
    axis = check_groups(function, y, axis)
    weight = check_weight(function, "alpha", positive(function, "alpha", alpha))
    check_not_empty(function, y, axis)
    return run(function, "softmax_entropy", y, weight, axis, backend)
