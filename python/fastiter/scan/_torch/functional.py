"""Linear recurrences over time on tensors: h[t] = A[t] h[t-1] + x[t], differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_variadic

from ..._backend import BackendError
from ..._check import check_flag
from ..._docs import documented_like
from ..._sequences import as_part
from ..._torch.autograd import applied, one_by_one
from ..._torch.differentiable import needs_autograd
from ..._torch.ops import CPU_AND_CUDA, check_tensors, own_copy, transformed
from ..._torch.out import check_out
from ..._torch.overrides import dispatched
from ..._torch.sequences import checked_sequences
from .. import _functional as arrays
from .._shapes import check_block_shapes, check_first, check_linear_shapes
from . import double_backward
from . import triton as triton  # the ops of CUDA tensors
from .ops import BLOCK, LINEAR, OPS, Cut, Scan, ScanBackward, ScanForward, ScanOut, carried

Integers: TypeAlias = "Tensor | Sequence[int]"


@documented_like(arrays.linear_scan)
def linear_scan(
    a: Tensor,
    x: Tensor,
    state: Tensor | None = None,
    *,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] * h[t-1] + x[t], elementwise: :func:`fastiter.linear_scan` on tensors.

    Returns h and the final state. Differentiable in a, x and state, with gradients from both results, also twice. The
    backward pass is one scan in the other direction; if a is broadcast, its gradient is summed in the same pass, in an
    order that does not depend on the number of threads. ``out`` is refused if an argument requires a gradient.

    %(sections)s

    See Also
    --------
    block_scan : The recurrence with matrices as factors.
    fastiter.linear_scan : The same on arrays, with references.
    fastiter.torch.nn.LinearRNN : A layer with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> a, x = torch.tensor([0.5], requires_grad=True), torch.ones(1, 3, 1)
    >>> h, last = fastiter.torch.linear_scan(a, x)
    >>> h.flatten().tolist()
    [1.0, 1.5, 1.75]
    >>> torch.autograd.grad(last.sum(), a)  # the derivative of 1 + a + a^2
    (tensor([2.]),)
    """
    return _run(LINEAR, a, x, state, reverse, reset, lengths, cu_seqlens, out)


