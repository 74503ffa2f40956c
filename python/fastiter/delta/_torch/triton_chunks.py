"""The delta rule on tensor cores: launches the kernels of kernels/delta/triton_chunks*.py.

A float32 product is computed as three TF32 products, and 16-bit products as bfloat16 products, with sums in float32.
Chunks have 64 factors, but 32 in float32, as the operands of three products of 64 factors do not fit in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import launch
from ..._torch.ops import contiguous, unit_stride
from .ops import DeltaBackward, DeltaForward, carried, forward_outputs, gradients_of, stored
from .work import Work, factor_strides, strides, work_of

#: Bytes of scratch memory for states; calls that need more process the heads in several parts.
SCRATCH = 1 << 29
#: Maximum K
LONGEST_KEY = 128


class Tile(NamedTuple):
    """Factors per chunk; rows and columns of a program's tile of the state, and its warps."""

    factors: int
    rows: int
    columns: int
    warps: int


#: Tiles that fit into the 255 registers of a thread, by kernel
TILES = {
    "inverse": Tile(32, 32, 0, 4),
    "products_fwd": Tile(32, 16, 16, 4),
    "states_fwd": Tile(32, 64, 16, 4),
    "outputs_fwd": Tile(32, 32, 32, 4),
    "products_bwd": Tile(32, 16, 16, 4),
    "states_bwd": Tile(32, 64, 16, 4),
    "pairs_bwd": Tile(32, 0, 32, 4),
    "keys_bwd": Tile(32, 16, 32, 8),
    "strengths_bwd": Tile(32, 32, 0, 4),
}
#: Tiles for 16-bit operands
NARROW = {
    "inverse": Tile(64, 32, 0, 4),
    "products_fwd": Tile(64, 32, 32, 4),
    "states_fwd": Tile(64, 64, 32, 4),
    "outputs_fwd": Tile(64, 32, 32, 4),
    "products_bwd": Tile(64, 32, 32, 8),
    "states_bwd": Tile(64, 64, 32, 4),
    "pairs_bwd": Tile(64, 0, 32, 4),
    "keys_bwd": Tile(64, 32, 32, 8),
    "strengths_bwd": Tile(64, 16, 0, 8),
}
#: Chunk sizes by which a call of the op selects these kernels
SIZES = (32, 64)


def tiles_of(dtype: torch.dtype) -> dict[str, Tile]:
    """Return the tiles of the kernels for signals of a dtype."""
    return NARROW if dtype.itemsize == 2 else TILES


def warps_of(kernel: str, dtype: torch.dtype, capability: int) -> int:
    """Return the warps per program; on GPUs of capability 10 (Blackwell) one kernel needs more to avoid spills."""
    return (
        8 if (kernel, dtype, capability >= 10) == ("states_bwd", torch.float32, True) else tiles_of(dtype)[kernel].warps
    )


def chunk_of(dtype: torch.dtype) -> int:
    """Return the number of factors per chunk."""
    return tiles_of(dtype)["inverse"].factors


def precision() -> str:
    """Return torch's precision of float32 products: "none" by default, "ieee" or "tf32"."""
    return str(torch.backends.cuda.matmul.fp32_precision)


#: Dynamo calls it during compilation and treats the result as a constant. torch.compiler.assume_constant_result sets
#: #: the same attribute, but takes long to import.
precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _power_of_two(x: int) -> int:
    return max(16, 1 << (x - 1).bit_length())


