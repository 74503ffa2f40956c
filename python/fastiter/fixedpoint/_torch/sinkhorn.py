"""Entropic optimal transport on tensors, differentiable through its optimality conditions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._call.iterate import Callback, Limits
from ..._check import positive
from ..._docs import documented_like
from ..._solution import judged
from ..._torch.autograd import one_by_one
from ..._torch.op import Op
from ..._torch.ops import CPU_AND_CUDA, check_tensors, refuse_transforms
from .._problems import sinkhorn as arrays
from .._problems.sinkhorn import SinkhornSolution, check_costs, check_sums, solution_of, stopped, tolerances


class Transport(NamedTuple):
    """A call of the op: costs (B, n, m), the logarithms of the masses (B, n) and (B, m), and the first f."""

    cost: Tensor
    log_a: Tensor
    log_b: Tensor
    start: Tensor
    epsilon: float
    tolerance: Tensor
    max_steps: int


def _cpu(call: Transport) -> list[Tensor]:
    """Return f, g, the steps, the residual, and whether each problem converged."""
    cost, log_a, log_b = call.cost.contiguous(), call.log_a.contiguous(), call.log_b.contiguous()
    result = _allocated(call)
    bits = 8 * cost.element_size()
    ended = torch.zeros(cost.shape[0], dtype=torch.uint8)
    limits = (call.epsilon, call.tolerance, call.max_steps)
    problem = (cost, log_a, log_b, result[0].copy_(call.start), result[1].zero_())
    batch, n, m = cost.shape
    _core.fixedpoint.sinkhorn(bits, (batch, n, m), problem, limits, (result[2], result[3], ended))
    return [*result[:4], ended.bool()]


def _allocated(call: Transport) -> list[Tensor]:
    batch = call.cost.shape[0]
    numbers = (torch.int64, torch.float64, torch.bool)
    return [
        torch.empty_like(call.log_a, memory_format=torch.contiguous_format),
        torch.empty_like(call.log_b, memory_format=torch.contiguous_format),
        *(call.cost.new_empty(batch, dtype=dtype) for dtype in numbers),
    ]


def _plain(call: Transport) -> list[Tensor]:
    """Do the same by torch operations, where the kernel does not run; problems that have ended are frozen."""
    cost, log_a, log_b, start, epsilon, tolerance, max_steps = call
    tolerance = tolerance.to(cost.device)
    f, g, steps, residual, ended = _allocated(call)
    f.copy_(start)
    for each in (g, steps, residual, ended):
        each.zero_()
    mass = log_a.double().exp()
    for step in range(max_steps + 1):
        following = epsilon * (log_b - torch.logsumexp((f[:, :, None] - cost) / epsilon, dim=1))
        g = torch.where(ended[:, None], g, following)
        total = torch.logsumexp((g[:, None] - cost) / epsilon, dim=2)
        now = (torch.exp(f.double() / epsilon + total.double()) - mass).abs().sum(dim=1)
        residual, steps = torch.where(ended, residual, now), torch.where(ended, steps, step)
        ended = ended | (now <= tolerance)
        if step == max_steps or bool((ended | now.isnan()).all()):
            break
        f = torch.where(ended[:, None], f, epsilon * (log_a - total))
    return [f, g, steps, residual, ended]


_sinkhorn = Op("_sinkhorn", Transport, _cpu, _allocated)
_sinkhorn.on_cuda(_plain)


class _Potentials(torch.autograd.Function):
    """Map (C, log a, log b) to f and g of the same mean, and to the steps, the residual and the convergence.

    With P = exp((f + g - C) / epsilon), df and dg solve diag(a) df + P dg = sum_j P dC + epsilon a dlog a, and likewise
    for columns. The backward pass solves the transpose, which is symmetric and singular along (1, -1), and consists of
    differentiable operations. Rows and columns without mass, where f or g is -inf, are excluded from the means and from
    the system, which has ones on the diagonal in their place; their gradients are 0.
    """

    @staticmethod
    def forward(ctx: Any, C: Tensor, log_a: Tensor, log_b: Tensor, start: Tensor, *limits: Any) -> tuple[Tensor, ...]:
        f, g, *numbers = _sinkhorn(Transport(C, log_a, log_b, start, *limits))
        apart = (_mean(f, log_a) - _mean(g, log_b)) / 2
        f, g = f - apart, g + apart
        ctx.save_for_backward(C, log_a, log_b, f, g)
        ctx.epsilon = limits[0]
        ctx.mark_non_differentiable(*numbers)
        return f, g, *numbers

    @staticmethod
    @one_by_one
    def backward(ctx: Any, u: Tensor, v: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        C, log_a, log_b, f, g = ctx.saved_tensors
        a, b = log_a.exp(), log_b.exp()
        has_row, has_column = a > 0, b > 0
        P = torch.exp((f[:, :, None] + g[:, None] - C) / ctx.epsilon)
        # The transpose of f - c, g + c with c = (mean f - mean g) / 2
        u, v = torch.where(has_row, u, 0), torch.where(has_column, v, 0)
        lack = (u.sum(dim=1, keepdim=True) - v.sum(dim=1, keepdim=True)) / 2
        u = u - torch.where(has_row, lack / has_row.sum(dim=1, keepdim=True), 0)
        v = v + torch.where(has_column, lack / has_column.sum(dim=1, keepdim=True), 0)
        diagonal, b = torch.where(has_row, a, 1), torch.where(has_column, b, 1)
        rank_one = a[:, :, None] * a[:, None] / a.sum(dim=1)[:, None, None]
        schur = torch.diag_embed(diagonal) - (P / b[:, None]) @ P.mT + rank_one
        row = torch.linalg.solve(schur, u - (P @ (v / b)[:, :, None])[:, :, 0])
        column = (v - (P.mT @ row[:, :, None])[:, :, 0]) / b
        dC = P * (row[:, :, None] + column[:, None])
        return dC, ctx.epsilon * a * row, ctx.epsilon * b * column, None, None, None, None


def _mean(potentials: Tensor, log_masses: Tensor) -> Tensor:
    """Return the means (B, 1) over the entries with mass."""
    has_mass = log_masses > -torch.inf
    return torch.where(has_mass, potentials, 0).sum(dim=1, keepdim=True) / has_mass.sum(dim=1, keepdim=True)


def _log(masses: Tensor) -> Tensor:
    """Return logarithms, -inf with the gradient 0 where the mass is 0."""
    has_mass = masses > 0
    return torch.where(has_mass, torch.where(has_mass, masses, 1).log(), -torch.inf)


@documented_like(arrays.sinkhorn)
def sinkhorn(
    C: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float = 1.0,
    x0: tuple[Tensor, Tensor] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> SinkhornSolution[Tensor]:
    """f <- epsilon (log a - log sum_j exp((g - C) / epsilon)), and g likewise, on tensors: entropic optimal transport.

    f and g are shifted to the same mean. They and the plan, cost and dual value are differentiable in C, a and b to any
    order, through the optimality conditions: to the accuracy of the tolerance, by one linear system of n unknowns. The
    gradient of a mass that is 0 is 0, although the dual value has an infinite slope there.

    %(sections)s

    See Also
    --------
    fastiter.fixedpoint.sinkhorn : The same on arrays, with references.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.fixedpoint import sinkhorn
    >>> C = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    >>> found = sinkhorn(C, epsilon=0.1)
    >>> found.dual.backward()
    >>> torch.allclose(C.grad, found.plan.detach(), atol=1e-8)
    True
    """
    function = "sinkhorn"
    refuse_transforms(function, "because the number of iterations depends on the values")
    check_tensors(function, ("C",), (C,), devices=CPU_AND_CUDA)
    check_costs(tuple(C.shape), bool(C.isfinite().all()))
    *batch, n, m = C.shape
    a = C.new_full((*batch, n), 1 / n) if a is None else _masses("a", a, C, (*batch, n))
    total = a.sum(dim=-1, keepdim=True)
    b = total.expand(*batch, m) / m if b is None else _masses("b", b, C, (*batch, m))
    rows, columns = (x.detach().double().sum(dim=-1).cpu().numpy() for x in (a, b))
    check_sums(rows, columns, torch.finfo(C.dtype).eps)
    limits = Limits(rtol, atol, max_steps, callback, throw).checked(function)
    epsilon, tolerance = positive(function, "epsilon", epsilon, zero=False), tolerances(limits, rows, C.dtype)
    lead, first = batch or [1], torch.where(a.detach() > 0, _start(x0, C, (*batch, n), (*batch, m)), -torch.inf)
    inputs = C.reshape(*lead, n, m), _log(a).reshape(*lead, n), _log(b).reshape(*lead, m), first.reshape(*lead, n)
    limit = epsilon, torch.from_numpy(tolerance)

    def update(f: Tensor, g: Tensor, last_step: int) -> tuple[Any, ...]:
        result = _sinkhorn(Transport(inputs[0].detach(), inputs[1].detach(), inputs[2].detach(), f, *limit, last_step))
        f.copy_(result[0])
        g.copy_(result[1])
        return result[4], result[2], result[3].cpu()

    def reshaped(potentials: Any) -> tuple[Tensor, Tensor]:
        return potentials[0].reshape(*batch, n), potentials[1].reshape(*batch, m)

    convert = limits.with_callback(lambda progress: progress._converted(torch.from_numpy, reshaped))
    last = stopped(
        convert,
        tolerance if batch else tolerance.item(),
        update,
        (inputs[3].clone(), torch.zeros_like(inputs[2]).detach()),
    )
    f, g, steps, residual, converged = _Potentials.apply(*inputs, *limit, limits.max_steps if last is None else last)
    numbers = tuple(x.cpu() for x in (converged, steps, residual))
    result = solution_of(reshaped((f, g)), numbers, bool(batch), (*limit, last), (C, a, b))
    return judged(function, result, limits.throw)


def _masses(name: str, x: Any, C: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_tensors("sinkhorn", ("C", name), (C, x), devices=CPU_AND_CUDA)
    if tuple(x.shape) != shape:
        raise ValueError(f"sinkhorn: {name} must have shape {shape} to go with C, got {tuple(x.shape)}")
    wrong = ~((x >= 0) & x.isfinite())
    if wrong.any():
        raise ValueError(f"sinkhorn: {name} must be finite and at least 0, got {float(x[wrong][0]):g}")
    masses: Tensor = x
    return masses


def _start(x0: Any, C: Tensor, *shapes: tuple[int, ...]) -> Tensor:
    """Return the first f, without gradients; the first g follows from it."""
    if x0 is None:
        return C.new_zeros(shapes[0])
    if not isinstance(x0, tuple) or len(x0) != 2:
        raise TypeError(f"sinkhorn: x0 must be two tensors (f, g) or None, got {type(x0).__name__}")
    check_tensors("sinkhorn", ("C", "x0[0]", "x0[1]"), (C, *x0), devices=CPU_AND_CUDA)
    for i, (x, shape) in enumerate(zip(x0, shapes, strict=True)):
        if tuple(x.shape) != shape:
            raise ValueError(f"sinkhorn: x0[{i}] must have shape {shape} to go with C, got {tuple(x.shape)}")
    first: Tensor = x0[0].detach()
    return first
