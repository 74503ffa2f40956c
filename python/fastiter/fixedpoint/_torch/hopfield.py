"""Modern Hopfield networks on tensors, differentiable: x <- X softmax(beta X^T x)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import has_torch_function_variadic

from ..._call.iterate import Callback, Limits, Progress
from ..._check import check_choice, positive
from ..._docs import documented_like
from ..._solution import judged
from ..._torch.autograd import one_by_one
from ..._torch.autograd_twice import differentiable
from ..._torch.ops import CPU_AND_CUDA, GPU_FLOATS, check_tensors, grad_enabled, own_copy, transformed, unwatched
from ..._torch.overrides import dispatched
from .. import _hopfield as arrays
from .._hopfield_shapes import (
    HopfieldSolution,
    Stopping,
    check_spread,
    folded_axes,
    joined,
    reasons_of,
    stopped,
)
from . import hopfield_plain as hopfield_plain  # registers the ops for GPUs
from .hopfield_ops import (
    HopfieldAdjoint,
    HopfieldBackward,
    HopfieldForward,
    hopfield_adjoint,
    hopfield_bwd,
    hopfield_fwd,
)

_GRAD = """
grad : {"implicit", "unrolled"}
    The gradient where ``steps`` is not given: "implicit" is that of the fixed points, by conjugate gradients, in the
    memory of one state; state gets 0. "unrolled" goes back through all updates, whose states are kept: memory for
    ``max_steps`` is taken.
