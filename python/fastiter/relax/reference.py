"""Relaxation by its definitions: A x = b with a dense A, one row or block of rows after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Sweep = Callable[[Array], Array]

# ---- one sweep: returns the new x -----------------------------------------------------------------------------------


def jacobi(A: Array, x: Array, b: Array, omega: float = 1.0) -> Array:
    """x+ = x + omega D^-1 (b - A x)."""
    new = np.array(x)
    for i in range(len(A)):
        others = sum((A[i, j] * x[j] for j in range(len(A)) if j != i and A[i, j] != 0), np.zeros_like(x[i]))
        new[i] = (1 - omega) * x[i] + omega * (b[i] - others) / A[i, i]
    return new


def sor(
    A: Array, x: Array, b: Array, omega: float = 1.0, order: Sequence[int] | None = None, backward: bool = False
) -> Array:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, row after row."""
    x, rows = np.array(x), _ordered(len(A), order, backward)
    for i in rows:
        row = np.flatnonzero(A[i])
        row = row[row != i]
        x[i] = (1 - omega) * x[i] + omega * (b[i] - A[i, row] @ x[row]) / A[i, i]
    return x


def ssor(A: Array, x: Array, b: Array, omega: float = 1.0, order: Sequence[int] | None = None) -> Array:
    """One sweep of :func:`sor` forward, and one backward."""
    return sor(A, sor(A, x, b, omega, order), b, omega, order, backward=True)


def block_jacobi(A: Array, x: Array, b: Array, size: int, omega: float = 1.0) -> Array:
    """x_I+ = x_I + omega A_II^-1 (b - A x)_I for blocks I of `size` rows; the last one may be smaller."""
    new, r = np.array(x), b - A @ x
    for block in blocks(len(A), size):
        new[block] += omega * np.linalg.solve(A[block, block], r[block])
    return new


def block_sor(
    A: Array,
    x: Array,
    b: Array,
    size: int,
    omega: float = 1.0,
    order: Sequence[int] | None = None,
    backward: bool = False,
) -> Array:
    """:func:`block_jacobi` with the newest x of the other blocks; `order` is an order of the blocks."""
    x, all_blocks = np.array(x), blocks(len(A), size)
    for k in _ordered(len(all_blocks), order, backward):
        block = all_blocks[k]
        x[block] += omega * np.linalg.solve(A[block, block], (b - A @ x)[block])
    return x


def kaczmarz(
    A: Array, x: Array, b: Array, omega: float = 1.0, order: Sequence[int] | None = None, backward: bool = False
) -> Array:
    """x <- x + omega (b_i - a_i x) a_i^H / |a_i|^2, row after row: projections; zero rows do nothing."""
    x = np.array(x)
    for i in _ordered(len(A), order, backward):
        norm2 = np.vdot(A[i], A[i]).real
        if norm2 > 0:
            x += np.multiply.outer(A[i].conj(), omega * (b[i] - A[i] @ x) / norm2)
    return x


