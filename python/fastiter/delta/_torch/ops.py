"""The private ops of the delta rule: schemas, CPU implementations, which call the kernels, and fake versions.

Forward returns o and the final states; with ``save`` also, for the backward pass, e = v - S^T k of every factor and
the state before each period. Backward returns dq, dk, dv, dbeta, then ddecay and dh0 if they exist and are requested.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _core
from ..._sequences import check_lengths
from ..._torch import vmap
from ..._torch.ops import LIBRARY, Steps, contiguous, eager, empty, unit_stride
from .._plan import Plan, Sizes, check_bounds_values, plan

_FORWARD = {torch.float32: _core.delta_fwd_f32, torch.float64: _core.delta_fwd_f64}
_BACKWARD = {torch.float32: _core.delta_bwd_f32, torch.float64: _core.delta_bwd_f64}

LIBRARY.define(
    "_delta_fwd(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? decay, Tensor? h0, Tensor? reset, Tensor? lengths, "
    "Tensor? cu_seqlens, str method, int chunk, bool save) -> Tensor[]"
)
LIBRARY.define(
    "_delta_bwd(Tensor q, Tensor k, Tensor beta, Tensor? decay, Tensor e, Tensor states, Tensor? d_o, Tensor? dlast, "
    "Tensor? reset, Tensor? lengths, Tensor? cu_seqlens, str method, int chunk, bool need_h0) -> Tensor[]"
)


def sizes_of(q: Tensor, k: Tensor, values: int) -> Sizes:
    """Return the sizes of a call."""
    batch, time, heads, keys = q.shape
    return Sizes(batch, time, k.shape[2] if k.dim() == 5 else 1, heads, keys, values)


def rows_of(sizes: Sizes, cu_seqlens: Tensor | None) -> int:
    """Return the number of sequences."""
    return sizes.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1


def check_cut(sizes: Sizes, lengths: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Check lengths or cu_seqlens at run time, as tracing does not know their values.

    Values on a GPU are not read back: its kernels clamp them into range.
    """
    if lengths is not None and lengths.is_cpu:
        least, most = (int(lengths.min()), int(lengths.max())) if sizes.batch else (0, 0)
        check_lengths("delta_scan", lengths.shape, least, most, sizes.batch, sizes.time)
    elif cu_seqlens is not None and cu_seqlens.is_cpu:
        counts = cu_seqlens.diff()
        least = int(counts.min()) if len(counts) else 0
        check_bounds_values("delta_scan", int(cu_seqlens[0]), int(cu_seqlens[-1]), least, sizes.time)


def _steps(x: Tensor) -> Steps:
    """Return the address and the strides of the axes (row, time, factor, head)."""
    stride = x.stride()
    return x.data_ptr(), stride[0], stride[1], stride[2] if len(stride) == 5 else 0, stride[-2]


def _work(
    sizes: Sizes, how: Plan, chunk: int, reset: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """Return the kernels' description of the work, and the tensors that its pointers refer to."""
    kept: list[Tensor] = []

    def pointer(x: Tensor) -> int:
        kept.append(x.contiguous())
        return kept[-1].data_ptr()

    starts = valid = 0
    check_cut(sizes, lengths, cu_seqlens)
    if lengths is not None:
        valid = pointer(lengths)
    elif cu_seqlens is not None:
        starts, valid = pointer(cu_seqlens), pointer(cu_seqlens.diff())
    flags = () if reset is None else (pointer(reset), sizes.time if reset.dim() == 2 else 0, 1)
    numbers = (sizes.time, sizes.factors, sizes.heads, sizes.keys, sizes.values)
    return (rows_of(sizes, cu_seqlens), *numbers, starts, valid, flags, chunk, how.period), tuple(kept)


def delta_fwd_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    chunk: int,
    save: bool,
) -> list[Tensor]:
    """Allocate the outputs."""
    sizes = sizes_of(q, k, v.shape[-1])
    rows, state = rows_of(sizes, cu_seqlens), (sizes.heads, sizes.keys, sizes.values)
    outputs = [empty(q, (*q.shape[:3], sizes.values)), empty(q, (rows, *state))]
    if save:
        lines = plan("delta_scan", method, chunk, sizes.factors).saved_states(sizes, rows, cu_seqlens is not None)
        outputs += [empty(q, v.shape), empty(q, (lines, *state))]
    return outputs


