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

#: Bytes of scratch memory; calls that need more process the heads in parts.
SCRATCH = 1 << 29
#: Precisions of products that round their operands to that of signals of 16 bits, and the steps of their chunks
ROUNDED, LONG = ("bf16", "tf32"), GPU_TILE
#: The precision of products by the dtype of the queries: TF32 has the 11 bits of float16, and the range of float32.
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "tf32"}
#: Kernels that are not in triton_attention.py
_MODULES = {
    "bwd_states": "triton_attention_gradient",
    "bwd_values": "triton_attention_gradient",
    "bwd_keys": "triton_attention_keys",
    "levels_fwd": "triton_attention_levels",
    "low_rank_inverse_fwd": "triton_low_rank",
    "low_rank_fwd": "triton_low_rank",
    "low_rank_bwd": "triton_low_rank",
    "low_rank_products_fwd": "triton_low_rank_chunks",
    "low_rank_states_fwd": "triton_low_rank_chunks",
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
    """Steps per chunk; rows and columns of the state for each program, its warps, and its loads ahead, if any."""

    steps: int
    rows: int
    columns: int
    warps: int
    stages: int | None = 2


def tile_of(kernel: str, precision: str, double: bool, vector: bool, sizes: tuple[int, int]) -> Tile:
    """Return the tile of a kernel for states of ``sizes``, with which it does not spill."""
    if precision in ROUNDED:
        tile, narrow = Tile(LONG, 64, 64, 4, 3), precision == "bf16"
        if kernel == "fwd":
            tile = Tile(LONG, 64 if narrow else 32, 64, 4 if narrow else 8)
        elif kernel == "levels_fwd":
            tile = Tile(LONG, 64 if narrow else 32, 64, 8)
        elif kernel == "two_levels_fwd":
            tile = Tile(LONG, 32 if narrow and sizes[0] > 32 else 16, 64, 8)
        elif kernel == "low_rank_products_fwd":
            tile = Tile(LONG, 64, 64, 4 if narrow else 8)
        elif kernel == "low_rank_states_fwd":
            tile = Tile(LONG, 128, 32, 8) if narrow else Tile(LONG, 64, 16, 8)
    else:
        rows, columns = (16, 16) if double else (32, 32) if precision == "tf32x3" else (16, 32)
        tile = Tile(16 if vector or double else 32, rows, columns, 8 if double else 4)
        if kernel == "bwd_keys":  # needs the most registers
            tile = tile._replace(rows=16, columns=16, warps=4 if vector else 8)
        elif kernel.startswith("low_rank"):  # has the fewest programs
            tile = tile._replace(columns=16)
        if kernel.startswith(("bwd", "low_rank")):
            tile = tile._replace(stages=None)
    keys, values = (max(16, 1 << (x - 1).bit_length()) for x in sizes)
    return tile._replace(rows=min(keys, tile.rows), columns=min(values, tile.columns))


class Problem(NamedTuple):
    """The arguments that forward and backward pass share; signals have a last axis of unit stride.

    With ``before``, queries read the state before the step; they read what the step itself writes only with the bonus.
    ``precision`` is that of products: "ieee", "tf32x3", "tf32" or "bf16". With ``totals``, the products of the decays
    of all chunks, q and k contain the decays within a chunk, and ``weights`` what its queries read of its values.
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
    precision: str
    totals: Tensor | None = None
    weights: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """K and V."""
        return self.q.shape[3], self.v.shape[3]

    @property
    def vector(self) -> bool:
        """Whether each row of the state has its own decay."""
        return self.totals is not None or (self.decay is not None and self.decay.dim() == 4)

    @property
    def rounded(self) -> bool:
        """Whether operands of products are rounded to the precision of the signals, in chunks of 64 steps."""
        return self.precision in ROUNDED

    @property
    def steps(self) -> int:
        """The steps of a chunk, which all kernels of a problem share."""
        return self.tile_of("states").steps

    def tile_of(self, kernel: str) -> Tile:
        """Return the tile of a kernel."""
        return tile_of(kernel, self.precision, self.v.dtype == torch.float64, self.vector, self.sizes)

    def blocks(self, kernel: str) -> tuple[int, int]:
        """Return the numbers of blocks of rows and of columns of a state."""
        (keys, values), tile = self.sizes, self.tile_of(kernel)
        return -(-keys // tile.rows), -(-values // tile.columns)

    @property
    def state(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        return computed(self.v.dtype)

    @property
    def stored(self) -> torch.dtype:
        """The dtype of what is stored between kernels to be rounded by products."""
        return torch.bfloat16 if self.precision == "bf16" else self.state

    def parts(self, states: int, others: int = 0, together: int = 1) -> Iterator[tuple[slice, Problem]]:
        """Yield slices of the heads and their problems, such that their scratch memory has at most SCRATCH bytes.

        For each head it is ``states`` states at each chunk, and ``others`` bytes. ``together`` heads, or those of one
        key, are not separated.
        """
        heads, per_key = self.v.shape[2], self.v.shape[2] // self.q.shape[2]
        keys, values = self.sizes
        each = states * self.cut.lines(self.steps) * keys * values * self.stored.itemsize + others
        group = max(per_key, together)
        step = max(1, SCRATCH // max(each * group, 1)) * group
        for first in range(0, heads, step):
            own = slice(first, min(first + step, heads))
            shared = slice(own.start // per_key, own.stop // per_key)
            q, k = self.q[:, :, shared], self.k[:, :, shared]
            decay = None if self.decay is None else self.decay[:, :, own]
            bonus = None if self.bonus is None else self.bonus[own]
            yield own, self._replace(q=q, k=k, v=self.v[:, :, own], decay=decay, bonus=bonus)

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return uninitialised scratch memory, by default in the dtype of the arithmetic."""
        return self.v.new_empty(shape, dtype=dtype or self.state)

    def new_states(self) -> Tensor:
        """Return uninitialised scratch memory for a state at each chunk."""
        return self.new(self.cut.lines(self.steps), self.v.shape[2], *self.sizes, dtype=self.stored)


def problem_of(function: str, call: Any) -> Problem:
    """Return the problem of a forward or backward call of the attention ops."""
    decay = plain(call.decay)
    if decay is not None and decay.dim() == 4:
        decay = unit_stride(decay)
    signals = (unit_stride(call.q), unit_stride(call.k), unit_stride(call.v), decay)
    bonus = contiguous(call.bonus)
    cut, precision = cut_of(function, call), PRECISIONS.get(call.q.dtype, "ieee")
    return Problem(*signals, bonus, call.form == 1, call.scale, cut, bonus is not None, precision)


def strides(**signals: Tensor | None) -> dict[str, int]:
    """Return the strides of the axes (row, time, head) as arguments of a kernel, named after the signals."""
    arguments: dict[str, int] = {}
    for name, x in signals.items():
        axes = (0, 0, 0) if x is None else x.stride()[:3]
        arguments |= {f"{name}_{axis}": stride for axis, stride in zip(("row", "time", "head"), axes, strict=True)}
    return arguments


def run(
    kernel: str, problem: Problem, programs: int, arguments: dict[str, Any], names: str, tile_of: str | None = None
) -> None:
    """Launch a kernel with the constants in ``names``, and with the tile of ``tile_of`` if that is not its own name."""
    import triton.language as tl

    if not programs:
        return
    module = _MODULES.get(kernel, "triton_attention")
    keys, values = problem.sizes
    tile, double = problem.tile_of(tile_of or kernel), problem.state == torch.float64
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
        "LEVELS": tile.steps.bit_length() - 1,
        "PRECISION": problem.precision,
    }
    heads = problem.v.shape[2]
    every = {**constants, "heads": heads, "per_key": heads // problem.q.shape[2]}
    chosen = {name: every[name] for name in names.split()}
    with launch.on(problem.v):
        family = "" if module.startswith("triton_low_rank") else "attention_"
        function = getattr(launch.triton_kernels("linear_attention", f"ssm/{module}"), f"{family}{kernel}_kernel")
        options = {"num_warps": tile.warps} | ({"num_stages": tile.stages} if tile.stages else {})
        function[(programs,)](**arguments, **chosen, **options, enable_fp_fusion=True)
