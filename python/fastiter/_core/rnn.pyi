"""The recurrences. A stub."""

from typing import Any

from . import Address, Sequence, Strided

# cell, B, T, N, D, reverse, lengths, offsets, packed rows; starts, reset, clip_state, clip_grad
Shape = tuple[Any, ...]
Addresses = Sequence

def forward(
    shape: Shape,
    wx: Strided,
    r: Address,
    b: Address,
    first: Sequence,
    last: Sequence,
    states: Sequence,
    saved: Strided,
    every: int,
    checkpoints: Sequence,
    /,
) -> None: ...
def backward(
    shape: Shape,
    r: Address,
    first: Sequence,
    states: Sequence,
    saved: Strided,
    dstates: Sequence,
    dlast: Sequence,
    dwx: Strided,
    dfirst: Sequence,
    db: Address,
    dr: Address,
    every: int,
    checkpoints: Sequence,
    wx: Strided,
    b: Address,
    /,
) -> None: ...

# I, D, P, addresses of w_ih, r, b_x, b_h, w_hr, to_first
StepLayer = tuple[int, ...]
# A module's dict, the name and the tensor in it, whether it counts its versions, an alias, bytes at its address
Watched = tuple[dict[str, Any], str, Any, bool, Any, int]

class Stream_f32:
    def __init__(
        self,
        cell: int,
        rows: int,
        heads: int,
        clip_state: float,
        layers: list[StepLayer],
        first: Addresses,
        watched: list[Watched],
        /,
    ) -> None: ...
    def is_current(self) -> bool: ...
    def step(self, x: object, batched: bool, /) -> Any: ...
    def step_at(self, x: Address, y: Address, /) -> None: ...
    def step_from(self, x: object, first: tuple[object, ...], /) -> Any: ...
    def states(self, out: Addresses, /) -> None: ...

Stream_f64 = Stream_f32
#: Gates, states, saved values, and whether the gradients of W x and of R h differ, for each cell by its number
cell_sizes: list[tuple[int, int, int, bool]]

def fits_tensors(cell: int, wx: object, r: object, b: object, state: object, /) -> bool: ...

# The lengths of rows, the bounds of concatenated sequences, and the reset flags, each None if not given
Cut = tuple[object, object, object]
# A layer's w_ih, b_ih, heads
LayerWeights = tuple[object, object, int]
# A layer's x, w_ih, heads, and whether x, w_ih and b_ih need gradients
LayerSaved = tuple[object, object, int, bool, bool, bool]

def forward_tensors(
    cell: int,
    x: object,
    layer: LayerWeights | None,
    r: object,
    b: object,
    first: object,
    cut: Cut,
    reverse: bool,
    all_states: bool,
    save: bool,
    /,
) -> Any: ...
def backward_tensors(
    cell: int,
    layer: LayerSaved | None,
    r: object,
    first: object,
    states: object,
    saved: object,
    dstates: object,
    dlast: object,
    cut: Cut,
    reverse: bool,
    needs: tuple[bool, bool, bool],
    /,
) -> Any: ...
