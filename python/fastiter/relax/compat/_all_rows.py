"""Sweeps over all rows, and over normal equations: the functions of PyAMG without blocks or lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import type_name
from .._docs import SWEEPS
from .._sweeps import vectors
from ._cache import CachedMatrix, check_shapes, check_sweep, in_place
from ._rows import check_close, in_range, relaxation_of, squares_of, with_rows_left_out
from ._sweeps import (
    Factor,
    Sweep,
    factor_of,
    real_factor_of,
    sweep_over,
)

Array = npt.NDArray[Any]


@SWEEPS
def jacobi(A: Any, x: Array, b: Array, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x <- x + omega D^-1 (b - A x), in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(iterations)s
    %(omega)s

    %(raises)s

    See Also
    --------
    fastiter.relax.jacobi : Solves until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import jacobi
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> jacobi(A, x, np.array([2.0, 12.0]), iterations=10)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93333244, 1.73333168])
    """
    sweep_over(CachedMatrix("jacobi", A), x, b, iterations, "forward", method="jacobi", omega=omega)


@SWEEPS
def gauss_seidel(
    A: Any, x: Array, b: Array, iterations: int = 1, sweep: Sweep = "forward", omega: Factor = 1.0
) -> None:
    """x_i <- (b_i - sum over j != i of a_ij x_j) / a_ii, row after row, in place; with an omega it is :func:`sor`.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(iterations)s
    %(sweep)s
    %(omega)s

    %(raises)s

    See Also
    --------
    fastiter.relax.gauss_seidel : Solves until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import gauss_seidel
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> gauss_seidel(A, x, np.array([2.0, 12.0]), iterations=5)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93332672, 1.73333168])
    """
    sweep_over(CachedMatrix("gauss_seidel", A), x, b, iterations, sweep, method="sor", omega=omega)


@SWEEPS
def sor(A: Any, x: Array, b: Array, omega: Factor, iterations: int = 1, sweep: Sweep = "forward") -> None:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii, row after row, in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(omega)s
    %(iterations)s
    %(sweep)s

    %(raises)s

    See Also
    --------
    fastiter.relax.sor : Solves until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import sor
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> sor(A, x, np.array([2.0, 12.0]), omega=1.05, iterations=5)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93333365, 1.73333388])
    """
    sweep_over(CachedMatrix("sor", A), x, b, iterations, sweep, method="sor", omega=omega)


@SWEEPS
def gauss_seidel_ne(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: Sweep = "forward",
    omega: Factor = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Kaczmarz's method, which is Gauss-Seidel on A A^H y = b with x = A^H y, in place.

    Parameters
    ----------
    %(rectangular)s
    %(vectors)s
    %(iterations)s
    %(sweep)s
    %(omega)s
    Dinv : (n,), optional
        1 / ||a_i||^2 of each row; it is checked but not used.

    %(raises)s

    See Also
    --------
    fastiter.relax.kaczmarz : Solves until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import gauss_seidel_ne
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> gauss_seidel_ne(A, x, np.array([2.0, 12.0]), iterations=10)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93333222, 1.73333305])
    """
    cached = CachedMatrix("gauss_seidel_ne", A)
    cached.csr()  # checks A before products with it
    if Dinv is not None:
        check_close(cached, Dinv, squares_of(A, 1))
    sweep_over(cached, x, b, iterations, sweep, method="kaczmarz", omega=omega)


def _check_holds(function: str, x: Array, **dtypes: np.dtype[Any]) -> None:
    """Refuse complex arguments where x, which is updated in place, is real."""
    for name, dtype in dtypes.items():
        if dtype.kind == "c" and x.dtype.kind != "c":
            raise TypeError(f"{function}: {name} must be real if x is real, got dtype {dtype}")


