"""The spectral radius of Jacobi's iteration matrix, from matrix products and sweeps alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import _core
from .._sweeps.prepare import System

Array = npt.NDArray[Any]

#: Maximum number of products for an estimate, and the number of products between two checks of its convergence
MAX_PRODUCTS, EVERY = 120, 10

#: An eigenvalue of D^-1 A below this fraction of the next one is isolated: see :func:`spectrum_of`.
ALONE = 0.01


class Spectrum(NamedTuple):
    """Estimates of the eigenvalues of I - D^-1 A, where D may have blocks.

    low, high: the smallest and the largest; beta: the largest magnitude, for SOR; is_real: A is Hermitian, and these
    are Lanczos estimates, which lie inside the spectrum. Otherwise all come from power iterations, and low is -high.
    Isolated eigenvalues at 1 are ignored, and for beta also those at -1: see :func:`spectrum_of`.
    """

    low: float
    high: float
    beta: float
    is_real: bool
    is_nearly_singular: bool = False  # an ignored eigenvalue differs from 1 by more than rounding


def jacobi_spectrum(jacobi: System) -> Spectrum:
    """Estimate the spectrum of Jacobi's iteration matrix. A batch is one block diagonal matrix."""
    result = lanczos(jacobi) if is_definite(jacobi) else None
    if result is not None:
        return result
    rho = power(lambda x: x - jacobi.divided(jacobi.times(x)), jacobi.random())
    return of_radius(rho, jacobi.dtype)


def of_radius(rho: float, dtype: np.dtype[Any]) -> Spectrum:
    """The spectrum with a radius from power iterations, which is 1 if indistinguishable from 1, as for a singular A."""
    rho = 1.0 if abs(1 - rho) <= float(np.finfo(dtype).eps) ** 0.5 else rho
    return Spectrum(-rho, rho, rho, False)


def is_definite(jacobi: System) -> bool:
    """Return whether A looks Hermitian, with a positive definite (block) diagonal."""
    return jacobi.has_positive_diagonal() and is_hermitian(jacobi)


def is_hermitian(system: System) -> bool:
    """Return whether A looks Hermitian, by its products with two vectors."""
    u, v = system.random(0), system.random(1)
    Au, Av = system.times(u), system.times(v)
    largest = float(max(np.abs(Au).max(initial=0), np.abs(Av).max(initial=0)))
    if largest == 0:
        return True
    if not math.isfinite(largest):
        return False
    wide = np.result_type(system.dtype, np.float64)  # for products of numbers that are tiny or huge in their own dtype
    u, v, Au, Av = u.astype(wide), v.astype(wide), Au.astype(wide) / largest, Av.astype(wide) / largest
    scale = float(np.linalg.norm(u) * np.linalg.norm(Av)) * float(np.finfo(system.dtype).eps)
    return bool(abs(complex(np.vdot(u, Av)) - complex(np.vdot(Au, v))) <= 10 * scale)


def power(apply: Callable[[Array], Array], x: Array, steps: int | None = None) -> float:
    """Return the mean growth factor of x over the last half of the power iterations."""
    growth: list[float] = []
    for _ in range(MAX_PRODUCTS if steps is None else steps):
        norm = float(np.linalg.norm(x))
        if norm == 0 or not math.isfinite(norm):
            break
        x = apply(x / x.dtype.type(norm))
        growth.append(float(np.linalg.norm(x)))
    return mean_growth(growth)


