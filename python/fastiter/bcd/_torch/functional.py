"""Block coordinate descent on tensors, with gradients of the solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..._call.iterate import Callback, Limits
from ..._check import type_name
from ..._solution import ConvergenceError, Solution, judged
from ..._torch.graph_break import graph_break
from ..._torch.ops import FLOATS, check_tensors, refuse_transforms
from .. import _bcd
from .._bcd import Method, Rule, Update
from .._result import BCDSolution
from .descent import Descent
from .equations import Equations
from .matrix import DEVICES, array_of
from .objective import Closure, Objective
from .problem import Problem

Array = npt.NDArray[Any]


def bcd(
    problem: Problem | Objective | Callable[..., Any],
    x0: Tensor | None = None,
    *,
    blocks: Any = None,
    rule: Rule = "cyclic",
    update: Update = "gradient",
    stop: Literal["slope", "gap"] = "slope",
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_steps: int = 10_000_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int | None = None,
    rng: Any = None,
) -> BCDSolution[Tensor]:
    """Minimise f(x) + sum_j h_j(x_j) on tensors; the minimiser is differentiable while its active set is fixed.

    The derivatives are those of the equations that the free coordinates satisfy, one linear system for each backward
    pass, whatever the rule and the update. Their error is that of the solution; a smaller ``rtol`` makes them more
    accurate. If a coordinate is at the border of being held by l1 or a bound, they are one-sided derivatives, and there
    is a warning.

    Parameters
    ----------
    problem : LeastSquares, Logistic, Softmax, Quadratic, Objective or callable
        The problem, of tensors; a function is an :class:`Objective` without params, penalties and bounds.
    x0 : Tensor (m,) or (m, classes), optional
        The starting point, 0 by default, in the dtype of the data; it is projected into the bounds. It has no gradient.
        For a function it is required, in any shape.
    blocks : int, fastiter.bcd.Blocks, or list of lists of int, optional
        The size of blocks of consecutive coordinates, another partition, or the blocks themselves; class k of column j
        is coordinate ``j * classes + k``. By default 1, and all coordinates of a function.
    rule : {"cyclic", "random", "lipschitz", "gs", "gsl", "gsd", "gsq"}
        The next block, as in :func:`fastiter.bcd.bcd`; for a function "cyclic", "random" or "gs".
    update : {"gradient", "matrix", "newton", "two-metric"}
        The step of a block, as in :func:`fastiter.bcd.bcd`; for a function "gradient", with an L_b that doubles until
        it is an upper bound, or "newton".
    stop : {"slope", "gap"}
        The residual: the largest entry of the minimum-norm subgradient, or the duality gap.
    rtol : float
        Converged if the residual is at most ``rtol`` times that of 0 plus ``atol``.
    atol : float
        A tolerance in the units of the residual.
    max_steps : int
        The maximum number of updates.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` at each check, which has the ``objective``; True ends the solution.
    throw : bool
        Raise if it does not converge, instead of a warning.
    check_every : int, optional
        The number of updates between two checks: five sweeps, or ten updates of a greedy rule, by default; one sweep
        for a function.
    rng : numpy.random.Generator or int, optional
        The source of the rules "random" and "lipschitz"; an int is a seed, and None is 0.

    Returns
    -------
    BCDSolution
        Its value is the minimiser, differentiable to any order in A, b, weights, l1, l2, lower and upper where these
        are tensors, and once in a sparse tensor A; its arrays are tensors. Under torch.compile the call is a graph
        break.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a tensor has been modified in place since its problem was created.
    BackendError
        If a tensor is not on the CPU.
    ConvergenceError
        If ``throw`` is True and it does not converge.
    RuntimeError
        Under a transform of torch.func; in the backward pass, if the minimiser is not unique, as for linearly dependent
        columns with l2 = 0.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and it does not converge.
    UserWarning
        If a gradient is required, and a coordinate is at the border of being held.

    See Also
    --------
    LeastSquares, Logistic, Softmax, Quadratic : The problems with data.
    Objective : Functions of torch operations, with penalties and bounds.
    fastiter.bcd.bcd : The same on arrays.

    References
    ----------
    Q. Bertrand, Q. Klopfenstein, M. Massias, M. Blondel, S. Vaiter, A. Gramfort, J. Salmon: Implicit differentiation
    for fast hyperparameter selection in non-smooth convex learning. JMLR 23(149), 2022.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.bcd import LeastSquares, bcd
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    >>> l1 = torch.tensor(3.5, dtype=torch.float64, requires_grad=True)
    >>> found = bcd(LeastSquares(A, torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64), l1=l1))
    >>> found.value.sum().backward()
    >>> found.value.detach(), l1.grad
    (tensor([0.0000, 1.1250, 0.0000], dtype=torch.float64), tensor(-0.2500, dtype=torch.float64))
    """
    function = problem._twin._solver if isinstance(problem, Problem) else "bcd"
    refuse_transforms(function, "because the number of steps depends on the values")
    if callable(problem) and not isinstance(problem, (Problem, Objective)):
        problem = Objective(problem)
    if isinstance(problem, Objective):
        every = 1 if check_every is None else check_every
        limits = Limits(rtol, atol, max_steps, callback, throw, every).checked(function)
        arguments = problem, x0, blocks, Method(rule, update, stop), rng, limits, check_every is None
        return graph_break(_minimised, *arguments)
    if not isinstance(problem, Problem):
        remedy = "; fastiter.bcd.bcd solves those of arrays" if type(problem).__module__ == "fastiter.bcd" else ""
        expected = "a LeastSquares, Logistic, Softmax, Quadratic or Objective of tensors"
        raise TypeError(f"{function}: problem must be {expected}, got {type_name(problem)}{remedy}")
    problem._check_unchanged(function)
    if x0 is not None:
        check_tensors(function, ("A", "x0"), (problem._tensors["A"], x0), FLOATS, DEVICES)

    def call() -> BCDSolution[Tensor]:
        first = None if x0 is None else array_of(x0)
        choices: Any = {"blocks": 1 if blocks is None else blocks, "rule": rule, "update": update, "stop": stop}
        limits: Any = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "throw": throw, "check_every": check_every}
        options = {**choices, **limits, "callback": with_tensors(callback), "rng": rng}
        solution = on_tensors(lambda: _bcd.bcd(problem._arrays, first, **options))
        tolerance = solution.tolerance if stop == "slope" else None
        return replace(solution, value=Equations(problem, solution.value).solution(function, solution.value, tolerance))

    return graph_break(call)


def _minimised(
    problem: Objective, x0: Any, blocks: Any, method: Method, rng: Any, limits: Limits, has_default_interval: bool
) -> BCDSolution[Tensor]:
    """Return the minimiser of a function."""
    if x0 is None:
        raise TypeError("bcd: x0 must be a tensor in the shape of x for a function, got None")
    check_tensors("Objective", ("x0",), (x0,), FLOATS, DEVICES)
    if not bool(x0.isfinite().all()):
        raise ValueError("bcd: x0 must be finite, got NaN or infinity")
    wants_gradient = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(wants_gradient):  # inference tensors have no gradients
        descent = Descent("bcd", Closure(problem, x0), x0, blocks, method, rng)
        if has_default_interval:
            limits = limits._replace(check_every=descent.default_interval())
        return judged("bcd", descent.solution(limits), limits.throw)


def with_tensors(callback: Any) -> Any:
    """Return a callback that receives a progress with tensors."""
    if not callable(callback):
        return callback  # refused by the solver, unless it is None
    return lambda progress: callback(progress._converted(torch.from_numpy, torch.from_numpy))


def on_tensors(solve: Callable[[], Solution[Array]]) -> Any:
    """Return a solution with its arrays as tensors, also in the attribute of an error."""
    try:
        solution = solve()
    except ConvergenceError as error:
        if error.solution is None:
            raise
        raise ConvergenceError(str(error), _converted(error.solution)) from None
    return _converted(solution)


def _converted(solution: Solution[Array]) -> Any:
    named = {each.name: getattr(solution, each.name) for each in fields(solution)}
    tensors: dict[str, Any] = {n: torch.from_numpy(x) for n, x in named.items() if isinstance(x, np.ndarray)}
    return replace(solution, **tensors)
