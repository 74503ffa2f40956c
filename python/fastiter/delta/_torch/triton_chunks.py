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

#: Bytes of scratch memory; calls that need more process the heads in several parts.
SCRATCH = 1 << 29
#: Maximum K
LONGEST_KEY = 128


class Tile(NamedTuple):
    """Factors per chunk; rows and columns of a program's tile of the state, its warps, and its loads ahead."""

    factors: int
    rows: int
    columns: int
    warps: int
    stages: int = 1


#: Tiles that fit into the 255 registers of a thread, by kernel
TILES = {
    "products_fwd": Tile(32, 16, 16, 4),
    "states_fwd": Tile(32, 64, 16, 4),
    "outputs_fwd": Tile(32, 32, 64, 8),
    "products_bwd": Tile(32, 16, 16, 4),
    "states_bwd": Tile(32, 64, 16, 4),
    "pairs_bwd": Tile(32, 32, 32, 8),
    "keys_bwd": Tile(32, 16, 16, 8),
}
#: Tiles for 16-bit operands
NARROW = {
    "products_fwd": Tile(64, 64, 64, 4),
    "states_fwd": Tile(64, 64, 32, 4, 2),
    "outputs_fwd": Tile(64, 64, 128, 8, 2),
    "products_bwd": Tile(64, 32, 32, 8),
    "states_bwd": Tile(64, 64, 32, 4),
    "pairs_bwd": Tile(64, 32, 32, 8),
    "keys_bwd": Tile(64, 32, 64, 8),
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
    return tiles_of(dtype)["products_fwd"].factors


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
                **memory, **cut, **size, **chosen, num_warps=warps, num_stages=tile.stages, enable_fp_fusion=True
            )

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return scratch memory with an entry for each chunk and head, by default in float32."""
        return self.like.new_empty((*self.lines, *shape), dtype=dtype or torch.float32)

    def new_states(self) -> Tensor:
        """Return scratch memory for a state at each chunk."""
        return self.new(self.work.sizes.keys, self.work.sizes.values, dtype=stored(self.like.dtype))

    def states(self, saved: Tensor | None) -> dict[str, Any]:
        """Return memory for the states before all chunks: of these heads' saved states, or scratch without any."""
        if saved is None:
            return {"states": self.new_states(), "state_heads": self.part}
        return {"states": saved[:, self.first :], "state_heads": self.work.sizes.heads}


def _parts(work: Work, like: Tensor, scratch: int) -> Iterator[_Part]:
    """Yield ranges of heads that need at most SCRATCH bytes, if each chunk of a head needs ``scratch`` bytes."""
    heads = work.sizes.heads
    most = max(1, SCRATCH // max(1, scratch * work.lines))
    at_once = -(-heads // -(-heads // most))
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


#: The constants of most kernels
_TILED = "K V BK BV M STEPS C PRECISION"


def _state_bytes(call: DeltaForward | DeltaBackward) -> int:
    """Return the bytes of a state between kernels."""
    return call.sizes.keys * call.sizes.values * stored(call.q.dtype).itemsize


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
    # Unless E is saved, it has the memory of o if there is an output for each of its factors.
    every |= {"e": saving[0] if saving else o if o.shape == call.v.shape else call.q.new_empty(call.v.shape)}
    every |= {"o": o, "last": last, "chunks": -(-sizes.time // work.steps)}
    direct = bool(saving) and work.period == work.steps  # the states before all chunks are exactly the states to save
    size, keys = chunk_of(call.q.dtype), sizes.keys
    scratch = size * keys * call.q.dtype.itemsize + (0 if direct else _state_bytes(call))
    for part in _parts(work, call.q, scratch):
        _forward_part(part, every, saving[1] if saving else None, direct)
    return outputs


def _forward_part(part: _Part, every: dict[str, Any], saved: Tensor | None, direct: bool) -> None:
    chunks, gates, size, keys = every["chunks"], "beta decay reset_row", chunk_of(part.like.dtype), part.work.sizes.keys
    every = every | {"moved": part.new(size, keys, dtype=part.like.dtype), "saved": None if direct else saved}
    every |= part.states(saved if direct else None)
    part.run("products_fwd", _chosen(every, "k v", f"{gates} e moved chunks"), _TILED, chunks)
    arguments = _chosen(every, "k", f"{gates} moved e last states state_heads saved periods")
    part.run("states_fwd", arguments, f"{_TILED} PERIOD", 1)
    arguments = _chosen(every, "q k", f"{gates} e states state_heads o chunks")
    part.run("outputs_fwd", arguments, _TILED, chunks)


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
    direct, saved, size = work.period == work.steps, contiguous(call.states), chunk_of(call.q.dtype)
    squares = size * (sizes.keys * call.q.dtype.itemsize + 2 * size * stored(call.q.dtype).itemsize + 2 * 4)
    for part in _parts(work, call.q, squares + (1 if direct else 2) * _state_bytes(call)):
        _backward_part(part, every, saved, direct)
    return gradients


def _backward_part(part: _Part, every: dict[str, Any], saved: Tensor, direct: bool) -> None:
    chunks, dtype = every["chunks"], part.like.dtype
    size, gates = chunk_of(dtype), "beta decay reset_row"
    every = every | {"dstates": part.new_states(), **part.states(saved if direct else None)}
    if not direct:
        every |= {"saved": saved, "moved": None}
        arguments = _chosen(every, "k", f"{gates} moved e last states state_heads saved periods")
        part.run("states_fwd", arguments, f"{_TILED} PERIOD", every["periods"])
    every["moved"] = part.new(size, part.work.sizes.keys, dtype=dtype)
    part.run("products_bwd", _chosen(every, "q k d_o", f"{gates} dv moved chunks"), _TILED, chunks)
    part.run("states_bwd", _chosen(every, "q k d_o", "decay reset_row moved dv dlast dstates"), _TILED, 1)
    every |= {"pairs": part.new(2, size, size, dtype=stored(dtype)), "sums": part.new(2, size)}
    part.run("pairs_bwd", _chosen(every, "q k d_o", f"{gates} e dv pairs sums chunks"), _TILED, chunks)
    others = f"{gates} e dv states state_heads dstates pairs sums dq dk dbeta ddecay chunks"
    part.run("keys_bwd", _chosen(every, "q k d_o", others), _TILED, chunks)
