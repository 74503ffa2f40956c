"""The private ops of the selective scan: their argument tuples, and their CPU implementations, which call kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _core
from ..._sequences import check_bounds, check_lengths
from ..._torch.differentiable import Differentiable
from ..._torch.linear import linear
from ..._torch.op import Op
from ..._torch.ops import all_contiguous, autocast_dtype, autocast_to, contiguous, empty

#: Steps between two matrix states that the forward pass saves on a GPU
GPU_TILE = 64
#: Steps between two states that the forward pass of a selective scan saves on a GPU
SELECTIVE_GPU_TILE = 128


def computed(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic and of the state."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def of_state(dtype: torch.dtype, is_complex: bool) -> torch.dtype:
    """Return the dtype of the state of a selective scan from the dtype of its arithmetic."""
    if not is_complex:
        return dtype
    return torch.complex128 if dtype == torch.float64 else torch.complex64


class SelectiveForward(NamedTuple):
    """The arguments of the forward op, which returns out, the last state and, with ``save``, states before each tile.

    B and C are (B, G, N, T), or fixed (D, N); A, D, delta_bias and the states have the dtype of the arithmetic. With a
    complex A the states and fixed B and C are complex; varying B and C are (B, G, N, 2T) and real.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    state: Tensor | None
    softplus: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    save: bool


class SelectiveBackward(NamedTuple):
    """The arguments of the backward op, which returns the requested gradients in the order of the arguments.

    Bit i of ``requested`` refers to argument i of the forward op, from u to state.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    states: Tensor
    dout: Tensor | None
    dlast: Tensor | None
    softplus: bool
    reset: Tensor | None
    lengths: Tensor | None
    cu_seqlens: Tensor | None
    requested: int


def saved_tiles(tile: int, sequences: int, time: int, packed: bool) -> int:
    """Return the number of states that a forward pass saves, one for every ``tile`` steps of each sequence."""
    return time // tile + sequences if packed else sequences * -(-time // tile)


def plain(x: Tensor | None) -> Tensor | None:
    """Return ``x`` with pending conjugation and negation resolved."""
    return x if x is None or not x.is_neg() else x.resolve_neg()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + bias, whose rows have the same bits in any number; float16 is computed in float32 on a CPU."""
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = (autocast_to(y, dtype) for y in (x, weight, bias))
    if x.dtype != torch.float16 or not x.is_cpu:
        return linear(x, weight, bias)
    return linear(x.float(), weight.float(), None if bias is None else bias.float()).half()


def count_of(call: Any, batch: int) -> int:
    """Return the number of sequences."""
    count: int = batch if call.cu_seqlens is None else call.cu_seqlens.shape[0] - 1
    return count


def checked_sequences(function: str, call: Any, batch: int, time: int) -> tuple[Any, ...]:
    """Return the kernels' description of the sequences; check the values that are unknown while tracing."""
    lengths, cu_seqlens = call.lengths, call.cu_seqlens
    if lengths is not None:
        shortest, longest = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
        check_lengths(function, lengths.shape, shortest, longest, batch, time)
    if cu_seqlens is not None:
        falls = bool((cu_seqlens[1:] < cu_seqlens[:-1]).any())
        check_bounds(function, cu_seqlens.shape, int(cu_seqlens[0]), int(cu_seqlens[-1]), falls, time)
    reset = getattr(call, "reset", None)
    if lengths is None and cu_seqlens is None and reset is None:
        return batch, time, None, None, None
    return (count_of(call, batch), time, *all_contiguous(lengths, cu_seqlens, reset))


def _work(call: Any) -> tuple[Any, ...]:
    """Return the kernels' description of the work."""
    batch, channels, time = call.u.shape
    sequences, (B, C) = checked_sequences("selective_scan", call, batch, time), (call.B, call.C)
    groups = max(B.shape[1] if B.dim() == 4 else 1, C.shape[1] if C.dim() == 4 else 1)
    return sequences, channels, groups, call.A.shape[1], call.softplus, call.A.is_complex()


def _projections(call: Any) -> tuple[Any, ...]:
    """Return B and C as the kernels read them: varying ones with any strides."""
    B, C = call.B, call.C
    return contiguous(B) if B.dim() == 2 else plain(B), contiguous(C) if C.dim() == 2 else plain(C)


def like(u: Tensor) -> Tensor:
    """Return an uninitialised tensor with the shape and dtype of u, with contiguous channels if u has them."""
    _, channels, time = u.shape
    if u.stride(1) < u.stride(2):
        return empty(u, u.shape, (channels * time, 1, channels))
    return empty(u, u.shape)


