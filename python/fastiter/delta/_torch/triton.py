"""The delta rule on a GPU: launches the kernels of kernels/delta/triton_delta.py, which process the steps in chunks.

These kernels compute in float64 and in exact float32; other calls use the kernels of triton_chunks.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch
from ..._torch.ops import contiguous, unit_stride
from .._plan import Sizes
from . import triton_chunks as chunks
from .ops import DeltaBackward, DeltaForward, delta_bwd, delta_fwd, forward_outputs, gradients_of, requested
from .work import Work, factor_strides, strides, work_of


class _Tile(NamedTuple):
    """Factors per chunk, and, per program, rows and columns of the state tile in registers, and warps."""

    factors: int
    lines: int
    columns: int
    backward_lines: int
    backward_columns: int
    backward_warps: int


#: Tiles that fit into the 255 registers of a thread
_TILES = {torch.float32: _Tile(16, 16, 32, 8, 16, 4), torch.float64: _Tile(8, 8, 8, 8, 8, 2)}


def checked_method(method: str, dtype: torch.dtype, sizes: Sizes) -> tuple[str, int]:
    """Return the method and chunk size that a GPU uses; raise for method "sequential", which has no GPU kernels.

    float32 uses the tensor cores, unless torch's precision of float32 products is "ieee" or the sizes do not fit.
    """
    if method == "sequential":
        raise BackendError("delta_scan: method must be 'auto' or 'chunk' on a CUDA device, got 'sequential'")
    size = chunks.chunk_of(dtype)
    fits = sizes.keys <= chunks.LONGEST_KEY and sizes.factors <= size
    if dtype.itemsize == 2 and not fits:
        raise BackendError(
            f"delta_scan: k in {dtype} must have at most {chunks.LONGEST_KEY} units and {size} factors a step, "
            f"got {sizes.keys} and {sizes.factors}; in float32 it may have any number of units"
        )
    if dtype.itemsize == 2 or (dtype == torch.float32 and fits and chunks.precision() != "ieee"):
        return "chunk", size
    return "chunk", _TILES[dtype].factors


def _power_of_two(minimum: int, x: int) -> int:
    return max(minimum, 1 << (x - 1).bit_length())


def _columns(work: Work, maximum: int) -> int:
    """Return the number of state columns per program."""
    return min(_power_of_two(8, work.sizes.values), maximum)


def _together(work: Work, x: Tensor) -> int:
    """Return the size of a chunk's square matrices: its factors, rounded up to a power of two."""
    return _power_of_two(_TILES[x.dtype].factors, work.steps * work.sizes.factors)


def _launch(
    name: str,
    work: Work,
    x: Tensor,
    programs: int,
    memory: Sequence[Tensor | None],
    numbers: Sequence[int],
    **constants: int,
) -> None:
    """Launch a kernel with the arguments that all kernels share."""
    import triton.language as tl

    if not programs or (not work.sizes.time and name == "inverse_fwd"):
        return
    sizes = work.sizes
    kernel = getattr(launch.triton_kernels("delta_scan", "delta/triton_delta"), f"delta_{name}_kernel")
    tile, backward = _TILES[x.dtype], name == "bwd"
    with launch.on(x):
        kernel[(programs,)](
            *memory,
            *numbers,
            K=sizes.keys,
            BK=tile.backward_lines if backward else tile.lines,
            M=sizes.factors,
            STEPS=work.steps,
            C=_together(work, x),
            STATE=tl.float64 if x.dtype == torch.float64 else tl.float32,
            **constants,
            num_warps=tile.backward_warps if backward else 4,
            enable_fp_fusion=True,
        )


