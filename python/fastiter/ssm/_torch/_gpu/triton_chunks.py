"""A call of linear attention in its GPU kernels' form: arguments with strides, sequences, chunks, tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._torch import launch
from ...._torch.ops import contiguous, unit_stride
from ...._torch.sequences import check_values
from ..ops import GPU_TILE, computed, count_of, plain

#: Bytes of scratch memory for the states before the chunks; calls that need more process the heads in several parts.
SCRATCH = 1 << 29
#: Kernels that are not in triton_attention.py
_MODULES = {
    "bwd_states": "triton_attention_gradient",
    "bwd_values": "triton_attention_gradient",
    "bwd_keys": "triton_attention_keys",
    "low_rank_inverse_fwd": "triton_low_rank",
    "low_rank_fwd": "triton_low_rank",
    "low_rank_bwd": "triton_low_rank",
}


class Cut(NamedTuple):
    """The division of the rows into sequences, on the device."""

    reset: Tensor | None
    lengths: Tensor | None
    starts: Tensor | None
    reset_row: int
    time: int
    sequences: int

    def lines(self, steps: int) -> int:
        """Return the number of chunks of ``steps`` steps; an upper bound for packed sequences."""
        return self.sequences * -(-self.time // steps) if self.starts is None else self.time // steps + self.sequences

    def owners(self, steps: int) -> Tensor | None:
        """Return the sequences of the chunks if they are packed."""
        if self.starts is None:
            return None
        first = self.starts[:-1] // steps + torch.arange(self.sequences, device=self.starts.device)
        line = torch.arange(self.lines(steps), device=first.device)
        return torch.searchsorted(first, line, right=True).sub_(1).clamp_(min=0)

    def memory(self, steps: int) -> dict[str, Any]:
        """Return the arguments of a kernel whose lines have ``steps`` steps."""
        flags = {"reset": self.reset, "lengths": self.lengths, "starts": self.starts, "owner": self.owners(steps)}
        return {**flags, "reset_row": self.reset_row, "time": self.time}


def cut_of(function: str, call: Any) -> Cut:
    """Return the sequences of a call; values on the CPU are checked, those on a GPU clamped into range."""
    batch, time = call.v.shape[:2]
    check_values(function, batch, time, call.lengths, call.cu_seqlens)
    lengths, bounds = launch.in_range(call.lengths, call.cu_seqlens, time)
    reset = None if call.reset is None else call.reset.contiguous().view(torch.uint8)
    reset_row = time if reset is not None and reset.dim() == 2 else 0
    ready = (launch.as_int64(lengths, call.v), launch.as_int64(bounds, call.v))
    return Cut(reset, *ready, reset_row, time, count_of(call, batch))


class Tile(NamedTuple):
    """Steps per chunk; rows and columns of the state for each program, and its warps."""

    steps: int
    rows: int
    columns: int
    warps: int


class Problem(NamedTuple):
    """The arguments that forward and backward pass share; signals have a last axis of unit stride.

    With ``before``, queries read the state before the step; they read what the step itself writes only with the bonus.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None
    bonus: Tensor | None
    is_log: bool
    scale: float
    cut: Cut
    before: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """K and V."""
        return self.q.shape[3], self.v.shape[3]

    @property
    def vector(self) -> bool:
        """Whether each row of the state has its own decay."""
        return self.decay is not None and self.decay.dim() == 4

    @property
    def narrow(self) -> bool:
        """Whether q has 16 bits, so that products use the tensor cores, each as three TF32 products."""
        return self.q.dtype.itemsize == 2

    @property
    def tile(self) -> Tile:
        """The sizes of the kernels' tiles, with which no kernel spills."""
        keys, values = (max(16, 1 << (x - 1).bit_length()) for x in self.sizes)
        double = self.v.dtype == torch.float64
        rows, columns = (16, 16) if double else (32, 32) if self.narrow else (16, 32)
        steps = 16 if self.vector or double else 32
        return Tile(steps, min(keys, rows), min(values, columns), 8 if double else 4)

    def tile_of(self, kernel: str) -> Tile:
        """Return the tile of a kernel: bwd_keys needs the most registers, low_rank the most programs."""
        tile = self.tile
        if kernel != "bwd_keys":
            return tile._replace(columns=16) if kernel.startswith("low_rank") else tile
        return tile._replace(rows=16, columns=16, warps=4 if self.vector else 8)

    def blocks(self, kernel: str) -> tuple[int, int]:
        """Return the numbers of blocks of rows and of columns of a state."""
        (keys, values), tile = self.sizes, self.tile_of(kernel)
        return -(-keys // tile.rows), -(-values // tile.columns)

    @property
    def state(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        return computed(self.v.dtype)

    def parts(self, states: int) -> Iterator[tuple[slice, Problem]]:
        """Yield slices of the heads and their problems, such that states before all chunks fit in the scratch."""
        heads, per_key = self.v.shape[2], self.v.shape[2] // self.q.shape[2]
        keys, values = self.sizes
        each = states * self.cut.lines(self.tile.steps) * keys * values * self.state.itemsize * per_key
        step = max(1, SCRATCH // max(each, 1)) * per_key
        for first in range(0, heads, step):
            own = slice(first, min(first + step, heads))
            shared = slice(own.start // per_key, own.stop // per_key)
            q, k = self.q[:, :, shared], self.k[:, :, shared]
            decay = None if self.decay is None else self.decay[:, :, own]
            bonus = None if self.bonus is None else self.bonus[own]
            yield own, self._replace(q=q, k=k, v=self.v[:, :, own], decay=decay, bonus=bonus)

    def new(self, *shape: int) -> Tensor:
        """Return uninitialised scratch memory in the dtype of the arithmetic."""
        return self.v.new_empty(shape, dtype=self.state)


def problem_of(function: str, call: Any) -> Problem:
    """Return the problem of a forward or backward call of the attention ops."""
    decay = plain(call.decay)
    if decay is not None and decay.dim() == 4:
        decay = unit_stride(decay)
    signals = (unit_stride(call.q), unit_stride(call.k), unit_stride(call.v), decay)
    bonus = contiguous(call.bonus)
    return Problem(*signals, bonus, call.form == 1, call.scale, cut_of(function, call), bonus is not None)


def strides(**signals: Tensor | None) -> dict[str, int]:
    """Return the strides of the axes (row, time, head) as arguments of a kernel, named after the signals."""
    arguments: dict[str, int] = {}
    for name, x in signals.items():
        axes = (0, 0, 0) if x is None else x.stride()[:3]
        arguments |= {f"{name}_{axis}": stride for axis, stride in zip(("row", "time", "head"), axes, strict=True)}
    return arguments


def run(kernel: str, problem: Problem, programs: int, arguments: dict[str, Any], names: str) -> None:
    """Launch a kernel with the constants in ``names``."""
    import triton.language as tl

    if not programs:
        return
    module = _MODULES.get(kernel, "triton_attention")
    keys, values = problem.sizes
    tile, double = problem.tile_of(kernel), problem.state == torch.float64
    constants = {
        "K": keys,
        "V": values,
        "BK": tile.rows,
        "BV": tile.columns,
        "C": tile.steps,
        "TILE": GPU_TILE,
        "BEFORE": problem.before,
        "VECTOR": problem.vector,
        "LOG": problem.is_log,
        "STATE": tl.float64 if double else tl.float32,
        "PRECISION": "tf32x3" if problem.narrow else "ieee",
    }
    heads = problem.v.shape[2]
    every = {**constants, "heads": heads, "per_key": heads // problem.q.shape[2]}
    chosen = {name: every[name] for name in names.split()}
    with launch.on(problem.v):
        family = "" if module == "triton_low_rank" else "attention_"
        function = getattr(launch.triton_kernels("linear_attention", f"ssm/{module}"), f"{family}{kernel}_kernel")
        function[(programs,)](**arguments, **chosen, num_warps=tile.warps, enable_fp_fusion=True)
