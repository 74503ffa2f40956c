"""Distributed solvers of linear systems, with gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...._call.iterate import Callback, Limits
from ...._check import check_choice, type_name
from ...._solution import ConvergenceError, judged
from ...._torch.autograd import differentiable_once
from ...._torch.ops import check_tensors, refuse_transforms
from ..._docs import SOLVER
from ..._solvers.accelerate import Recurrence, checked_bounds
from ..._solvers.methods import check_omega
from ..._solvers.result import LinearSolution
from ..tensors import check_finite
from .coloured import Coloured
from .entries import DTYPES
from .iterate import Problem, solve_by
from .matrix import RowMatrix, columns
from .methods import Cg, Corrections, Method, bounds_of
from .more_methods import FlexibleCg, Sweeps
from .options import AdditiveSchwarz, ColouredSSOR
from .preconditioners import PRECONDITIONERS, preconditioner_of
from .transpose import is_symmetric, transposed

Array = npt.NDArray[Any]
#: Richardson's iteration with a preconditioner of the same name
STATIONARY = ("jacobi", "block_jacobi")
METHODS = ("cg", "flexible_cg", "chebyshev", "richardson", *STATIONARY, "sor")


class MethodOptions(NamedTuple):
    """The method of a solution: a name in METHODS but not in STATIONARY, a preconditioner, and their parameters."""

    method: str
    preconditioner: str | AdditiveSchwarz | ColouredSSOR | None
    omega: float
    bounds: tuple[float, float] | None
    name: str


class Call(NamedTuple):
    """A checked call."""

    A: RowMatrix
    x0: Tensor | None
    options: MethodOptions
    limits: Limits
    calls_back: bool


@SOLVER
def solve(
    A: RowMatrix,
    b: Tensor,
    x0: Tensor | None = None,
    *,
    method: Literal["cg", "flexible_cg", "chebyshev", "richardson", "jacobi", "block_jacobi", "sor"] = "cg",
    preconditioner: Literal["jacobi", "block_jacobi"] | AdditiveSchwarz | ColouredSSOR | None = None,
    omega: float = 1.0,
    bounds: tuple[float, float] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Tensor]:
    """Solve A x = b with rows divided among ranks; for the gradients, solve A^T l = g: db = l, dA = -l x^T.

    All ranks call it. The steps depend on the parts of A, not on their distribution among the ranks. Second derivatives
    are refused.

    Parameters
    ----------
    A : RowMatrix
        The matrix; symmetric and positive definite for "cg", "flexible_cg", and for "chebyshev" without bounds.
    b : (n_local,) or (n_local, k)
        This rank's rows of the right-hand side, or of several, in the dtype of A, on the CPU.
    x0 : Tensor like b, optional
        This rank's rows of the initial guess; zeros by default. It has no gradient.
    method : {"cg", "flexible_cg", "chebyshev", "richardson", "jacobi", "block_jacobi", "sor"}
        "cg": conjugate gradients, with one reduction per step. "flexible_cg": the same for preconditioners that are not
        symmetric, for which convergence is not guaranteed. "chebyshev": Chebyshev polynomials in M^-1 A, with
        reductions only at checks. "richardson": x <- x + omega M^-1 (b - A x) with the preconditioner's M. "jacobi",
        "block_jacobi": the same with the preconditioner of this name; for "block_jacobi", omega is the
        preconditioner's. "sor": successive over-relaxation by the colours of the parts, as in :class:`ColouredSSOR`.
    preconditioner : {"jacobi", "block_jacobi"}, AdditiveSchwarz or ColouredSSOR, optional
        "jacobi": the diagonal. "block_jacobi": the SSOR of each part's block, which is symmetric: one sweep forward and
        one backward. None: the identity.
    omega : float
        The relaxation factor of "block_jacobi" and "sor", in (0, 2), or of Richardson's iteration with another
        preconditioner.
    bounds : (float, float), optional
        The smallest and the largest eigenvalue of M^-1 A for "chebyshev". By default they are estimated by some steps
        of conjugate gradients, and the smallest is lowered if the residual falls more slowly than it implies.
    %(limits)s one product with A. All ranks stop if the callback of any rank returns True

    Returns
    -------
    LinearSolution
        This rank's rows of x, differentiable in b and in the values of A, as ``value``; residuals and other numbers are
        for all rows, and the same on every rank. The ``reason`` is also "stagnated" if A or the preconditioner has a
        direction d with d^T A d <= 0. Its history has the residuals of the recurrence where the method is "cg";
        ``residual`` is that of x.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, on every rank; also if the ranks' values of a shared argument differ.
    ConvergenceError
        If ``throw`` is True and it does not converge; also in the backward pass, as the gradient would be wrong.
    RuntimeError
        Its subclass CommunicationError, if a rank does not respond.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and it does not converge.

    See Also
    --------
    RowMatrix : The matrix.
    AdditiveSchwarz : A preconditioner with overlapping parts.
    ColouredSSOR : A preconditioner of sweeps over all parts.
    fastiter.relax.ssor_cg : For one process.

    References
    ----------
    Chronopoulos and Gear, s-Step Iterative Methods for Symmetric Linear Systems, J. Comput. Appl. Math. 25, 1989.

    Examples
    --------
    >>> from fastiter.torch import distributed
    >>> def solution(A, b):  # on each rank: its rows of b
    ...     found = distributed.solve(A, b, preconditioner="block_jacobi", omega=1.5)
    ...     found.raise_if_failed()
    ...     return found.value
    """
    function = "solve"
    refuse_transforms(function)
    if not isinstance(A, RowMatrix):
        raise TypeError(f"{function}: A must be a fastiter.torch.distributed.RowMatrix, got {type_name(A)}")
    ranks = A._ranks_for(function)
    options, limits, failure = None, Limits(rtol, atol, max_steps, callback, throw, check_every), None
    described: dict[str, str] = {}
    needs_grad = False
    try:
        limits = limits.checked(function)
        options = _checked_options(function, method, preconditioner, omega, bounds)
        _check_vectors(function, A, b, x0)
        needs_grad = torch.is_grad_enabled() and (b.requires_grad or A.values.requires_grad)
        described = _described(b, x0, options, limits)
    except (TypeError, ValueError, RuntimeError) as error:
        failure = error
    agreed = ranks.agree(described, int(callback is not None), needs_grad, failure)
    assert options is not None  # for the type checker: agree has raised
    _check_symmetric(function, A, options)
    call = Call(A, None if x0 is None else x0.detach(), options, limits, any(agreed.steps))
    if not agreed.needs_grad:
        return judged(function, _solved(call, b.detach()), throw)
    anchor = torch.empty(0, requires_grad=True)  # this rank may have nothing that requires a gradient
    record: list[LinearSolution[Tensor]] = []
    x = _Solve.apply(anchor, A.values, b, call, record)
    return judged(function, replace(record[0], value=x), throw)


def _checked_options(function: str, method: str, preconditioner: Any, omega: float, bounds: object) -> MethodOptions:
    check_choice(function, "method", method, METHODS)
    has_options = isinstance(preconditioner, AdditiveSchwarz | ColouredSSOR)
    if preconditioner is not None and not has_options:
        check_choice(function, "preconditioner", preconditioner, tuple(PRECONDITIONERS))
    own = method if method in STATIONARY else None if method == "sor" else preconditioner
    if method in (*STATIONARY, "sor") and preconditioner is not None:
        raise ValueError(f"{function}: preconditioner must be None for method {method!r}, got {preconditioner!r}")
    needs_symmetric = method == "cg" or (method == "chebyshev" and bounds is None)
    if has_options and needs_symmetric and not preconditioner.is_symmetric:
        what = "method 'cg' (method 'flexible_cg' takes others)" if method == "cg" else "bounds None"
        raise ValueError(f"{function}: preconditioner must be symmetric for {what}, got {preconditioner!r}")
    steps = "richardson" if method in STATIONARY else method
    _check_omega(function, steps, own, omega)
    if bounds is not None:
        if steps != "chebyshev":
            raise ValueError(f"{function}: bounds must be None for method {method!r}, got {bounds}")
        bounds = checked_bounds(function, bounds)
    return MethodOptions(steps, own, float(omega), bounds, method)


def _check_omega(function: str, method: str, preconditioner: Any, omega: float) -> None:
    """Check the relaxation factor, and refuse one that would have no effect."""
    check_omega(function, "ssor" if method == "sor" or preconditioner == "block_jacobi" else "jacobi", omega)
    if isinstance(omega, str):
        raise ValueError(f"{function}: omega must be a number, got {omega!r}")
    if omega != 1 and method not in ("richardson", "sor") and preconditioner != "block_jacobi":
        got = f"method {method!r} with preconditioner {preconditioner!r}"
        raise ValueError(f"{function}: omega must be 1 for {got}, which has no relaxation factor, got {omega}")


def _check_vectors(function: str, A: RowMatrix, b: Tensor, x0: Tensor | None) -> None:
    A._check_vector(function, "b", b)
    if b.dim() == 2 and b.shape[1] == 0:
        raise ValueError(f"{function}: b must have at least one column, got {tuple(b.shape)}")
    check_finite(function, "b", b.detach())
    if x0 is not None:
        check_tensors(function, ("b", "x0"), (b, x0), DTYPES)
        if x0.shape != b.shape:
            raise ValueError(f"{function}: x0 must have shape {tuple(b.shape)} like b, got {tuple(x0.shape)}")
        check_finite(function, "x0", x0.detach())


def _described(b: Tensor, x0: Tensor | None, options: MethodOptions, limits: Limits) -> dict[str, str]:
    """Return the values that must agree on all ranks, as text."""
    result = {"function": "solve", "the dtype of b": str(b.dtype)}
    result["the shape of b"] = f"(n_local, {b.shape[1]})" if b.dim() == 2 else "(n_local,)"
    result["x0"] = "None" if x0 is None else "a tensor"
    result["method"] = options.name
    result |= {name: repr(getattr(options, name)) for name in ("preconditioner", "omega", "bounds")}
    names = ("rtol", "atol", "max_steps", "check_every", "throw")
    result |= {name: repr(getattr(limits, name)) for name in names}
    return result | {"grad mode": str(torch.is_grad_enabled())}


def _check_symmetric(function: str, A: RowMatrix, options: MethodOptions) -> None:
    needs = options.method in ("cg", "flexible_cg") or (options.method == "chebyshev" and options.bounds is None)
    if needs and not is_symmetric(A):
        what = "where bounds is None" if options.method == "chebyshev" else f"for method {options.method!r}"
        raise ValueError(f"{function}: A must be symmetric {what}, got one with v^T A u unequal to u^T A v")


def _solved(call: Call, b: Tensor) -> LinearSolution[Tensor]:
    """Solve for this rank's rows of b."""
    A, options = call.A, call.options
    precond = preconditioner_of(A, options.preconditioner, options.omega)
    factor = 1.0 if options.preconditioner == "block_jacobi" else options.omega
    factors: float | Recurrence = factor
    if options.method == "chebyshev":
        adapts = options.bounds is None
        bounds = bounds_of("solve", A, precond) if options.bounds is None else options.bounds
        factors = Recurrence(*bounds, adapts=adapts)

    def make(own: Array) -> Method:
        if options.method == "sor":
            return Sweeps(A, own, Coloured(A, options.omega))
        if options.method == "flexible_cg":
            return FlexibleCg(A, precond, own)
        return Cg(A, precond, own) if options.method == "cg" else Corrections(A, precond, own, factors)

    x0 = None if call.x0 is None else columns(call.x0).numpy()
    problem = Problem(A, columns(b).numpy(), x0, options.name, b.shape, call.calls_back)
    return solve_by(problem, make, call.limits)


