"""The functions of pyamg.relaxation.relaxation with the same arguments: changing one import suffices.

``from fastiter.relax import compat as relaxation``. Each updates x in place, `iterations` times. As in PyAMG, rows
with a zero on the diagonal are skipped, singular diagonal blocks have a pseudo-inverse, and a complex A may have a
complex omega. The differences: blocks may have any size up to 64, whether or not it divides n; x and b may be
(n, k); omega has an effect where PyAMG 5.4 drops it, in a symmetric SOR and in any on a BSR matrix. complex64 is
computed in complex128 and rounded. Data computed from A is cached between calls while A has the same values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import type_name
from . import _vectors
from ._compat_cache import Seen, check_shapes, check_sweep, in_place, whole_numbers
from ._compat_rows import check_close, in_range, relaxation_of, squares_of, with_rows_left_out
from ._compat_schwarz import Lists, in_blocks, is_inverse, points, relax_lists, schwarz, schwarz_parameters

Array = npt.NDArray[Any]
Factor = float | complex

__all__ = [
    "block_gauss_seidel",
    "block_jacobi",
    "cf_block_jacobi",
    "cf_jacobi",
    "fc_block_jacobi",
    "fc_jacobi",
    "gauss_seidel",
    "gauss_seidel_indexed",
    "gauss_seidel_ne",
    "gauss_seidel_nr",
    "jacobi",
    "jacobi_indexed",
    "jacobi_ne",
    "polynomial",
    "schwarz",
    "schwarz_parameters",
    "sor",
]


def jacobi(A: Any, x: Array, b: Array, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x <- x + omega D^-1 (b - A x), in place."""
    _sweep(Seen("jacobi", A), x, b, iterations, "forward", method="jacobi", omega=omega)


def gauss_seidel(A: Any, x: Array, b: Array, iterations: int = 1, sweep: str = "forward", omega: Factor = 1.0) -> None:
    """Gauss-Seidel in place; sweep: "forward", "backward" or "symmetric". With an omega it is :func:`sor`."""
    _sweep(Seen("gauss_seidel", A), x, b, iterations, sweep, method="sor", omega=omega)


def sor(A: Any, x: Array, b: Array, omega: Factor, iterations: int = 1, sweep: str = "forward") -> None:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, row after row, in place."""
    _sweep(Seen("sor", A), x, b, iterations, sweep, method="sor", omega=omega)


def block_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Dinv: Array | None = None,
    blocksize: int = 1,
    iterations: int = 1,
    omega: Factor = 1.0,
) -> None:
    """x_I <- (1 - omega) x_I + omega A_II^-1 (b_I - sum over J != I of A_IJ x_J), in place.

    Dinv (blocks, blocksize, blocksize): used instead of A_II^-1.
    """
    seen, size = _with_block_size("block_jacobi", A, blocksize)
    Dinv = _wanted_inverse(seen, size, Dinv)
    if Dinv is not None:
        return _in_turn(seen, x, b, iterations, omega, (_all_blocks(seen, size, Dinv), 1))
    _sweep(seen, x, b, iterations, "forward", method="block_jacobi", omega=omega, block_size=size)


def block_gauss_seidel(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    blocksize: int = 1,
    Dinv: Array | None = None,
) -> None:
    """x_I <- A_II^-1 (b_I - sum over J != I of A_IJ x_J), block after block, in place. Dinv replaces A_II^-1."""
    seen, size = _with_block_size("block_gauss_seidel", A, blocksize)
    Dinv = _wanted_inverse(seen, size, Dinv)
    if Dinv is not None:
        return _one_by_one(seen, x, b, _all_blocks(seen, size, Dinv), iterations, sweep)
    _sweep(seen, x, b, iterations, sweep, method="block_gauss_seidel", block_size=size)


def gauss_seidel_ne(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    omega: Factor = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Kaczmarz, which is Gauss-Seidel on A A^H y = b, x = A^H y; in place. Dinv: 1 / |a_i|^2 of each row, checked."""
    seen = Seen("gauss_seidel_ne", A)
    if Dinv is not None:
        check_close(seen, Dinv, squares_of(A, 1))
    _sweep(seen, x, b, iterations, sweep, method="kaczmarz", omega=omega)


