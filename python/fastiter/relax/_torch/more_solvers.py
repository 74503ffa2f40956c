"""Kaczmarz's method, Jacobi's in blocks, Chebyshev's and preconditioned conjugate gradients on tensors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..._call.iterate import Callback, Limits
from .._docs import SOLVER
from .._solvers.result import LinearSolution
from .._sweeps.order import Order
from .arguments import Matrix
from .implicit import block_size_of, solve


@SOLVER
def kaczmarz(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    order: Order = "natural",
    symmetric: bool = False,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x <- x + omega (b_i - a_i x) a_i^H / ||a_i||^2, row after row: Kaczmarz's projections on tensors.

    A may have zeros on its diagonal, and as a sparse tensor any shape. For a square A, x is differentiable in the
    values of A and in b to any order: for the gradient g of x, A^H l = g is solved by the same method, which raises an
    error if it does not converge; db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    A : (m, n)
        A sparse tensor of any layout, or for a square A its parts ``(crow, col, values)``, as for :func:`sor`. Under
        torch.compile the call is a graph break.
    b : (m,) or (m, k)
        The right-hand side, or several, in the dtype of A and on its device.
    x0 : Tensor (n,) or (n, k), optional
        The initial guess; zeros by default. It has no gradient.
    %(fixed_omega)s in (0, 2), by default 1
    order : "natural", "color" or (m,) array of int
        On the CPU "natural" or a permutation of the rows. On a GPU "color": equations of one colour have no unknowns in
        common.
    %(symmetric)s
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    gauss_seidel : Cheaper sweeps, for an A with a dominant diagonal.
    fastiter.relax.kaczmarz : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import kaczmarz
    >>> A = torch.tensor([[3.0, 4.0]], dtype=torch.float64).to_sparse_coo()
    >>> kaczmarz(A, torch.tensor([25.0], dtype=torch.float64)).value
    tensor([3., 4.], dtype=torch.float64)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return solve("kaczmarz", A, b, x0, limits, rectangular=True, omega=omega, order=order, symmetric=symmetric)


@SOLVER
def block_jacobi(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    block_size: int | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x_I <- x_I + omega A_II^-1 (b - A x)_I for blocks I of consecutive rows, all at once, on tensors.

    x is differentiable in the values of A and in b to any order: for the gradient g of x, A^H l = g is solved by the
    same method, which raises an error if it does not converge; db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor of any layout or its parts ``(crow, col, values)``, as for :func:`sor`. Under torch.compile the
        call is a graph break.
    b : (n,) or (n, k)
        The right-hand side, or several, in the dtype of A and on its device.
    x0 : Tensor like b, optional
        The initial guess; zeros by default. It has no gradient.
    %(fixed_omega)s above 0, by default 1
    block_size : int, optional
        The number of consecutive rows in a block, at most 64; by default that of a BSR or BSC tensor.
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    jacobi : The same for single rows.
    fastiter.relax.block_jacobi : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import block_jacobi
    >>> A = torch.tensor([[4.0, -1.0, 0.0], [-2.0, 8.0, -1.0], [0.0, -1.0, 4.0]], dtype=torch.float64)
    >>> block_jacobi(A.to_sparse_coo(), torch.tensor([2.0, 12.0, 1.0], dtype=torch.float64), block_size=2).steps
    11
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    size = block_size_of("block_jacobi", A, block_size)
    return solve("block_jacobi", A, b, x0, limits, omega=omega, block_size=size)


@SOLVER
def chebyshev(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """x <- x + d, d <- momentum d + omega D^-1 (b - A x): Jacobi accelerated by Chebyshev polynomials, on tensors.

    x is differentiable in the values of A and in b to any order: for the gradient g of x, A^H l = g is solved by the
    same method, which raises an error if it does not converge; db = l, dA = -l x^H on the pattern.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor of any layout or its parts ``(crow, col, values)``, as for :func:`sor`. Under torch.compile the
        call is a graph break.
    b : (n,) or (n, k)
        The right-hand side, or several, in the dtype of A and on its device.
    x0 : Tensor like b, optional
        The initial guess; zeros by default. It has no gradient.
    bounds : (float, float), optional
        The smallest and the largest eigenvalue of D^-1 A, which must be positive. By default they are estimated, on the
        CPU for a Hermitian positive definite A.
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    Chebyshev : The acceleration of other symmetric sweeps.
    ssor_cg : Needs no bounds of the spectrum.
    fastiter.relax.chebyshev : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import chebyshev, jacobi
    >>> diagonals = 2 * torch.eye(50) - torch.eye(50).roll(1, 0).tril() - torch.eye(50).roll(-1, 0).triu()
    >>> A, b = diagonals.double().to_sparse_coo(), torch.ones(50, dtype=torch.float64)
    >>> jacobi(A, b).steps, chebyshev(A, b).steps
    (9653, 311)
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return solve("chebyshev", A, b, x0, limits, bounds=bounds)


@SOLVER
def ssor_cg(
    A: Matrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    order: Order = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 5,
) -> LinearSolution[Tensor]:
    """Conjugate gradients preconditioned by SSOR, at the cost of one product with A per step, on tensors on the CPU.

    A must be Hermitian and positive definite. x is differentiable in the values of A and in b to any order: for the
    gradient g of x, A l = g is solved by the same method, which raises an error if it does not converge; db = l,
    dA = -l x^H on the pattern, as for independent values.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor of any layout or its parts ``(crow, col, values)``, as for :func:`sor`. Under torch.compile the
        call is a graph break.
    b : (n,) or (n, k)
        The right-hand side, or several, in the dtype of A.
    x0 : Tensor like b, optional
        The initial guess; zeros by default. It has no gradient.
    %(fixed_omega)s in (0, 2), by default 1
    %(order)s
    %(limits)s one of CG

    %(result)s

    See Also
    --------
    flexible_cg : Any preconditioner, also on a GPU.
    fastiter.relax.ssor_cg : The same on arrays.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import ssor_cg
    >>> diagonals = 2 * torch.eye(50) - torch.eye(50).roll(1, 0).tril() - torch.eye(50).roll(-1, 0).triu()
    >>> ssor_cg(diagonals.double().to_sparse_coo(), torch.ones(50, dtype=torch.float64), omega=1.5).steps
    15
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return solve("ssor_cg", A, b, x0, limits, omega=omega, order=order)
