"""Launches the fused CUDA kernels of the family rnn: all steps at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...._torch import launch
from ..._cells import Cell
from .launch_plan import Plan, Problem, card, plan

_ELEMENTS = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "BFloat16",
    torch.float16: "Half",
}
#: Sources and names of the kernels, forward and backward
_KERNELS = (("rnn/forward", "rnn_fwd"), ("rnn/backward", "rnn_bwd"))


class Work(NamedTuple):
    """The kernels' description of the work. A line is one step of one row; ``row`` and ``step`` are strides in lines.

    ``starts`` holds the first line of each concatenated sequence, and the end; ``offsets`` the first line of each step
    of a packed batch; ``reset`` has a byte for each line.
    """

    cell: Cell
    batch: int
    time: int
    heads: int
    width: int
    row: int
    step: int
    lengths: Tensor | None
    starts: Tensor | None
    offsets: Tensor | None
    reset: Tensor | None
    clip_state: float | None
    clip_grad: float | None
    reverse: bool

    @property
    def is_plain(self) -> bool:
        """Whether there are no lengths, packed rows, resets or clipping: the kernels' PLAIN."""
        optional = (self.lengths, self.starts, self.offsets, self.reset, self.clip_state, self.clip_grad)
        return all(x is None for x in optional)

    def arguments(self, x: Tensor) -> list[launch.Argument]:
        """Return the kernels' SHAPE_ARGUMENTS for the dtype of ``x``."""
        real = np.float64 if x.dtype == torch.float64 else np.float32
        bounds = [real(inf if bound is None else bound) for bound in (self.clip_state, self.clip_grad)]
        sizes = (self.batch, self.time, self.heads, self.width, self.row, self.step)
        where = (self.lengths, self.starts, self.offsets, self.reset)
        return [*where, *bounds, *map(np.int64, sizes), np.int32(self.reverse)]


def four(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Pad to four arguments, the maximum number of states."""
    return [*tensors, *[None] * 4][:4]


def defines(work: Work, x: Tensor) -> dict[str, object]:
    return {"ELEMENT": _ELEMENTS[x.dtype], "CELL": work.cell.code}


def _tf32(x: Tensor) -> bool:
    """Return whether products may use TF32. torch refuses to read ``allow_tf32`` after ``fp32_precision`` was set."""
    return x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def fused(work: Work, r: Tensor, backward: bool) -> Plan | None:
    """Return the plan of a fused launch, or None if the steps must run one at a time.

    A part of a card (MIG) may hold no cluster of the plan; blocks that exchange through memory fit there.
    """
    rows = min(1 << (work.batch - 1).bit_length(), 1024)  # limits the number of plans
    tensor_cores = r.element_size() == 2 or _tf32(r)
    sizes = (work.cell.name, work.width, work.heads, rows, r.element_size())
    problem = Problem(*sizes, tensor_cores, backward, work.is_plain)
    shape = plan(problem, card(r))
    if shape is None or not shape.clustered or not r.is_cuda:
        return shape
    names, options = _KERNELS[backward], _defines_of(shape, work, r)
    fit = launch.active_clusters(*names, shape.threads, r, shared=shape.shared, defines=options)
    return shape if fit else plan(problem, card(r), clusters=False)


def _defines_of(shape: Plan, work: Work, r: Tensor) -> dict[str, object]:
    return {**defines(work, r), **shape.defines(), "TF32": int(_tf32(r)), "PLAIN": int(work.is_plain)}


def _launch_fused(backward: bool, shape: Plan, work: Work, r: Tensor, args: Sequence[launch.Argument]) -> None:
    groups = work.heads * -(-work.batch // shape.rows)
    joined = shape.blocks > 1 and not shape.clustered
    exchange = r.new_zeros(groups * 2 * shape.rows * shape.padded if joined else 0)
    arrived = torch.zeros(groups, dtype=torch.int32, device=r.device)
    at_once = card(r).sms * shape.resident // shape.blocks if joined else groups
    for first in range(0, groups, at_once):
        launch.launch_cuda(
            *_KERNELS[backward],
            (min(at_once, groups - first) * shape.blocks,),
            (shape.threads,),
            [*args, exchange if joined else None, arrived, np.int64(first), np.int32(shape.blocks), *work.arguments(r)],
            shared=shape.shared,
            cooperative=joined,
            defines=_defines_of(shape, work, r),
        )


def forward_fused(
    shape: Plan,
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
    args = [wx, r, b, *four(first), *four(last), *four(states), saved]
    _launch_fused(False, shape, work, r, args)


def backward_fused(
    shape: Plan,
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
    args = [r, *four(first), *four(states), saved, *four(dstates), *four(dlast), dwx, dq, *four(dfirst)]
    _launch_fused(True, shape, work, r, args)
