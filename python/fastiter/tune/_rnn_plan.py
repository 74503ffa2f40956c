"""The launch shape of the CUDA recurrence, which keeps r in registers and shared memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from ._device import Device
from ._search import solve

Cell: TypeAlias = Literal["elman", "gru", "lstm", "slstm"]
Dtype: TypeAlias = Literal["bfloat16", "float16", "float32"]

#: For each cell the number of gates, and the number of states besides h
CELLS = {"elman": (1, 0), "gru": (3, 0), "lstm": (4, 1), "slstm": (4, 3)}
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}

#: Registers per thread for everything but r, h and sums: addresses, gates, the loop
BASE_REGISTERS = 56
#: Bytes of shared memory per block that the driver reserves
RESERVED = 1024
#: Rows, columns and depth of a fragment of r: the A operand of mma m16n8k16.
TILE = 16
#: Cycles, forward and backward, fitted to a simulation of the machine code (docs/tune/theory.md). Per step:
STEP = (128, 354)
#: For the cell of one element, a unit of a row, with its loads and stores; a thread computes its elements in sequence.
ELEMENT = {"elman": (450, 220), "gru": (600, 340), "lstm": (770, 440), "slstm": (890, 960)}
#: For the product of a fragment of r and 8 rows of the batch; for reading a fragment from shared memory; for a partial
#: #: sum
PRODUCT, FRAGMENT, SUM = (10, 36), (3, 0), (4, 9)
#: For several blocks per head, with the grid barrier; for 8 bytes that a thread fetches after it
JOINED, WORD = (1670, 1560), (33, 22)
#: Further cycles of the grid barrier, and for each arriving block: estimates, as the simulation has only one block
SKEW, ARRIVAL = 750, 4
#: Instructions per warp, of which a scheduler issues one per cycle: for an element, for 8 fetched bytes and for a
#: product; additional ones for a product in float32
ELEMENT_ISSUE, WORD_ISSUE, FRAGMENT_ISSUE, EXACT_ISSUE = 290, 20, 2, 80
#: Bytes per cycle that one SM reads from L2
L2_RATE = 64
#: Microseconds on the host per launch of the alternating variant, which has two per step; the GPU waits for them
LAUNCH_US = 20
#: The maximum number of heads, units and sequences, which kernels count in 32 bits
MAXIMUM = 2**31 - 1


@dataclass(frozen=True)
class RnnPlan:
    """The launch shape of the recurrence: ``grid`` blocks of ``threads`` threads, run ``passes`` times in succession.

    Attributes
    ----------
    device : Device
        The GPU that the plan is for.
    cell, heads, width, batch, dtype, backward : str, int, int, int, str, bool
        The arguments of :func:`rnn_plan`.
    variant, reason : str
        "fused", one launch for all steps, or "alternating", a batched product and a cell kernel for each step.
        ``reason`` explains an alternating plan, for which all attributes after ``cycles`` are 0.
    cycles : int
        The cost model's estimate for one step of all passes, in cycles of an SM.
    padded : int
        The width, rounded up to a multiple of 16; rows and columns beyond the width are zero.
    units, blocks : int
        Units of one head per block, and blocks per head; the last block may have units beyond the width.
    row_warps, depth_warps : int
        The warps of a block, which divide its rows (gates times units) and the depth of the sums.
    batch_tile, batch_tiles : int
        Batch rows per block, and the number of such tiles; the last one is padded.
    fragments_registers, fragments_shared : int
        Tiles of 16 x 16 elements of r per warp, held in registers or read from shared memory at each step.
    registers, shared : int
        Registers per thread, and bytes of shared memory per block.
    blocks_per_sm, heads_per_pass, tiles_per_pass, passes : int
        The division into passes: all blocks of a pass are resident at once, so a barrier never waits for a block that
        has not started.

    See Also
    --------
    rnn_plan : The function that returns a plan.
    Device : The GPU that a plan is for.

    Examples
    --------
    >>> from fastiter import tune
    >>> plan = tune.rnn_plan(tune.DEVICES["RTX 4090"], cell="gru", heads=1, width=64, batch=1, dtype="bfloat16")
    >>> plan.variant, plan.blocks, plan.units, plan.threads
    ('fused', 1, 64, 512)
    """

    device: Device
    cell: str
    heads: int
    width: int
    batch: int
    dtype: str
    backward: bool
    variant: str
    reason: str
    cycles: int
    padded: int = 0
    units: int = 0
    blocks: int = 0
    row_warps: int = 0
    depth_warps: int = 0
    batch_tile: int = 0
    batch_tiles: int = 0
    fragments_registers: int = 0
    fragments_shared: int = 0
    registers: int = 0
    shared: int = 0
    blocks_per_sm: int = 0
    heads_per_pass: int = 0
    tiles_per_pass: int = 0
    passes: int = 0

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks per head, heads per pass and batch tiles per pass."""
        return self.blocks, self.heads_per_pass, self.tiles_per_pass

    @property
    def threads(self) -> int:
        """Threads per block."""
        return self.row_warps * self.depth_warps * self.device.warp

    @property
    def microseconds(self) -> float:
        """The cost model's estimate for one step, in microseconds."""
        return self.cycles / self.device.clock

    def __str__(self) -> str:
        way = "backward" if self.backward else "forward"
        head = (
            f"{self.cell} {way}, {self.heads} heads of {self.width}, batch {self.batch}, {self.dtype} "
            f"on {self.device.name}: {self.variant}, {self.microseconds:.2f} us a step"
        )
        if self.variant == "alternating":
            return f"{head}\n  because {self.reason}"
        return (
            f"{head}\n"
            f"  grid {self.grid} x {self.threads} threads, {self.passes} passes, {self.blocks_per_sm} blocks an SM\n"
            f"  block: {self.units} units of width {self.padded}, {self.batch_tile} batch rows, "
            f"{self.row_warps} x {self.depth_warps} warps\n"
            f"  r: {self.fragments_registers} fragments a warp in registers ({self.registers} a thread), "
            f"{self.fragments_shared} in shared memory ({self.shared} bytes a block)"
        )


