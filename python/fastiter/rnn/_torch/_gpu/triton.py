"""Launches the Triton kernels of the family rnn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...._backend import BackendError
from ...._torch import launch
from ..._cells import Cell
from .cuda import Work, four

#: Programs along the second axis of a grid, which has the heads; with both on one axis, the backward pass spills
_MAX_HEADS = 65_535
#: Rows of the batch per program: the minimum for tensor cores
_ROWS = 16
#: Maximum bytes of r, and of one of its rows, that a program holds in registers; a larger r is read _TERMS terms at a
#: #: time.
_MAX_IN_REGISTERS, _LINE_IN_REGISTERS, _TERMS = 64 << 10, 256, 16
#: Registers per thread with 16 warps per multiprocessor; by default the compiler may use half as many and spill.
_MAX_REGISTERS = 128


def _padded(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def _bytes(cell: Cell, width: int, dtype: torch.dtype) -> int:
    return cell.gates * _padded(width) ** 2 * dtype.itemsize


def reaches(width: int, dtype: torch.dtype) -> bool:
    """Return whether the kernels support heads of this width and dtype; float64 is not supported."""
    return dtype != torch.float64 and width <= 128


def _matrices(r: Tensor, transposed: bool) -> Tensor:
    """Return r, or its transpose, with each matrix padded to a power of two, so that loads need no masks."""
    r = r.transpose(2, 3) if transposed else r
    more = _padded(r.shape[-1]) - r.shape[-1]
    return torch.nn.functional.pad(r, (0, more, 0, more)).contiguous()


def _launch(name: str, work: Work, x: Tensor, args: Sequence[Tensor | None]) -> None:
    if work.heads > _MAX_HEADS:
        expected = f"at most {_MAX_HEADS} heads for Triton's kernels"
        raise BackendError(f"{work.cell.name}: r must have {expected}, got {work.heads}")
    kernels = launch.triton_kernels(work.cell.name, "rnn/triton_recurrence")
    width = _padded(work.width)
    size, rows = _bytes(work.cell, work.width, x.dtype), -(-work.batch // _ROWS)
    in_registers = size <= _MAX_IN_REGISTERS and width * x.dtype.itemsize <= _LINE_IN_REGISTERS
    warps = 4 if size <= 4 << 10 else 8 if size <= 32 << 10 else 16
    backward = name == "rnn_bwd_kernel"
    vectors = work.cell.gates if backward else 1
    room = None if in_registers else x.new_empty(work.heads * rows, vectors, _ROWS, width)
    bounds = [work.clip_grad] if backward else []
    sizes = (work.batch, work.time, work.heads, work.width, work.row, work.step, int(work.reverse))
    with launch.on(x):
        getattr(kernels, name)[(rows, work.heads)](
            *args,
            room,
            work.lengths,
            work.starts,
            work.offsets,
            work.reset,
            work.clip_state,
            *bounds,
            *sizes,
            CELL=work.cell.code,
            ROWS=_ROWS,
            D=width,
            HELD=in_registers,
            TERMS=_TERMS,
            num_warps=warps,
            maxnreg=_MAX_REGISTERS if warps == 16 else None,
            num_stages=1,
            enable_fp_fusion=True,
        )


def forward(
    work: Work,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    first: Sequence[Tensor],
    last: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Tensor | None,
) -> None:
    """Run all steps in one launch."""
    _launch("rnn_fwd_kernel", work, r, [wx, _matrices(r, True), b, *four(first), *four(last), *four(states), saved])


def backward(
    work: Work,
    r: Tensor,
    first: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Tensor | None,
    dstates: Sequence[Tensor | None],
    dlast: Sequence[Tensor | None],
    dwx: Tensor,
    dq: Tensor | None,
    dfirst: Sequence[Tensor],
) -> None:
    """Run the backward pass of all steps in one launch."""
    args = [
        _matrices(r, False),
        *four(first),
        *four(states),
        saved,
        *four(dstates),
        *four(dlast),
        dwx,
        dq,
        *four(dfirst),
    ]
    _launch("rnn_bwd_kernel", work, r, args)
