"""Mirror prox on simplices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from ..._call.iterate import Callback, Limits
from ..._check import check_flag, positive, type_name
from ..._docs import documented
from .docs import PARTS
from .solve import InclusionSolution, Iterate, Operator, blocks, checked_call, norm, solved, step_size

Points = TypeVar("Points", bound=tuple[Any, ...])


@documented(PARTS)
def mirror_prox(
    forward: Operator,
    x0: Points,
    *,
    step: float | None = None,
    lipschitz: float | None = None,
    average: bool = False,
    beta: float = 0.0,
    reference: Points | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> InclusionSolution[Points]:
    """Variational inequality of B on simplices by z ~ x exp(-t B x), x ~ x exp(-t B z): the entropy's extragradient.

    ``~`` is equality after each block is normalised to the sum 1 along its last axis. It converges for monotone B and t
    up to 1 / L, with L the Lipschitz constant from the l1 norm to the l-infinity norm; for a matrix game, L is the
    largest magnitude of the matrix's entries.

    With ``beta`` it solves the inequality of B + beta grad KL(. | r), r being the reference, by
    ``z ~ (x exp(-t B x) r^(beta t))^(1 / (1 + beta t))`` and the same for x, in logarithms: KL(solution | x) falls at
    least by the factor 1 / (1 + beta t) in each step, whatever the number of unknowns. The value is the last x.

    The residual is the sum over blocks of max over u of (B z) . (z - u) + beta KL(z | r) - beta KL(u | r), an upper
    bound of a game's duality gap; with ``beta`` it is beta KL(z | u), u being the best response to z.

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
        Whether the value is the mean of all z, whose gap falls as 1 / steps in every game, or the last point, which is
        often closer to the solution.
    beta : float
        The weight of the entropy relative to the reference.
    reference : tuple of arrays or tensors, optional
        r, blocks like x0; x0 by default.
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
    fastiter.experimental.halpern_vr : For sums of many components.

    References
    ----------
    Nemirovski, "Prox-method with rate of convergence O(1/t) for variational inequalities with Lipschitz continuous
    monotone operators" (2004). Tiapkin, Calandriello, Belomestny, Moulines, Naumov, Rasul, Valko and Ménard,
    "Accelerating Nash learning from human feedback via mirror prox" (2025).

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
    _check_simplices(function, "x0", first)
    t, is_searched = step_size(function, step, lipschitz, 1.0)
    if is_searched:
        raise TypeError(f"{function}: step must be a number if lipschitz is None, got None")
    check_flag(function, "average", average)
    operator = checked_call(function, "forward", forward, first)
    limits = Limits(rtol, atol, max_steps, callback, throw)
    weight = positive(function, "beta", beta)
    anchor = _reference(function, weight, reference, first)
    steps = _steps(first, operator, t, average)
    if weight:
        steps = _regularised_steps(first, operator, t, average, weight, anchor)
    return solved(function, steps, limits, first[0].dtype)


def _check_simplices(function: str, name: str, x: tuple[Any, ...]) -> None:
    for block in x:
        if block.ndim == 0 or not bool((block > 0).all()) or not bool((abs(block.sum(-1) - 1) < 1e-3).all()):
            raise ValueError(
                f"{function}: {name} must be positive, with the sum 1 along the last axis, got another block"
            )


