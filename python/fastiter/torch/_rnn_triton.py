"""Launches the Triton kernels of the family rnn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _gpu
from ._rnn_cuda import Work, four

#: The widest head: a program holds r of a head.
WIDEST = 128
#: Rows of the batch that a program takes together: the least that tensor cores multiply.
_ROWS = 16


def _launch(name: str, work: Work, x: Tensor, args: Sequence[Tensor | None]) -> None:
    kernels = _gpu.triton_kernels(work.cell.name, "rnn")
    width = max(16, 1 << (work.width - 1).bit_length())
    # a lane holds at most about 64 registers of r
    warps = min(max(work.cell.gates * width * width * x.element_size() // (64 * 32 * 4), 4), 16)
    sizes = (work.batch, work.time, work.heads, work.width, work.row, work.step, int(work.reverse))
    with _gpu.on(x):
        getattr(kernels, name)[(work.heads, -(-work.batch // _ROWS))](
            *args,
            work.lengths,
            work.offsets,
            *sizes,
            CELL=work.cell.code,
            ROWS=_ROWS,
            D=width,
            num_warps=1 << (warps - 1).bit_length(),
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
    """All steps in one launch."""
    _launch("rnn_fwd_kernel", work, r, [wx, r, b, *four(first), *four(last), *four(states), saved])


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
    """All steps back in time in one launch."""
    args = [r, *four(first), *four(states), saved, *four(dstates), *four(dlast), dwx, dq, *four(dfirst)]
    _launch("rnn_bwd_kernel", work, r, args)
