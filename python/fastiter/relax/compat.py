"""The functions of pyamg.relaxation.relaxation with the same arguments: changing one import suffices.

``from fastiter.relax import compat as relaxation``. Each updates x in place, `iterations` times. As in PyAMG, rows
with a zero on the diagonal are skipped, singular diagonal blocks have a pseudo-inverse, and a complex A may have a
complex omega. The differences: blocks may have any size up to 64, whether or not it divides n; x and b may be
(n, k); omega has an effect where PyAMG 5.4 drops it, in a symmetric SOR and in any on a BSR matrix. complex64 is
computed in complex128 and rounded. Data computed from A is cached between calls while A has the same values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import type_name
from .._public import publish
from ._compat.cache import Seen, check_shapes, check_sweep, in_place, whole_numbers
from ._compat.rows import check_close, in_range, relaxation_of, squares_of, with_rows_left_out
from ._compat.schwarz import points, schwarz, schwarz_parameters
from ._compat.sweeps import (
    Factor,
    all_blocks,
    factor_of,
    in_turn,
    listed,
    listed_blocks,
    number_of,
    one_by_one,
    real_factor_of,
    sweep_over,
    wanted_inverse,
    with_block_size,
)

Array = npt.NDArray[Any]

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


def __dir__() -> list[str]:
    return __all__


def jacobi(A: Any, x: Array, b: Array, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x <- x + omega D^-1 (b - A x), in place."""
    sweep_over(Seen("jacobi", A), x, b, iterations, "forward", method="jacobi", omega=omega)


def gauss_seidel(A: Any, x: Array, b: Array, iterations: int = 1, sweep: str = "forward", omega: Factor = 1.0) -> None:
    """Gauss-Seidel in place; sweep: "forward", "backward" or "symmetric". With an omega it is :func:`sor`."""
    sweep_over(Seen("gauss_seidel", A), x, b, iterations, sweep, method="sor", omega=omega)


def sor(A: Any, x: Array, b: Array, omega: Factor, iterations: int = 1, sweep: str = "forward") -> None:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, row after row, in place."""
    sweep_over(Seen("sor", A), x, b, iterations, sweep, method="sor", omega=omega)


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
    seen, size = with_block_size("block_jacobi", A, blocksize)
    Dinv = wanted_inverse(seen, size, Dinv)
    if Dinv is not None:
        return in_turn(seen, x, b, iterations, omega, (all_blocks(seen, size, Dinv), 1))
    sweep_over(seen, x, b, iterations, "forward", method="block_jacobi", omega=omega, block_size=size)


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
    seen, size = with_block_size("block_gauss_seidel", A, blocksize)
    Dinv = wanted_inverse(seen, size, Dinv)
    if Dinv is not None:
        return one_by_one(seen, x, b, all_blocks(seen, size, Dinv), iterations, sweep)
    sweep_over(seen, x, b, iterations, sweep, method="block_gauss_seidel", block_size=size)


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
    sweep_over(seen, x, b, iterations, sweep, method="kaczmarz", omega=omega)


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
    halves, count = check_sweep(seen.function, sweep), number_of(seen, "iterations", iterations)
    seen.csr()  # checks A before products with it
    how = {"omega": real_factor_of(seen, omega), "symmetric": sweep == "symmetric"}
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
    count, factor = number_of(seen, "iterations", iterations), factor_of(seen, omega)
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
    count = number_of(seen, "iterations", iterations)
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
    one_by_one(seen, x, b, points(seen, rows), iterations, sweep)


def jacobi_indexed(A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x_i <- x_i + omega (b - A x)_i / a_ii for the listed rows, all from the same x, in place.

    For a BSR matrix, block rows are listed.
    """
    seen = Seen("jacobi_indexed", A)
    in_turn(seen, x, b, iterations, omega, (listed(seen, "indices", indices), 1))


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
    c, f = listed(seen, "Cpts", Cpts), listed(seen, "Fpts", Fpts)
    counts = number_of(seen, "c_iterations", c_iterations), number_of(seen, "f_iterations", f_iterations)
    in_turn(seen, x, b, iterations, omega, (c, counts[0]), (f, counts[1]))


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
    c, f = listed(seen, "Cpts", Cpts), listed(seen, "Fpts", Fpts)
    counts = number_of(seen, "c_iterations", c_iterations), number_of(seen, "f_iterations", f_iterations)
    in_turn(seen, x, b, iterations, omega, (f, counts[1]), (c, counts[0]))


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
    seen, size = with_block_size("cf_block_jacobi", A, blocksize)
    c, f = (listed_blocks(seen, name, x, size, Dinv) for name, x in (("Cpts", Cpts), ("Fpts", Fpts)))
    counts = number_of(seen, "c_iterations", c_iterations), number_of(seen, "f_iterations", f_iterations)
    in_turn(seen, x, b, iterations, omega, (c, counts[0]), (f, counts[1]))


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
    seen, size = with_block_size("fc_block_jacobi", A, blocksize)
    c, f = (listed_blocks(seen, name, x, size, Dinv) for name, x in (("Cpts", Cpts), ("Fpts", Fpts)))
    counts = number_of(seen, "c_iterations", c_iterations), number_of(seen, "f_iterations", f_iterations)
    in_turn(seen, x, b, iterations, omega, (f, counts[1]), (c, counts[0]))


publish(globals())