def _inverse(k: Tensor, beta: Tensor, decay: Tensor | None, work: Work) -> Tensor:
    """Return (I + A diag(b))^-1 for every chunk; the chunks are independent of each other."""
    sizes, size = work.sizes, _together(work, k)
    inverse = k.new_empty((work.lines, sizes.heads, size, size))
    chunks = -(-sizes.time // work.steps)
    numbers = (*factor_strides(k), work.reset_row, sizes.time, sizes.heads, chunks)
    memory = (k, beta, decay, *work.memory, inverse)
    _launch("inverse_fwd", work, k, work.sequences * sizes.heads * chunks, memory, numbers)
    return inverse


def forward(call: DeltaForward) -> list[Tensor]:
    """Implement the forward op on a GPU; method and chunk are those of checked_method."""
    if call.chunk in chunks.SIZES:
        return chunks.forward(call)
    sizes, work = call.sizes, work_of(call, call.chunk)
    outputs = forward_outputs(call)
    if call.lengths is not None:
        outputs[0].zero_()
    q, k, v, beta = unit_stride(call.q), unit_stride(call.k), unit_stride(call.v), contiguous(call.beta)
    decay = None if call.decay is None else contiguous(call.decay)
    saved: list[Tensor | None] = [*outputs[2:]] if call.save else [None, None]
    if call.state is None:
        outputs[1].zero_()
    else:
        outputs[1].copy_(call.state)
    memory = (q, k, v, beta, decay, *work.memory, _inverse(k, beta, decay, work), *outputs[:2], *saved)
    numbers = (*strides(q), *factor_strides(k), *factor_strides(v), work.reset_row)
    columns = _columns(work, _TILES[q.dtype].columns)
    programs = work.sequences * sizes.heads * -(-sizes.values // columns)
    constants = {"V": sizes.values, "BV": columns, "PERIOD": work.period}
    _launch("fwd", work, q, programs, memory, (*numbers, sizes.time, sizes.heads), **constants)
    return outputs


def backward(call: DeltaBackward) -> list[Tensor]:
    """Return the gradients that the kernels write, computed on a GPU."""
    if call.chunk in chunks.SIZES:
        return chunks.backward(call)
    sizes, gradients, work = call.sizes, gradients_of(call), work_of(call, call.chunk)
    q, k, beta = unit_stride(call.q), unit_stride(call.k), contiguous(call.beta)
    e, states = contiguous(call.e), contiguous(call.states)
    decay = None if call.decay is None else contiguous(call.decay)
    d_o = None if call.dout is None else unit_stride(call.dout)
    columns = _columns(work, _TILES[q.dtype].backward_columns)
    blocks = -(-sizes.values // columns)
    # dq, dk, dbeta and ddecay are sums over V, of which each block of columns writes a partial sum.
    summed = [x for x in (0, 1, 3, 4) if x < 4 or decay is not None]
    parts = {x: gradients[x].new_empty((blocks, *gradients[x].shape)) if blocks > 1 else gradients[x] for x in summed}
    if call.lengths is not None:
        for x in (gradients[2], *parts.values()):
            x.zero_()
    state = states.new_empty((work.sequences, *states.shape[1:]))
    dstate = gradients[-1] if call.needs_state else torch.empty_like(state)
    if call.dlast is None:
        dstate.zero_()
    else:
        dstate.copy_(call.dlast)
    places = (parts[0], parts[1], gradients[2], parts[3], parts.get(4), state, dstate)
    memory = (q, k, beta, decay, e, states, d_o, *work.memory, _inverse(k, beta, decay, work), *places)
    numbers = (*strides(q), *factor_strides(k), *strides(d_o), work.reset_row)
    constants = {"V": sizes.values, "BV": columns, "PERIOD": work.period}
    programs = work.sequences * sizes.heads * blocks
    _launch("bwd", work, q, programs, memory, (*numbers, sizes.batch, sizes.time, sizes.heads), **constants)
    if blocks > 1:
        for place, part in parts.items():
            torch.sum(part, 0, out=gradients[place])
    return gradients


delta_fwd.on_cuda(forward)
delta_bwd.on_cuda(lambda call: requested(call, backward(call)))
