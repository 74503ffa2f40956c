"""Launches the CUDA kernels of the family rnn step by step: a batched product, then the cell; most steps in a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...._torch import graph, launch
from ..ops import carried
from .cuda import Work, defines, four

#: Threads per block
_THREADS = 256
#: The minimum number of steps in a graph, and the minimum number of replays that justify its capture
_MIN_STEPS, _WORTH = 8, 4


def _launch(
    kernel: str, t: int, work: Work, x: Tensor, args: Sequence[launch.Argument], start: Tensor | None = None
) -> None:
    blocks = -(-work.batch * work.heads * work.width // _THREADS)
    launch_arguments = [*args, start, np.int64(t), *work.arguments(x)]
    launch.launch_cuda("rnn/step", kernel, (blocks,), (_THREADS,), launch_arguments, defines=defines(work, x))


def _times(work: Work, backward: bool) -> range:
    return range(work.time) if backward == work.reverse else range(work.time - 1, -1, -1)


def _each(times: range, x: Tensor, step: Callable[[int, Tensor | None], None]) -> None:
    """Run ``step(t, None)`` for each t; most of them in a graph, as ``step(k, since)`` with t = since + k."""
    of_graph = max(_MIN_STEPS, math.isqrt(len(times) // 64))
    turns = (len(times) - 1) // of_graph if graph.can_capture(x) else 0
    if turns < _WORTH:
        for t in times:
            step(t, None)
        return
    alone = len(times) - turns * of_graph
    start = torch.full((1,), times[alone], dtype=torch.int64, device=x.device)

    def some() -> None:
        for k in range(of_graph):
            step(k * times.step, start)
        start.add_(of_graph * times.step)

    with graph.beside(x):
        for t in times[:alone]:  # at least one step, for compilation and allocation, which a capture does not allow
            step(t, None)
        replay = graph.captured(some)
        for _ in range(turns):
            replay()


def forward_stepwise(
    work: Work,
    wx: Tensor,
    r: Tensor,
    b: Tensor | None,
    first: Sequence[Tensor],
    last: Sequence[Tensor],
    states: Sequence[Tensor],
    saved: Tensor | None,
) -> None:
    """Run one step at a time: a product for each head, then the cell."""
    gates, batch, heads, width = work.cell.gates, work.batch, work.heads, work.width
    by_head = r.permute(1, 3, 0, 2).reshape(heads, width, gates * width)
    h, p = r.new_empty(heads, batch, width), r.new_empty(heads, batch, gates * width)
    others = r.new_empty((len(work.cell.states) - 1, heads, batch, width), dtype=carried(r))
    args = [wx, b, p, h, others, *four(first), *four(last), *four(states), saved]

    def step(t: int, start: Tensor | None = None) -> None:
        torch.bmm(h, by_head, out=p)
        _launch("rnn_step_fwd", t, work, r, args, start)

    _launch("rnn_step_fwd", -1, work, r, args)
    _each(_times(work, False), r, step)
    _launch("rnn_step_fwd", work.time, work, r, args)


def backward_stepwise(
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
    """Run the backward pass one step at a time: a product for each head, then the derivative of the cell."""
    gates, batch, heads, width = work.cell.gates, work.batch, work.heads, work.width
    by_head = r.transpose(0, 1).reshape(heads, gates * width, width)
    through, dp = r.new_empty(heads, batch, width), r.new_empty(heads, batch, gates * width)
    ds = r.new_empty((len(work.cell.states), heads, batch, width), dtype=carried(r))
    args = [through, dp, ds, *four(first), *four(states), saved, *four(dstates), *four(dlast), dwx, dq, *four(dfirst)]

    def step(t: int, start: Tensor | None = None) -> None:
        torch.bmm(dp, by_head, out=through)
        _launch("rnn_step_bwd", t, work, r, args, start)

    _launch("rnn_step_bwd", -1, work, r, args)
    _each(_times(work, True), r, step)
    step(work.time)
