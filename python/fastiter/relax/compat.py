"""The functions of pyamg.relaxation.relaxation, argument for argument: a change of one import.

``from fastiter.relax import compat as relaxation``. Each updates x in place, `iterations` times. Three things differ:
blocks may have any size up to 64, whether or not it divides n; Dinv is only checked, as the inverses are computed with
the other preparations; and a symmetric SOR has its omega in both directions, where PyAMG 5.4 uses 1. Preparations are
kept from call to call, as long as the same A has the same values.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from .._rnn import kind
from ._relaxation import Relaxation

Array = npt.NDArray[Any]

#: The last preparations: what was asked for, A itself, and what its values were
_KEPT: list[tuple[Any, Any, Any, Relaxation]] = []
_MOST = 16


def jacobi(A: Any, x: Array, b: Array, iterations: int = 1, omega: float = 1.0) -> None:
    """x <- x + omega D^-1 (b - A x), in place."""
    _sweep("jacobi", A, x, b, iterations, "forward", method="jacobi", omega=omega)


def gauss_seidel(A: Any, x: Array, b: Array, iterations: int = 1, sweep: str = "forward", omega: float = 1.0) -> None:
    """Gauss-Seidel in place; sweep: "forward", "backward" or "symmetric". With an omega it is :func:`sor`."""
    _sweep("gauss_seidel", A, x, b, iterations, sweep, method="sor", omega=omega)


def sor(A: Any, x: Array, b: Array, omega: float, iterations: int = 1, sweep: str = "forward") -> None:
    """SOR in place."""
    _sweep("sor", A, x, b, iterations, sweep, method="sor", omega=omega)


def block_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Dinv: Array | None = None,
    blocksize: int = 1,
    iterations: int = 1,
    omega: float = 1.0,
) -> None:
    """x_I <- x_I + omega A_II^-1 (b - A x)_I in place."""
    _check_inverses("block_jacobi", A, Dinv, blocksize)
    how = {"method": "block_jacobi", "omega": omega, "block_size": blocksize}
    _sweep("block_jacobi", A, x, b, iterations, "forward", **how)


def block_gauss_seidel(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    blocksize: int = 1,
    Dinv: Array | None = None,
) -> None:
    """Gauss-Seidel block by block, in place."""
    _check_inverses("block_gauss_seidel", A, Dinv, blocksize)
    _sweep("block_gauss_seidel", A, x, b, iterations, sweep, method="block_gauss_seidel", block_size=blocksize)


def gauss_seidel_ne(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    omega: float = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Kaczmarz, which is Gauss-Seidel on A A^H y = b, x = A^H y; in place. Dinv: 1 / |a_i|^2 of each row."""
    if Dinv is not None:
        squares = np.asarray(abs(A).power(2).sum(axis=1)).ravel()
        _check_close("gauss_seidel_ne", np.asarray(Dinv).ravel() * squares, np.ones(A.shape[0]))
    _sweep("gauss_seidel_ne", A, x, b, iterations, sweep, method="kaczmarz", omega=omega)