def blocks(n: int, size: int) -> list[slice]:
    """Consecutive blocks of `size` rows; the last one may be smaller."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _ordered(count: int, order: Sequence[int] | None, backward: bool) -> list[int]:
    rows = list(range(count)) if order is None else list(order)
    return rows[::-1] if backward else rows


# ---- the same as matrix splittings: x+ = x + M^-1 (b - A x) ---------------------------------------------------------


def splitting(A: Array, method: str, omega: float = 1.0) -> Array:
    """The matrix M of one sweep: D/omega; D/omega + L; or (D/omega + L) (omega / (2 - omega) D^-1) (D/omega + U)."""
    D, L, U = np.diag(np.diag(A)), np.tril(A, -1), np.triu(A, 1)
    if method == "jacobi":
        return D / omega
    if method == "sor":
        return D / omega + L
    if method == "backward sor":
        return D / omega + U
    return (D / omega + L) @ (omega / (2 - omega) * np.linalg.inv(D)) @ (D / omega + U)


def permuted(A: Array, order: Sequence[int]) -> Array:
    """P A P^T: the rows and columns of A in this order."""
    return A[np.ix_(order, order)]


# ---- colours --------------------------------------------------------------------------------------------------------


def first_fit(A: Array, *, red_black: bool = False) -> list[int]:
    """Give each row in turn the smallest colour that no neighbour has; i, j are neighbours if a_ij or a_ji is not 0.

    red_black: two colours, the row of least index in each component being red; ValueError if two do not suffice.
    """
    linked = (A != 0) | (A.T != 0)
    np.fill_diagonal(linked, False)
    colour = [-1] * len(A)
    if red_black:
        for start in range(len(A)):
            reached = [start] if colour[start] < 0 else []
            if reached:
                colour[start] = 0
            for i in reached:
                for j in np.flatnonzero(linked[i]):
                    if colour[j] < 0:
                        colour[j] = 1 - colour[i]
                        reached.append(int(j))
                    elif colour[j] == colour[i]:
                        raise ValueError(f"rows {min(i, j)} and {max(i, j)} lie on a cycle of odd length")
        return colour
    for i in range(len(A)):
        taken = {colour[j] for j in np.flatnonzero(linked[i])}
        colour[i] = next(c for c in range(len(A) + 1) if c not in taken)
    return colour


def order_of(colour: Sequence[int]) -> list[int]:
    """Rows sorted by colour, within a colour by index."""
    return sorted(range(len(colour)), key=lambda i: (colour[i], i))


# ---- solving --------------------------------------------------------------------------------------------------------


def solve(
    A: Array, b: Array, sweep: Sweep, x0: Array | None = None, *, rtol: float = 1e-8, max_steps: int = 10_000
) -> tuple[Array, int]:
    """Sweep until |b - A x| <= rtol |b|; returns x and the number of sweeps."""
    x = np.zeros_like(b) if x0 is None else np.array(x0)
    for step in range(max_steps + 1):
        if np.linalg.norm(b - A @ x) <= rtol * np.linalg.norm(b):
            return x, step
        x = sweep(x)
    return x, max_steps


def chebyshev(A: Array, b: Array, x0: Array, low: float, high: float, steps: int) -> Array:
    """Chebyshev's semi-iteration on D^-1 A, whose eigenvalues lie in [low, high]: the residual's polynomial is

    p_k(t) = T_k((high + low - 2 t) / (high - low)) / T_k((high + low) / (high - low)).
    """
    d, x = np.diag(A), np.array(x0)
    centre, half = (high + low) / 2, (high - low) / 2
    step, rho = np.zeros_like(x), 0.0
    for k in range(steps):
        z = ((b - A @ x).T / d).T
        if k == 0:
            step, rho = z / centre, half / centre
        else:
            before, rho = rho, 1 / (2 * centre / half - rho)
            step = rho * before * step + 2 * rho / half * z
        x = x + step
    return x


def flexible_cg(
    A: Array, b: Array, x0: Array, precond: Callable[[Array], Array], steps: int, memory: int = 2
) -> list[Array]:
    """d = P(r / |r|) minus its parts along the last d_i, d_i^H A d / d_i^H A d_i; x <- x + d^H r / d^H A d d: all x."""
    x, earlier, every = np.array(x0), list[Array](), []
    for _ in range(steps):
        r = b - A @ x
        d = precond(r / np.linalg.norm(r))
        for old in earlier[max(0, len(earlier) - memory) :]:
            d = d - np.vdot(old, A @ d) / np.vdot(old, A @ old) * old
        x = x + np.vdot(d, r) / np.vdot(d, A @ d) * d
        earlier.append(d)
        every.append(x)
    return every


def optimal_omega(beta: float) -> float:
    """Young's 2 / (1 + sqrt(1 - beta^2)) for a consistently ordered A; beta is the spectral radius of I - D^-1 A."""
    return 2 / (1 + float(np.sqrt(1 - beta**2)))


def poisson(*shape: int) -> Array:
    """The 5-point (7-point, ...) Laplacian on a grid of interior points, h^2 times: 2 per axis on the diagonal."""
    A = np.zeros((1, 1))
    for n in shape:
        line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        A = np.kron(A, np.eye(n)) + np.kron(np.eye(len(A)), line)
    return A
