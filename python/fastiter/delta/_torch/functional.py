"""The delta rule on tensors, differentiable: S = decay (I - beta k k^T) S + beta k v^T, o = S^T q, at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ..._backend import BackendError
from ..._check import check_flag
from ..._docs import documented_like
from ..._sequences import as_part
from ..._torch.differentiable import needs_autograd
from ..._torch.distributed.dtensors import CUTS, Axes, is_dtensor, on_shards
from ..._torch.ops import CPU_AND_CUDA, FLOATS, GPU_FLOATS, check_tensors
from ..._torch.out import check_out, is_written_by_kernels, named, written
from ..._torch.overrides import dispatched
from ..._torch.sequences import backwards, checked_sequences, in_reverse
from .. import _functional as arrays
from .._plan import check_method, check_shapes, check_state
from .ops import DeltaForward, delta
from .ops import forward as delta_forward
from .triton import checked_method

#: Dtypes of signals that only the GPU kernels support
HALVES = (torch.bfloat16, torch.float16)
_AXES: Axes = {
    "q": ("BTNK",),
    "k": ("BTNK", "BTMNK"),
    "v": ("BTNV", "BTMNV"),
    "beta": ("BTN", "BTMN"),
    "state": ("BNKV",),
    "decay": ("BTN",),
    **CUTS,
}


@documented_like(arrays.delta_scan)
def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    *,
    decay: Tensor | None = None,
    method: Literal["auto", "sequential", "chunk"] = "auto",
    chunk: int = 64,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S[t] = decay[t] (I - beta k k^T) S[t-1] + beta k v^T, o[t] = S[t]^T q[t]: :func:`fastiter.delta_scan` on tensors.

    Differentiable in q, k, v, beta, state and decay, with gradients from o and from the final state; the backward pass
    processes several steps at a time with every method. Second derivatives (``create_graph=True``) recompute the steps
    one by one in torch's operations, which is slower. ``out`` is refused if an argument requires a gradient.

    Tensors may be DTensors sharded by heads or by rows: each rank computes its own.

    %(sections)s

    See Also
    --------
    fastiter.delta_scan : The same on arrays, with references.
    fastiter.torch.nn.DeltaNet : A layer with this recurrence.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> q, k, v = torch.randn(3, 2, 10, 4, 8).unbind()  # two rows of ten steps, four heads
    >>> k = torch.nn.functional.normalize(k, dim=-1)
    >>> beta = 2 * torch.rand(2, 10, 4)
    >>> o, last = fastiter.torch.delta_scan(q, k, v, beta)
    >>> half, state = fastiter.torch.delta_scan(q[:, :5], k[:, :5], v[:, :5], beta[:, :5])
    >>> rest, state = fastiter.torch.delta_scan(q[:, 5:], k[:, 5:], v[:, 5:], beta[:, 5:], state)
    >>> torch.equal(torch.cat([half, rest], 1), o), torch.equal(state, last)
    (True, True)
    """
    function, state = "delta_scan", as_part(state)
    overrides = has_torch_function_variadic(q, k, v, beta, state, decay, reset, lengths, cu_seqlens, out)
    if overrides or (type(q) is not Tensor and is_dtensor(q)):
        options = {"decay": decay, "method": method, "chunk": chunk, "reverse": reverse}
        cut = {"reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens, "out": out}
        result: tuple[Tensor, Tensor]
        if overrides:
            result = dispatched(delta_scan, q, k, v, beta, state, **options, **cut)
        else:
            signals = {"q": q, "k": k, "v": v, "beta": beta, "state": state}
            result = on_shards(delta_scan, {**signals, **options, **cut}, _AXES, ("BTNV", "BNKV"))
        return result
    check_flag(function, "reverse", reverse)
    names, tensors = ["q", "k", "v", "beta"], [q, k, v, beta]
    if state is not None:
        names.append("state")
        tensors.append(state)
    if decay is not None:
        names.append("decay")
        tensors.append(decay)
    if getattr(q, "dtype", None) in HALVES and q.is_cuda:
        _check_halves(names, tensors)
    else:
        check_tensors(function, names, tensors, devices=CPU_AND_CUDA)
    sizes = check_shapes(function, q.shape, k.shape, v.shape, beta.shape, None if decay is None else decay.shape)
    check_method(function, method, chunk)
    by = checked_method(method, q.dtype, sizes) if q.is_cuda else (method, chunk)
    rows = checked_sequences(function, q, reset, lengths, cu_seqlens, "q")
    if state is not None:
        check_state(function, state.shape, sizes, rows.count(sizes.batch), cu_seqlens is not None)
    if out is not None:
        inputs = [*zip(names, tensors, strict=True), *named(("reset",), (reset,))]
        check_out(function, out, (*q.shape[:3], sizes.values), inputs, GPU_FLOATS if q.is_cuda else FLOATS)
    ordered = rows
    if reverse:
        (q, k, v, beta, decay), ordered = backwards(function, rows, q, k, v, beta, decay)
    call = (q, k, v, beta, decay, state, *by, *ordered)
    written_by_kernel = out is not None and not reverse and is_written_by_kernels(out, *tensors, *rows)
    if written_by_kernel and not needs_autograd(tensors):
        o, last = delta_forward(DeltaForward(*call, False), out)
    else:
        o, last = delta(*call)[:2]
    o = in_reverse(function, rows, o)[0] if reverse else o
    if out is not None:
        o = written(out) if o is out else out.copy_(o)
    return o, last


def _check_halves(names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Check 16-bit tensors, which only the GPU kernels support, and their state in float32."""
    signals = [(name, x) for name, x in zip(names, tensors, strict=True) if name != "state"]
    check_tensors("delta_scan", [name for name, _ in signals], [x for _, x in signals], HALVES, CPU_AND_CUDA)
    for name, x in zip(names, tensors, strict=True):
        if name == "state":
            check_tensors("delta_scan", (name,), (x,), GPU_FLOATS, CPU_AND_CUDA)
            if x.dtype != torch.float32:
                expected = f"torch.float32 to go with {tensors[0].dtype} q"
                raise TypeError(f"delta_scan: state must have dtype {expected}, got {x.dtype}")
            if x.device != tensors[0].device:
                raise BackendError(f"delta_scan: state must be on {tensors[0].device} like q, got {x.device}")
