"""The methods as functions that solve A x = b."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .._backend import Backends, Cuda, choose, is_cuda
from .._solution import Solution
from ._cupy import parts_of
from ._relaxation import Relaxation

Array = npt.NDArray[Any]


def jacobi(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """x <- x + omega D^-1 (b - A x): :class:`Relaxation` with the method "jacobi", and its solve.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import jacobi
    >>> solution = jacobi(np.array([[4.0, -1.0], [-2.0, 8.0]]), np.array([2.0, 12.0]))
    >>> solution.value, solution.steps, solution.reason
    (array([0.933333, 1.733333]), 13, 'converged')
    """
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("jacobi", A, b, x0, limits, omega=omega)


def block_jacobi(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    block_size: int | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """x_I <- x_I + omega A_II^-1 (b - A x)_I for blocks I of consecutive rows, by default those of a BSR matrix."""
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("block_jacobi", A, b, x0, limits, omega=omega, block_size=block_size)


def gauss_seidel(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    order: Any = "natural",
    block_size: int | None = None,
    symmetric: bool = False,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """x_i <- (b_i - sum over j != i of a_ij x_j) / a_ii, row after row: :func:`sor` with omega = 1."""
    how = {"order": order, "block_size": block_size, "symmetric": symmetric}
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("gauss_seidel", A, b, x0, limits, **how)


def sor(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    order: Any = "natural",
    block_size: int | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """x_i <- (1 - omega) x_i + omega (b_i - sum over j != i of a_ij x_j) / a_ii: :class:`Relaxation`'s solve.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import sor
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> [sor(A, np.ones(50), omega=omega).steps for omega in (1.0, 1.5, 1.884, "auto")]
    [4828, 1600, 189, 201]
    """
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("sor", A, b, x0, limits, omega=omega, order=order, block_size=block_size)


def ssor(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    order: Any = "natural",
    block_size: int | None = None,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """:func:`sor` with one sweep forward and one backward per step."""
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("ssor", A, b, x0, limits, omega=omega, order=order, block_size=block_size)


def kaczmarz(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | str = 1.0,
    order: Any = "natural",
    symmetric: bool = False,
    rtol: float = 1e-8,
    atol: float = 0.0,
    max_steps: int = 10_000,
    check_every: int = 1,
) -> Solution:
    """x <- x + omega (b_i - a_i x) a_i^H / ||a_i||^2, row after row; A may have any shape and zeros on its diagonal.

    From x0 = 0 it converges to the minimum norm solution of any consistent system.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import kaczmarz
    >>> kaczmarz(np.array([[3.0, 4.0]]), np.array([25.0])).value
    array([3., 4.])
    """
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "check_every": check_every}
    return _solve("kaczmarz", A, b, x0, limits, omega=omega, order=order, symmetric=symmetric)


def _solve(method: str, A: Any, b: Array, x0: Array | None, limits: dict[str, Any], **how: Any) -> Solution:
    """Solve A x = b where its arrays are."""
    run = choose(method, _BACKENDS, None, A, b, x0)
    if is_cuda(run):
        A = parts_of(A)
    return run(method, A, b, x0, limits, **how)


def _cpu(method: str, A: Any, b: Array, x0: Array | None, limits: dict[str, Any], **how: Any) -> Solution:
    return Relaxation.of(method, A, method, **how).solve(b, x0, **limits)


_BACKENDS: Backends[Solution] = {"cpu": _cpu, "cuda": Cuda("fastiter.relax._torch.cupy", "solve")}
