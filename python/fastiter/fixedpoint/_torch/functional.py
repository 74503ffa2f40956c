"""Fixed points on tensors, differentiable through the solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from ..._call.iterate import Callback, Limits
from ..._check import check_choice, count, positive, type_name
from ..._torch.graph_break import graph_break
from ..._torch.ops import refuse_tangents, refuse_transforms
from .._functional import Method
from .._methods import METHODS
from .._problem import Stopping
from .._result import FixedPointSolution
from .implicit import Problem, attach, differentiable_once
from .layout import Map, checked_state, flat_state
from .noise import FixedNoise
from .space import solve_tensors

#: The structure of x
X = TypeVar("X", bound=Tensor | Sequence[Tensor] | Mapping[Any, Tensor])

GRADS = ("implicit", "unrolled", "one-step", "phantom", "neumann")
_NAME = "fixed_point"
#: Options of approximate gradients
_STEPS = ("grad_steps", "grad_damping")
#: The defaults of the options for the gradient, which need no check
_EXACT = ("implicit", None, 5, 1.0)
_TRUNCATED = (
    f"{_NAME}: the gradient has no derivative with grad='one-step' or 'phantom', which neglect how the solution "
    "depends on the parameters (grad='implicit' has one)"
)


@dataclass(frozen=True)
class Solver:
    """A method with its options, and when it ends."""

    stopping: Stopping
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, function: str, changes: Mapping[str, Any] | None) -> Solver:
        """Return the solver of the adjoint equation: this one, without its callback and with other options."""
        options = dict(changes or {})
        norm = self.stopping.norm if isinstance(self.stopping.norm, str) else "l2"
        stopping = self.stopping._replace(limits=self.stopping.limits._replace(callback=None), norm=norm)
        stopping = stopping.changed(options).checked(function)
        method = options.pop("method", self.method)
        own = {name: value for name, value in self.options.items() if name != "domain"}  # u has no domain, unlike x
        own = own if method == self.method else {}
        if changes:
            check_choice(f"{function}, adjoint", "method", method, tuple(METHODS))
            METHODS[method].of(f"{function}, adjoint", {**own, **options})  # raises now, not in the backward pass
        return Solver(stopping, method, {**own, **options})

    def adjoint(self, function: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        """Return u = function(u) = g + J^T u, starting from g."""

        def product(u: Tensor, v: Tensor) -> Tensor:
            return function(v) - right

        extra: dict[str, Any] = {"jvp": product} if self.method == "newton_krylov" else {}
        name = f"{_NAME}, backward"
        result: Tensor = solve_tensors(
            name, function, right, self.stopping, self.method, dict(self.options), compact=False, **extra
        ).value
        return result


@dataclass(frozen=True)
class _Gradient:
    """The options for the gradient of a solution."""

    kind: str
    #: Returns the solver of the adjoint equation.
    adjoint: Callable[[], Solver]
    steps: int
    damping: float


def fixed_point(
    f: Callable[..., Any],
    x0: X | FixedPointSolution[X],
    *params: Any,
    method: Method = "anderson",
    norm: Literal["l2", "inf", "rms", "span"] | Callable[[Any], Any] = "l2",
    batched: bool = True,
    args: tuple[Any, ...] = (),
    compact: bool | None = None,
    jvp: Callable[..., Any] | None = None,
    patience: int = 100,
    grad: Literal["implicit", "unrolled", "one-step", "phantom", "neumann"] = "implicit",
    adjoint: Mapping[str, Any] | None = None,
    grad_steps: int = 5,
    grad_damping: float = 1.0,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    **options: Any,
) -> FixedPointSolution[X]:
    """x = f(x, *args, *params) for each sample of a batch, with a gradient for which no iterations are stored.

    The gradient is that of the solution, whatever the method: the adjoint equation u = g + (df/dx)^T u is solved by a
    fixed-point method, too, and the parameters get u^T df/dparams. It can be differentiated again, to any order.

    Gradients reach the tensors in ``args`` and ``params``, the parameters of ``f`` if it is a module, and all other
    tensors that f closes over. The gradient of the last cannot be differentiated again: trying to do so raises an
    error.

    Parameters
    ----------
    f : callable
        ``f(x, *args, *params)`` returns a tensor of the shape and dtype of x; for a tuple, list or dict of tensors the
        same structure. It must not change x in place, and rows must not depend on each other. If it draws random
        numbers, as dropout does, all evaluations of one call draw the same.
    x0 : Tensor, tuple, list or dict of Tensor, or FixedPointSolution
        The first x, (B, ...) float32, float64, complex64 or complex128, all of one dtype. If it is a solution, the
        iteration continues from its value and history. x0 has a gradient with ``"unrolled"`` only.
    *params : object
        Further arguments of f, unchanged: tensors, tuples, lists and dicts of tensors, and other values.
    method : {"anderson", "picard", "broyden", "newton_krylov", "halpern", ...}
        The iteration, with the options of :func:`fastiter.fixedpoint.fixed_point`.
    norm : {"l2", "inf", "rms", "span"} or callable
        The norm, as in :func:`fastiter.fixedpoint.fixed_point`. Adjoint equations use "l2" in place of a callable.
    batched : bool
        Whether axis 0 is a batch of samples, each with its own history and stopping test. If False, x0 is one problem.
    args : tuple of Tensor
        Tensors of B rows that are passed to f before params, without the rows of samples that have ended.
    compact : bool, optional
        Whether f receives only the rows that have not ended; by default only if there are ``args``, as params may have
        rows, too.
    jvp : callable, optional
        ``jvp(x, v, *args)`` returns df/dx v, for ``"newton_krylov"``; by default a difference of two values of f.
    patience : int
        A sample has stagnated after this many steps without progress if rounding errors hide the rest, and later if
        not, as in :func:`fastiter.fixedpoint.fixed_point`.
    grad : {"implicit", "unrolled", "one-step", "phantom", "neumann"}
        ``"implicit"`` is exact. ``"unrolled"`` differentiates the iterations of ``"picard"``, all of which it stores.
        ``"one-step"`` differentiates a single application of f, as if x did not depend on the parameters; ``"phantom"``
        does so with ``grad_steps`` damped steps from the solution; ``"neumann"`` takes that many terms of the series of
        u. The last three are approximate, and differentiating them again raises an error.
    adjoint : mapping, optional
        Options of the adjoint equation's solver, where they differ from the others: method, rtol, atol, max_steps,
        norm, patience, throw, and those of the method.
    grad_steps : int
        The steps of ``"phantom"``, the terms of ``"neumann"``.
    grad_damping : float
        The factor t of a step x <- x + t (f(x) - x) of ``"phantom"``.
    rtol, atol : float, optional
        A sample has converged when ``||f(x) - x|| <= rtol ||f(x)|| + atol``; rtol is 1e-5 by default in 32 bits, 1e-8
        in 64.
    max_steps : int
        The maximum number of steps.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each evaluation; the solver ends where it
        returns True.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if a sample, or its adjoint equation, has not converged.
    **options : object
        Options of the method.

    Returns
    -------
    FixedPointSolution
        x, differentiable, with the state of convergence, the steps and the evaluations of each sample. Under
        torch.compile the call is a graph break; f may be compiled.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what f returns, has a wrong type, dtype, shape or value.
    ConvergenceError
        If ``throw`` is True and a sample does not converge, or in the backward pass its adjoint equation.
    RuntimeError
        Under a transform of torch.func; in the backward pass, if f returns another value than in the forward pass, or
        on differentiating a gradient that has no derivative.

    Warns
    -----
    ConvergenceWarning
        If ``throw`` is False and a sample does not converge, or its adjoint equation.

    See Also
    --------
    fastiter.fixedpoint.fixed_point : The same on arrays, with the methods' options.
    fastiter.torch.nn.DEQ : A layer of it.
    fastiter.torch.fixedpoint.spectral_radius : The rate of convergence of x <- f(x).

    Notes
    -----
    S. Bai, J. Z. Kolter, V. Koltun, "Deep equilibrium models" (NeurIPS 2019); one-step: J. Bolte, E. Pauwels,
    S. Vaiter, "One-step differentiation of iterative algorithms" (NeurIPS 2023); phantom and Neumann: Z. Geng,
    X.-Y. Zhang, S. Bai, Y. Wang, Z. Lin, "On training implicit models" (NeurIPS 2021).

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import fixed_point
    >>> _ = torch.manual_seed(0)
    >>> W = (0.1 * torch.randn(8, 8, dtype=torch.float64)).requires_grad_()
    >>> b = torch.randn(4, 8, dtype=torch.float64)
    >>> def f(x, b, W):
    ...     return torch.tanh(x @ W + b)
    >>> found = fixed_point(f, torch.zeros_like(b), W, args=(b,))
    >>> bool(found.converged.all()), found.value.shape
    (True, torch.Size([4, 8]))
    >>> dW, = torch.autograd.grad(found.value.sum(), W, create_graph=True)
    >>> torch.autograd.grad(dW.square().sum(), W)[0].shape
    torch.Size([8, 8])
    """
    refuse_transforms(_NAME, "because the number of iterations depends on the values")
    if not callable(f):
        raise TypeError(f"{_NAME}: f must be a function of (x, *args, *params), got {type_name(f)}")
    if not isinstance(args, tuple):
        raise TypeError(f"{_NAME}: args must be a tuple of tensors, got {type_name(args)}")
    terms, damping = grad_steps, grad_damping
    if (grad, adjoint, grad_steps, grad_damping) != _EXACT:
        terms, damping = _checked_gradient(_NAME, method, grad, adjoint, grad_steps, grad_damping)
    stopping = Stopping(Limits(rtol, atol, max_steps, callback, throw), norm, patience).checked(_NAME)
    solver = Solver(stopping, method, options)
    shape = {"batched": batched, "args": args, "compact": bool(args) if compact is None else compact, "jvp": jvp}
    return graph_break(_solve, f, x0, params, solver, (grad, adjoint, terms, damping), shape)


def _checked_gradient(
    function: str,
    method: str = "anderson",
    grad: str = "implicit",
    adjoint: Any = None,
    steps: Any = 5,
    damping: Any = 1.0,
) -> tuple[int, float]:
    """Check the options for the gradient; return its steps and damping."""
    check_choice(function, "grad", grad, GRADS)
    if adjoint is not None and not isinstance(adjoint, Mapping):
        raise TypeError(f"{function}: adjoint must be a mapping of options or None, got {type_name(adjoint)}")
    if grad == "unrolled" and method != "picard":
        raise ValueError(f"{function}: method must be 'picard' with grad='unrolled', got {method!r}")
    return count(function, "grad_steps", steps, 1), positive(function, "grad_damping", damping, zero=False)


def check_solver(layer: str, options: Mapping[str, Any]) -> None:
    """Check the options of :func:`fixed_point` that a layer keeps for its calls."""
    rest = {name: value for name, value in options.items() if name not in ("batched", "args", "compact", "jvp")}
    gradient = {name.removeprefix("grad_"): rest.pop(name) for name in ("grad", "adjoint", *_STEPS) if name in rest}
    limits = Limits(callback=rest.pop("callback", None))
    stopping = Stopping(limits).changed(rest).checked(layer)
    method = rest.pop("method", "anderson")
    check_choice(layer, "method", method, tuple(METHODS))
    METHODS[method].of(layer, rest)
    _checked_gradient(layer, method, **gradient)
    if options.get("adjoint") is not None:
        Solver(stopping, method, rest).changed(layer, options["adjoint"])


def _same(solver: Solver) -> Solver:
    return solver


def _solve(
    f: Callable[..., Any],
    x0: Any,
    params: tuple[Any, ...],
    solver: Solver,
    requested: tuple[str, Mapping[str, Any] | None, int, float],
    shape: dict[str, Any],
) -> FixedPointSolution[Any]:
    if torch.is_inference_mode_enabled():
        # Products with J need autograd graphs, which do not support inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            return _solve(f, x0, params, solver, requested, shape)
    kind, adjoint, terms, damping = requested
    other: Callable[[], Solver] = partial(solver.changed, _NAME, None)
    if adjoint is not None:  # options are checked now, not in the backward pass
        other = partial(_same, solver.changed(_NAME, adjoint))
    gradient = _Gradient(kind, other, terms, damping)
    fixed = FixedNoise(shape["compact"])

    def plain(x: Any, *args: Any) -> Any:
        return fixed(_NAME, x, partial(f, x, *args, *params))

    result = solve_tensors(_NAME, plain, x0, solver.stopping, solver.method, dict(solver.options), **shape)
    start = x0.value if isinstance(x0, FixedPointSolution) else x0
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return result
    flat, layout = flat_state(*pytree.tree_flatten(result.value), shape["batched"])
    wrapped = Map(_NAME, f, layout, (*shape["args"], *params))
    value = _differentiable(wrapped, flat, fixed, result, start, gradient, solver.options.get("damping", 1.0))
    return result if value is None else result._with_value(layout.unpack(value))


def _differentiable(
    wrapped: Map,
    value: Tensor,
    fixed: FixedNoise,
    result: FixedPointSolution[Any],
    start: Any,
    gradient: _Gradient,
    damping: float,
) -> Tensor | None:
    """Return the solution's value (B, n) with its gradient; None if it has none."""
    if value.numel() == 0:
        return None

    def plain(x: Tensor) -> Tensor:
        return fixed(_NAME, x, partial(wrapped.plain, x))  # type: ignore[no-any-return]

    if gradient.kind == "unrolled":
        first = checked_state(_NAME, start, wrapped.layout.batched)[0]
        return _unrolled(plain, first, _steps_of_value(result), damping)
    if gradient.kind in ("one-step", "phantom"):
        for _ in range(gradient.steps if gradient.kind == "phantom" else 1):
            value = value + (gradient.damping if gradient.kind == "phantom" else 1.0) * (plain(value) - value)
        refuse_tangents(_NAME, (value,))
        return differentiable_once(_TRUNCATED, value)

    def function(x: Tensor, tensors: Any) -> Tensor:
        return fixed(_NAME, x, partial(wrapped, x, tensors))  # type: ignore[no-any-return]

    anchor = function(value, list(map(Tensor.detach, wrapped.tensors)))
    varies = anchor.requires_grad or any(map(attrgetter("requires_grad"), wrapped.tensors))
    if not varies and forward_ad._current_level < 0:
        return None
    exact = gradient.kind == "implicit"
    solve = gradient.adjoint().adjoint if exact else partial(_neumann, gradient.steps)
    return attach(Problem(function, solve, _NAME, exact), value, wrapped.tensors, anchor)