class _Solve(torch.autograd.Function):
    """This rank's rows of x; all ranks call the backward pass, too."""

    @staticmethod
    def forward(
        ctx: Any, _: Tensor, values: Tensor, b: Tensor, call: Call, record: list[LinearSolution[Tensor]]
    ) -> Tensor:
        solution = _solved(call, b.detach())
        record.append(solution)
        x: Tensor = solution.value
        ctx.call = call
        ctx.save_for_backward(values, x)
        return x

    @staticmethod
    @differentiable_once("solve")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        _, x = ctx.saved_tensors
        failure = None
        try:
            check_finite("solve", "the gradient of x", g)
        except ValueError as error:
            failure = error
        wanted = [ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
        agreed = call.A._ranks_for("solve").agree({"function": "the gradient of solve"}, int(wanted[0]), False, failure)
        is_same = call.A._cache.get("is_symmetric", False)
        adjoint = call.A if is_same else transposed(call.A)
        limits = call.limits._replace(callback=None)
        result = _solved(Call(adjoint, None, call.options, limits, False), g)
        failed = result._failure()
        if failed is not None:
            raise ConvergenceError(f"solve: for the gradient, with A^T for A, {failed}", result)
        l = result.value
        dvalues = _values_gradient(call.A, l, x) if any(agreed.steps) else None
        return None, dvalues if wanted[0] else None, l if wanted[1] else None, None, None


def _values_gradient(A: RowMatrix, l: Tensor, x: Tensor) -> Tensor:
    """Return -l_i x_j for each entry a_ij of this rank's rows, summed over the columns of x: one round."""
    own, left = columns(x), columns(l)
    ghosts = own.new_empty(A._halo.size, own.shape[1])
    A._halo.start(own, ghosts)()
    every = torch.cat([own, ghosts])
    number = A._ownership.number(A._entries.column)
    first = int(A._ownership.offsets[A._mine.start])
    is_near = (number >= first) & (number < first + len(own))
    column = np.where(is_near, number - first, len(own) + np.searchsorted(A._ghosts, number))
    row = np.repeat(np.arange(len(own)), np.diff(A._entries.start))
    return -(left[torch.from_numpy(row)] * every[torch.from_numpy(column)]).sum(dim=1)