def _delta_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    chunk: int,
    save: bool,
) -> list[Tensor]:
    outputs = delta_fwd_fake(q, k, v, beta, decay, h0, reset, lengths, cu_seqlens, method, chunk, save)
    sizes = sizes_of(q, k, v.shape[-1])
    how = plan("delta_scan", method, chunk, sizes.factors)
    q, k, v, beta = unit_stride(q), unit_stride(k), unit_stride(v), contiguous(beta)
    decay, h0 = (None if x is None else contiguous(x) for x in (decay, h0))
    work, kept_alive = _work(sizes, how, how.forward, reset, lengths, cu_seqlens)
    _FORWARD[q.dtype](
        work,
        _steps(q),
        _steps(k),
        _steps(v),
        beta.data_ptr(),
        0 if decay is None else decay.data_ptr(),
        0 if h0 is None else h0.data_ptr(),
        _steps(outputs[0]),
        *[x.data_ptr() for x in outputs[1:]],
        *([] if save else [0, 0]),
    )
    del kept_alive
    return outputs


def delta_bwd_fake(
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    e: Tensor,
    states: Tensor,
    d_o: Tensor | None,
    dlast: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    chunk: int,
    need_h0: bool,
) -> list[Tensor]:
    """Allocate the gradients."""
    gradients = [empty(q, x.shape) for x in (q, k, e, beta)]
    if decay is not None:
        gradients.append(empty(q, decay.shape))
    if need_h0:
        sizes = sizes_of(q, k, e.shape[-1])
        gradients.append(empty(q, (rows_of(sizes, cu_seqlens), *states.shape[1:])))
    return gradients


def _delta_bwd(
    q: Tensor,
    k: Tensor,
    beta: Tensor,
    decay: Tensor | None,
    e: Tensor,
    states: Tensor,
    d_o: Tensor | None,
    dlast: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    method: str,
    chunk: int,
    need_h0: bool,
) -> list[Tensor]:
    gradients = delta_bwd_fake(
        q, k, beta, decay, e, states, d_o, dlast, reset, lengths, cu_seqlens, method, chunk, need_h0
    )
    sizes = sizes_of(q, k, e.shape[-1])
    how = plan("delta_scan", method, chunk, sizes.factors)
    q, k, beta = unit_stride(q), unit_stride(k), contiguous(beta)
    e, states = contiguous(e), contiguous(states)
    decay, dlast = (None if x is None else contiguous(x) for x in (decay, dlast))
    d_o = None if d_o is None else unit_stride(d_o)
    work, kept_alive = _work(sizes, how, how.backward, reset, lengths, cu_seqlens)
    dq, dk, dv, dbeta, *rest = [x.data_ptr() for x in gradients]
    _BACKWARD[q.dtype](
        work,
        _steps(q),
        _steps(k),
        beta.data_ptr(),
        0 if decay is None else decay.data_ptr(),
        e.data_ptr(),
        states.data_ptr(),
        () if d_o is None else _steps(d_o),
        0 if dlast is None else dlast.data_ptr(),
        *(dq, dk, dv, dbeta),
        0 if decay is None else rest[0],
        rest[-1] if need_h0 else 0,
    )
    del kept_alive
    return gradients


LIBRARY.impl("_delta_fwd", _delta_fwd, "CPU")
LIBRARY.impl("_delta_bwd", _delta_bwd, "CPU")
torch.library.register_fake("fastiter::_delta_fwd", delta_fwd_fake, lib=LIBRARY)
torch.library.register_fake("fastiter::_delta_bwd", delta_bwd_fake, lib=LIBRARY)

delta_fwd = eager(_delta_fwd, torch.ops.fastiter._delta_fwd.default)
delta_bwd = eager(_delta_bwd, torch.ops.fastiter._delta_bwd.default)

vmap.register("_delta_fwd", "_delta_bwd")