def gauss_seidel_nr(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: str = "forward",
    omega: Factor = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Gauss-Seidel on the normal equations A^H A x = A^H b, in place. Dinv: 1 / |a_j|^2 of each column, checked."""
    seen = Seen("gauss_seidel_nr", A)
    if Dinv is not None:
        check_close(seen, Dinv, squares_of(A, 0))
    halves, count = check_sweep(seen.function, sweep), _count(seen, "iterations", iterations)
    seen.csr()  # checks A before products with it
    how = {"omega": _real_factor(seen, omega), "symmetric": sweep == "symmetric"}
    dtype = np.complex128 if A.dtype.kind == "c" else np.float64
    wide, scale = seen.get(("scaled", 0), lambda: in_range(A.astype(dtype), 0))  # x is in units of the scale
    adjoint = wide.conj().T
    found = seen.get(("normal", *how.items()), lambda: relaxation_of(seen, "sor", how, adjoint @ wide))
    assert found is not None  # there are no blocks
    relaxation, left_out = found

    def relax(x: Array, b: Array) -> None:
        check_shapes(seen.function, A.shape[0], x, b)
        units = scale.reshape(-1, *(1,) * (x.ndim - 1))
        own = x.astype(dtype) / units
        with_rows_left_out(relaxation, left_out, own, adjoint @ b.astype(dtype), count, backward=halves[0])
        x[...] = own * units

    in_place(seen.function, x, b, relax)


def jacobi_ne(A: Any, x: Array, b: Array, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x <- x + omega A^H D^-1 (b - A x) in place, D = diag(A A^H): Kaczmarz's projections, all at once."""
    seen = Seen("jacobi_ne", A)
    count, factor = _count(seen, "iterations", iterations), _factor(seen, omega)
    seen.csr()  # checks A before products with it
    rows, scale = seen.get(("scaled", 1), lambda: in_range(A, 1))
    squares, adjoint = squares_of(rows, 1), rows.conj().T
    inverse = np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 0).astype(squares.dtype)

    def relax(x: Array, b: Array) -> None:
        check_shapes(seen.function, A.shape[0], x, b)
        of_each, own = (v.reshape(-1, *(1,) * (x.ndim - 1)) for v in (inverse, scale))
        for _ in range(count):
            x += factor * (adjoint @ (of_each * (own * b - rows @ x)))

    in_place(seen.function, x, b, relax)


def polynomial(A: Any, x: Array, b: Array, coefficients: Any, iterations: int = 1) -> None:
    """x <- x + p(A) (b - A x) in place, p(A) = c[0] A^(m - 1) + ... + c[m - 1] by Horner's rule."""
    seen = Seen("polynomial", A)
    count = _count(seen, "iterations", iterations)
    seen.csr()  # checks A before products with it
    listed = np.asarray(coefficients)
    if listed.ndim != 1 or listed.dtype.kind not in "iufc":
        raise TypeError(f"polynomial: coefficients must be a list of numbers, got {type_name(coefficients)}")
    if listed.size == 0:
        raise ValueError("polynomial: coefficients must not be empty, got none")

    def relax(x: Array, b: Array) -> None:
        check_shapes(seen.function, A.shape[0], x, b)
        for _ in range(count):
            residual = b - A @ x
            step = coefficients[0] * residual
            for c in coefficients[1:]:
                step = c * residual + A @ step
            x += step

    in_place(seen.function, x, b, relax)


def gauss_seidel_indexed(A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, sweep: str = "forward") -> None:
    """Gauss-Seidel on the listed rows, in this order, in place; a row may be listed several times."""
    seen = Seen("gauss_seidel_indexed", A)
    rows = whole_numbers(seen.function, "indices", indices, A.shape[0])
    _one_by_one(seen, x, b, points(seen, rows), iterations, sweep)


