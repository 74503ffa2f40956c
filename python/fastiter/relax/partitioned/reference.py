"""Methods for A x = b with the rows divided into parts, by their definitions: A dense, one part after the other.

``owner`` (n,) is the part of each row, from 0 on. R_S takes the rows S of a vector, and A_S = R_S A R_S^T. Nothing here
depends on where a part is computed, so that these are the iterates for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import reference

Array = npt.NDArray[Any]
Precond = Callable[[Array], Array]
#: (A_S, r_S) -> an approximation of A_S^-1 r_S
Local = Callable[[Array, Array], Array]

# ---- parts ----------------------------------------------------------------------------------------------------------


def parts(owner: Array) -> list[Array]:
    """Return the rows of each part, increasing."""
    return [np.flatnonzero(owner == p) for p in range(int(owner.max(initial=-1)) + 1)]


def links(A: Array) -> Array:
    """Return the mask (n, n) of linked i and j: a_ij or a_ji is not 0."""
    return np.asarray((A != 0) | (A.T != 0))


def overlapped(A: Array, rows: Array, overlap: int) -> Array:
    """Return the rows at a distance of at most ``overlap`` links from ``rows``, increasing."""
    inside, linked = np.isin(np.arange(len(A)), rows), links(A)
    for _ in range(overlap):
        inside = inside | linked[:, inside].any(axis=1)
    return np.flatnonzero(inside)


def by_parts(owner: Array, rows: Array) -> Array:
    """Return increasing rows in the order of their parts, then of their numbers."""
    return rows[np.argsort(owner[rows], kind="stable")]


# ---- local solutions ------------------------------------------------------------------------------------------------


def exact(A: Array, r: Array) -> Array:
    """A^-1 r."""
    return np.linalg.solve(A, r) if len(A) else r


def ssor(omega: float, sweeps: int = 1) -> Local:
    """Some symmetric sweeps from 0 in the order of the rows, which are a symmetric operator if A is symmetric."""

    def local(A: Array, r: Array) -> Array:
        x = np.zeros_like(r)
        for _ in range(sweeps):
            x = reference.ssor(A, x, r, omega)
        return x

    return local


# ---- preconditioners: r -> about A^-1 r -----------------------------------------------------------------------------


def schwarz(
    A: Array, owner: Array, overlap: int = 0, *, restricted: bool = False, local: Local = exact, coarse: bool = False
) -> Precond:
    """z = sum over parts p of R_S^T local(A_S, R_S r), S the rows of p with its overlap: additive Schwarz.

    S is in the order of the parts, then of the numbers of the rows, on which sweeps depend. restricted: each part
    corrects only the rows that it owns. coarse: plus Z E^+ Z^T r with E = Z^T A Z, where column p of Z is 1 in the rows
    of part p; the pseudo-inverse leaves out empty parts.
    """
    every = [(rows, by_parts(owner, overlapped(A, rows, overlap))) for rows in parts(owner)]
    Z = np.equal.outer(owner, np.arange(len(every))).astype(A.dtype)
    inverse = np.linalg.pinv(Z.T @ A @ Z, rcond=1e-13)

    def apply(r: Array) -> Array:
        z = np.zeros_like(r)
        for rows, S in every:
            correction = np.zeros_like(r)
            correction[S] = local(A[np.ix_(S, S)], r[S])
            written = rows if restricted else S
            z[written] += correction[written]
        return z + Z @ inverse @ Z.T @ r if coarse else z

    return apply


def block_jacobi(A: Array, owner: Array, local: Local = exact) -> Precond:
    """Schwarz without overlap: the inverse of the diagonal blocks of A."""
    return schwarz(A, owner, local=local)


# ---- coloured SOR ---------------------------------------------------------------------------------------------------


def colours(A: Array, owner: Array) -> list[int]:
    """Give each part in turn the smallest colour that no earlier part with a row linked to one of its rows has."""
    every, linked = parts(owner), links(A)
    quotient = [[linked[np.ix_(p, q)].any() for q in every] for p in every]
    return reference.first_fit(np.array(quotient).reshape(len(every), len(every)))


def order(A: Array, owner: Array) -> list[int]:
    """Return the rows by the colours of their parts, by parts, and by number: the order in which SOR relaxes them."""
    colour = np.array(colours(A, owner), int)
    return sorted(range(len(A)), key=lambda i: (int(colour[owner[i]]), int(owner[i]), i))


def coloured_sor(A: Array, owner: Array, x: Array, b: Array, omega: float = 1.0, backward: bool = False) -> Array:
    """Relax the rows of a part one after the other, from the newest x of the colours before and the x before this one.

    The parts of a colour are not linked, so they can be relaxed in parallel. ``backward``: from the last row to the
    first.
    """
    colour, every = np.array(colours(A, owner), int), parts(owner)
    steps = range(int(colour.max(initial=-1)) + 1)
    for c in reversed(steps) if backward else steps:
        before, x = x, np.array(x)
        for rows in (every[p] for p in np.flatnonzero(colour == c)):
            own = np.array(before)
            for i in rows[::-1] if backward else rows:
                others = np.flatnonzero(A[i])
                others = others[others != i]
                own[i] = (1 - omega) * own[i] + omega * (b[i] - A[i, others] @ own[others]) / A[i, i]
            x[rows] = own[rows]
    return np.array(x)


def coloured_ssor(A: Array, owner: Array, omega: float = 1.0) -> Precond:
    """One sweep forward and one backward from 0."""

    def apply(r: Array) -> Array:
        x = coloured_sor(A, owner, np.zeros_like(r), r, omega)
        return coloured_sor(A, owner, x, r, omega, backward=True)

    return apply


# ---- iterations: all x, from the first step on ----------------------------------------------------------------------


def richardson(A: Array, b: Array, x0: Array, precond: Precond, steps: int, damping: float = 1.0) -> list[Array]:
    """x <- x + damping P(b - A x)."""
    result, x = [], np.array(x0)
    for _ in range(steps):
        x = x + damping * precond(b - A @ x)
        result.append(x)
    return result


def chebyshev(A: Array, b: Array, x0: Array, precond: Precond, low: float, high: float, steps: int) -> list[Array]:
    """Chebyshev's semi-iteration on P A, whose eigenvalues lie in [low, high]: see :func:`reference.chebyshev`."""
    centre, half = (high + low) / 2, (high - low) / 2
    result, x, step, rho = [], np.array(x0), np.zeros_like(x0), 0.0
    for k in range(steps):
        z = precond(b - A @ x)
        if k == 0:
            step, rho = z / centre, half / centre
        else:
            before, rho = rho, 1 / (2 * centre / half - rho)
            step = rho * before * step + 2 * rho / half * z
        x = x + step
        result.append(x)
    return result


def cg(A: Array, b: Array, x0: Array, precond: Precond, steps: int) -> list[Array]:
    """Preconditioned conjugate gradients; P is symmetric and positive definite."""
    result, x = [], np.array(x0)
    r = b - A @ x
    z = precond(r)
    p, energy = z, r @ z
    for _ in range(steps):
        image = A @ p
        alpha = energy / (p @ image)
        x, r = x + alpha * p, r - alpha * image
        z = precond(r)
        energy, before = r @ z, energy
        p = z + energy / before * p
        result.append(x)
    return result


def flexible_cg(A: Array, b: Array, x0: Array, precond: Precond, steps: int, memory: int = 2) -> list[Array]:
    """Conjugate directions for a P that is not symmetric, such as restricted Schwarz."""
    return reference.flexible_cg(A, b, x0, precond, steps, memory)


def steps_until(A: Array, b: Array, iterates: Sequence[Array], rtol: float) -> int:
    """Return the number of the first iterate with |b - A x| <= rtol |b|."""
    return next(k for k, x in enumerate(iterates, 1) if np.linalg.norm(b - A @ x) <= rtol * np.linalg.norm(b))
