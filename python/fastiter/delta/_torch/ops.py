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
from ..._torch.ops import LIBRARY, contiguous, eager, empty, unit_stride
from .._plan import Plan, Sizes, check_bounds_values, plan

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


def _work(
    sizes: Sizes, how: Plan, chunk: int, reset: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    check_cut(sizes, lengths, cu_seqlens)
    if lengths is None and cu_seqlens is not None:
        lengths = cu_seqlens.diff()
    starts, valid, flags = (None if x is None else x.contiguous() for x in (cu_seqlens, lengths, reset))
    numbers = (sizes.time, sizes.factors, sizes.heads, sizes.keys, sizes.values)
    return rows_of(sizes, cu_seqlens), *numbers, starts, valid, flags, chunk, how.period


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
    work = _work(sizes, how, how.forward, reset, lengths, cu_seqlens)
    _core.delta_fwd(work, q, k, v, beta, decay, h0, *outputs, *([] if save else [None, None]))
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
    work = _work(sizes, how, how.backward, reset, lengths, cu_seqlens)
    rest = gradients[4:]
    ddecay, dh0 = None if decay is None else rest[0], rest[-1] if need_h0 else None
    dq, dk, dv, dbeta = gradients[:4]
    _core.delta_bwd(work, q, k, beta, decay, e, states, d_o, dlast, dq, dk, dv, dbeta, ddecay, dh0)
    return gradients


LIBRARY.impl("_delta_fwd", _delta_fwd, "CPU")
LIBRARY.impl("_delta_bwd", _delta_bwd, "CPU")
torch.library.register_fake("fastiter::_delta_fwd", delta_fwd_fake, lib=LIBRARY)
torch.library.register_fake("fastiter::_delta_bwd", delta_bwd_fake, lib=LIBRARY)

delta_fwd = eager(_delta_fwd, torch.ops.fastiter._delta_fwd.default)
delta_bwd = eager(_delta_bwd, torch.ops.fastiter._delta_bwd.default)

vmap.register("_delta_fwd", "_delta_bwd")
