"""Layers with weights that are packed once and used step by step: for streams, and for ``module.step``."""

from __future__ import annotations

from math import inf
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .... import _core
from ...._torch import ops
from ...._torch.linear import linear
from ...._torch.ops import contiguous
from ..._cells import Cell
from . import stack
from .checks import CELLS, Layer, checked_options, heads_of, layers_of
from .layer import State

Stream = _core.rnn.Stream_f32 | _core.rnn.Stream_f64
STREAMS: dict[torch.dtype, type[_core.rnn.Stream_f32] | type[_core.rnn.Stream_f64]] = {
    torch.float32: _core.rnn.Stream_f32,
    torch.float64: _core.rnn.Stream_f64,
}
_STREAM_OF: WeakKeyDictionary[nn.RNNBase, tuple[Stream, int, Any]] = WeakKeyDictionary()


def step(module: nn.RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, State]:
    """Return output (B, H) and states after one more step with input (B, I), without B if the input has none.

    Without gradients the weights stay packed between steps.
    """
    watched = torch.is_grad_enabled() or forward_ad._current_level >= 0 or not ops.unwatched()
    if watched or torch.is_autocast_enabled("cpu"):  # autocast casts the weights
        return stack.step(module, input, hx)
    known = _STREAM_OF.get(module)
    if known is not None and not _drops(module) and known[2] == getattr(module, "clip_state", None):
        states = () if hx is None else (hx,) if isinstance(hx, Tensor) else hx
        is_usual = hx is None or (isinstance(states, tuple) and len(states) > 0)
        created = known[0].step_from(input, states) if is_usual else None
        if created is not None:
            return created[0], tuple(created[1:])
    output, last = stack.step(module, input, hx)
    rows = 1 if input.dim() == 1 else len(input)
    _keep_packed(module, rows, output)
    return output, last


def _drops(module: nn.RNNBase) -> bool:
    return bool(module.training and module.dropout > 0)


def _is_plain(module: nn.RNNBase) -> bool:
    """Return whether the weights are plain parameters: a parametrization may change them at each access."""
    return all(name in module._parameters for names in module._all_weights for name in names)


def _keep_packed(module: nn.RNNBase, rows: int, output: Tensor) -> None:
    """Pack the weights of a module after its first step, or after they changed."""
    if not output.is_cpu or output.dtype not in STREAMS or rows == 0 or module.proj_size > 0:
        return
    if _drops(module) or not _is_plain(module):
        return
    known, bound = _STREAM_OF.get(module), getattr(module, "clip_state", None)
    if known is None or known[1:] != (rows, bound) or not known[0].is_current():
        cell = CELLS[module.mode]
        _STREAM_OF[module] = packed(module, cell, layers_of(module, cell), rows, None), rows, bound


def packed(module: nn.RNNBase, cell: Cell, layers: list[Layer], rows: int, first: State | None) -> Stream:
    """Return a Stream that runs the steps; `first`: initial states, each (layers, B, H), None for zeros."""
    ready = [_Ready(cell, heads_of(module), layer, k, first) for k, layer in enumerate(layers)]
    starts = () if first is None else tuple([contiguous(s.detach()) for s in first])
    make = STREAMS[layers[0].parameters.w_ih.dtype]
    addresses = tuple([s.data_ptr() for s in starts])
    entries = [layer.entry for layer in ready]
    bound = checked_options(module)[0]
    clip = inf if bound is None else bound
    return make(cell.code, rows, heads_of(module), clip, entries, addresses, _watched(module))


def _watched(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor, bool, Tensor, int]]:
    """Return the locations of the module's parameters and buffers, with the data by which changes are detected."""
    places = [tensors for part in module.modules() for tensors in (part._parameters, part._buffers)]
    entries = [(tensors, name, x) for tensors in places for name, x in tensors.items() if x is not None]
    return [(*entry, not entry[2].is_inference(), entry[2].detach(), _bytes(entry[2])) for entry in entries]


def _bytes(x: Tensor) -> int:
    is_plain = x.is_cpu and x.layout == torch.strided and x.is_contiguous()
    return x.numel() * x.element_size() if is_plain else 0


class _Ready:
    """A layer for the kernels: dense tensors and their addresses, which are valid as long as this object exists."""

    def __init__(self, cell: Cell, heads: int, layer: Layer, index: int, first: State | None) -> None:
        weights = layer.parameters
        w_ih, r = contiguous(weights.w_ih.detach()), contiguous(weights.w_hh.detach())
        b_ih, b_hh = (None if b is None else contiguous(b.detach()) for b in (weights.b_ih, weights.b_hh))
        projected, w_hr, to_first = 0, None, None
        if layer.w_hr is not None:  # as in forward: h = W_hr u, and W_hh h of the first step is added to its gates
            w_hr = contiguous(layer.w_hr.detach())
            projected = len(w_hr)
            to_first = None if first is None else linear(first[0][index].detach(), r)
            r = linear(r, w_hr.t())
        separate = cell.separates
        b_h = b_hh if separate or b_ih is None or b_hh is None else b_ih + b_hh
        sizes = (w_ih.shape[1], len(w_ih) // cell.gates // heads, projected)
        self.tensors = (w_ih, r, b_ih if separate else None, b_h, w_hr, to_first)
        self.entry = (*sizes, *(0 if x is None else x.data_ptr() for x in self.tensors))
