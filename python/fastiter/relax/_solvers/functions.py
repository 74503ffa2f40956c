"""The methods as functions that solve A x = b in one call."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from ..._backend import Backends, Cuda, choose
from ..._call.iterate import Callback, Limits
from ..._solution import judged
from .._cupy import parts_of
from .._docs import SOLVER
from .._sweeps.order import Order
from .relaxation import Relaxation
from .result import LinearSolution

Array = npt.NDArray[Any]


@SOLVER
def jacobi(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x <- x + omega D^-1 (b - A x): Jacobi's method, all rows at once.

    D is the diagonal of A. It converges if A is diagonally dominant, and for every positive definite A with a small
    enough omega.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(fixed_omega)s above 0, by default 1
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    chebyshev : Jacobi's method, accelerated.
    gauss_seidel : Uses the newest x in each row; about half as many steps.
    block_jacobi : The same for blocks of rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import jacobi
    >>> solution = jacobi(np.array([[4.0, -1.0], [-2.0, 8.0]]), np.array([2.0, 12.0]))
    >>> solution.value, solution.steps, solution.reason
    (array([0.933333, 1.733333]), 13, 'converged')
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("jacobi", solve("jacobi", A, b, x0, limits, omega=omega), throw)


@SOLVER
def block_jacobi(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    block_size: int | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x_I <- x_I + omega A_II^-1 (b - A x)_I for blocks I of consecutive rows, all at once.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(fixed_omega)s above 0, by default 1
    %(own_block_size)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    jacobi : The same for single rows.
    gauss_seidel : With a ``block_size``, block after block.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import block_jacobi
    >>> A = np.array([[4.0, -1.0, 0.0], [-2.0, 8.0, -1.0], [0.0, -1.0, 4.0]])
    >>> block_jacobi(A, np.array([2.0, 12.0, 1.0]), block_size=2).steps
    11
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("block_jacobi", solve("block_jacobi", A, b, x0, limits, omega=omega, block_size=block_size), throw)


@SOLVER
def gauss_seidel(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    order: Order = "natural",
    block_size: int | None = None,
    symmetric: bool = False,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x_i <- (b_i - sum over j != i of a_ij x_j) / a_ii, row after row, from the newest x: Gauss-Seidel.

    It converges if A is Hermitian and positive definite, or diagonally dominant.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(order)s
    %(block_size)s
    %(symmetric)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    sor : The same with an omega, which usually needs far fewer steps.
    kaczmarz : Converges for every A.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import gauss_seidel, jacobi
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> gauss_seidel(A, np.array([2.0, 12.0])).steps, jacobi(A, np.array([2.0, 12.0])).steps
    (7, 13)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged(
        "gauss_seidel",
        solve("gauss_seidel", A, b, x0, limits, order=order, block_size=block_size, symmetric=symmetric),
        throw,
    )


@SOLVER
def sor(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] = "auto",
    order: Order = "natural",
    block_size: int | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii: successive over-relaxation.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(omega)s
    %(order)s
    %(block_size)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    ssor : Symmetric sweeps, for accelerators and preconditioners.
    ssor_cg : Conjugate gradients; fewer steps if A is Hermitian and positive definite.
    Relaxation : A matrix prepared once for many solutions.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import sor
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> [sor(A, np.ones(50), omega=omega).steps for omega in (1.0, 1.5, 1.884, "auto")]
    [4828, 1600, 189, 201]
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("sor", solve("sor", A, b, x0, limits, omega=omega, order=order, block_size=block_size), throw)


@SOLVER
def ssor(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] | None = None,
    order: Order = "natural",
    block_size: int | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """:func:`sor` with one sweep forward and one backward per step: symmetric successive over-relaxation.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    omega : float or "auto", optional
        The relaxation factor, in (0, 2). By default "auto", as for :func:`sor`, and 1 with a ``block_size``.
    %(order)s
    %(block_size)s
    %(limits)s one sweep forward and one backward

    %(result)s

    See Also
    --------
    sor : Forward sweeps alone; fewer steps with the best omega.
    Chebyshev : Accelerates symmetric sweeps.
    ssor_cg : Conjugate gradients with this preconditioner.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import ssor
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> [ssor(A, np.ones(50), omega=omega).steps for omega in (1.0, 1.5, "auto")]
    [2425, 832, 313]
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("ssor", solve("ssor", A, b, x0, limits, omega=omega, order=order, block_size=block_size), throw)


@SOLVER
def kaczmarz(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    order: Literal["natural"] | Array | list[int] = "natural",
    symmetric: bool = False,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x <- x + omega (b_i - a_i x) a_i^H / ||a_i||^2, row after row: Kaczmarz's projections.

    A may have any shape and zeros on its diagonal. From x0 = 0 it converges to the minimum norm solution of any
    consistent system.

    Parameters
    ----------
    A : (m, n) sparse matrix, NumPy array, Batch or Stencil
        As for :func:`sor`, of any shape.
    b : (m,), (m, k), (batch, m) or (*grid)
        The right-hand side, or several, in the dtype of A, or float64 where A is float32.
    x0 : (n,), (n, k), (batch, n) or (*grid), optional
        The initial guess; zeros by default. It is not changed.
    %(fixed_omega)s in (0, 2), by default 1
    order : "natural" or (m,) array of int
        A permutation of the rows.
    %(symmetric)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    gauss_seidel : Cheaper sweeps, for an A with a dominant diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import kaczmarz
    >>> kaczmarz(np.array([[3.0, 4.0]]), np.array([25.0])).value
    array([3., 4.])
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("kaczmarz", solve("kaczmarz", A, b, x0, limits, omega=omega, order=order, symmetric=symmetric), throw)


def solve(method: str, A: Any, b: Array, x0: Array | None, limits: Limits, **options: Any) -> LinearSolution[Array]:
    """Solve A x = b on the device of its arrays."""
    run = choose(method, _BACKENDS, None, A, b, x0)
    if run is not _on_cpu:
        A = parts_of(A)
    return run(method, A, b, x0, limits, **options)


_on_cpu = Relaxation._solved
_BACKENDS: Backends[LinearSolution[Array]] = {"cpu": _on_cpu, "cuda": Cuda("fastiter.relax._torch.cupy", "solve")}