@documented_like(arrays.block_scan)
def block_scan(
    A: Tensor,
    x: Tensor,
    state: Tensor | None = None,
    *,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = A[t] h[t-1] + x[t] with a K x K matrix for each of N groups: :func:`fastiter.block_scan` on tensors.

    Differentiable like :func:`linear_scan`.

    %(sections)s

    See Also
    --------
    linear_scan : The recurrence with a scalar factor for each element.
    fastiter.block_scan : The same on arrays, with references.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> swap = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> h, last = fastiter.torch.block_scan(swap, torch.zeros(1, 3, 1, 2), torch.tensor([[[1.0, 2.0]]]))
    >>> h[0, :, 0].tolist()
    [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]
    """
    return _run(BLOCK, A, x, state, reverse, reset, lengths, cu_seqlens, out)


def _run(
    scan: Scan,
    a: Tensor,
    x: Tensor,
    state: Tensor | None,
    reverse: bool,
    reset: Tensor | None,
    lengths: Integers | None,
    cu_seqlens: Integers | None,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    function, state = scan.name, as_part(state)
    if has_torch_function_variadic(a, x, state, reset, lengths, cu_seqlens, out):
        options = {"reverse": reverse, "reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens, "out": out}
        result: tuple[Tensor, Tensor] = dispatched(block_scan if scan.blocks else linear_scan, a, x, state, **options)
        return result
    check_flag(function, "reverse", reverse)
    check_tensors(function, ("x", scan.factors), (x, a), scan.dtypes, CPU_AND_CUDA)
    (check_block_shapes if scan.blocks else check_linear_shapes)(function, a.shape, x.shape)
    cut: Cut = (reverse, *checked_sequences(function, x, reset, lengths, cu_seqlens, "x"))
    if state is not None:
        _check_h0(scan, state, x, cut)
    factors = _with_all_axes(a, x, scan)
    if out is not None:
        inputs = [("x", x), (scan.factors, a)] + ([] if state is None else [("state", state)])
        check_out(function, out, x.shape, [*inputs, *([] if cut[1] is None else [("reset", cut[1])])], scan.dtypes)
        return out, OPS[function].out(ScanOut(factors, x, state, *cut, out))
    return _apply(scan, factors, x, state, cut)


def _check_h0(scan: Scan, state: Tensor, x: Tensor, cut: Cut) -> None:
    dtype = carried(x.dtype)
    check_tensors(scan.name, ("state",), (state,), scan.dtypes, CPU_AND_CUDA)
    if state.dtype != dtype:
        raise TypeError(f"{scan.name}: state must have dtype {dtype} to go with {x.dtype} x, got {state.dtype}")
    if state.device != x.device:
        raise BackendError(f"{scan.name}: state must be on device {x.device} like x, got {state.device}")
    cu_seqlens = cut[3]
    sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    check_first(scan.name, state.shape, sequences, x.shape[2:], cu_seqlens is not None)


def _with_all_axes(a: Tensor, x: Tensor, scan: Scan) -> Tensor:
    """Return ``a`` with both axes B and T, of size 1 where it is broadcast, and expanded to all elements of a step."""
    inner = (*x.shape[2:], x.shape[-1]) if scan.blocks else x.shape[2:]
    missing = 2 + len(inner) - a.dim()
    a = a[(None,) * missing] if missing else a
    return a if a.shape[2:] == inner else a.expand(*a.shape[:2], *inner)


def _apply(scan: Scan, a: Tensor, x: Tensor, state: Tensor | None, cut: Cut) -> tuple[Tensor, Tensor]:
    if needs_autograd((a, x, state)):
        keep = transformed() or (torch.is_grad_enabled() and a.requires_grad)
        h, last = applied(_Scan, scan.blocks, a, x, state, *cut, keep)[:2]
    else:
        h, last = OPS[scan.name].forward(ScanForward(a, x, state, *cut))
    return h, last


class _Scan(torch.autograd.Function):
    """Map (a, x, state) to (h, final state) and, with ``keep``, a copy of h.

    The gradient of a needs the copy, as users may write to h.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        blocks: bool,
        a: Tensor,
        x: Tensor,
        state: Tensor | None,
        reverse: bool,
        reset: Tensor | None,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        keep: bool,
    ) -> tuple[Tensor, ...]:
        call = ScanForward(a, x, state, reverse, reset, lengths, cu_seqlens)
        h, last = OPS[(BLOCK if blocks else LINEAR).name].forward(call)
        return (h, last, own_copy(h)) if keep else (h, last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        blocks, a, _, state, reverse, reset, lengths, cu_seqlens, keep = inputs
        ctx.save_for_backward(a, output[2] if keep else None, state, reset, lengths, cu_seqlens)
        ctx.scan, ctx.reverse, ctx.shape = BLOCK if blocks else LINEAR, reverse, output[0].shape
        ctx.set_materialize_grads(False)

    @staticmethod
    @one_by_one
    def backward(
        ctx: Any, dh: Tensor | None, dlast: Tensor | None, dkept: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        a, h, state, reset, lengths, cu_seqlens = ctx.saved_tensors
        if dkept is not None:
            dh = dkept if dh is None else dh + dkept
        if dh is None and dlast is None:
            return (None,) * 9
        if h is None:  # only its shape is used
            h = a.new_empty(()).expand(ctx.shape) if dh is None else dh
        cut = (ctx.reverse, reset, lengths, cu_seqlens)
        needs = (ctx.needs_input_grad[2], ctx.needs_input_grad[1], ctx.needs_input_grad[3])  # x, a, state
        if torch.is_grad_enabled() and not is_compiling():
            all_three = double_backward.backward(ctx.scan, _apply, a, h, state, dh, dlast, cut)
            dx, da, dstate = (x if need else None for x, need in zip(all_three, needs, strict=True))
        else:
            wanted = iter(OPS[ctx.scan.name].backward(ScanBackward(a, h, state, dh, dlast, *cut, *needs)))
            dx, da, dstate = (next(wanted) if need else None for need in needs)
        return None, da, dx, dstate, None, None, None, None, None
