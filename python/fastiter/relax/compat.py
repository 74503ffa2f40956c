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
    method = how["method"]
    relaxation = Relaxation.of(function, A, method, **{name: x for name, x in how.items() if name != "method"})
    _KEPT.append((key, weakref.ref(A, _forget), values, relaxation))
    del _KEPT[:-_MOST]
    return relaxation


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
