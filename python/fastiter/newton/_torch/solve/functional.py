"""Recurrences with any cell, solved for all steps at once: h[t] = cell(h[t-1], x[t], *params)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from ...._call.iterate import Callback, Limits
from ...._solution import judged, warn
from ...._torch.graph_break import graph_break
from ...._torch.ops import refuse_transforms
from .backward import Problem, with_gradient
from .cell import Cell, Structure
from .check import Request, check_device, check_function, check_params, checked_state, checked_x, probed_state
from .newton import Options
from .probe import check_cell, named_structure
from .result import RecurrenceSolution
from .windows import Answer, loop, solve_windows, window_for

#: Maximum elements per step, B n K, and minimum number of steps for which solving all steps at once is faster than a
#: Python loop (docs/newton/solve_theory.md).
_FEW_NUMBERS, _MANY_STEPS = 128, 256
#: The same limits on a GPU, where a loop launches a kernel for each operation of each step.
_GPU_NUMBERS, _GPU_STEPS = 1 << 20, 64
_NAME = "solve_recurrence"
#: Default tolerances in multiples of eps: the rounding error of some tens of operations and a matrix product.
_TOLERANCE = 64
#: A state: a tensor, or the tuple of its parts
State = TypeVar("State")


def solve_recurrence(
    cell: Callable[..., State],
    x: Tensor | Sequence[Tensor],
    *params: Any,
    state: Tensor | Sequence[Tensor] | None = None,
    method: Literal["auto", "sequential", "newton", "quasi", "elk"] = "auto",
    jacobian: Any = "auto",
    window: int | None = None,
    damping: float | Literal["auto"] = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 100,
    callback: Callback | None = None,
    throw: bool = False,
) -> RecurrenceSolution[State]:
    """h[t] = cell(h[t-1], x[t], *params) for all t at once, by Newton's method, with the loop's result and gradient.

    A loop over time calls the cell T times. Here it is called a few times with all steps as rows of one batch, and its
    result is corrected by scans with its Jacobians until it is a fixed point. Sequences, or windows of them, that do
    not converge are run as a loop, and the solution reports this.

    Parameters
    ----------
    cell : callable
        The function of one step, ``cell(h, x, *params) -> h``. It receives M rows, namely a state (M, ...) and one step
        of ``x`` (M, ...), and ``params`` unchanged, and returns the next state in the same form. M is B, B times the
        steps of a window, or any other number; rows must be independent of each other, the result must depend only on
        the arguments, and the arguments must not be modified.
    x : Tensor (B, T, ...), or a tuple of these
        The inputs, of any dtype.
    *params : object
        Further arguments of the cell, the same for all steps: tensors, tuples, lists and dicts of tensors, and other
        values. Tensors that require a gradient must be passed here (for a module: ``dict(module.named_parameters())``
        as one parameter, and torch.func.functional_call); a cell that uses others is refused, as their gradient would
        be lost.
    state : Tensor (B, ...), or a tuple of these, optional
        The initial state, (B, ...) in float32 or float64, or a tuple of such for states such as (h, c). By default
        zeros, if the shape can be inferred: called with zeros (B, 1), or up to four of them, the cell must return a
        state (B, D), as it does if it uses h only elementwise.
    method : {"auto", "sequential", "newton", "quasi", "elk"}
        ``"sequential"`` is the loop. ``"newton"`` uses the whole Jacobian, ``"quasi"`` its diagonal (for states with
        several parts of one size, the blocks of each unit), ``"elk"`` starts damped. ``"auto"`` is Newton's method if
        the Jacobian is diagonal or block diagonal, T >= 256 and a step is small (B n K <= 128), on sequences that
        forget their past; otherwise it is the loop, which is then faster.
    jacobian : str, tuple or callable
        Structure of dh[t]/dh[t-1] of one row, n x n for a state of n units: ``"diagonal"``, ``("block", K)`` with K
        consecutive units in each block (K / S of each of S parts), ``"block"`` for one unit of each part, ``"dense"``,
        ``"quasi"`` (see method). ``"auto"`` finds the smallest of these that is valid at random states. A function
        ``(h, x, *params)`` returns the Jacobian: a diagonal in the form of h, blocks (M, n / K, K, K) or dense
        (M, n, n). Without a function, the Jacobian costs one vector-Jacobian product of all steps for each of K
        columns, or for each of n if dense or quasi. A wrong structure costs time, but result and gradient are checked
        and remain correct.
    window : int, optional
        Number of steps that are solved at once; each window starts from the last state of the previous one. By default
        as many as fit in the caches.
    damping : float or "auto"
        A gain k, 0 <= k < 1: corrections and Jacobians are multiplied by 1 - k, which keeps products of large
        Jacobians from overflowing. ``"auto"`` starts with 0 (``"elk"``: 1/2) and adapts to the residual.
    rtol, atol : float, optional
        A sequence has converged when ``|h[t] - cell(h[t-1], x[t])| <= atol + rtol |h[t]|`` for each unit of each step
        before a last correction, that correction is small, and rounding errors would not grow along the sequence. By
        default 64 eps of the state's dtype, 7.6e-6 and 1.4e-14.
    max_steps : int
        The maximum number of iterations on a window; a window falls back to the loop as soon as twelve iterations have
        not reduced its residual to a quarter.
    callback : callable, optional
        Called after each window but the last with a :class:`fastiter.Progress`, but not if a loop computes the rest.
        Its value has the states so far, its further attributes are ``time``, their number, ``total``, T, and
        ``sequential`` (B,), True where this window was run as a loop. If it returns True, the solver stops: the
        solution has the states so far and the reason "callback".
    throw : bool
        Raise a ConvergenceError, instead of issuing a warning and running the loop, if the given method, other than
        ``"auto"``, does not converge on some window; and, instead of a warning, if a state of the result is infinite or
        NaN.

    Returns
    -------
    RecurrenceSolution
        ``value`` (B, T, ...) in the form of the state, ``last``, and how they were found. Differentiable once, in x,
        params and state: the gradient is exact for all methods, and costs one reversed scan, or a loop if the Jacobian
        is dense with more than 16 units. Under torch.compile the call is a graph break (with ``fullgraph=True`` torch
        refuses it).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value, or the cell breaks one of its rules.
    BackendError
        If a tensor is neither on the CPU nor on a CUDA device, or not all tensors are on the same device.
    ConvergenceError
        If ``throw`` is True and the iteration does not converge.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and the given method does not converge on some window, or a state is not finite.

    See Also
    --------
    linear_scan, block_scan : Recurrences that are linear in the state.
    paragru, paralstm : Compiled cells with diagonal weights.
    RecurrenceSolution : The result.

    Notes
    -----
    Y. H. Lim, Q. Zhu, J. Selfridge, M. F. Kasim, "Parallelizing non-linear sequential models over the sequence length"
    (ICLR 2024); X. Gonzalez, A. Warrington, J. T. H. Smith, S. W. Linderman, "Towards scalable and stable
    parallelization of nonlinear RNNs" (NeurIPS 2024); F. Danieli and others, "ParaRNN" (2025).

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def cell(h, x, a):
    ...     forget = torch.sigmoid(x[..., 0] + a * h)
    ...     return forget * h + (1 - forget) * torch.tanh(x[..., 1])
    >>> x, a = torch.randn(4, 300, 8, 2), torch.randn(8, requires_grad=True)
    >>> solution = fastiter.torch.solve_recurrence(cell, x, a)
    >>> solution.value.shape, solution.method, solution.jacobian
    (torch.Size([4, 300, 8]), 'newton', 'diagonal')
    >>> h = torch.zeros(4, 8)
    >>> for t in range(300):
    ...     h = cell(h, x[:, t], a)
    >>> torch.allclose(solution.last, h, atol=1e-5)
    True
    >>> expected, = torch.autograd.grad(h.sum(), a)
    >>> torch.allclose(torch.autograd.grad(solution.last.sum(), a)[0], expected, atol=1e-5)
    True
    """
    refuse_transforms(_NAME, "because the number of iterations depends on the values")
    limits = Limits(rtol, 0.0 if atol is None else atol, max_steps, callback, throw)
    request = Request(method, jacobian, window, damping, limits, atol is not None)
    return graph_break(_solve, cell, x, params, state, request)


@dataclass(frozen=True)
class _Arguments:
    """Arguments of a cell: tensors with their graph, and a function that rebuilds params from its tensors."""

    x: list[Tensor]
    single_x: bool
    params: list[Tensor]
    rebuild: Callable[[Sequence[Tensor]], tuple[Any, ...]]
    first: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.first, *self.x, *self.params]


def _solve(function: Any, x: Any, params: tuple[Any, ...], state: Any, request: Request) -> RecurrenceSolution[Any]:
    if torch.is_inference_mode_enabled():
        # The Jacobians need autograd graphs, which do not support inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            return _solve(function, x, params, state, request)
    check_function("cell", function, params)
    request = request.checked(params)
    arguments, cell = _arguments(function, x, params, state)
    inputs, first = [_plain(part) for part in arguments.x], [_plain(part) for part in arguments.first]
    batch, time = inputs[0].shape[:2]
    if batch == 0 or time == 0 or cell.layout.width == 0:
        return _nothing(arguments, cell)
    with torch.no_grad():  # on copies: modified arguments are detected below
        cell(cell.layout.pack(first).clone(), [part[:, 0].clone() for part in inputs])
    recorded = _is_recorded(arguments)
    if request.method != "sequential" or torch.is_grad_enabled():
        check_cell(cell, inputs)
    method, structure = _choose(cell, inputs, request)
    window = request.window or window_for(structure, batch, time, cell.layout.width, inputs[0].is_cuda)
    cell = cell.with_run(structure.run if structure else 0)
    start = cell.layout.pack(first)
    with torch.no_grad():
        if structure is None:
            answer = Answer.of_loop(loop(cell, start, inputs))
        else:
            answer = solve_windows(cell, structure, start, inputs, window, _options(request, method, start.dtype))
        values = cell.layout.unpack_steps(answer.value)
    done = answer.value.shape[1]
    if recorded:
        # An approximate Jacobian suffices to find a solution, but not for its gradient.
        exact = "auto" if "quasi" in (request.method, request.jacobian) else request.jacobian
        find = lambda: named_structure(cell.with_run(0), exact, inputs)  # noqa: E731
        problem = Problem(cell, arguments.rebuild, find, window, (len(first), len(inputs)))
        used = arguments.x if done == time else [part[:, :done] for part in arguments.x]
        values = with_gradient(problem, values, arguments.first, used, arguments.params)
    last = [part[:, -1].clone() for part in values]
    result = _solution(cell, values, last, answer, method, structure, min(window, time))
    _warn_of_loops(judged(_NAME, result, request.limits.throw), request)
    return result


def _warn_of_loops(solution: RecurrenceSolution[Any], request: Request) -> None:
    """Warn if the loop had to replace a method that the user named."""
    if request.method in ("auto", "sequential") or not bool(solution.converged.all() & solution.sequential.any()):
        return
    windows, count = int(solution.sequential.sum()), solution.sequential.numel()
    warn(
        f"{_NAME}: {solution.method} must converge to be faster than a loop, got {windows} of {count} windows that "
        "were run as a loop; try a smaller window, a larger max_steps, damping or method='auto'"
    )


def _arguments(function: Any, x: Any, params: tuple[Any, ...], state: Any) -> tuple[_Arguments, Cell]:
    inputs, single_x = checked_x(x)
    leaves, spec = pytree.tree_flatten(params)
    check_params(leaves)

    def rebuild(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        left = iter(tensors)
        parts = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(parts, spec)  # type: ignore[no-any-return]

    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    plain = rebuild([_plain(leaf) for leaf in tensors])
    if state is None:
        state = probed_state(function, [_plain(part) for part in inputs], single_x, plain)
    first, layout = checked_state(state, inputs[0].shape[0])
    check_device([*inputs, *tensors, *first])
    cell = Cell(function, plain, layout, first[0].dtype, single_x)
    return _Arguments(inputs, single_x, tensors, rebuild, first), cell


def _plain(x: Tensor) -> Tensor:
    """Return x without its graph."""
    return x.clone() if x.is_inference() else x.detach()


def _is_recorded(arguments: _Arguments) -> bool:
    # Under forward-mode differentiation the autograd function is called, which raises the error.
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in arguments.tensors)
    return recorded or forward_ad._current_level >= 0


def _choose(cell: Cell, x: Sequence[Tensor], request: Request) -> tuple[str, Structure | None]:
    """Return the method and the structure that it uses, None for the loop."""
    method, jacobian, time = request.method, request.jacobian, x[0].shape[1]
    numbers = x[0].shape[0] * cell.layout.width
    few, many = (_GPU_NUMBERS, _GPU_STEPS) if x[0].is_cuda else (_FEW_NUMBERS, _MANY_STEPS)
    if method == "sequential" or (method == "auto" and (numbers > few or time < many)):
        return "sequential", None
    if method == "quasi" and jacobian in ("auto", "dense"):
        jacobian = "quasi"
    structure = named_structure(cell, jacobian, x)
    if method == "auto":
        wide = structure.kind in ("dense", "quasi") or numbers * structure.size > few
        return ("sequential", None) if wide else ("newton", structure)
    if method == "quasi" and structure.kind == "dense":  # from a Jacobian function
        structure = Structure("quasi", 1, jacobian=structure.jacobian)
    return "quasi" if structure.kind == "quasi" and method == "newton" else method, structure


def _options(request: Request, method: str, dtype: torch.dtype) -> Options:
    tolerance = _TOLERANCE * torch.finfo(dtype).eps
    gain = {"elk": 0.5}.get(method, 0.0) if request.damping == "auto" else float(request.damping)
    return Options(
        rtol=tolerance if request.limits.rtol is None else request.limits.rtol,
        atol=request.limits.atol if request.has_atol else tolerance,
        limits=request.limits._replace(throw=request.limits.throw and request.method != "auto"),
        gain=gain,
        adapt=request.damping == "auto",
        contracting=request.method == "auto",
    )


def _nothing(arguments: _Arguments, cell: Cell) -> RecurrenceSolution[Any]:
    batch, time = arguments.x[0].shape[:2]
    values = [part.new_zeros((batch, time, *part.shape[1:])) for part in arguments.first]
    last = [part.clone() for part in arguments.first]
    answer = Answer.of_loop(values[0].new_zeros((batch, time, 0)))
    return _solution(cell, values, last, answer, "sequential", None, time)


def _solution(
    cell: Cell,
    values: Sequence[Tensor],
    last: Sequence[Tensor],
    answer: Answer,
    method: str,
    structure: Structure | None,
    window: int,
) -> RecurrenceSolution[Any]:
    single = cell.layout.single
    return RecurrenceSolution(
        reason=answer.reason,
        value=values[0] if single else tuple(values),
        last=last[0] if single else tuple(last),
        converged=answer.converged,
        steps=answer.steps,
        residual=answer.residual,
        method=method,
        jacobian=structure.name if structure else None,
        window=window,
        sequential=answer.sequential,
        lyapunov=answer.lyapunov,
    )