def like_heads(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised (B, T, N, V), with heads before time in memory if that is so in ``x``."""
    if x.stride(1) < x.stride(2) and len(shape) == 4:
        _, time, heads, width = shape
        return empty(x, shape, (heads * time * width, width, time * width, 1), dtype=dtype)
    return empty(x, shape, dtype=dtype)


def forward_outputs(call: SelectiveForward, tile: int) -> list[Tensor]:
    """Allocate out, the last state and the saved states, one for every ``tile`` steps."""
    (channels, states), dtype, count = call.A.shape, call.A.dtype, count_of(call, call.u.shape[0])
    outputs = [like(call.u), call.u.new_empty((count, channels, states), dtype=dtype)]
    if call.save:
        tiles = saved_tiles(tile, count, call.u.shape[2], call.cu_seqlens is not None)
        outputs.append(empty(call.u, (tiles, channels, states), dtype=dtype))
    return outputs


def _fake_outputs(call: SelectiveForward) -> list[Tensor]:
    return forward_outputs(call, SELECTIVE_GPU_TILE if call.u.is_cuda else _core.ssm.tile)


def _forward(call: SelectiveForward) -> list[Tensor]:
    out, last, *states = outputs = forward_outputs(call, _core.ssm.tile)
    signals = (plain(call.u), plain(call.delta), plain(call.z), out)
    A, D, delta_bias, first = all_contiguous(call.A, call.D, call.delta_bias, call.state)
    B, C = _projections(call)
    saved = states[0] if states else None
    _core.ssm.selective_forward(_work(call), *signals, A, B, C, D, delta_bias, first, last, saved)
    return outputs


def empty_gradients(call: SelectiveBackward) -> list[Tensor | None]:
    """Allocate the requested gradients in the kernels' form: those of B and C are (B, G, T, N) or (D, N)."""
    dtype = call.A.dtype
    gradients: list[Tensor | None] = []
    for i, x in enumerate(call[:8]):
        if x is None or not call.requested >> i & 1:
            gradients.append(None)
        elif x.dim() == 3:
            gradients.append(like(x))
        elif x.dim() == 4:
            gradients.append(empty(x, (*x.shape[:2], call.u.shape[2], x.shape[2]), dtype=dtype))
        else:
            gradients.append(empty(x, x.shape))
    first = (count_of(call, call.u.shape[0]), *call.A.shape)
    gradients.append(call.A.new_empty(first) if call.requested >> 8 & 1 else None)
    return gradients


def _of_projection(g: Tensor) -> Tensor:
    """Return the gradient (B, G, T, N) of B or C as (B, G, N, T), or (B, G, N, 2T) if it is complex."""
    if not g.is_complex():
        return g.transpose(2, 3)
    batch, groups, time, states = g.shape
    return torch.view_as_real(g).permute(0, 1, 3, 2, 4).reshape(batch, groups, states, 2 * time)


def as_arguments(call: SelectiveBackward, gradients: list[Tensor | None]) -> list[Tensor]:
    """Return the gradients that exist with the shapes and dtypes of their arguments."""
    result = []
    for x, g in zip((*call[:8], None), gradients, strict=True):
        if g is None:
            continue
        result.append(g if x is None else (_of_projection(g) if g.dim() == 4 else g).to(x.dtype))
    return result


def _backward_outputs(call: SelectiveBackward) -> list[Tensor]:
    return as_arguments(call, empty_gradients(call))


def _backward(call: SelectiveBackward) -> list[Tensor]:
    results = empty_gradients(call)
    du, ddelta, dA, dB, dC, dD, dz, dbias, dfirst = results
    if call.u.shape[1] == 0:  # dB and dC are empty sums, which the kernel does not write
        for x in (dB, dC):
            if x is not None:
                x.zero_()
    A, *weights, dlast = all_contiguous(call.A, call.D, call.delta_bias, call.states, call.dlast)
    inputs = (plain(call.u), plain(call.delta), plain(call.z), A, *_projections(call), *weights)
    gradients = (du, ddelta, dz, dA, dB, dC, dD, dbias, dfirst)
    _core.ssm.selective_backward(_work(call), inputs, plain(call.dout), dlast, gradients)
    return as_arguments(call, results)


selective_fwd = Op("_selective_fwd", SelectiveForward, _forward, _fake_outputs)
selective_bwd = Op("_selective_bwd", SelectiveBackward, _backward, _backward_outputs)
selective = Differentiable("selective_scan", selective_fwd, selective_bwd, "out last states")
