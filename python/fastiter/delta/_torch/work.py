"""The sequences of a call of the delta rule, in the form that its GPU kernels need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._backend import BackendError
from ..._torch import launch
from ..._torch.sequences import check_values
from .._plan import Sizes, plan
from .ops import DeltaBackward, DeltaForward, rows_of

#: Maximum number of factors per step
FACTORS = 64


class Work(NamedTuple):
    """The sequences of a call, and their division into chunks and saved states."""

    reset: Tensor | None
    lengths: Tensor | None
    starts: Tensor | None
    reset_row: int
    sequences: int
    sizes: Sizes
    period: int
    steps: int

    @property
    def memory(self) -> tuple[Tensor | None, ...]:
        return self.reset, self.lengths, self.starts

    @property
    def lines(self) -> int:
        """Return an upper bound of the number of chunks of all sequences."""
        if self.starts is None:
            return self.sequences * -(-self.sizes.time // self.steps)
        return self.sizes.time // self.steps + self.sequences


def work_of(call: DeltaForward | DeltaBackward, chunk: int) -> Work:
    """Return the sequences of a call in chunks of ``chunk`` factors; raise if a step has too many factors."""
    sizes, reset, lengths, cu_seqlens = call.sizes, call.reset, call.lengths, call.cu_seqlens
    if sizes.factors > FACTORS:
        raise BackendError(
            f"delta_scan: k must have at most {FACTORS} factors a step on a CUDA device, got {sizes.factors}"
        )
    check_values("delta_scan", sizes.batch, sizes.time, lengths, cu_seqlens)
    lengths, cu_seqlens = launch.in_range(lengths, cu_seqlens, sizes.time)
    chosen = plan("chunk", chunk, sizes.factors)
    return Work(
        None if reset is None else reset.contiguous().view(torch.uint8),
        launch.as_int64(lengths, call.q),
        launch.as_int64(cu_seqlens, call.q),
        sizes.time if reset is not None and reset.dim() == 2 else 0,
        rows_of(sizes, cu_seqlens),
        sizes,
        chosen.period,
        chosen.backward,
    )


def strides(x: Tensor | None) -> tuple[int, ...]:
    """Return the strides of the axes (row, time, factor, head), or (row, time, head) without factors."""
    return (0, 0, 0) if x is None else x.stride()[:-1]


def factor_strides(x: Tensor) -> tuple[int, ...]:
    stride = x.stride()
    return stride[:-1] if x.dim() == 5 else (*stride[:2], 0, stride[2])
