"""Modern Hopfield networks in plain NumPy loops: the specification of :func:`fastiter.fixedpoint.hopfield_update`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Retrieval(NamedTuple):
    """States after their updates, and for each query whether it converged, the updates and the last change."""

    value: Array
    converged: Array
    steps: Array
    residual: Array


def associate(x: Array, stored: Array, beta: Any, bias: Array) -> Array:
    """Return the weights softmax(beta stored x + bias) of the patterns (S, D) for a query (D,).

    They are all 0 where the bias leaves no pattern.
    """
    z = beta * (stored @ x) + bias
    if not z.size or np.all(z == -np.inf):
        return np.zeros_like(z)
    weights = np.exp(z - z.max())
    result: Array = weights / weights.sum()
    return result


def hopfield_update(
    state: Array,
    stored: Array,
    beta: Array,
    bias: Array,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    stops: bool = True,
) -> Retrieval:
    """Return the states where x = stored^T softmax(beta stored x + bias), query by query.

    Parameters
    ----------
    state : (..., L, D)
        The queries.
    stored : (..., S, D)
        The patterns of each problem.
    beta : (...)
        The inverse temperature of each problem.
    bias : (..., L, S)
        The bias of the scaled products: 0, or -inf for a pattern that the query does not see.
    rtol, atol : float
        A query has converged when ``||x+ - x|| <= atol + rtol ||x+||``.
    max_steps : int
        The maximum number of updates of a query.
    stops : bool
        Whether a query that has converged stops; otherwise all are updated ``max_steps`` times.
    """
    value = state.copy()
    shape = state.shape[:-1]
    converged, steps, residual = np.zeros(shape, bool), np.zeros(shape, np.int64), np.full(shape, np.inf, state.dtype)
    for at in np.ndindex(*shape):
        patterns, head = stored[at[:-1]], at[:-1]
        for _ in range(max_steps):
            x = value[at]
            new = patterns.T @ associate(x, patterns, beta[head], bias[at])
            residual[at] = np.sqrt(((new - x) ** 2).sum())
            value[at] = new
            steps[at] += 1
            converged[at] = residual[at] <= atol + rtol * np.sqrt((new**2).sum())
            if stops and converged[at]:
                break
    return Retrieval(value, converged, steps, residual)


def hopfield_energy(state: Array, stored: Array, beta: Array, bias: Array) -> Array:
    """Return E = -logsumexp(beta stored x + bias) / beta + x x / 2 + log(S) / beta + M^2 / 2 of each query x (..., L).

    M is the largest norm of the patterns of a problem. An update never increases E.
    """
    energy = np.empty(state.shape[:-1], state.dtype)
    for at in np.ndindex(*energy.shape):
        patterns, x, b = stored[at[:-1]], state[at], beta[at[:-1]]
        z = b * (patterns @ x) + bias[at]
        top = z.max() if np.isfinite(z.max()) else 0.0
        with np.errstate(divide="ignore"):  # log(0) is correct for a query that sees no pattern
            total = top + np.log(np.exp(z - top).sum())
        largest = max(float((p * p).sum()) for p in patterns)
        energy[at] = -total / b + (x * x).sum() / 2 + np.log(len(patterns)) / b + largest / 2
    return energy