def gauss_seidel_nr(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    omega: float = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Gauss-Seidel on the normal equations A^H A x = A^H b, in place. Dinv: 1 / |a_j|^2 of each column."""
    if Dinv is not None:
        squares = np.asarray(abs(A).power(2).sum(axis=0)).ravel()
        _check_close("gauss_seidel_nr", np.asarray(Dinv).ravel() * squares, np.ones(A.shape[1]))
    adjoint = A.conj().T
    _sweep("gauss_seidel_nr", A, x, adjoint @ b, iterations, sweep, method="sor", omega=omega, of="normal")


def jacobi_ne(A: Any, x: Array, b: Array, iterations: int = 1, omega: float = 1.0) -> None:
    """x <- x + omega A^H D^-1 (b - A x) in place, D = diag(A A^H): the projections of Kaczmarz, all at once."""
    squares, adjoint = np.asarray(abs(A).power(2).sum(axis=1)).ravel(), A.conj().T
    inverse = np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 0).reshape(-1, *(1,) * (x.ndim - 1))
    for _ in range(iterations):
        x += omega * (adjoint @ (inverse * (b.reshape(len(b), *x.shape[1:]) - A @ x)))


def gauss_seidel_indexed(A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, sweep: str = "forward") -> None:
    """Gauss-Seidel on the rows that are listed, in this order, in place; a row may come several times."""
    rows = np.asarray(indices, np.int64).ravel()
    halves = {"forward": [rows], "backward": [rows[::-1]], "symmetric": [rows, rows[::-1]]}.get(sweep, [])
    if not halves:
        raise ValueError(f"gauss_seidel_indexed: sweep must be 'forward', 'backward' or 'symmetric', got {sweep!r}")
    parts = [part for half in halves for part in _without_repetition(half)]
    b = b.reshape(b.shape[0], *x.shape[1:])
    for _ in range(iterations):
        for part in parts:
            block = _prepared("gauss_seidel_indexed", A, {"method": "gauss_seidel", "of": part.tobytes()})
            own = np.ascontiguousarray(x[part])
            # The other rows' part of A x is taken to the right: b - A x has it, together with that of these rows.
            within = block.residual(own, np.zeros_like(own))
            block.sweep(own, (b - A @ x)[part] - within)
            x[part] = own


def _without_repetition(rows: Array) -> list[Array]:
    """Cut a list where a row comes again."""
    parts: list[list[int]] = [[]]
    for row in rows.tolist():
        if row in parts[-1]:
            parts.append([])
        parts[-1].append(row)
    return [np.array(part, np.int64) for part in parts if part]


def polynomial(A: Any, x: Array, b: Array, coefficients: Any, iterations: int = 1) -> None:
    """x <- x + p(A) (b - A x) in place, p(A) = c[0] A^(m - 1) + ... + c[m - 1] by Horner's rule."""
    if len(coefficients) == 0:
        raise ValueError("polynomial: coefficients must not be empty, got none")
    for _ in range(iterations):
        residual = b - A @ x
        step = coefficients[0] * residual
        for c in coefficients[1:]:
            step = c * residual + A @ step
        x += step


def _sweep(function: str, A: Any, x: Any, b: Any, iterations: int, sweep: str, **how: Any) -> None:
    if sweep not in ("forward", "backward", "symmetric"):
        raise ValueError(f"{function}: sweep must be 'forward', 'backward' or 'symmetric', got {sweep!r}")
    if not isinstance(x, np.ndarray) or not isinstance(b, np.ndarray):
        raise TypeError(f"{function}: x and b must be NumPy arrays, got {kind(x)} and {kind(b)}")
    b = b.reshape(b.shape[0], *x.shape[1:]) if b.size == b.shape[0] else b
    how["symmetric"] = sweep == "symmetric"
    relaxation = _prepared(function, A, how)
    relaxation.sweep(x, b, iterations, backward=sweep == "backward")


def _prepared(function: str, A: Any, how: dict[str, Any]) -> Relaxation:
    """Return the preparation that is kept for this A with these values, or make one."""
    key, values = tuple(how.items()), _fingerprint(A)
    for k, (asked, kept, had, relaxation) in enumerate(_KEPT):
        if asked == key and kept() is A:
            if had == values:
                _KEPT.append(_KEPT.pop(k))
                return relaxation
            del _KEPT[k]
            break
    options = {name: x for name, x in how.items() if name not in ("method", "of")}
    relaxation = Relaxation.of(function, _part(A, how.get("of")), how["method"], **options)
    _KEPT.append((key, weakref.ref(A, _forget), values, relaxation))
    del _KEPT[:-_MOST]
    return relaxation


def _part(A: Any, of: str | bytes | None) -> Any:
    """Return A, its normal equations' matrix, or the rows and columns in ``of``."""
    if of is None:
        return A
    if isinstance(of, bytes):
        rows = np.frombuffer(of, np.int64)
        return A.tocsr()[rows][:, rows]
    return (A.conj().T @ A).tocsr()


def _forget(dead: Any) -> None:
    _KEPT[:] = [entry for entry in _KEPT if entry[1] is not dead]


def _fingerprint(A: Any) -> Any:
    """Return sums over the memory of A that any ordinary change of its entries alters."""
    arrays = [A] if isinstance(A, np.ndarray) else [getattr(A, name, None) for name in ("data", "indices", "indptr")]
    found: list[Any] = []
    for x in arrays:
        if not isinstance(x, np.ndarray) or x.dtype == object:
            return object()  # no format that we know: never the same
        memory = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        whole = len(memory) // 512 * 512
        columns = memory[:whole].view(np.uint64).reshape(-1, 64).sum(axis=0, dtype=np.uint64)
        found += [x.shape, x.dtype, columns.tobytes(), memory[whole:].tobytes()]
    return found


def _check_inverses(function: str, A: Any, Dinv: Array | None, size: int) -> None:
    if Dinv is None:
        return
    count = -(-A.shape[0] // size)
    if np.shape(Dinv) != (count, size, size):
        raise ValueError(f"{function}: Dinv must have shape {(count, size, size)}, got {np.shape(Dinv)}")
    rows = A.tocsr()
    blocks = np.stack([rows[i : i + size, i : i + size].toarray() for i in range(0, A.shape[0], size)])
    _check_close(function, Dinv @ blocks, np.broadcast_to(np.eye(size), blocks.shape))


def _check_close(function: str, product: Array, expected: Array) -> None:
    if not np.allclose(product, expected, rtol=1e-5, atol=1e-5):
        raise ValueError(f"{function}: Dinv must be the inverse of the diagonal, got another")
