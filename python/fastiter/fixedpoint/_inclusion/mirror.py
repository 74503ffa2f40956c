"""Mirror prox on simplices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..._call.iterate import Callback, Limits
from ..._docs import documented
from .docs import PARTS
from .solve import InclusionSolution, Iterate, Operator, blocks, checked_call, norm, solved, step_size


@documented(PARTS)
def mirror_prox(
    forward: Operator,
    x0: tuple[Any, ...],
    *,
    step: float | None = None,
    lipschitz: float | None = None,
    average: bool = False,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution:
    """Variational inequality of B on simplices by z ~ x exp(-t B x), x ~ x exp(-t B z): the entropy's extragradient.

    ``~`` is equality after each block is normalised to the sum 1 along its last axis. It converges for monotone B and t
    up to 1 / L, with L the Lipschitz constant from the l1 norm to the l-infinity norm; for a matrix game, L is the
    largest magnitude of the matrix's entries.

    The residual is the sum over blocks of max over u of (B z) . (z - u), an upper bound of a game's duality gap.

    Parameters
    ----------
    forward : callable
        ``forward(x)`` returns B x, a tuple like x: for min over x, max over y of x A y the tuple (A y, -A^T x).
    x0 : tuple of arrays or tensors, float32 or float64
        The first blocks: positive numbers with the sum 1 along the last axis.
    step : float, optional
        The step size t.
    lipschitz : float, optional
        The Lipschitz constant: t = 1 / L. One of ``step`` and ``lipschitz`` is needed.
    average : bool
        Whether the value is the mean of all z, whose gap falls as 1 / steps in every game, or the last z, which is
        often closer to the solution.
    rtol, atol : float
        The tolerance: it has converged when ``gap <= rtol * norm(x) + atol``; rtol is 1e-5 in float32 and 1e-8 in
        float64 by default.
    max_steps : int
        The maximum number of steps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each step; the method ends if it returns True.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if it does not converge, in place of a warning.

    %(returns)s

    %(raises)s

    See Also
    --------
    extragradient : With the Euclidean distance, on any convex set.
    halpern_vr : For sums of many components.

    References
    ----------
    Nemirovski, "Prox-method with rate of convergence O(1/t) for variational inequalities with Lipschitz continuous
    monotone operators" (2004).

    Examples
    --------
    Rock, paper, scissors, with a rock that counts twice:

    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone
    >>> A = np.array([[0.0, 1.0, -2.0], [-1.0, 0.0, 1.0], [2.0, -1.0, 0.0]])
    >>> even = np.full(3, 1 / 3)
    >>> found = monotone.mirror_prox(lambda x: (A @ x[1], -x[0] @ A), (even, even), lipschitz=2.0, atol=1e-6)
    >>> found.value[0].round(4)
    array([0.25, 0.5 , 0.25])
    """
    function = "mirror_prox"
    first = blocks(function, "x0", x0, "a tuple of blocks")
    for block in first:
        if block.ndim == 0 or not bool((block > 0).all()) or not bool((abs(block.sum(-1) - 1) < 1e-3).all()):
            raise ValueError(f"{function}: x0 must be positive, with the sum 1 along the last axis, got another block")
    t, is_searched = step_size(function, step, lipschitz, 1.0)
    if is_searched:
        raise TypeError(f"{function}: step must be a number if lipschitz is None, got None")
    if not isinstance(average, bool):
        raise TypeError(f"{function}: average must be a bool, got {type(average).__name__}")
    operator = checked_call(function, "forward", forward, first)
    steps = _steps(first, operator, t, average)
    return solved(function, steps, Limits(rtol, atol, max_steps, callback, throw), first[0].dtype)


def _steps(x: tuple[Any, ...], operator: Operator, t: float, average: bool) -> Iterator[Iterate]:
    mean, count, evaluations = None, 0, 0
    while True:
        z = _moved(x, operator(x), t)
        Bz = operator(z)
        count, evaluations = count + 1, evaluations + 2
        value, at_value = z, Bz
        if average:
            mean = z if mean is None else tuple(m + (b - m) / count for m, b in zip(mean, z, strict=True))
            value, at_value, evaluations = mean, operator(mean), evaluations + 1
        yield Iterate(value, _gap(value, at_value), norm(value), evaluations, t)
        x = _moved(x, Bz, t)


def _moved(x: tuple[Any, ...], direction: tuple[Any, ...], t: float) -> tuple[Any, ...]:
    """Return the blocks proportional to x exp(-t direction) that sum to 1."""
    result = []
    for block, d in zip(x, direction, strict=True):
        shifted = d - _minimum(d)
        scaled = block * _exp(-t * shifted)
        result.append(scaled / scaled.sum(-1)[..., None])
    return tuple(result)


def _exp(x: Any) -> Any:
    return x.exp() if hasattr(x, "exp") else np.exp(x)


def _minimum(x: Any) -> Any:
    """Return the minimum along the last axis, which is kept."""
    return x.amin(-1, keepdim=True) if hasattr(x, "amin") else x.min(-1, keepdims=True)


def _gap(x: tuple[Any, ...], Bx: tuple[Any, ...]) -> float:
    pairs = zip(x, Bx, strict=True)
    return sum(float(((block * d).sum(-1) - _minimum(d)[..., 0]).sum()) for block, d in pairs)
