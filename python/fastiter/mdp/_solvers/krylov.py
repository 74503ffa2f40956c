"""The values of a policy: (1 - gamma P) v = r by elimination or by BiCGSTAB, with sweeps of its operator as a fallback.

Or by sweeps that deflate the dominant eigenvectors of its chain, which are solved exactly.

Vectors are arrays or, with a model on a GPU, tensors, which share the operators that are used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._solution import ConvergenceError
from .state import PIECE

Array = npt.NDArray[Any]

_MAX_ITERATIONS = 500  # BiCGSTAB iterations between two evaluations of the true residual
_SWEEPS = 50  # sweeps of the policy's operator if BiCGSTAB has not helped
_MAX_SWEEPS = 250_000  # maximum number of these sweeps for values to rounding
# Elimination is tried before BiCGSTAB, with as many operations as the first of these numbers of its iterations takes,
# and again after each of them, with as many as those so far
_TRIALS = (30, 120, 480)
# Operations of an iteration of BiCGSTAB, about a nanosecond each: for each state besides its two products, and in calls
_VECTORS, _CALLS = 12, 30_000

#: Products in a block Krylov space, restarts, and the relative residual at which the eigenvectors are good enough
_PRODUCTS, _RESTARTS, _ENOUGH = 8, 20, 1e-10
#: The relative size of a product below which it counts as rounding, by dtype
_ROUNDING = {"float32": 1e-4, "float64": 1e-10}
#: Additional vectors in a block
_GUARDS = 2
#: Sweeps without a smaller residual after which only rounding errors remain
_PATIENCE = 30


class Chain:
    """A Markov chain with its discount, and its rewards or another right-hand side.

    ``like`` is a vector (S,) of values. ``modulus`` is the asymptotic factor by which a sweep reduces the residual, by
    default the discount. ``elimination`` solves chains whose rows each have weights of at most 1 in total after
    discounting; it is shared by the successive chains of a process, whose order of elimination it keeps.
    """

    #: The number of iterations of BiCGSTAB so far, and the maximum number of them between two true residuals
    iterations, max_iterations = 0, _MAX_ITERATIONS
    #: The values, once :meth:`is_eliminated` has found them
    values: Array | None = None
    _elimination: Any = None

    def __init__(
        self,
        model: Any,
        discount: float,
        like: Array,
        reward: Array | None = None,
        modulus: float | None = None,
        elimination: Any = None,
    ) -> None:
        self._model, self.discount, self._reward, self._elimination = model, discount, reward, elimination
        self._none = _zeros_like(like)
        self.modulus = discount if modulus is None else modulus

    def with_reward(self, reward: Array) -> Chain:
        """Return the same chain with other rewards."""
        return Chain(self._model, self.discount, reward, reward, self.modulus, self._elimination)

    def operations(self) -> int:
        """Return the number of operations of an iteration of BiCGSTAB."""
        return 2 * int(self._model.entries()) + _VECTORS * len(self._none) + _CALLS

    def is_eliminated(self, iterations: int) -> bool:
        """Find the values by elimination unless it takes more operations than iterations of BiCGSTAB."""
        return self.is_eliminated_within(iterations * self.operations()) if self._elimination is not None else False

    def is_eliminated_within(self, limit: int) -> bool:
        """Find the values by elimination unless it takes more operations."""
        v = np.empty_like(self._none)
        if self._elimination.solve(self._model, self.discount, self._reward, v, limit) and _is_finite(v):
            self.values = v
        return self.values is not None

    def residual(self, v: Array) -> Array:
        """Return r + gamma P v - v."""
        w = _empty_like(v)
        self._model.backup(v, w, None, 1, self.discount, self._reward)
        w -= v
        return w

    def multiply(self, x: Array) -> Array:
        """Return x - gamma P x."""
        w = _empty_like(x)
        self._model.backup(x, w, None, 1, self.discount, self._none)
        return x - w

    def product(self, x: Array) -> Array:
        """Return P x."""
        w = _empty_like(x)
        self._model.backup(x, w, None, 1, 1.0, self._none)
        return w

    def sweep(self, v: Array, count: int) -> Array:
        """Return v after sweeps v <- r + gamma P v."""
        v, w = _copy(v), _empty_like(v)
        pieces = max(1, PIECE // max(len(v), 1))
        while count > 0:
            now = min(count, pieces)
            self._model.backup(v, w, None, now, self.discount, self._reward)
            if now % 2:
                v, w = w, v
            count -= now
        return v

    def sweeps_to_an_eighth(self) -> int:
        """Return the number of sweeps that reduce a residual to an eighth, at most ``_MAX_SWEEPS``."""
        if not 0 < self.modulus < 1:
            return _SWEEPS
        return min(max(_SWEEPS, math.ceil(math.log(0.125) / math.log(self.modulus))), _MAX_SWEEPS)


def _empty_like(x: Array) -> Array:
    return np.empty_like(x) if isinstance(x, np.ndarray) else x.new_empty(x.shape)


def _zeros_like(x: Array) -> Array:
    return np.zeros_like(x) if isinstance(x, np.ndarray) else x.new_zeros(x.shape)


def _copy(x: Array) -> Array:
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def _is_finite(x: Array) -> bool:
    return bool((np.isfinite(x) if isinstance(x, np.ndarray) else x.isfinite()).all())


def _shifted(x: Array, exponent: int) -> Array:
    """Return x times a power of 2, which may itself be out of the range of the dtype."""
    if isinstance(x, np.ndarray):
        return np.ldexp(x, exponent)
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)


def exponent_of(size: float, itemsize: int = 8) -> int:
    """Return the exponent of a power of 2 near a size whose square is almost out of a dtype's range, else 0."""
    limit = 256.0 if itemsize == 8 else 24.0
    return 0 if not 0 < size < math.inf or abs(math.log2(size)) < limit else math.frexp(size)[1]


