"""Selective scans on tensors, differentiable: h = exp(d A) h + d B u, out = (C h + D u) z s(z)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._check import check_flag
from ..._docs import documented_like
from ..._torch.ops import CPU_AND_CUDA, cast, check_dense, checked_integers, grad_enabled
from ..._torch.overrides import dispatched
from ..._torch.sequences import Sequences, backwards, checked_sequences, in_reverse
from .. import _functional as arrays
from .._shapes import check_shapes, check_state, check_step_shapes, may_be_complex, present_in
from ._gpu import selective_kernels  # noqa: F401 (the ops of CUDA tensors)
from .checks import Integers, check_tensors
from .ops import computed, of_state, selective
from .step import SelectiveStep, plain_step, selective_step


@documented_like(arrays.selective_scan)
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    state: Tensor | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """h[t] = exp(d[t] A) h[t-1] + d[t] B[t] u[t], out[t] = (C[t] h[t] + D u[t]) z s(z): Mamba's recurrence on tensors.

    D, delta_bias and a real A and state may have any of the dtypes and are converted. Differentiable once in
    every argument, with gradients from the output and from the last state; second derivatives are refused.

    %(sections)s

    See Also
    --------
    selective_state_update : Computes one step at a time.
    mamba_inner : The mixer of Mamba that contains this scan.
    ssd : Mamba-2's recurrence, with one rate for each head.
    fastiter.ssm.selective_scan : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> u, delta = torch.randn(2, 1, 8, 20).unbind()  # one row of 8 channels and 20 steps
    >>> A = -torch.rand(8, 4, requires_grad=True)
    >>> B, C = torch.randn(2, 1, 4, 20).unbind()
    >>> out = fastiter.torch.ssm.selective_scan(u, delta, A, B, C, delta_softplus=True)
    >>> out.shape, torch.autograd.grad(out.sum(), A)[0].shape
    (torch.Size([1, 8, 20]), torch.Size([8, 4]))
    """
    function = "selective_scan"
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    options: dict[str, Any] = {"state": state, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens}
    if has_torch_function((*inputs, *options.values())):
        both = (delta_softplus, return_last_state)
        passed = {"reverse": reverse, **options}
        result: Tensor | tuple[Tensor, Tensor] = dispatched(selective_scan, *inputs, *both, **passed)
        return result
    check_flag(function, "delta_softplus", delta_softplus)
    check_flag(function, "return_last_state", return_last_state)
    check_flag(function, "reverse", reverse)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state")
    tensors = present_in(dict(zip(names, (*inputs, state), strict=True)), "state")
    is_complex = _check_scan(function, tensors)
    sizes = check_shapes(function, tensors, is_complex)
    cut = checked_sequences(function, u, reset, lengths, cu_seqlens, "u", (sizes.batch, sizes.time))
    if state is not None:
        check_state(function, state.shape, cut.count(sizes.batch), sizes, cut.cu_seqlens is not None)
    every = _converted(*inputs, state)
    ordered = cut
    if reverse:
        every, ordered = _backwards(every, cut, sizes.time)
    out, last = selective(*every, delta_softplus, *ordered)[:2]
    if reverse:
        out = in_reverse(function, cut, out.movedim(-1, 1))[0].movedim(1, -1)
    return (out, last) if return_last_state else out


def _check_scan(function: str, tensors: dict[str, Any]) -> bool:
    """Check types, dtypes and devices; return whether the states are complex, as A is."""
    A = tensors["A"]
    if not isinstance(A, Tensor) or not A.is_complex():
        check_tensors(function, tensors, "u", CPU_AND_CUDA)
        return False
    check_tensors(function, {"u": tensors["u"]}, "u", CPU_AND_CUDA)
    head, real = tensors["u"].dtype, dict(tensors)
    plain, paired = computed(head), of_state(computed(head), True)
    for name, x in tensors.items():
        if not isinstance(x, Tensor) or not may_be_complex(name, x.dim()):
            continue
        check_dense(function, name, x)
        if x.dtype != paired:
            expected = f"{plain} or {paired}" if name == "A" else f"{paired} like A"
            raise TypeError(f"{function}: {name} must have dtype {expected} to go with {head} u, got {x.dtype}")
        real[name] = x.real
    check_tensors(function, real, "u", CPU_AND_CUDA)
    return True


def _converted(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
) -> tuple[Any, ...]:
    """Return the arguments in the ops' form: weights in the dtype of the arithmetic, B and C with groups."""
    dtype = computed(u.dtype)
    carried = of_state(dtype, A.is_complex())
    D, delta_bias, state = cast(D, dtype), cast(delta_bias, dtype), cast(state, carried)
    B = cast(B, carried) if B.dim() == 2 else B[:, None] if B.dim() == 3 else B
    C = cast(C, carried) if C.dim() == 2 else C[:, None] if C.dim() == 3 else C
    return u, delta, cast(A, carried), B, C, D, z, delta_bias, state