def mean_growth(growth: list[float]) -> float:
    """Return the geometric mean over the last half."""
    if not growth or growth[-1] == 0:
        return 0.0
    late = growth[len(growth) // 2 :]
    return math.exp(sum(math.log(g) for g in late if g > 0) / len(late))


def lanczos(jacobi: System) -> Spectrum | None:
    """Return the spectrum of I - D^-1 A in D's inner product, where D^-1 A is Hermitian; None if it is not positive.

    Each v has a q = D v. The recurrence is for the q, with v = D^-1 q, so no product with D is needed. It starts with a
    random vector times the root of the diagonal, which makes it invariant to a scaling of A on both sides.
    """
    q = jacobi.random()
    q *= rooted(jacobi.divided(np.ones_like(q)))
    v, before = jacobi.divided(q), np.zeros_like(q)
    alphas: list[float] = []
    betas = [0.0]
    result, steps, nothing = (
        Spectrum(0.0, 0.0, 0.0, True),
        min(MAX_PRODUCTS, v.size),
        (10 * float(np.finfo(q.dtype).eps)) ** 2,
    )
    square = _dot(v, q)
    for step in range(1, steps + 1):
        if not square > 0:
            return None
        scale = v.real.dtype.type(1 / math.sqrt(square))
        v, q = scale * v, scale * q
        p = jacobi.times(v)
        alphas.append(_dot(v, p))
        p -= q.real.dtype.type(alphas[-1]) * q + q.real.dtype.type(betas[-1]) * before
        v, q, before = jacobi.divided(p), p, q
        square = _dot(v, q)
        is_done = abs(square) < nothing or step == steps
        if step % EVERY == 0 or is_done:
            last, result = result, spectrum_of(alphas, betas[1:], q.dtype)
            if is_done or abs(result.high - last.high) <= 0.02 * abs(1 - result.high):
                break
        betas.append(math.sqrt(max(square, 0.0)))
    return result


def _dot(u: Array, v: Array) -> float:
    return float(np.vdot(u, v).real)


def rooted(inverse: Array) -> Array:
    """Return the square root of a diagonal from its inverse; 1 where that is not a positive number."""
    positive = inverse.real > 0
    return np.where(positive, 1 / np.sqrt(np.where(positive, inverse.real, 1)), 1).astype(inverse.real.dtype)


def spectrum_of(alphas: list[float], betas: list[float], dtype: np.dtype[Any]) -> Spectrum:
    """Return the spectrum of I minus the tridiagonal matrix of alphas and betas, without isolated eigenvalues.

    If A is singular (a Laplacian), a consistent b has no component along its null vectors, and if A is nearly so,
    often a small one: their contribution to the largest eigenvalue is rounding error or irrelevant. An eigenvalue of
    D^-1 A that is 0 up to rounding, or a hundred times smaller than the next one, is therefore ignored. If it matters
    after all, the residuals show it. Eigenvalues at 2 are their mirror images for a bipartite pattern, and do not
    affect SOR. Spurious copies of an eigenvalue from rounding are ignored, too: the first vector has no component along
    them.
    """
    eps = float(np.finfo(dtype).eps)
    values, first = eigenvalues(alphas, betas[: len(alphas) - 1])
    values = values[first**2 > eps / 100]
    nothing = 100 * eps * float(np.abs(values).max())
    high = 1 - _first_not_alone(values, nothing)
    image = _first_not_alone(2 - values[::-1], nothing) - 1
    is_nearly_singular = bool(nothing < values[0] < (1 - high) / 2)
    return Spectrum(float(1 - values[-1]), high, max(high, -image), True, is_nearly_singular)


def eigenvalues(diagonal: list[float], off: list[float]) -> tuple[Array, Array]:
    """Return the eigenvalues of a symmetric tridiagonal matrix, increasing, and the first component of each vector.

    Compiled, because LAPACK's general function would start all BLAS threads for a matrix of at most 120 rows.
    """
    values, first = np.array(diagonal, np.float64), np.empty(len(diagonal))
    if not _core.relax.tridiagonal(len(values), values, np.array([*off, 0.0]), first):
        raise np.linalg.LinAlgError("the eigenvalues of Lanczos' method must converge, got numbers that are not finite")
    order = np.argsort(values, kind="stable")
    return values[order], first[order]


def _first_not_alone(values: Array, nothing: float) -> float:
    """Return the first of ``values``, in increasing order, that is neither near 0 nor far below the next one."""
    first = 0
    if values[0] >= -nothing:
        while first + 1 < len(values) and values[first] <= max(nothing, ALONE * values[first + 1]):
            first += 1
    return float(values[first])


def young(beta: float) -> float:
    """SOR's best omega for a consistently ordered matrix; 1 if Jacobi does not converge."""
    return 2 / (1 + math.sqrt(1 - beta * beta)) if 0 <= beta < 1 else 1.0
