"""Sweeps of discrete ordinates through slabs, the step of source iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_arrays
from ..._check import check_array, check_arrays

Array = npt.NDArray[Any]
_NAME = "transport_sweep"


class TransportSweep(NamedTuple):
    """The fluxes of a transport sweep.

    Attributes
    ----------
    phi : (I,) or (B, I)
        The scalar flux of each cell, the sum over directions of the weight times the mean angular flux.
    outgoing : (N,) or (B, N)
        The angular flux that leaves the slab in each direction.

    See Also
    --------
    transport_sweep : Returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.experimental import transport_sweep
    >>> transport_sweep(np.ones(3), 1.0, 1.0, np.array([1.0]), np.array([2.0])).outgoing.round(4)
    array([0.4815])
    """

    phi: Array
    outgoing: Array


def transport_sweep(
    q: Array,
    sigma: Array | float,
    h: Array | float,
    mu: Array,
    weights: Array,
    *,
    incoming: Array | None = None,
) -> TransportSweep:
    """mu_n dpsi_n/dx + sigma psi_n = q / 2 and phi = sum w_n psi_n: a sweep of discrete ordinates through a slab.

    The discretisation is by diamond differences: along each direction, the flux on the next edge of a cell is
    ``((2 |mu| - sigma h) psi + h q) / (2 |mu| + sigma h)``, and the mean flux is the average of both edges. With q the
    sum of sigma_s phi and an external source, it is the step of source iteration, whose fixed point solves the
    transport equation with isotropic scattering.

    Parameters
    ----------
    q : (I,) or (B, I)
        The source in each cell, integrated over all directions if the weights add up to 2; float32 or float64, for one
        slab or a batch.
    sigma : float, (I,) or (B, I)
        The total cross-section, at least 0, in 1 / length.
    h : float or (I,)
        The widths of the cells, above 0.
    mu : (N,)
        The cosines of the directions, not 0, in any order; directions above 0 point to higher cells.
    weights : (N,)
        Their weights.
    incoming : (N,) or (B, N), optional
        The angular flux that enters in each direction, on the left if mu is above 0 and otherwise on the right; by
        default 0.

    Returns
    -------
    TransportSweep
        The scalar flux ``phi`` and the angular flux ``outgoing`` that leaves, in the dtype of q.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype, shape or value.

    See Also
    --------
    fastiter.fixedpoint.fixed_point : Iterates it, accelerated.

    Notes
    -----
    The mean flux of a cell may be negative where ``sigma h`` is above ``2 |mu|``: the scheme is of second order, not
    positive. `examples/papers/dsa.py` accelerates source iteration by diffusion.

    References
    ----------
    .. [1] E. W. Larsen, "Unconditionally stable diffusion-synthetic acceleration methods for the slab geometry
       discrete ordinates equations, part I", Nuclear Science and Engineering 82, 1982.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.experimental import transport_sweep
    >>> from fastiter.fixedpoint import fixed_point
    >>> mu, weights = np.polynomial.legendre.leggauss(8)
    >>> def step(phi):
    ...     return transport_sweep(0.5 * phi + 1, 1.0, 0.5, mu, weights).phi
    >>> phi = fixed_point(step, np.zeros((1, 200))).value
    >>> float(phi[0, 100].round(6))  # deep inside q / (sigma - sigma_s)
    2.0
    """
    q, mu, weights, incoming = as_arrays(_NAME, ("q", "mu", "weights", "incoming"), (q, mu, weights, incoming))
    check_arrays(_NAME, ("q",), (q,))
    if q.ndim not in (1, 2):
        raise ValueError(f"{_NAME}: q must have shape (I,) or (B, I), got {q.shape}")
    cosines, weights = _directions(q, mu, weights)
    sigma = _spread("sigma", sigma, q, (q.shape, q.shape[-1:]), q.shape, zero=True)
    h = _spread("h", h, q, (q.shape[-1:],), q.shape[-1:], zero=False)
    with np.errstate(over="ignore"):
        thickness = sigma * h
    if not np.isfinite(thickness).all():
        raise ValueError(f"{_NAME}: sigma * h must be finite in {q.dtype}, got inf")
    return _swept(q, sigma, h, cosines, weights, _entering(incoming, q, (*q.shape[:-1], len(cosines))))


def _swept(q: Array, sigma: Array, h: Array, mu: Array, weights: Array, incoming: Array) -> TransportSweep:
    order = np.concatenate([np.flatnonzero(mu > 0), np.flatnonzero(mu < 0)])
    inward = np.ascontiguousarray(incoming[..., order])
    phi, left = np.empty(q.shape, q.dtype), np.empty(inward.shape, q.dtype)
    batch = q.shape[0] if q.ndim == 2 else 1
    sizes = (batch, q.shape[-1], len(mu), int((mu > 0).sum()))
    arrays = (np.ascontiguousarray(q), sigma, h, np.abs(mu[order]), weights[order], inward, phi, left)
    _core.fixedpoint.transport(8 * q.itemsize, sizes, arrays)
    outgoing = np.empty_like(left)
    outgoing[..., order] = left
    return TransportSweep(phi, outgoing)


def _directions(q: Array, mu: Any, weights: Any) -> tuple[Array, Array]:
    """Return the cosines and their weights in the dtype of q."""
    for name, x in (("mu", mu), ("weights", weights)):
        check_array(_NAME, name, x)
        if x.ndim != 1 or x.shape != mu.shape:
            expected = "(N,)" if x is mu else f"{mu.shape} like mu"
            raise ValueError(f"{_NAME}: {name} must have shape {expected}, got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError(f"{_NAME}: {name} must be finite, got {x[~np.isfinite(x)][0]:g}")
    cosines = mu.astype(q.dtype)
    smallest, largest = (float(x) for x in (np.finfo(q.dtype).tiny, np.finfo(q.dtype).max / 4))
    wrong = (np.abs(cosines) < smallest) | (np.abs(cosines) > largest)
    if wrong.any():
        raise ValueError(f"{_NAME}: mu must not be 0 or beyond {q.dtype}, got {mu[wrong][0]:g}")
    return cosines, weights.astype(q.dtype)


def _spread(
    name: str, x: Any, q: Array, shapes: tuple[tuple[int, ...], ...], to: tuple[int, ...], *, zero: bool
) -> Array:
    """Broadcast a number, or an array of one of the shapes, to a contiguous array of the last one, in q's dtype."""
    (x,) = as_arrays(_NAME, (name,), (x,), q.dtype)
    check_arrays(_NAME, ("q", name), (q, x))
    if x.ndim and x.shape not in shapes:
        expected = " or ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(f"{_NAME}: {name} must be a number or have shape {expected} to go with q, got {x.shape}")
    wrong = ~(np.isfinite(x) & (x >= 0 if zero else x > 0))
    if wrong.any():
        kind = "at least" if zero else "above"
        raise ValueError(f"{_NAME}: {name} must be finite and {kind} 0, got {x[wrong].ravel()[0]:g}")
    return np.ascontiguousarray(np.broadcast_to(x, to))


def _entering(incoming: Any, q: Array, shape: tuple[int, ...]) -> Array:
    if incoming is None:
        return np.zeros(shape, q.dtype)
    check_arrays(_NAME, ("q", "incoming"), (q, incoming))
    if incoming.shape != shape:
        raise ValueError(f"{_NAME}: incoming must have shape {shape} to go with q and mu, got {incoming.shape}")
    entering: Array = incoming
    return entering