def _reference(function: str, beta: float, reference: Any, first: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reference, which is x0 if none is given."""
    if reference is None:
        return first
    if beta == 0:
        raise TypeError(f"{function}: reference must be None if beta is 0, got {type_name(reference)}")
    given = blocks(function, "reference", reference, "a tuple of blocks")
    shapes, expected = ([(tuple(block.shape), block.dtype) for block in x] for x in (given, first))
    if shapes != expected or type(given[0]) is not type(first[0]):
        raise ValueError(f"{function}: reference must have the blocks of x0, got other shapes, dtypes or types")
    _check_simplices(function, "reference", given)
    return given


def _steps(x: tuple[Any, ...], operator: Operator, t: float, average: bool) -> Iterator[Iterate]:
    mean, count, evaluations = None, 0, 0
    while True:
        z = _moved(x, operator(x), t)
        Bz = operator(z)
        count, evaluations = count + 1, evaluations + 2
        value, at_value = z, Bz
        if average:
            mean = z if mean is None else _mean(mean, z, count)
            value, at_value, evaluations = mean, operator(mean), evaluations + 1
        yield Iterate(value, _gap(value, at_value), norm(value), evaluations, t)
        x = _moved(x, Bz, t)


def _mean(mean: tuple[Any, ...], z: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return the mean of ``count`` points, z being the last one."""
    return tuple(m + (b - m) / count for m, b in zip(mean, z, strict=True))


def _moved(x: tuple[Any, ...], direction: tuple[Any, ...], t: float) -> tuple[Any, ...]:
    """Return the blocks proportional to x exp(-t direction) that sum to 1."""
    result = []
    for block, d in zip(x, direction, strict=True):
        shifted = d - _minimum(d)
        scaled = block * _exp(-t * shifted)
        result.append(scaled / scaled.sum(-1)[..., None])
    return tuple(result)


def _gap(x: tuple[Any, ...], Bx: tuple[Any, ...]) -> float:
    pairs = zip(x, Bx, strict=True)
    return sum(float(((block * d).sum(-1) - _minimum(d)[..., 0]).sum()) for block, d in pairs)


# ---- With the entropy: x is given by its logarithms, as its smallest entries are below the range of floats ----------


def _regularised_steps(
    x: tuple[Any, ...], operator: Operator, t: float, average: bool, beta: float, reference: tuple[Any, ...]
) -> Iterator[Iterate]:
    """Yield x after each step, whose value by the operator the next step needs, or the mean of all z."""
    log_x, log_r = (tuple(_normalised(_log(block)) for block in blocks) for blocks in (x, reference))
    Bx = operator(_each_exp(log_x))
    mean, count, evaluations = None, 0, 1
    while True:
        z = _each_exp(_pulled(log_x, Bx, t, beta, log_r))
        log_x = _pulled(log_x, operator(z), t, beta, log_r)
        value = x = _each_exp(log_x)
        Bx = at_value = operator(x)
        log_value = log_x
        count, evaluations = count + 1, evaluations + 2
        if average:
            value = mean = z if mean is None else _mean(mean, z, count)
            at_value, log_value, evaluations = operator(mean), tuple(map(_log, mean)), evaluations + 1
        gap = _regularised_gap(value, log_value, at_value, beta, log_r)
        yield Iterate(value, gap, norm(value), evaluations, t)


def _pulled(
    log_x: tuple[Any, ...], direction: tuple[Any, ...], t: float, beta: float, log_r: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return the logarithms of the blocks proportional to (x exp(-t direction) r^(beta t))^(1 / (1 + beta t))."""
    share = 1 / (1 + beta * t)
    parts = zip(log_x, direction, log_r, strict=True)
    return tuple(_normalised(share * (block - t * d) + (1 - share) * r) for block, d, r in parts)


def _regularised_gap(
    x: tuple[Any, ...], log_x: tuple[Any, ...], Bx: tuple[Any, ...], beta: float, log_r: tuple[Any, ...]
) -> float:
    """Return beta KL(x | u) with the best response u ~ r exp(-B x / beta)."""
    gap = 0.0
    for block, log_block, d, r in zip(x, log_x, Bx, log_r, strict=True):
        log_u = _normalised(r - d / beta)
        terms = block * (log_block - log_u)
        terms[block == 0] = 0
        gap += float((terms - block + _exp(log_u)).sum())  # no term is negative
    return beta * gap


def _normalised(logarithms: Any) -> Any:
    """Return logarithms of numbers that sum to 1 along the last axis."""
    shifted = logarithms + _minimum(-logarithms)
    return shifted - _log(_exp(shifted).sum(-1))[..., None]


def _each_exp(logarithms: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(_exp, logarithms))


def _exp(x: Any) -> Any:
    return x.exp() if hasattr(x, "exp") else np.exp(x)


def _log(x: Any) -> Any:
    return x.log() if hasattr(x, "log") else np.log(x)


def _minimum(x: Any) -> Any:
    """Return the minimum along the last axis, which is kept."""
    return x.amin(-1, keepdim=True) if hasattr(x, "amin") else x.min(-1, keepdims=True)
