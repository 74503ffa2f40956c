"""Sweeps on tensors, differentiable in x, b, the values of A and omega."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..._torch.autograd import differentiable_once
from ..._torch.ops import CPU_AND_CUDA, check_tensors, refuse_transforms
from .._sweeps import vectors
from .arguments import DTYPES, Matrix, check_options, check_shapes, checked_parts
from .ops import Sweeps, SweepsBackward, relax_sweeps, relax_sweeps_bwd


def sweeps(
    A: Matrix,
    b: Tensor,
    x: Tensor,
    *,
    omega: Tensor | float = 1.0,
    sweeps: int = 1,
    method: Literal["jacobi", "gauss_seidel", "sor", "ssor"] = "sor",
    order: Literal["natural", "red-black", "color", "cluster"] = "natural",
) -> Tensor:
    """Return x after some sweeps, differentiable in x, b, A and omega by adjoint sweeps in reverse.

    All iterates are saved. On a GPU there is no synchronization, so zeros on the diagonal and an omega on the GPU are
    not checked; b and x are never checked for infinities and NaN.

    Parameters
    ----------
    A : (n, n)
        A sparse tensor or ``(crow, col, values)``, as for :func:`sor`.
    b, x : (n,) or (n, k)
        The right-hand side, and the vectors before the first sweep.
    omega : float or Tensor of one number
        The relaxation factor; 1 for "gauss_seidel".
    sweeps : int
        The number of sweeps.
    method, order : str
        As for :func:`sor`.

    Returns
    -------
    Tensor
        x after the sweeps, in the shape of x. Differentiating twice raises an error.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    sor : Sweeps until the residual is small.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.relax import sweeps
    >>> crow, col = torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1])
    >>> A = crow, col, torch.tensor([4.0, -1, -2, 8])
    >>> omega = torch.tensor(1.0, requires_grad=True)
    >>> x = sweeps(A, torch.tensor([2.0, 12.0]), torch.zeros(2), omega=omega, sweeps=2)
    >>> x.sum().backward()
    >>> x.detach(), omega.grad
    (tensor([0.9062, 1.7266]), tensor(1.1562))
    """
    function = "sweeps"
    refuse_transforms(function)
    check_options(function, method, order)
    crow, col, values = checked_parts(function, A)
    check_tensors(function, ("b", "x", "A"), (b, x, values), DTYPES, CPU_AND_CUDA)
    check_shapes(function, crow, b, x, "x")
    count = vectors.count(function, "sweeps", sweeps)
    _check_factor(function, method, omega)
    if not isinstance(omega, Tensor):
        omega = torch.tensor(vectors.positive(function, "omega", omega, zero=False), dtype=torch.float64, device="cpu")
    if omega.numel() != 1 or omega.is_complex() or not omega.is_floating_point():
        raise ValueError(f"{function}: omega must be a number or a real tensor of one, got {tuple(omega.shape)}")
    return _Sweeps.apply(values, crow, col, x, b, omega, count, method, order)  # type: ignore[no-any-return]


class _Sweeps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        crow: Tensor,
        col: Tensor,
        x: Tensor,
        b: Tensor,
        omega: Tensor,
        k: int,
        method: str,
        order: str,
    ) -> Tensor:
        iterates = relax_sweeps(Sweeps(values, crow, col, x, b, omega, k, method, order))
        ctx.save_for_backward(values, crow, col, omega, iterates)
        ctx.options = (method, order)
        return iterates[-1].clone()

    @staticmethod
    @differentiable_once("sweeps")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, crow, col, omega, iterates = ctx.saved_tensors
        dx, db, dvalues, domega = relax_sweeps_bwd(SweepsBackward(values, crow, col, omega, iterates, g, *ctx.options))
        own_domega = domega.to(omega.device) if ctx.needs_input_grad[5] else None  # synchronizes only if needed
        return dvalues, None, None, dx, db, own_domega, None, None, None


def _check_factor(function: str, method: str, omega: Tensor | float | str) -> None:
    """Refuse an omega other than 1 for gauss_seidel; on a GPU, or while tracing, it is not checked."""
    if method != "gauss_seidel" or torch.compiler.is_compiling() or (isinstance(omega, Tensor) and not omega.is_cpu):
        return
    number = omega.item() if isinstance(omega, Tensor) and omega.numel() == 1 else omega
    if isinstance(number, (int, float)) and number != 1:
        raise ValueError(f"{function}: omega must be 1 for gauss_seidel (see sor), got {number}")
