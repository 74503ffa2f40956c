"""The part of fastiter._core that takes whole tensors. A stub: there is no module of this name."""

from typing import Any

from ._core import Address, Addresses

# I, D, P, addresses of w_ih, r, b_x, b_h, w_hr, to_first
StepLayer = tuple[int, ...]
# A module's dict, the name and the tensor in it, whether it counts its versions, an alias, bytes at its address
Watched = tuple[dict[str, Any], str, Any, bool, Any, int]

class RnnStream_f32:
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

RnnStream_f64 = RnnStream_f32

CellLayout = tuple[int, int, int, int]

def use_tensors(api: object, tensor: type, parameter: type, /) -> bool: ...
def rnn_fits_tensors(cell: CellLayout, wx: object, r: object, b: object, state: object, /) -> bool: ...
def rnn_fwd_tensors(
    cell: CellLayout, wx: object, r: object, b: object, state: object, reverse: bool, all_states: bool, save: bool, /
) -> Any: ...
def rnn_bwd_tensors(
    cell: CellLayout,
    r: object,
    first: object,
    states: list[Any],
    saved: list[Any],
    dstates: list[Any],
    dlast: object,
    reverse: bool,
    need_r: bool,
    need_b: bool,
    need_state: bool,
    /,
) -> Any: ...
def rnn_layer_fwd_tensors(
    cell: CellLayout,
    x: object,
    w_ih: object,
    w_hh: object,
    b_ih: object,
    b_hh: object,
    first: object,
    heads: int,
    reverse: bool,
    save: bool,
    /,
) -> Any: ...
def rnn_layer_bwd_tensors(
    cell: CellLayout,
    x: object,
    w_ih: object,
    w_hh: object,
    first: object,
    h: object,
    kept: list[Any],
    dh: object,
    dlast: object,
    heads: int,
    reverse: bool,
    needs: tuple[bool, bool, bool, bool, bool, bool],
    /,
) -> Any: ...