def norm(x: Array) -> float:
    """Return the 2-norm, summed in float64; elements whose squares overflow or vanish are scaled."""
    with np.errstate(over="ignore"):
        values = _plain_norm(x)
    if 2.0**-256 < values < math.inf or not len(x):
        return values
    by = exponent_of(float(abs(x).max()))
    return float(np.ldexp(_plain_norm(_shifted(x, -by)), by)) if by else values


def _plain_norm(x: Array) -> float:
    if not isinstance(x, np.ndarray):
        return float(x.double().norm())
    return float(np.sqrt(np.dot(x, x))) if x.dtype == np.float64 else float(np.linalg.norm(x.astype(np.float64)))


def solve(chain: Chain, v: Array, target: float, limit: int = 20) -> Array:
    """Return values whose residual has a 2-norm of at most ``target``, or the best that rounding allows.

    Parameters
    ----------
    chain : Chain
        The chain.
    v : (S,)
        The initial guess; not modified.
    target : float
        The 2-norm of r + gamma P v - v to reach; 0 means the best possible.
    most : int
        The maximum number of rounds of BiCGSTAB; after one that does not halve the residual, as on long cycles, all
        rounds are sweeps.
    """
    if chain.is_eliminated(_TRIALS[0]) and chain.values is not None:
        return chain.values
    residual = chain.residual(v)
    size, helps = norm(residual), True
    sweeps = _SWEEPS if limit == 1 else chain.sweeps_to_an_eighth()
    for _ in range(limit):
        if size <= target:
            break
        result = v + _krylov_step(chain, residual, max(target, 1e-14 * size), size) if helps else v
        if chain.values is not None:
            return chain.values
        if not _is_finite(result):
            result = v
        remaining = chain.residual(result)
        if norm(remaining) > size / 2:
            helps = False
            swept = chain.sweep(result if norm(remaining) < size else v, sweeps)
            after = chain.residual(swept)
            if norm(after) < norm(remaining):
                result, remaining = swept, after
        if not norm(remaining) < 0.9 * size:
            return result if norm(remaining) < size else v
        v, residual, size = result, remaining, norm(remaining)
    return v