def jacobi_indexed(A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x_i <- x_i + omega (b - A x)_i / a_ii for the listed rows, all from the same x, in place.

    For a BSR matrix, block rows are listed.
    """
    seen = Seen("jacobi_indexed", A)
    _in_turn(seen, x, b, iterations, omega, (_listed(seen, "indices", indices), 1))


def cf_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Cpts: Any,
    Fpts: Any,
    iterations: int = 1,
    f_iterations: int = 1,
    c_iterations: int = 1,
    omega: Factor = 1.0,
) -> None:
    """:func:`jacobi_indexed` on the C points, `c_iterations` times, then on the F points, `f_iterations` times.

    x_C <- x_C + omega D_CC^-1 (b - A x)_C, then x_F <- x_F + omega D_FF^-1 (b - A x)_F.
    """
    seen = Seen("cf_jacobi", A)
    c, f = _listed(seen, "Cpts", Cpts), _listed(seen, "Fpts", Fpts)
    counts = _count(seen, "c_iterations", c_iterations), _count(seen, "f_iterations", f_iterations)
    _in_turn(seen, x, b, iterations, omega, (c, counts[0]), (f, counts[1]))


def fc_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Cpts: Any,
    Fpts: Any,
    iterations: int = 1,
    f_iterations: int = 1,
    c_iterations: int = 1,
    omega: Factor = 1.0,
) -> None:
    """:func:`cf_jacobi` with the F points first."""
    seen = Seen("fc_jacobi", A)
    c, f = _listed(seen, "Cpts", Cpts), _listed(seen, "Fpts", Fpts)
    counts = _count(seen, "c_iterations", c_iterations), _count(seen, "f_iterations", f_iterations)
    _in_turn(seen, x, b, iterations, omega, (f, counts[1]), (c, counts[0]))


def cf_block_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Cpts: Any,
    Fpts: Any,
    Dinv: Array | None = None,
    blocksize: int = 1,
    iterations: int = 1,
    f_iterations: int = 1,
    c_iterations: int = 1,
    omega: Factor = 1.0,
) -> None:
    """:func:`block_jacobi` on the blocks I in `Cpts`, then on those in `Fpts`, in place.

    As in :func:`cf_jacobi`, with Dinv instead of A_II^-1.
    """
    seen, size = _with_block_size("cf_block_jacobi", A, blocksize)
    c, f = (_listed_blocks(seen, name, x, size, Dinv) for name, x in (("Cpts", Cpts), ("Fpts", Fpts)))
    counts = _count(seen, "c_iterations", c_iterations), _count(seen, "f_iterations", f_iterations)
    _in_turn(seen, x, b, iterations, omega, (c, counts[0]), (f, counts[1]))


def fc_block_jacobi(
    A: Any,
    x: Array,
    b: Array,
    Cpts: Any,
    Fpts: Any,
    Dinv: Array | None = None,
    blocksize: int = 1,
    iterations: int = 1,
    f_iterations: int = 1,
    c_iterations: int = 1,
    omega: Factor = 1.0,
) -> None:
    """:func:`cf_block_jacobi` with the F points first."""
    seen, size = _with_block_size("fc_block_jacobi", A, blocksize)
    c, f = (_listed_blocks(seen, name, x, size, Dinv) for name, x in (("Cpts", Cpts), ("Fpts", Fpts)))
    counts = _count(seen, "c_iterations", c_iterations), _count(seen, "f_iterations", f_iterations)
    _in_turn(seen, x, b, iterations, omega, (f, counts[1]), (c, counts[0]))


def _sweep(seen: Seen, x: Array, b: Array, iterations: int, sweep: str, *, method: str, **how: Any) -> None:
    halves, count = check_sweep(seen.function, sweep), _count(seen, "iterations", iterations)
    factor = _factor(seen, how.get("omega", 1.0))
    if isinstance(factor, complex):
        return _complex_sweep(seen, x, b, count, sweep, factor, method=method, **how)
    how |= {"symmetric": sweep == "symmetric", **({"omega": factor} if "omega" in how else {})}
    found = seen.get((method, *how.items()), lambda: relaxation_of(seen, method, how))
    if found is None:
        blocks = _all_blocks(seen, how["block_size"], None)
        if method == "block_jacobi":
            return _in_turn(seen, x, b, count, factor, (blocks, 1))
        return _one_by_one(seen, x, b, blocks, count, sweep)
    relaxation, left_out = found

    def relax(x: Array, b: Array) -> None:
        check_shapes(seen.function, seen.A.shape[0], x, b)
        with_rows_left_out(relaxation, left_out, x, b, count, backward=halves[0])

    in_place(seen.function, x, b, relax)


def _complex_sweep(
    seen: Seen, x: Array, b: Array, count: int, sweep: str, factor: complex, *, method: str, **how: Any
) -> None:
    """The same with a complex omega: for Jacobi x + omega (swept - x), for SOR lists of rows, with omega / a_ii."""
    if method == "kaczmarz":
        _real_factor(seen, factor)
    if method == "sor":
        rows = points(seen, np.arange(seen.A.shape[0]))
        scaled = replace(rows, inverse=rows.inverse * factor)
        return _one_by_one(seen, x, b, scaled, count, sweep)

    def relax(x: Array, b: Array) -> None:
        for _ in range(count):
            swept = x.copy()
            _sweep(seen, swept, b, 1, sweep, method=method, **{**how, "omega": 1.0})
            x += factor * (swept - x)

    return in_place(seen.function, x, b, relax)


def _wanted_inverse(seen: Seen, size: int, Dinv: Array | None) -> Array | None:
    """Return ``Dinv`` unless it is the inverses of the diagonal blocks."""
    return None if Dinv is None or is_inverse(seen, size, Dinv) else Dinv


def _one_by_one(seen: Seen, x: Array, b: Array, lists: Lists, iterations: int, sweep: str) -> None:
    halves = check_sweep(seen.function, sweep) * _count(seen, "iterations", iterations)

    def relax(x: Array, b: Array) -> None:
        for backward in halves:
            relax_lists(seen.function, lists, x, b, backward=backward)

    in_place(seen.function, x, b, relax)


def _in_turn(seen: Seen, x: Array, b: Array, iterations: int, omega: Factor, *parts: tuple[Lists, int]) -> None:
    """Jacobi on one set of lists, as often as given, then on the next; all of this ``iterations`` times."""
    count, factor = _count(seen, "iterations", iterations), _factor(seen, omega)

    def relax(x: Array, b: Array) -> None:
        for lists in [lists for lists, times in parts for _ in range(times)] * count:
            if isinstance(factor, complex):
                swept = x.copy()
                relax_lists(seen.function, lists, swept, b, jacobi=True)
                x += factor * (swept - x)
            else:
                relax_lists(seen.function, lists, x, b, factor, jacobi=True)

    in_place(seen.function, x, b, relax)


def _count(seen: Seen, name: str, x: int) -> int:
    return _vectors.count(seen.function, name, x)


def _factor(seen: Seen, omega: Factor) -> Factor:
    """Return omega, checked: a positive number, or for a complex A any finite complex one."""
    if not isinstance(omega, (complex, np.complexfloating)) or omega.imag == 0:
        real: Any = omega.real if isinstance(omega, (complex, np.complexfloating)) else omega
        return _vectors.positive(seen.function, "omega", real, zero=False)
    if seen.A.dtype.kind != "c":
        raise TypeError(f"{seen.function}: omega must be a real number where A is real, got {type_name(omega)}")
    if not np.isfinite(omega):
        raise ValueError(f"{seen.function}: omega must be finite, got {omega}")
    return complex(omega)


def _real_factor(seen: Seen, omega: Factor) -> float:
    factor = _factor(seen, omega)
    if isinstance(factor, complex):
        raise TypeError(f"{seen.function}: omega must be a real number, got {type_name(omega)}")
    return factor


def _listed(seen: Seen, name: str, rows: Any) -> Lists:
    """The listed C or F points: rows, or for a BSR matrix block rows."""
    size = _block_size_of(seen)
    found = whole_numbers(seen.function, name, rows, seen.A.shape[0] // size)
    return points(seen, (found[:, None] * size + np.arange(size)).ravel())


def _block_size_of(seen: Seen) -> int:
    if getattr(seen.A, "format", "") != "bsr":
        return 1
    rows, columns = seen.A.blocksize
    if rows != columns:
        raise ValueError(f"{seen.function}: A must have square blocks, got blocks of shape {(rows, columns)}")
    return int(rows)


def _with_block_size(function: str, A: Any, size: int) -> tuple[Seen, int]:
    seen, found = Seen(function, A), _vectors.count(function, "blocksize", size, 1)
    if found > 64:
        raise ValueError(f"{function}: blocksize must be at most 64, got {found}")
    return seen, found


def _listed_blocks(seen: Seen, name: str, blocks: Any, size: int, Dinv: Array | None) -> Lists:
    return in_blocks(seen, size, whole_numbers(seen.function, name, blocks, -(-seen.A.shape[0] // size)), Dinv)


def _all_blocks(seen: Seen, size: int, Dinv: Array | None) -> Lists:
    return in_blocks(seen, size, np.arange(-(-seen.A.shape[0] // size)), Dinv)
