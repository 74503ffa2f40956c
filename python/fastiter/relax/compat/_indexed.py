"""Sweeps over blocks, and over lists of rows or blocks, such as C and F points."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .._docs import SWEEPS
from .._sweeps import vectors
from ._cache import CachedMatrix, whole_numbers
from ._schwarz import Lists, points
from ._sweeps import (
    Factor,
    Sweep,
    all_blocks,
    in_turn,
    listed,
    listed_blocks,
    one_by_one,
    sweep_over,
    wanted_inverse,
    with_block_size,
)

Array = npt.NDArray[Any]


@SWEEPS
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

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(Dinv)s
    %(blocksize)s
    %(iterations)s
    %(omega)s

    %(raises)s

    See Also
    --------
    fastiter.relax.block_jacobi : Solves until the residual is small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import block_jacobi
    >>> A = np.array([[4.0, -1, 0, 0], [-1, 4, -1, 0], [0, -1, 4, -1], [0, 0, -1, 4]])
    >>> x = np.zeros(4)
    >>> block_jacobi(A, x, np.array([3.0, 2.0, 2.0, 3.0]), blocksize=2, iterations=6)
    >>> x  # the solution is 1
    array([0.9999101 , 0.99964041, 0.99964041, 0.9999101 ])
    """
    cached, size = with_block_size("block_jacobi", A, blocksize)
    Dinv = wanted_inverse(cached, size, Dinv)
    if Dinv is not None:
        in_turn(cached, x, b, iterations, omega, (all_blocks(cached, size, Dinv), 1))
    else:
        sweep_over(cached, x, b, iterations, "forward", method="block_jacobi", omega=omega, block_size=size)


@SWEEPS
def block_gauss_seidel(
    A: Any,
    x: Array,
    b: Array,
    iterations: int = 1,
    sweep: Sweep = "forward",
    blocksize: int = 1,
    Dinv: Array | None = None,
) -> None:
    """x_I <- A_II^-1 (b_I - sum over J != I of A_IJ x_J), block after block, in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(iterations)s
    %(sweep)s
    %(blocksize)s
    %(Dinv)s

    %(raises)s

    See Also
    --------
    fastiter.relax.gauss_seidel : Solves until the residual is small, with a block_size.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import block_gauss_seidel
    >>> A = np.array([[4.0, -1, 0, 0], [-1, 4, -1, 0], [0, -1, 4, -1], [0, 0, -1, 4]])
    >>> x = np.zeros(4)
    >>> block_gauss_seidel(A, x, np.array([3.0, 2.0, 2.0, 3.0]), blocksize=2, iterations=3)
    >>> x  # the solution is 1
    array([0.99966288, 0.99865152, 0.99964041, 0.9999101 ])
    """
    cached, size = with_block_size("block_gauss_seidel", A, blocksize)
    Dinv = wanted_inverse(cached, size, Dinv)
    if Dinv is not None:
        one_by_one(cached, x, b, all_blocks(cached, size, Dinv), iterations, sweep)
    else:
        sweep_over(cached, x, b, iterations, sweep, method="block_gauss_seidel", block_size=size)


@SWEEPS
def gauss_seidel_indexed(
    A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, sweep: Sweep = "forward"
) -> None:
    """Gauss-Seidel on the listed rows, in this order, in place; a row may be listed several times.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(indices)s
    %(iterations)s
    %(sweep)s

    %(raises)s

    See Also
    --------
    gauss_seidel : All rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import gauss_seidel_indexed
    >>> A = np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 4.0]])
    >>> x = np.zeros(3)
    >>> gauss_seidel_indexed(A, x, np.array([3.0, 2.0, 3.0]), indices=[0, 2])
    >>> x  # the second row is unchanged
    array([0.75, 0.  , 0.75])
    """
    cached = CachedMatrix("gauss_seidel_indexed", A)
    rows = whole_numbers(cached.function, "indices", indices, A.shape[0])
    one_by_one(cached, x, b, points(cached, rows), iterations, sweep)


@SWEEPS
def jacobi_indexed(A: Any, x: Array, b: Array, indices: Any, iterations: int = 1, omega: Factor = 1.0) -> None:
    """x_i <- x_i + omega (b - A x)_i / a_ii for the listed rows, all from the same x, in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(indices)s
    %(iterations)s
    %(omega)s

    %(raises)s

    See Also
    --------
    jacobi : All rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import jacobi_indexed
    >>> A = np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 4.0]])
    >>> x = np.zeros(3)
    >>> jacobi_indexed(A, x, np.array([3.0, 2.0, 3.0]), indices=[1])
    >>> x  # only the second row has changed
    array([0. , 0.5, 0. ])
    """
    cached = CachedMatrix("jacobi_indexed", A)
    in_turn(cached, x, b, iterations, omega, (listed(cached, "indices", indices), 1))