def _krylov_step(chain: Chain, b: Array, target: float, size: float) -> Array:
    """Return :func:`bicgstab`'s x for b of 2-norm ``size``, scaled where squares would overflow or underflow."""
    by = exponent_of(size, b.dtype.itemsize)
    if by == 0:
        return bicgstab(chain, b, target)
    return _shifted(bicgstab(chain, _shifted(b, -by), math.ldexp(target, -by)), by)


def solved(function: str, chain: Chain, b: Array, method: Callable[[Chain, Array], Array] | None = None) -> Array:
    """Return values for the rewards b whose residual is at rounding level; raise if they cannot be found.

    ``how`` computes them from an initial guess, by default :func:`solve`. Rewards are divided by a power of 2 near
    the largest, as squares of huge or tiny ones would overflow or underflow.
    """
    exponent = math.frexp(float(abs(b).max()))[1] if len(b) else 0
    scaled = _shifted(b, -exponent)
    chain = chain.with_reward(scaled)
    x = solve(chain, _zeros_like(b), 0.0) if method is None else method(chain, _zeros_like(b))
    remaining, size = norm(chain.residual(x)), norm(scaled)
    if not remaining <= 1e3 * 2.0 ** (-52 if b.dtype.itemsize == 8 else -23) * max(size, norm(x)):
        raise ConvergenceError(f"{function}: the residual of a policy's values must vanish, got {remaining:.2g}")
    with np.errstate(over="ignore"):
        values = _shifted(x, exponent)
    if not _is_finite(values):
        raise ConvergenceError(f"{function}: values must be within the range of {b.dtype}, got larger ones")
    return values


def bicgstab(chain: Chain, b: Array, target: float) -> Array:
    """Return x with |b - (1 - gamma P) x| <= target by BiCGSTAB from 0, or the last x before it broke down.

    It ends as well if elimination turns out to be cheap, which sets ``chain.values``.
    """
    x, r = _zeros_like(b), _copy(b)
    shadow, p, v = _copy(r), _zeros_like(b), _zeros_like(b)
    rho = alpha = omega = 1.0
    for k in range(chain.max_iterations):
        chain.iterations += 1
        if k in _TRIALS and chain.is_eliminated(k):
            return x
        rho, before = float(shadow @ r), rho
        if not 0 < abs(rho) < math.inf or omega == 0:  # broken down, or values have overflowed
            return x
        p = r + (rho / before * (alpha / omega)) * (p - omega * v)
        v = chain.multiply(p)
        below = float(shadow @ v)
        if below == 0:
            return x
        alpha = rho / below
        s = r - alpha * v
        t = chain.multiply(s)
        square = float(t @ t)
        omega = float(t @ s) / square if square else 0.0
        x += alpha * p + omega * s
        r = s - omega * t
        if norm(r) <= target:
            return x
    return x


def deflated(chain: Chain, v: Array, rank: int, limit: int | None = None) -> Array:
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
    best, smallest, unimproved, sweeps = v, np.inf, 0, chain.sweeps_to_an_eighth() * 20 if limit is None else limit
    for _ in range(sweeps):
        v = (v + residual + gain @ (basis.T @ residual)).astype(v.dtype, copy=False)
        residual = chain.residual(v)
        size = norm(residual)
        best, smallest, unimproved = (v, size, 0) if size < smallest else (best, smallest, unimproved + 1)
        if limit is None and (size == 0 or unimproved > _PATIENCE or not np.isfinite(size)):
            break
    return chain.sweep(best, 1) if limit is None else v  # exactly 0 in terminal states


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
        values = space @ within
        inner = within.T @ small @ within
        error = float(np.linalg.norm(product @ within - values @ inner))
        if error <= _ENOUGH or len(small) == n or error > 0.9 * before:
            break
        before, basis = error, space @ _real(vectors[:, order], eigenvalues[order], min(rank + _GUARDS, n))
    return values, inner


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