def _backwards(every: tuple[Any, ...], cut: Sequences, time: int) -> tuple[tuple[Any, ...], Sequences]:
    """Return the ops' arguments, and the division into sequences, with the steps of each sequence reversed."""
    u, delta, A, B, C, D, z, *rest = every
    # Real and imaginary parts of varying B and C are pairs along the last axis
    pairs = [x.unflatten(-1, (time, 2 if A.is_complex() else 1)).movedim(-2, 1) for x in (B, C) if x.dim() > 2]
    signals = (None if x is None else x.movedim(-1, 1) for x in (u, delta, z))
    turned, ordered = backwards("selective_scan", cut, *signals, *pairs)
    u, delta, z = (None if x is None else x.movedim(1, -1) for x in turned[:3])
    varying = iter([x.movedim(1, -2).flatten(-2) for x in turned[3:]])
    B, C = (next(varying) if x.dim() > 2 else x for x in (B, C))
    return (u, delta, A, B, C, D, z, *rest), ordered


@documented_like(arrays.selective_state_update)
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Integers | None = None,
) -> Tensor:
    """state = exp(d A) state + d B x, out = (C state + D x) z s(z): one step, in place, on tensors.

    Not differentiable, as a step updates the state in place: arguments that require a gradient are refused.

    %(sections)s

    See Also
    --------
    selective_scan : Computes whole sequences.
    fastiter.ssm.selective_state_update : The same on arrays.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> state = torch.zeros(1, 8, 4)
    >>> x, dt = torch.randn(2, 1, 8).unbind()
    >>> B, C = torch.randn(2, 1, 4).unbind()
    >>> fastiter.torch.ssm.selective_state_update(state, x, dt, -torch.ones(8, 4), B, C, dt_softplus=True).shape
    torch.Size([1, 8])
    """
    function = "selective_state_update"
    inputs = (state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices)
    if has_torch_function(inputs):
        result: Tensor = dispatched(selective_state_update, *inputs[:9], dt_softplus, state_batch_indices)
        return result
    check_flag(function, "dt_softplus", dt_softplus)
    if state_batch_indices is None and not torch.is_grad_enabled():
        out = plain_step(state, (x, dt, A, B, C, D, z, dt_bias), dt_softplus)
        if out is not None:
            return out
    names = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    tensors = present_in(dict(zip(names, inputs, strict=False)))
    check_tensors(function, tensors, "x", CPU_AND_CUDA)
    shapes: dict[str, Any] = {name: y.shape for name, y in tensors.items()}
    rows = None
    if state_batch_indices is not None:
        rows = checked_integers(function, "state_batch_indices", state_batch_indices, x.device)
        shapes["state_batch_indices"] = rows.shape
    check_step_shapes(function, shapes)
    if grad_enabled() and any(y.requires_grad for y in tensors.values()):
        raise RuntimeError(
            f"{function}: arguments must not require a gradient, as the state changes in place; "
            "use torch.no_grad(), or selective_scan for training"
        )
    return selective_step(SelectiveStep(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, rows))