@SWEEPS
def gauss_seidel_nr(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: Sweep = "forward",
    omega: Factor = 1.0,
    Dinv: Array | None = None,
) -> None:
    """Gauss-Seidel on the normal equations A^H A x = A^H b, in place.

    Parameters
    ----------
    %(rectangular)s
    %(vectors)s
    %(iterations)s
    %(sweep)s
    %(omega)s
    Dinv : (m,), optional
        1 / ||a_j||^2 of each column; it is checked but not used.

    %(raises)s

    See Also
    --------
    gauss_seidel_ne : On the other normal equations.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import gauss_seidel_nr
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> gauss_seidel_nr(A, x, np.array([2.0, 12.0]), iterations=20)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93333333, 1.73333333])
    """
    cached = CachedMatrix("gauss_seidel_nr", A)
    halves, count = check_sweep(cached.function, sweep), vectors.count(cached.function, "iterations", iterations)
    cached.csr()  # checks A before products with it
    if Dinv is not None:
        check_close(cached, Dinv, squares_of(A, 0))
    options = {"omega": real_factor_of(cached, omega), "symmetric": sweep == "symmetric"}
    is_complex = "c" in (A.dtype.kind, getattr(getattr(x, "dtype", None), "kind", ""))
    dtype = np.complex128 if is_complex else np.float64
    wide, scale = cached.get(("scaled", 0, dtype), lambda: in_range(A.astype(dtype), 0))  # x is in units of the scale
    adjoint = wide.conj().T
    result = cached.get(
        ("normal", dtype, *options.items()), lambda: relaxation_of(cached, "sor", options, adjoint @ wide)
    )
    assert result is not None  # there are no blocks
    relaxation, left_out = result

    def relax(x: Array, b: Array) -> None:
        check_shapes(cached.function, A.shape[0], x, b)
        _check_holds(cached.function, x, A=A.dtype)
        units = scale.reshape(-1, *(1,) * (x.ndim - 1))
        own = x.astype(dtype) / units
        with_rows_left_out(relaxation, left_out, own, adjoint @ b.astype(dtype), count, backward=halves[0])
        x[...] = own * units

    in_place(cached.function, x, b, relax)


@SWEEPS
def jacobi_ne(A: Any, x: Array, b: Array, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x <- x + omega A^H D^-1 (b - A x), D = diag(A A^H), in place: Kaczmarz's projections, all at once.

    Parameters
    ----------
    %(rectangular)s
    %(vectors)s
    %(iterations)s
    %(omega)s

    %(raises)s

    See Also
    --------
    gauss_seidel_ne : Row after row.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import jacobi_ne
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> x = np.zeros(2)
    >>> jacobi_ne(A, x, np.array([2.0, 12.0]), iterations=20, omega=0.6)
    >>> x  # the solution is 0.9333, 1.7333
    array([0.93269489, 1.73269489])
    """
    cached = CachedMatrix("jacobi_ne", A)
    count, factor = vectors.count(cached.function, "iterations", iterations), factor_of(cached, omega)
    cached.csr()  # checks A before products with it
    rows, scale = cached.get(("scaled", 1), lambda: in_range(A, 1))
    squares, adjoint = squares_of(rows, 1), rows.conj().T
    inverse = np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 0).astype(squares.dtype)

    def relax(x: Array, b: Array) -> None:
        check_shapes(cached.function, A.shape[0], x, b)
        _check_holds(cached.function, x, A=A.dtype)
        of_each, own = (v.reshape(-1, *(1,) * (x.ndim - 1)) for v in (inverse, scale))
        for _ in range(count):
            x += factor * (adjoint @ (of_each * (own * b - rows @ x)))

    in_place(cached.function, x, b, relax)


@SWEEPS
def polynomial(A: Any, x: Array, b: Array, coefficients: Any, iterations: int = 1) -> None:
    """x <- x + p(A) (b - A x), p(A) = c[0] A^(m - 1) + ... + c[m - 1] by Horner's rule, in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    coefficients : (m,)
        c, the highest power first.
    %(iterations)s

    %(raises)s

    See Also
    --------
    fastiter.relax.chebyshev : Chebyshev's polynomials, until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import polynomial
    >>> A, x = 2 * np.eye(2), np.zeros(2)
    >>> polynomial(A, x, np.array([2.0, 4.0]), [-0.25, 1.0])  # p(A) = 1 - A / 4
    >>> x
    array([1., 2.])
    """
    cached = CachedMatrix("polynomial", A)
    count = vectors.count(cached.function, "iterations", iterations)
    cached.csr()  # checks A before products with it
    try:
        listed = np.asarray(coefficients)
    except ValueError:  # a ragged sequence
        listed = np.asarray(None)
    if listed.ndim != 1 or listed.dtype.kind not in "iufc":
        raise TypeError(f"polynomial: coefficients must be a list of numbers, got {type_name(coefficients)}")
    if listed.size == 0:
        raise ValueError("polynomial: coefficients must not be empty, got none")

    def relax(x: Array, b: Array) -> None:
        check_shapes(cached.function, A.shape[0], x, b)
        _check_holds(cached.function, x, A=A.dtype, coefficients=listed.dtype)
        for _ in range(count):
            residual = b - A @ x
            step = coefficients[0] * residual
            for c in coefficients[1:]:
                step = c * residual + A @ step
            x += step

    in_place(cached.function, x, b, relax)