def _cycles_16(device: Device, dtype: str) -> int:
    """Sixteenths of a cycle per SM for one fragment of r times 8 batch rows, with all tensor cores busy."""
    if dtype == "float32":
        return 16 * 2048 // 128  # 128 fused multiply-adds per cycle, no tensor cores
    return max(1, 16 * 4096 * device.sms * device.clock // (device.tensor_flops * 10**6))


def rnn_constraints(
    device: Device, *, cell: Cell, heads: int, width: int, batch: int, dtype: Dtype, backward: bool = False
) -> tuple[str, str]:
    """Return the constraints of a fused launch as text, and its cost as a term, which :func:`rnn_plan` minimizes.

    Parameters
    ----------
    device : Device
        A row of :data:`~fastiter.tune.DEVICES`, or :meth:`Device.current`.
    cell : {"elman", "gru", "lstm", "slstm"}
        The recurrence.
    heads, width, batch : int
        N heads of D units each, and B sequences, each from 1 to 2^31 - 1.
    dtype : {"bfloat16", "float16", "float32"}
        The dtype of the weights and states; the 16-bit ones run on tensor cores.
    backward : bool
        Whether to return the constraints of the backward pass.

    Returns
    -------
    text, cost : str
        The statements and the term that :func:`solve` takes as ``text`` and ``minimize``.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type or value.

    See Also
    --------
    rnn_plan : Returns the best solution.

    Examples
    --------
    >>> from fastiter import tune
    >>> H100, shape = tune.DEVICES["H100"], {"cell": "lstm", "heads": 1, "width": 768, "batch": 16}
    >>> text, cost = tune.rnn_constraints(H100, **shape, dtype="bfloat16")
    >>> tune.solve(text, minimize=cost)[0]["blocks"]
    48
    """
    _check("rnn_constraints", device, cell, heads, width, batch, dtype, backward)
    (gates, states), size = CELLS[cell], ITEMSIZE[dtype]
    padded = -(-width // TILE) * TILE
    row_gates, depth = (1, gates * padded) if backward else (gates, padded)
    depth_tiles, way = depth // TILE, int(backward)
    exact = EXACT_ISSUE if dtype == "float32" else 0  # no tensor cores: the warps of a scheduler alternate
    product = f"{exact} * warps" if exact else str(4 * PRODUCT[way])
    text = f"""
# the most decisive variables come first: the search halves the first one that is open
several in 0..1; blocks_per_sm in 1..2; batch_tile in [{", ".join(map(str, _batch_tiles(batch)))}]
passes in [{", ".join(map(str, _passes(device, heads, batch)))}]
row_warps in [1, 2, 4, 8, 16]; depth_warps in [1, 2, 4, 8, 16]; blocks in 1..{2 * device.sms}
# warps share the rows and the depth of a block, and each holds a part of r
warps in [4, 8, 16]; warps == row_warps * depth_warps; batch_tile == 8 * columns
(batch_tiles - 1) * batch_tile < {batch}; batch_tiles * batch_tile >= {batch}
row_tiles in 1..64; {row_gates} * units == {TILE} * row_tiles; row_tiles == row_warps * rows_per_warp
blocks * units >= {width}; (blocks - 1) * units < {width}
(depth_per_warp - 1) * depth_warps < {depth_tiles}; depth_per_warp * depth_warps >= {depth_tiles}
# r in registers, with sums and two buffers of h; the rest of r in shared memory
fragments_shared + fragments_registers == rows_per_warp * depth_per_warp
fragments_shared >= 0; fragments_registers >= 0
registers == {BASE_REGISTERS} + {2 * size} * fragments_registers + 4 * rows_per_warp * columns + {2 * size} * columns
registers <= {device.thread_registers}
{device.warp} * warps * blocks_per_sm * registers <= {device.registers}
# shared memory: r, h or the gates' gradients with 8 numbers of padding a row, partial sums, states, two buffers of wx
row_bytes == {(depth + 8) * size} + (4 * {row_gates} * depth_warps + {4 * states + 2 * gates * size}) * units
shared == {TILE * TILE * size} * warps * fragments_shared + batch_tile * row_bytes
shared <= {device.block_shared}; blocks_per_sm * (shared + {RESERVED}) <= {device.shared}
# all blocks of a pass are resident; a pass has all tiles of the batch, or a single head
blocks * heads_per_pass * tiles_per_pass <= {device.sms} * blocks_per_sm
heads_per_pass in 1..{min(heads, 2 * device.sms)}; 1 <= tiles_per_pass <= batch_tiles
heads_per_pass == 1 or tiles_per_pass == batch_tiles
(head_passes - 1) * heads_per_pass < {heads}; head_passes * heads_per_pass >= {heads}
(tile_passes - 1) * tiles_per_pass < batch_tiles; tile_passes * tiles_per_pass >= batch_tiles
passes == head_passes * tile_passes; {heads} * blocks * batch_tiles <= {device.sms} * blocks_per_sm * passes
# a thread computes some elements, units of a row, and fetches some words of 8 bytes that other blocks have written
several < blocks; blocks <= 1 + {2 * device.sms} * several; threads == {device.warp} * warps
elements >= 1; threads * elements >= units * batch_tile; threads * (elements - 1) < units * batch_tile
words >= 0; threads * words >= {depth * size // 8} * batch_tile * several
threads * (words - 1) < {depth * size // 8} * batch_tile * several
# quarters of a cycle: the latency of a step, or the issue slots, a fourth of the warps each, of an SM's blocks
products == rows_per_warp * depth_per_warp * columns
cells == {4 * STEP[way]} + ({4 * ELEMENT[cell][way]} + {4 * SUM[way] * row_gates} * depth_warps) * elements
matrix == {product} * products + {4 * FRAGMENT[way]} * fragments_shared
latency == cells + matrix + several * ({4 * (JOINED[way] + SKEW)} + {4 * ARRIVAL} * blocks) + {4 * WORD[way]} * words
busy == warps * ({ELEMENT_ISSUE} * elements + {WORD_ISSUE} * words + {FRAGMENT_ISSUE + exact} * products)
longest >= latency; longest >= busy * blocks_per_sm; longest == latency or longest == busy * blocks_per_sm
"""
    return text, "passes * longest"


def _batch_tiles(batch: int) -> list[int]:
    """Return the batch tiles up to the first that covers the batch."""
    return [tile for tile in (8, 16, 32, 64) if tile == 8 or tile < 2 * batch]


def _passes(device: Device, heads: int, batch: int) -> list[int]:
    """Return the possible numbers of passes, so that the search tries only these, however many heads there are.

    At most two blocks per SM are resident, for all batch tiles and some heads, or for one head and some batch tiles.
    """
    limit = 2 * device.sms
    counts: set[int] = set()
    for tile in _batch_tiles(batch):
        tiles = -(-batch // tile)
        counts.update(-(-heads // each) for each in range(1, min(heads, limit // tiles) + 1))
        counts.update(heads * -(-tiles // each) for each in range(1, min(tiles, limit) + 1))
    return sorted(counts)


def _check(
    function: str, device: Device, cell: str, heads: int, width: int, batch: int, dtype: str, backward: bool
) -> None:
    if not isinstance(device, Device):
        raise TypeError(f"{function}: device must be a Device, got {type(device).__name__}")
    for name, value, known in (("cell", cell, CELLS), ("dtype", dtype, ITEMSIZE)):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    for name, number in (("heads", heads), ("width", width), ("batch", batch)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"{function}: {name} must be an int, got {type(number).__name__}")
        if number < 1:
            raise ValueError(f"{function}: {name} must be at least 1, got {number}")
        if number > MAXIMUM:
            raise ValueError(f"{function}: {name} must be at most {MAXIMUM}, got {number}")
    if not isinstance(backward, bool):
        raise TypeError(f"{function}: backward must be a bool, got {type(backward).__name__}")


def rnn_plan(
    device: Device, *, cell: Cell, heads: int, width: int, batch: int, dtype: Dtype, backward: bool = False
) -> RnnPlan:
    """Return the launch with the fewest cycles per step by the cost model, with r held in registers if it fits.

    A block computes some units of one head with all their gates. It multiplies their rows of r, which remain on the SM
    for all steps, by the previous h, which the blocks of a head exchange through L2 with a barrier. In the backward
    pass it computes units of the gradient of h from rows of r transposed, and the gates' gradients are exchanged.

    Parameters
    ----------
    device : Device
        A row of :data:`~fastiter.tune.DEVICES`, or :meth:`Device.current`.
    cell : {"elman", "gru", "lstm", "slstm"}
        The recurrence.
    heads, width, batch : int
        N heads of D units each, and B sequences, each from 1 to 2^31 - 1.
    dtype : {"bfloat16", "float16", "float32"}
        The dtype of the weights and states; the 16-bit ones run on tensor cores.
    backward : bool
        Whether to plan the backward pass.

    Returns
    -------
    RnnPlan
        The plan: fused, or alternating with the reason.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type or value.

    See Also
    --------
    rnn_constraints : The constraints that are solved.

    Examples
    --------
    >>> from fastiter import tune
    >>> plan = tune.rnn_plan(tune.DEVICES["H100"], cell="lstm", heads=12, width=64, batch=16, dtype="bfloat16")
    >>> plan.variant, plan.grid, plan.passes
    ('fused', (1, 12, 2), 1)
    """
    _check("rnn_plan", device, cell, heads, width, batch, dtype, backward)
    return _plan(device, cell, heads, width, batch, dtype, backward)


@lru_cache(maxsize=1024)
def _plan(device: Device, cell: str, heads: int, width: int, batch: int, dtype: str, backward: bool) -> RnnPlan:
    shape: dict[str, Any] = {"cell": cell, "heads": heads, "width": width, "batch": batch, "dtype": dtype}
    shape["backward"] = backward
    text, cost = rnn_constraints(device, **shape)
    padded = -(-width // TILE) * TILE
    other = _alternating_cycles(device, cell, heads, padded, batch, dtype)
    solutions = solve(f"{text}\n{cost} <= {4 * other}", minimize=cost)
    if not solutions:
        reason = _reason(device, cell, padded, dtype, other)
        return RnnPlan(device, **shape, variant="alternating", reason=reason, cycles=other)
    names = {field.name for field in fields(RnnPlan)}
    chosen: dict[str, Any] = {name: value for name, value in solutions[0].items() if name in names}
    cycles = solutions[0]["passes"] * solutions[0]["longest"] // 4
    return RnnPlan(device, **shape, variant="fused", reason="", cycles=cycles, padded=padded, **chosen)


def _alternating_cycles(device: Device, cell: str, heads: int, padded: int, batch: int, dtype: str) -> int:
    """Return the cycles of two launches plus the maximum of those for reading r and multiplying by it."""
    gates, size = CELLS[cell][0], ITEMSIZE[dtype]
    r = heads * gates * padded * padded * size
    rate = L2_RATE * device.sms if 2 * r <= device.l2 else 1000 * device.bandwidth // device.clock
    fragments = heads * gates * (padded // TILE) ** 2 * -(-batch // 8)
    products = fragments * _cycles_16(device, dtype) // (16 * device.sms)
    return 2 * LAUNCH_US * device.clock + max(r // rate, products)


def _reason(device: Device, cell: str, padded: int, dtype: str, other: int) -> str:
    r = CELLS[cell][0] * padded * padded * ITEMSIZE[dtype] / 2**20
    capacity = device.sms * (4 * device.registers + device.shared) / 2**20
    sizes = f"r of a head has {r:.1f} MiB and {device.name} {capacity:.1f} MiB of registers and shared memory"
    return f"no fused launch fits and takes fewer than {other} cycles a step; {sizes}, less what sums and buffers need"
