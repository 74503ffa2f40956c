"""Estimates about a map at a state: its Jacobian's norm and spectral radius, monotonicity, and the error of a state."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._check import count, fits_float, type_name
from ..._torch.ops import refuse_tangents, refuse_transforms
from .layout import Map, checked_state


def jacobian_penalty(
    f: Callable[..., Any], x: Any, *params: Any, samples: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """E ||J^T e||^2 / (B n), e ~ N(0, I): Hutchinson's estimate of the mean of ||df/dx||_F^2 / n, differentiable.

    Added to a loss, it keeps the map of an equilibrium layer contracting, so that the solver converges in few steps.

    Parameters
    ----------
    f : callable
        The map ``f(x, *params) -> x``, as in :func:`fastiter.torch.fixedpoint.fixed_point`.
    x : Tensor (B, ...), or a tuple, list or dict of these
        The state at which the Jacobian is taken, usually the solution. Real.
    *params : object
        More arguments of f: tensors, tuples, lists and dicts of tensors, and other values.
    samples : int
        The number of random vectors, one vector-Jacobian product each.
    generator : torch.Generator, optional
        The source of the random vectors, torch's own by default.

    Returns
    -------
    Tensor ()
        The estimate, differentiable in whatever f depends on: params, x and tensors that f closes over.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    spectral_radius : The rate of convergence itself, without a gradient.
    fastiter.torch.fixedpoint.fixed_point : The solver.

    References
    ----------
    S. Bai, V. Koltun, J. Z. Kolter, "Stabilizing equilibrium models by Jacobian regularization" (ICML 2021).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import fixedpoint
    >>> _ = torch.manual_seed(0)
    >>> x, W = torch.zeros(2, 3), 0.5 * torch.eye(3)
    >>> abs(fixedpoint.jacobian_penalty(lambda x: x @ W, x, samples=2000) - 0.25) < 0.02  # ||W||_F^2 / 3
    tensor(True)
    """
    name = "jacobian_penalty"
    flat, wrapped = _checked(name, f, x, params)
    number = count(name, "samples", samples, 1)
    with torch.enable_grad():
        at = flat.view_as(flat) if flat.requires_grad else flat.detach().requires_grad_()
        y = wrapped.plain(at)
    total = flat.new_zeros(())
    if not y.requires_grad or flat.numel() == 0:
        return total
    recorded = torch.is_grad_enabled()
    for _ in range(number):
        e = torch.empty_like(y).normal_(generator=generator)
        (product,) = torch.autograd.grad(y, at, e, create_graph=recorded, retain_graph=True, allow_unused=True)
        total = total if product is None else total + product.square().sum()
    return total / (number * flat.numel())


def spectral_radius(
    f: Callable[..., Any], x: Any, *params: Any, steps: int = 40, generator: torch.Generator | None = None
) -> Tensor:
    """max |eigenvalue of df/dx| of each sample, from the growth of ||(J^T)^k v||: the convergence rate of x <- f(x).

    If it is below 1, Picard's iteration converges near x, asymptotically by this factor per step. A pair of complex
    eigenvalues is estimated as accurately as a real one, because the growth is averaged over the second half of the
    steps.

    Parameters
    ----------
    f : callable
        The map ``f(x, *params) -> x``, as in :func:`fastiter.torch.fixedpoint.fixed_point`; rows must not depend on
        each other.
    x : Tensor (B, ...), or a tuple, list or dict of these
        The state at which the Jacobian is taken, usually the solution. Real.
    *params : object
        More arguments of f: tensors, tuples, lists and dicts of tensors, and other values.
    steps : int
        The number of products with J^T, at least 2.
    generator : torch.Generator, optional
        The source of the first vectors, torch's own by default.

    Returns
    -------
    Tensor (B,)
        The estimates, without a gradient. A nilpotent Jacobian has 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    error_bound : The error of a state where the map contracts.
    jacobian_penalty : A differentiable penalty that bounds it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import fixedpoint
    >>> _ = torch.manual_seed(0)
    >>> W = torch.tensor([[0.3, 0.4], [-0.4, 0.3]], dtype=torch.float64)  # eigenvalues 0.3 + 0.4i and 0.3 - 0.4i
    >>> fixedpoint.spectral_radius(lambda x: x @ W, torch.zeros(1, 2, dtype=torch.float64)).round(decimals=6)
    tensor([0.5000], dtype=torch.float64)
    """
    name = "spectral_radius"
    flat, wrapped = _checked(name, f, x, params)
    number = count(name, "steps", steps, 2)
    pulled = _Products(wrapped, flat)
    v = _unit(torch.empty_like(pulled.y).normal_(generator=generator))[0]
    growth, first = flat.new_zeros(len(flat)), number // 2
    for step in range(number):
        v, norm = _unit(pulled.transposed(v))
        growth = growth + norm.log() if step >= first else growth
    return (growth / (number - first)).exp()


def monotonicity(
    f: Callable[..., Any], x: Any, *params: Any, steps: int = 30, generator: torch.Generator | None = None
) -> Tensor:
    """min eigenvalue of I - (J + J^T) / 2 of each sample, J = df/dx, by Lanczos's method: how monotone I - f is at x.

    Operator splitting converges if it is positive everywhere (strong monotonicity), even if the spectral radius of J is
    above 1. The estimate is never below the eigenvalue, and is exact after n steps.

    Parameters
    ----------
    f : callable
        The map ``f(x, *params) -> x``, as in :func:`fastiter.torch.fixedpoint.fixed_point`; rows must not depend on
        each other, and f must be twice differentiable by torch, as products with J are derivatives of those with
        J^T.
    x : Tensor (B, ...), or a tuple, list or dict of these
        The state at which the Jacobian is taken, usually the solution. Real.
    *params : object
        More arguments of f: tensors, tuples, lists and dicts of tensors, and other values.
    steps : int
        The number of steps of Lanczos's method, at least 1: one product with J and one with J^T each.
    generator : torch.Generator, optional
        The source of the first vectors, torch's own by default.

    Returns
    -------
    Tensor (B,)
        The estimates, without a gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    spectral_radius : The rate of convergence of x <- f(x).
    fastiter.torch.nn.MonotoneDEQ : A layer that is strongly monotone by its parametrisation.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import fixedpoint
    >>> W = torch.diag(torch.tensor([-3.0, 0.1, 0.5], dtype=torch.float64))
    >>> fixedpoint.monotonicity(lambda x: x @ W, torch.zeros(1, 3, dtype=torch.float64)).round(decimals=6)
    tensor([0.5000], dtype=torch.float64)
    """
    name = "monotonicity"
    flat, wrapped = _checked(name, f, x, params)
    number = min(count(name, "steps", steps, 1), flat.shape[1])
    if flat.numel() == 0:
        return flat.new_ones(len(flat))
    products = _Products(wrapped, flat)
    v = _unit(torch.empty_like(flat).normal_(generator=generator))[0]
    basis, diagonal, beside = [v], [], []
    for _ in range(number):
        w = v - (products.transposed(v) + products.forward(v)) / 2
        diagonal.append((w * v).sum(1))
        for _ in range(2):  # twice, as a single pass leaves rounding errors that grow
            for q in basis:
                w = w - (w * q).sum(1, keepdim=True) * q
        v, norm = _unit(w)
        # A row ends when its norm is only rounding error: its further vectors are 0.
        alive = norm > 64 * torch.finfo(norm.dtype).eps * (1 + diagonal[-1].abs())
        v, norm = v * alive.unsqueeze(1), norm * alive
        basis.append(v)
        beside.append(norm)
    size = torch.stack(diagonal, 1)
    # Rows that have ended would add zeros to the eigenvalues; their first diagonal entry replaces these.
    ended = torch.stack([(q == 0).all(1) for q in basis[:number]], 1)
    size = torch.where(ended, size[:, :1], size)
    band = torch.diag_embed(torch.stack(beside[:-1], 1), 1) if number > 1 else torch.zeros_like(size).unsqueeze(2)
    return torch.linalg.eigvalsh(torch.diag_embed(size) + band + band.mT)[:, 0]


def error_bound(residual: Tensor, rho: float | Tensor) -> Tensor:
    """rho / (1 - rho) * residual >= ||f(x) - x*||, an a-posteriori bound for f with the Lipschitz constant rho < 1.

    The residual is ||f(x) - x||; x itself is within residual / (1 - rho) of the solution x*.

    Parameters
    ----------
    residual : Tensor
        Norms of f(x) - x, at least 0, such as ``solution.residual``.
    rho : float or Tensor
        A Lipschitz constant of f, at least 0, in the norm of the residual; a tensor that broadcasts with it gives one
        for each sample. :func:`spectral_radius` estimates it for a symmetric Jacobian near the solution; the bound is
        then an estimate.

    Returns
    -------
    Tensor
        The bounds, in the residual's dtype and the shape that it and rho broadcast to; infinite where rho is 1 or more.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is negative.

    See Also
    --------
    spectral_radius : An estimate of rho.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import fixedpoint
    >>> x = torch.tensor([2.0])  # f(x) = x / 2 has the solution 0
    >>> fixedpoint.error_bound((x / 2 - x).abs(), 0.5)
    tensor([1.])
    """
    name = "error_bound"
    if not isinstance(residual, Tensor):
        raise TypeError(f"{name}: residual must be a torch.Tensor, got {type_name(residual)}")
    if not residual.is_floating_point():
        raise TypeError(f"{name}: residual must have a floating-point dtype, got {residual.dtype}")
    if not isinstance(rho, Tensor) and (isinstance(rho, bool) or not isinstance(rho, (int, float))):
        raise TypeError(f"{name}: rho must be a number or a torch.Tensor, got {type_name(rho)}")
    if isinstance(rho, Tensor):
        if rho.is_complex() or rho.dtype == torch.bool:
            raise TypeError(f"{name}: rho must have a real dtype, got {rho.dtype}")
        sizes = itertools.zip_longest(reversed(rho.shape), reversed(residual.shape), fillvalue=1)
        if any(a != b and 1 not in (a, b) for a, b in sizes):
            got = f"{tuple(rho.shape)} and {tuple(residual.shape)}"
            raise ValueError(f"{name}: rho must broadcast with residual, got shapes {got}")
    if not isinstance(rho, Tensor) and not fits_float(rho):
        raise ValueError(f"{name}: rho must be at least 0, got a number that no float holds")
    ratio = rho if isinstance(rho, Tensor) else torch.tensor(rho, dtype=torch.float64)
    if bool(ratio.isnan().any()):
        raise ValueError(f"{name}: rho must be at least 0, got nan")
    for each, tensor in (("residual", residual), ("rho", ratio)):
        if bool((tensor < 0).any()):
            raise ValueError(f"{name}: {each} must be at least 0, got {float(tensor.min()):.3g}")
    factor = torch.where(ratio < 1, ratio / (1 - ratio), torch.inf)
    bound = residual * factor.to(residual.dtype)
    # With a residual of 0, x is the solution, whatever rho is.
    return torch.where(residual == 0, torch.zeros_like(bound), bound)


def _checked(name: str, f: Any, x: Any, params: tuple[Any, ...]) -> tuple[Tensor, Map]:
    refuse_transforms(name)
    if not callable(f):
        raise TypeError(f"{name}: f must be a function of (x, *params), got {type_name(f)}")
    flat, layout = checked_state(name, x)
    if flat.is_complex():
        raise TypeError(f"{name}: x must be real, got {flat.dtype}")
    refuse_tangents(name, (flat, *params))
    return flat, Map(name, f, layout, params)


class _Products:
    """Products of the Jacobian of a map at a state with vectors (B, n)."""

    def __init__(self, wrapped: Map, flat: Tensor) -> None:
        with torch.enable_grad():
            self._x = flat.detach().requires_grad_()
            self.y = wrapped.plain(self._x)
        self._pulled: tuple[Tensor, Tensor] | None = None

    def transposed(self, v: Tensor) -> Tensor:
        """Return J^T v."""
        if not self.y.requires_grad:
            return torch.zeros_like(v)
        (result,) = torch.autograd.grad(self.y, self._x, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if result is None else result.detach()

    def forward(self, v: Tensor) -> Tensor:
        """Return J v, the derivative of u -> J^T u in the direction v."""
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(v).requires_grad_()
                result = u * 0
                if self.y.requires_grad:
                    solution = torch.autograd.grad(self.y, self._x, u, create_graph=True, allow_unused=True)[0]
                    result = result if solution is None else solution
                self._pulled = (u, result)
        u, result = self._pulled
        (product,) = torch.autograd.grad(result, u, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if product is None else product.detach()


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows normalised to 1 (zero rows stay zero), and the norms."""
    norm = torch.linalg.vector_norm(v, dim=1)
    return v / torch.where(norm > 0, norm, 1).unsqueeze(1), norm
