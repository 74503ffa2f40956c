"""The values of a policy by sweeps that deflate the dominant eigenvectors of its chain, which are solved exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._krylov import Chain, norm

Array = npt.NDArray[Any]

#: Products in a block Krylov space, restarts, and the relative residual at which the eigenvectors are good enough
_PRODUCTS, _RESTARTS, _ENOUGH = 8, 20, 1e-10
#: The relative size of a product below which it counts as rounding, by dtype
_ROUNDING = {"float32": 1e-4, "float64": 1e-10}
#: Additional vectors in a block
_GUARDS = 2
#: Sweeps without a smaller residual after which only rounding errors remain
_PATIENCE = 30


def deflated(chain: Chain, v: Array, rank: int, most: int | None = None) -> Array:
    """Return v after sweeps v <- w + U K U^T (w - v), w = r + gamma P v, K = gamma B (1 - gamma B)^-1.

    The columns of U are an orthonormal basis of the span of ``rank`` dominant eigenvectors, P U = U B. Each sweep is
    ``v <- (1 - gamma E)^-1 (r + gamma (P - E) v)`` with E = U B U^T, whose fixed point does not depend on E, and whose
    rate is gamma times the modulus of the next eigenvalue.

    Parameters
    ----------
    chain : Chain
        The chain.
    v : (S,)
        The initial guess; not modified.
    rank : int
        The number of eigenvectors; conjugate ones are taken in pairs, so that there may be one more.
    most : int or None
        The number of sweeps; None: until the residual is at rounding level.
    """
    basis, inner = dominant(chain, v, rank)
    scaled = chain.discount * inner
    gain = basis @ np.linalg.solve((np.eye(len(inner)) - scaled).T, scaled.T).T
    v, residual = v.copy(), chain.residual(v)
    best, least, since, sweeps = v, np.inf, 0, chain.sweeps_to_an_eighth() * 20 if most is None else most
    for _ in range(sweeps):
        v = (v + residual + gain @ (basis.T @ residual)).astype(v.dtype, copy=False)
        residual = chain.residual(v)
        size = norm(residual)
        best, least, since = (v, size, 0) if size < least else (best, least, since + 1)
        if most is None and (size == 0 or since > _PATIENCE or not np.isfinite(size)):
            break
    return chain.sweep(best, 1) if most is None else v  # exactly 0 in terminal states


def dominant(chain: Chain, like: Array, rank: int) -> tuple[Array, Array]:
    """Return U (S, rank) and B (rank, rank), P U = U B, by restarted block Krylov; rank + 1 to complete a pair."""
    n = len(like)
    if rank == 0 or n == 0:
        return np.zeros((n, 0)), np.zeros((0, 0))
    block = np.random.default_rng(0).standard_normal((n, min(rank + _GUARDS, n)))
    block[:, 0] = 1
    basis = np.linalg.qr(block)[0]
    before = np.inf
    for _ in range(_RESTARTS):
        space, product = _krylov(chain, basis, like)
        small = space.T @ product
        eigenvalues, vectors = np.linalg.eig(small)
        order = np.lexsort((eigenvalues.imag, np.abs(eigenvalues.imag), -eigenvalues.real, -np.abs(eigenvalues)))
        within = _real(vectors[:, order], eigenvalues[order], rank)
        found = space @ within
        inner = within.T @ small @ within
        error = float(np.linalg.norm(product @ within - found @ inner))
        if error <= _ENOUGH or len(small) == n or error > 0.9 * before:
            break
        before, basis = error, space @ _real(vectors[:, order], eigenvalues[order], min(rank + _GUARDS, n))
    return found, inner


def _krylov(chain: Chain, basis: Array, like: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis Q of the span of X, P X, P^2 X, ..., and P Q."""
    space, product, n = basis, _times(chain, basis, like), len(basis)
    last = product
    for _ in range(_PRODUCTS - 1):
        new = _outside(last, space, _ROUNDING[like.dtype.name])[:, : n - space.shape[1]]
        if not new.shape[1]:
            break
        last = _times(chain, new, like)
        space, product = np.hstack([space, new]), np.hstack([product, last])
    return space, product


def _outside(last: Array, space: Array, rounding: float) -> Array:
    """Return an orthonormal basis of the columns' components outside a space, without directions at rounding level."""
    directions, sizes, _ = np.linalg.svd(last - space @ (space.T @ last), full_matrices=False)
    new = directions[:, sizes > rounding * float(np.linalg.norm(last, 2))]
    basis: Array = np.linalg.qr(new - space @ (space.T @ new))[0]
    return basis


def _times(chain: Chain, x: Array, like: Array) -> Array:
    columns = [chain.product(np.ascontiguousarray(column, like.dtype)) for column in x.T]
    return np.stack(columns, 1).astype(np.float64)


def _real(vectors: Array, eigenvalues: Array, count: int) -> Array:
    """Return an orthonormal basis of the span of the first eigenvectors and the conjugate of the last one."""
    if count < len(eigenvalues) and eigenvalues[count - 1] == eigenvalues[count].conj() != eigenvalues[count]:
        count += 1
    chosen, parts = eigenvalues[:count], vectors[:, :count]
    columns = np.where(chosen.imag < 0, parts.imag, parts.real)
    basis: Array = np.linalg.qr(columns)[0]
    return basis