def _steps_of_value(result: FixedPointSolution[Any]) -> Tensor:
    """Return the steps (B, 1) after which Picard's method reached each row's value, that of the smallest residual."""
    residuals = result.history.reshape(len(result.history), -1).nan_to_num(torch.inf, torch.inf)
    steps, converged = (torch.as_tensor(x).reshape(-1) for x in (result.steps, result.converged))
    return torch.where(converged, steps, residuals.argmin(0)).unsqueeze(1)


def _unrolled(function: Callable[[Tensor], Tensor], x: Tensor, steps: Tensor, damping: float) -> Tensor:
    """Return the iterates of Picard's method after the given number of steps of each row, with their graph."""
    steps = steps.to(x.device)
    for step in range(int(steps.max())):
        x = torch.where(step < steps, x + damping * (function(x) - x), x)
    return x


def _neumann(terms: int, function: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Return the sum over i < terms of (J^T)^i g, from u -> g + J^T u and g."""
    u = right
    for _ in range(terms - 1):
        u = function(u)
    return u


def with_gradient(
    f: Callable[..., Any], solution: FixedPointSolution[Any], value: Any, params: tuple[Any, ...], adjoint: Solver
) -> FixedPointSolution[Any]:
    """Return a solution whose value is an already known fixed point of f(x, *params), with its gradient.

    Parameters
    ----------
    f : callable
        The map ``f(x, *params)``, of which ``value`` is a fixed point.
    found : FixedPointSolution
        The solution, whose value is replaced.
    value : Tensor, or a tuple, list or dict of these
        The fixed point.
    params : tuple
        The arguments of f after the state.
    adjoint : Solver
        The solver of the adjoint equation.
    """
    known = replace(solution, value=value)
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return known
    flat, layout = checked_state(_NAME, value)
    gradient = _Gradient("implicit", partial(_same, adjoint), 1, 1.0)
    result = _differentiable(Map(_NAME, f, layout, params), flat, FixedNoise(False), known, value, gradient, 1.0)
    return known if result is None else replace(known, value=layout.unpack(result))


def detached(result: FixedPointSolution[Any]) -> FixedPointSolution[Any]:
    """Return a solution without the gradient of its value."""
    return replace(result, value=pytree.tree_map_only(Tensor, Tensor.detach, result.value))