class _Part(NamedTuple):
    """A range of the heads of a call."""

    work: Work
    like: Tensor
    first: int
    part: int

    @property
    def lines(self) -> tuple[int, int]:
        """The leading axes of scratch memory, chunks and heads."""
        return self.work.lines, self.part

    @property
    def key_blocks(self) -> int:
        """The number of blocks of keys of keys_bwd."""
        keys = self.work.sizes.keys
        return -(-keys // min(tiles_of(self.like.dtype)["keys_bwd"].rows, _power_of_two(keys)))

    def run(self, kernel: str, memory: dict[str, Any], names: str, programs: int) -> None:
        """Launch a kernel with the constants in ``names`` and ``programs`` programs for each head of each sequence."""
        work, sizes, narrow = self.work, self.work.sizes, self.like.dtype.itemsize == 2
        tile = tiles_of(self.like.dtype)[kernel]
        columns = min(tile.columns, _power_of_two(sizes.values))
        programs *= -(-sizes.values // columns) if kernel.startswith(("states", "outputs")) else 1
        if not programs * work.sequences * self.part:
            return
        constants = {
            "K": sizes.keys,
            "V": sizes.values,
            "BK": min(tile.rows, _power_of_two(sizes.keys)),
            "BV": columns,
            "BLOCKS": self.key_blocks,
            "M": sizes.factors,
            "STEPS": work.steps,
            "PERIOD": work.period,
            "C": tile.factors,
            "PRECISION": "bf16" if narrow else "tf32" if precision() == "tf32" else "tf32x3",
        }
        chosen = {name: constants[name] for name in names.split()}
        cut = {"reset": work.reset, "lengths": work.lengths, "starts": work.starts}
        size = {"time": sizes.time, "heads": sizes.heads, "first": self.first, "part": self.part}
        source = "delta/triton_chunks_gradient" if kernel.endswith("bwd") else "delta/triton_chunks"
        capability = torch.cuda.get_device_capability(self.like.device)[0] if self.like.is_cuda else 0
        warps = warps_of(kernel, self.like.dtype, capability)
        with launch.on(self.like):
            kernel_launcher = getattr(launch.triton_kernels("delta_scan", source), f"delta_chunk_{kernel}_kernel")
            kernel_launcher[(programs * work.sequences * self.part,)](
                **memory, **cut, **size, **chosen, num_warps=warps, num_stages=1, enable_fp_fusion=True
            )

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return scratch memory with an entry for each chunk and head, by default in float32."""
        return self.like.new_empty((*self.lines, *shape), dtype=dtype or torch.float32)

    def new_states(self) -> Tensor:
        """Return scratch memory for a state at each chunk."""
        return self.new(self.work.sizes.keys, self.work.sizes.values, dtype=stored(self.like.dtype))


def _heads_of(work: Work, like: Tensor, copies: int) -> int:
    """Return the number of heads for which ``copies`` copies of the states before all chunks fit in the scratch."""
    return max(
        1, SCRATCH // max(1, copies * work.lines * work.sizes.keys * work.sizes.values * stored(like.dtype).itemsize)
    )


def _parts(work: Work, like: Tensor, at_once: int) -> Iterator[_Part]:
    """Yield ranges of at most ``at_once`` heads."""
    heads = work.sizes.heads
    for first in range(0, heads, at_once):
        yield _Part(work, like, first, min(at_once, heads - first))


def _strided(**signals: Tensor | None) -> dict[str, Any]:
    """Return q, k, v and d_o with their strides as arguments."""
    arguments: dict[str, Any] = dict(signals)
    for name, x in signals.items():
        if x is not None and name in ("k", "v"):
            axes = ("row", "time", "factor", "head")
            arguments |= zip([f"{name}_{axis}" for axis in axes], factor_strides(x), strict=True)
        else:
            arguments |= zip([f"{name}_{axis}" for axis in ("row", "time", "head")], strides(x), strict=True)
    return arguments


def _chosen(every: dict[str, Any], signals: str, others: str) -> dict[str, Any]:
    """Return arguments by name: signals with their strides, and others."""
    names = others.split()
    names += [name for name in every for x in signals.split() if name == x or name.startswith(f"{x}_")]
    return {name: every[name] for name in names}


def forward(call: DeltaForward) -> list[Tensor]:
    """Implement the forward op on a GPU."""
    sizes, work, outputs = call.sizes, work_of(call, call.chunk), forward_outputs(call)
    o, last, *saving = outputs
    if call.lengths is not None:
        o.zero_()
    if call.state is None:
        last.zero_()
    else:
        last.copy_(call.state)
    if not sizes.time:
        return outputs
    every = _strided(q=unit_stride(call.q), k=unit_stride(call.k), v=unit_stride(call.v))
    decay = None if call.decay is None else contiguous(call.decay)
    every |= {"beta": contiguous(call.beta), "decay": decay, "reset_row": work.reset_row, "periods": 1}
    every |= {"e": saving[0] if saving else call.q.new_empty(call.v.shape)}
    every |= {"o": o, "last": last, "chunks": -(-sizes.time // work.steps)}
    direct = bool(saving) and work.period == work.steps  # the states before all chunks are exactly the states to save
    for part in _parts(work, call.q, max(1, sizes.heads) if direct else _heads_of(work, call.q, 1)):
        size, keys = chunk_of(call.q.dtype), sizes.keys
        every["inverse"] = part.new(3, size, size)
        every["moved"] = part.new(size, keys, dtype=call.q.dtype)
        every["states"] = saving[1] if direct else part.new_states()
        every["saved"] = saving[1] if saving and not direct else None
        gates = "beta decay reset_row inverse"
        part.run("inverse", _chosen(every, "k", f"{gates} chunks"), "K BK M STEPS C PRECISION", every["chunks"])
        arguments = _chosen(every, "k v", "decay reset_row inverse e moved chunks")
        part.run("products_fwd", arguments, "K V BK BV M STEPS C PRECISION", every["chunks"])
        arguments = _chosen(every, "k", "beta decay reset_row moved e last states saved periods")
        part.run("states_fwd", arguments, "K V BK BV M STEPS PERIOD C PRECISION", 1)
        arguments = _chosen(every, "q k", f"{gates} e states o chunks")
        part.run("outputs_fwd", arguments, "K V BK BV M STEPS C PRECISION", every["chunks"])
    return outputs


def backward(call: DeltaBackward) -> list[Tensor]:
    """Implement the backward op on a GPU."""
    sizes, work, gradients = call.sizes, work_of(call, call.chunk), gradients_of(call)
    dq, dk, dv, dbeta = gradients[:4]
    ddecay = None if call.decay is None else gradients[4]
    shape = (work.sequences, *call.states.shape[1:])
    dlast = gradients[-1] if call.needs_state else call.q.new_empty(shape, dtype=carried(call.q.dtype))
    if call.lengths is not None:
        for x in (dq, dk, dv, dbeta, *([] if ddecay is None else [ddecay])):
            x.zero_()
    if call.dlast is None:
        dlast.zero_()
    else:
        dlast.copy_(call.dlast)
    if not sizes.time:
        return gradients
    d_o = None if call.dout is None else unit_stride(call.dout)
    every = _strided(q=unit_stride(call.q), k=unit_stride(call.k), d_o=d_o)
    decay = None if call.decay is None else contiguous(call.decay)
    every |= {"beta": contiguous(call.beta), "decay": decay, "reset_row": work.reset_row, "e": contiguous(call.e)}
    every |= {"dq": dq, "dk": dk, "dv": dv, "dbeta": dbeta, "ddecay": ddecay, "dlast": dlast, "last": None}
    every |= {"chunks": -(-sizes.time // work.steps), "periods": -(-sizes.time // work.period)}
    direct, saved = work.period == work.steps, contiguous(call.states)
    in_place = (
        direct and _heads_of(work, call.q, 1) >= sizes.heads
    )  # saved states of some of the heads have to be copied
    for part in _parts(work, call.q, _heads_of(work, call.q, 1 if in_place else 2)):
        _backward_part(part, every, saved, direct)
    return gradients


def _backward_part(part: _Part, every: dict[str, Any], saved: Tensor, direct: bool) -> None:
    sizes, chunks, size = part.work.sizes, every["chunks"], chunk_of(part.like.dtype)
    inverse = part.new(3, size, size)
    every = every | {"inverse": inverse, "dstates": part.new_states(), "sums": part.new(part.key_blocks, 3, size)}
    tiles, gates = "K V BK BV M STEPS C PRECISION", "beta decay reset_row inverse chunks"
    if direct:
        every["states"] = contiguous(saved[:, part.first : part.first + part.part])
    else:
        every |= {"states": part.new_states(), "saved": saved, "moved": None}
        arguments = _chosen(every, "k", "beta decay reset_row moved e last states saved periods")
        part.run("states_fwd", arguments, "K V BK BV M STEPS PERIOD C PRECISION", every["periods"])
    every["moved"] = part.new(size, sizes.keys, dtype=part.like.dtype)
    part.run("inverse", _chosen(every, "k", gates), "K BK M STEPS C PRECISION", chunks)
    part.run("products_bwd", _chosen(every, "q k d_o", f"{gates} dv moved"), tiles, chunks)
    arguments = _chosen(every, "q k d_o", "decay reset_row moved dv dlast dstates")
    part.run("states_bwd", arguments, tiles, 1)
    part.run("pairs_bwd", _chosen(every, "d_o", "e dv inverse chunks"), "V BV M STEPS C PRECISION", chunks)
    arguments = _chosen(every, "q k d_o", f"{gates} e dv states dstates dq dk sums")
    part.run("keys_bwd", arguments, f"{tiles} BLOCKS", chunks * part.key_blocks)
    arguments = _chosen(every, "q k", f"{gates} sums dbeta ddecay")
    part.run("strengths_bwd", arguments, "K BK BLOCKS M STEPS C PRECISION", chunks)