def _c_and_f(
    cached: CachedMatrix, c: Any, f: Any, iterations: tuple[int, int], blocks: tuple[int, Array | None] | None = None
) -> list[tuple[Lists, int]]:
    """Return the C points and the F points, or blocks of a size with their inverses, and their numbers of sweeps."""
    sets = []
    for name, points_of_set in (("Cpts", c), ("Fpts", f)):
        rows = (
            listed(cached, name, points_of_set)
            if blocks is None
            else listed_blocks(cached, name, points_of_set, *blocks)
        )
        sets.append(rows)
    names = ("c_iterations", "f_iterations")
    counts = [vectors.count(cached.function, name, x) for name, x in zip(names, iterations, strict=True)]
    return list(zip(sets, counts, strict=True))


@SWEEPS
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

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(points)s rows, or for a BSR matrix block rows
    %(iterations)s
    %(counts)s
    %(omega)s

    %(raises)s

    See Also
    --------
    fc_jacobi : The F points first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import cf_jacobi
    >>> A = np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 4.0]])
    >>> x = np.zeros(3)
    >>> cf_jacobi(A, x, np.array([3.0, 2.0, 3.0]), Cpts=[1], Fpts=[0, 2], iterations=4)
    >>> x  # the solution is 1
    array([0.99975586, 0.99902344, 0.99975586])
    """
    cached = CachedMatrix("cf_jacobi", A)
    c, f = _c_and_f(cached, Cpts, Fpts, (c_iterations, f_iterations))
    in_turn(cached, x, b, iterations, omega, c, f)


@SWEEPS
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
    """:func:`cf_jacobi` with the F points first.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(points)s rows, or for a BSR matrix block rows
    %(iterations)s
    %(counts)s
    %(omega)s

    %(raises)s

    See Also
    --------
    cf_jacobi : The C points first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import fc_jacobi
    >>> A = np.array([[4.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 4.0]])
    >>> x = np.zeros(3)
    >>> fc_jacobi(A, x, np.array([3.0, 2.0, 3.0]), Cpts=[1], Fpts=[0, 2], iterations=4)
    >>> x  # the solution is 1
    array([0.99951172, 0.99975586, 0.99951172])
    """
    cached = CachedMatrix("fc_jacobi", A)
    c, f = _c_and_f(cached, Cpts, Fpts, (c_iterations, f_iterations))
    in_turn(cached, x, b, iterations, omega, f, c)


@SWEEPS
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
    """:func:`block_jacobi` on the blocks in `Cpts`, then on those in `Fpts`, in place.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(points)s numbers of blocks
    %(Dinv)s
    %(blocksize)s
    %(iterations)s
    %(counts)s
    %(omega)s

    %(raises)s

    See Also
    --------
    fc_block_jacobi : The F points first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import cf_block_jacobi
    >>> A = np.array([[4.0, -1, 0, 0], [-1, 4, -1, 0], [0, -1, 4, -1], [0, 0, -1, 4]])
    >>> x = np.zeros(4)
    >>> cf_block_jacobi(A, x, np.array([3.0, 2.0, 2.0, 3.0]), Cpts=[0], Fpts=[1], blocksize=2, iterations=3)
    >>> x  # the solution is 1
    array([0.99966288, 0.99865152, 0.99964041, 0.9999101 ])
    """
    cached, size = with_block_size("cf_block_jacobi", A, blocksize)
    c, f = _c_and_f(cached, Cpts, Fpts, (c_iterations, f_iterations), (size, Dinv))
    in_turn(cached, x, b, iterations, omega, c, f)


@SWEEPS
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
    """:func:`cf_block_jacobi` with the F points first.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(points)s numbers of blocks
    %(Dinv)s
    %(blocksize)s
    %(iterations)s
    %(counts)s
    %(omega)s

    %(raises)s

    See Also
    --------
    cf_block_jacobi : The C points first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax.compat import fc_block_jacobi
    >>> A = np.array([[4.0, -1, 0, 0], [-1, 4, -1, 0], [0, -1, 4, -1], [0, 0, -1, 4]])
    >>> x = np.zeros(4)
    >>> fc_block_jacobi(A, x, np.array([3.0, 2.0, 2.0, 3.0]), Cpts=[0], Fpts=[1], blocksize=2, iterations=3)
    >>> x  # the solution is 1
    array([0.9999101 , 0.99964041, 0.99865152, 0.99966288])
    """
    cached, size = with_block_size("fc_block_jacobi", A, blocksize)
    c, f = _c_and_f(cached, Cpts, Fpts, (c_iterations, f_iterations), (size, Dinv))
    in_turn(cached, x, b, iterations, omega, f, c)