"""


class Problem(NamedTuple):
    """Arguments with the leading axes (batch, head): state, stored, beta (batch, head) and bias, or None."""

    state: Tensor
    stored: Tensor
    beta: Tensor
    bias: Tensor | None


@documented_like(arrays.hopfield_update, "mask", _GRAD)
def hopfield_update(
    state: Tensor,
    stored: Tensor,
    *,
    beta: Tensor | float = 1.0,
    steps: int | None = None,
    mask: Tensor | None = None,
    grad: Literal["implicit", "unrolled"] = "implicit",
    rtol: float = 1e-5,
    atol: float = 1e-8,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
) -> HopfieldSolution[Tensor]:
    """x <- X softmax(beta X^T x): :func:`fastiter.fixedpoint.hopfield_update` on tensors.

    Differentiable in stored, beta and state. With ``steps`` the gradient is that of these updates; without, ``grad``
    chooses. Second derivatives (``create_graph=True``) are supported and computed by torch operations, which is slower.
    A mask of floats has no gradient. bfloat16 and float16 are computed in float32 and rounded.

    Under torch.compile and torch.func transforms ``reason`` is ``"unread"``, as values are not known; a failure to
    converge is still reported at run time.

    %(sections)s

    See Also
    --------
    fastiter.fixedpoint.hopfield_update : The same on arrays, with references.
    hopfield_energy : The energy that no update increases.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> patterns = torch.eye(3, 8).mul(4).requires_grad_()
    >>> found = fastiter.torch.fixedpoint.hopfield_update(torch.randn(5, 8), patterns, beta=0.5)
    >>> found.value.shape, bool(found.converged.all())
    (torch.Size([5, 8]), True)
    >>> found.value.sum().backward()
    >>> patterns.grad.shape
    torch.Size([3, 8])
    """
    function = "hopfield_update"
    if has_torch_function_variadic(state, stored, beta, mask):
        options = {"beta": beta, "steps": steps, "mask": mask, "grad": grad, "rtol": rtol, "atol": atol}
        ends = {"max_steps": max_steps, "callback": callback, "throw": throw}
        result: HopfieldSolution[Tensor] = dispatched(hopfield_update, state, stored, **options, **ends)
        return result
    stopping = Stopping(Limits(rtol, atol, max_steps, callback, throw), steps).checked(function)
    check_choice(function, "grad", grad, ("implicit", "unrolled"))
    problem, lead = problem_of(function, state, stored, beta, mask)
    is_read, last = unwatched(), None
    if callback is not None:
        if not is_read:
            raise ValueError(f"{function}: callback must be None under torch.compile and torch.func, got a function")
        last = _stopped(problem, stopping, lead)
        stopping = stopping if last is None else stopping.ended_at(last)
    report = "" if is_read or steps is not None else "throw" if throw else "warn"
    value, *rest = solved(problem, stopping, grad == "unrolled", report)
    value = value.reshape(*lead, *value.shape[-2:]).to(state.dtype)
    converged, count, residual = (x.reshape(*lead, x.shape[-1]) for x in rest)
    reason = reasons_of(stopping, last, converged, residual) if is_read else "unread" if steps is None else "steps"
    solution = HopfieldSolution(
        value=value, converged=converged, steps=count, residual=residual, method="hopfield", reason=reason
    )
    return judged(function, solution, throw) if is_read else solution


@documented_like(arrays.hopfield_energy)
def hopfield_energy(state: Tensor, stored: Tensor, *, beta: Tensor | float = 1.0, mask: Tensor | None = None) -> Tensor:
    """E(x) = -logsumexp(beta X^T x) / beta + x x / 2 + log(S) / beta + M^2 / 2, which no update of x increases.

    It is :func:`fastiter.fixedpoint.hopfield_energy` in torch operations, differentiable to any order, also in a mask
    of floats. The gradient in a state is x - X softmax(beta X^T x): an update is a gradient step of length 1.

    %(sections)s

    See Also
    --------
    hopfield_update : The updates.
    fastiter.fixedpoint.hopfield_energy : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> x, patterns = torch.tensor([[0.6, 0.1]]), torch.eye(2)
    >>> fastiter.torch.fixedpoint.hopfield_energy(x, patterns, beta=4.0)
    tensor([0.2265])
    """
    function = "hopfield_energy"
    if has_torch_function_variadic(state, stored, beta, mask):
        energy: Tensor = dispatched(hopfield_energy, state, stored, beta=beta, mask=mask)
        return energy
    (x, patterns, inverse, bias), lead = problem_of(function, state, stored, beta, mask, constant_mask=False)
    S = patterns.shape[-2]
    if S == 0:
        raise ValueError(f"{function}: stored must have at least one pattern, got shape {tuple(stored.shape)}")
    b = inverse.unsqueeze(-1)
    total = torch.logsumexp(products(x, patterns, inverse, bias), -1)
    largest = patterns.square().sum(-1).amax(-1, keepdim=True)
    energy = (math.log(S) - total) / b + (x.square().sum(-1) + largest) / 2
    return energy.reshape(*lead, x.shape[-2]).to(state.dtype)


def products(x: Tensor, stored: Tensor, beta: Tensor, bias: Tensor | None) -> Tensor:
    """Return beta x X + bias, the argument of the softmax."""
    z = beta[..., None, None] * (x @ stored.mT)
    return z if bias is None else z + bias


def problem_of(
    function: str, state: Any, stored: Any, beta: Any, mask: Any, constant_mask: bool = True
) -> tuple[Problem, tuple[int, ...]]:
    """Return the arguments, checked, in the dtype of the computation and with the leading axes (batch, head)."""
    check_tensors(function, ("state", "stored"), (state, stored), GPU_FLOATS, CPU_AND_CUDA)
    lead = joined(function, tuple(state.shape), tuple(stored.shape))
    axes, dtype = folded_axes(lead), torch.promote_types(state.dtype, torch.float32)

    def folded(x: Tensor) -> Tensor:
        inner = x.shape[-2:]
        return x.to(dtype).expand(*lead, *inner).reshape(*axes, *inner)

    if isinstance(beta, Tensor):
        check_tensors(function, ("state", "beta"), (state, beta), GPU_FLOATS, CPU_AND_CUDA)
        check_spread(function, "beta", beta.shape, lead, "the leading axes")
        if unwatched() and not bool(((beta > 0) & (beta < math.inf)).all()):
            wrong = beta.detach()[~((beta > 0) & (beta < math.inf))]
            raise ValueError(f"{function}: beta must be finite and above 0, got {float(wrong[0]):g}")
        inverse = beta.to(dtype)
    else:
        number = torch.tensor(positive(function, "beta", beta, zero=False), dtype=torch.float64, device="cpu").to(dtype)
        if unwatched() and not 0 < float(number) < math.inf:
            raise ValueError(f"{function}: beta must be finite and above 0 in {dtype}, got {beta:g}")
        inverse = number.to(state.device)
    bias = _bias(function, mask, state, (*lead, state.shape[-2], stored.shape[-2]), constant_mask)
    spread = inverse.expand(lead).reshape(axes)
    return Problem(folded(state), folded(stored), spread, None if bias is None else folded(bias)), lead


def _bias(function: str, mask: Any, state: Tensor, whole: tuple[int, ...], constant: bool) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, state.dtype):
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{function}: mask must be a tensor of torch.bool or {state.dtype}, got {got}")
    if mask.device != state.device:
        raise ValueError(f"{function}: mask must be on device {state.device} like state, got {mask.device}")
    check_spread(function, "mask", tuple(mask.shape), whole, "(..., L, S)")
    if constant and mask.requires_grad:
        raise ValueError(f"{function}: mask must not require a gradient, as it has none, got a mask that does")
    bias = state.new_zeros(()).where(mask, -math.inf) if mask.dtype == torch.bool else mask
    return bias.expand(*bias.shape[:-2], *whole[-2:])


def _stopped(problem: Problem, stopping: Stopping, lead: tuple[int, ...]) -> int | None:
    """Return the number of updates after which the callback stops."""
    stored, beta, bias = problem.stored.detach(), problem.beta.detach(), problem.bias
    inner, kernels = problem.state.shape[-2:], stopping._replace(steps=1).kernels

    def update(x: Tensor) -> tuple[Tensor, Any, Any]:
        value, _, _, residual = hopfield_fwd(HopfieldForward(x, stored, beta, bias, *kernels, False, ""))
        change, size = (each.double().cpu().flatten().numpy() for each in (residual, value.norm(dim=-1)))
        return value, change, size

    def convert(progress: Progress) -> Progress:
        return progress._converted(torch.from_numpy, lambda value: value.reshape(*lead, *inner))

    return stopped(stopping._replace(limits=stopping.limits.with_callback(convert)), problem.state.detach(), update)


def solved(problem: Problem, stopping: Stopping, unrolled: bool, report: str = "") -> Sequence[Tensor]:
    """Return the states, and for each query whether it converged, its updates and its last change."""
    ends = stopping.kernels
    needs = grad_enabled() and any(x.requires_grad for x in problem[:3])
    if not needs and not transformed() and forward_ad._current_level < 0:  # else the autograd function is called
        return hopfield_fwd(HopfieldForward(*problem, *ends, False, report))
    if unrolled or not ends[0]:
        result: Sequence[Tensor] = _Unrolled.apply(*problem, *ends, report)
        return result[:4]
    result = _Implicit.apply(*problem, *ends[1:], stopping.limits.throw, report)
    return result[:4]


class _Unrolled(torch.autograd.Function):
    """Map (state, stored, beta) to the states, and to the tensors that the backward pass through all updates reads."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        state: Tensor,
        stored: Tensor,
        beta: Tensor,
        bias: Tensor | None,
        stops: bool,
        rtol: float,
        atol: float,
        max_steps: int,
        report: str,
    ) -> tuple[Tensor, ...]:
        return tuple(
            hopfield_fwd(HopfieldForward(state, stored, beta, bias, stops, rtol, atol, max_steps, True, report))
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        state, stored, beta, bias, *_, max_steps, _ = inputs
        _, _, steps, _, states, largest, inverse = output
        ctx.save_for_backward(state, stored, beta, bias, steps, states, largest, inverse)
        ctx.mark_non_differentiable(*output[1:])
        ctx.max_steps = max_steps
        ctx.set_materialize_grads(False)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, dvalue: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        state, stored, beta, bias, steps, states, largest, inverse = ctx.saved_tensors
        if dvalue is None:
            return (None,) * 9
        with torch.no_grad():
            call = HopfieldBackward(stored, beta, bias, steps, states, largest, inverse, dvalue)
            every = hopfield_bwd(call)
        result = [g if need else None for g, need in zip(every, ctx.needs_input_grad[:3], strict=True)]
        again = functools.partial(_replay_updates, ctx.max_steps)
        return (*differentiable(again, result, (state, stored, beta), (bias, steps), (dvalue,)), *[None] * 6)


class _Implicit(torch.autograd.Function):
    """Map (state, stored, beta) to fixed points, whose gradient is that of the equation x = f(x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        state: Tensor,
        stored: Tensor,
        beta: Tensor,
        bias: Tensor | None,
        rtol: float,
        atol: float,
        max_steps: int,
        throw: bool,
        report: str,
    ) -> tuple[Tensor, ...]:
        result = hopfield_fwd(HopfieldForward(state, stored, beta, bias, True, rtol, atol, max_steps, False, report))
        return (*result, own_copy(result[0]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, stored, beta, bias, rtol, _, _, throw, _ = inputs
        value = output[-1]
        ctx.save_for_backward(value, stored, beta, bias)
        ctx.mark_non_differentiable(*output[1:])
        ctx.throw, ctx.rtol = throw, max(rtol, 100 * torch.finfo(value.dtype).eps)
        ctx.set_materialize_grads(False)

    @staticmethod
    @one_by_one
    def backward(ctx: Any, dvalue: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        fixed, stored, beta, bias = ctx.saved_tensors
        if dvalue is None:
            return (None,) * 9
        with torch.no_grad():
            every = hopfield_adjoint(HopfieldAdjoint(fixed, stored, beta, bias, dvalue, ctx.rtol, ctx.throw))[:2]
        result = [g if need else None for g, need in zip(every, ctx.needs_input_grad[1:3], strict=True)]
        both = differentiable(_replay_fixed_points, result, (stored, beta), (bias, fixed), (dvalue,))
        dstate = torch.zeros_like(dvalue) if ctx.needs_input_grad[0] else None
        return (dstate, *both, *[None] * 6)


def _replay_updates(max_steps: int, inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    """Return the states after all updates; a query is unchanged after its last one."""
    x, stored, beta = inputs
    bias, steps = constants
    for step in range(max_steps):
        x = torch.where((steps > step).unsqueeze(-1), association(x, stored, beta, bias) @ stored, x)
    return [x]


def _replay_fixed_points(inputs: Sequence[Any], constants: Sequence[Any]) -> list[Tensor]:
    """Return x = f(x) by two Newton steps from the known value of x, which are correct up to third derivatives."""
    stored, beta = inputs
    bias, x = constants
    b = beta[..., None, None]
    for _ in range(2):
        p = association(x, stored, beta, bias)
        mean = p @ stored
        spread = torch.einsum("bhls,bhsd,bhse->bhlde", p, stored, stored) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        system = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - b.unsqueeze(-1) * spread
        x = x + torch.linalg.solve(system, (mean - x).unsqueeze(-1)).squeeze(-1)
    return [x]


def association(x: Tensor, stored: Tensor, beta: Tensor, bias: Tensor | None) -> Tensor:
    """Return the weights of the patterns, a softmax; 0 for a query that may retrieve no pattern."""
    z = products(x, stored, beta, bias)
    if bias is None or z.shape[-1] == 0:
        return torch.softmax(z, -1)
    nothing = (z == -math.inf).all(-1, keepdim=True)
    return torch.softmax(z.masked_fill(nothing, 0), -1).masked_fill(nothing, 0)
