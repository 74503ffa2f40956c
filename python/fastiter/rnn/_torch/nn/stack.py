"""x_{k+1} = recurrence_k(W_k x_k + b_k): the stack of layers and directions common to LSTM, GRU, RNN and sLSTM.

Internally everything is time-major, as in torch.nn: x (T, B, I), or the data (M, I) of a PackedSequence. So every view
below is free, and the dropout masks between layers equal those of torch.nn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import RNNBase
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ...._torch.linear import linear
from ...._torch.ops import exports_to_onnx, is_proxy, untraced, unwatched
from ..._cells import Cell
from .checks import (
    CELLS,
    LayerCall,
    Requested,
    as_torch_takes_it,
    check_streams,
    check_weights,
    checked_call,
    checked_options,
    heads_of,
    is_overridden,
    module_name,
    weights_of,
)
from .layer import ALL_STEPS, Direction, Parameters, State, Steps, layer
from .overrides import run_overridden
from .sequences import begins_anew, has_no_steps, turned_steps
from .torch_layer import OF_TORCH


def forward(
    module: RNNBase,
    input: Tensor | PackedSequence,
    hx: Any,
    reset: Any = None,
    lengths: Any = None,
    cu_seqlens: Any = None,
    unnamed: tuple[Any, ...] = (),
) -> tuple[Any, Any]:
    """Return the output in the form of the input, and the final states (layers * directions, B, H), from hx or 0.

    Dynamo traces either the whole call or, if it gives up on a layer, as it does unless its option allow_rnn is set,
    none of it.
    """
    run = _forward if is_compiling() else _forward_untraced
    return run(module, input, hx, reset, lengths, cu_seqlens, unnamed)


def _forward(
    module: RNNBase,
    input: Tensor | PackedSequence,
    hx: Any,
    reset: Any,
    lengths: Any,
    cu_seqlens: Any,
    unnamed: tuple[Any, ...],
) -> tuple[Any, State]:
    """Run, record or export the module, depending on the arguments and on the active tracer."""
    if unnamed:
        reset, lengths, cu_seqlens = _by_position(module, unnamed, (reset, lengths, cu_seqlens))
    requested = (reset, lengths, cu_seqlens)
    if isinstance(hx, (tuple, list)):
        hx = as_torch_takes_it(module, hx)
    plain = unwatched()
    if not plain and exports_to_onnx():
        return _forward_of_torch(module, input, hx, requested)
    if not isinstance(input, (Tensor, PackedSequence)) and is_proxy(input):
        return _recorded(module, input, hx, requested)
    weights = weights_of(module)
    if is_overridden(input, hx, weights):
        return run_overridden(_of_parts, module, input, hx, requested, weights)
    return _run(module, input, checked_call(module, input, hx, requested, weights), plain)


_forward_untraced = untraced(_forward)


def _of_parts(
    module: RNNBase, input: Any, hx: Any, requested: Requested, weights: list[list[Tensor]]
) -> tuple[Any, State]:
    """Run ``forward`` on a packed input given as the tuple of its fields; its output is only the data."""
    call_input = PackedSequence(*input) if isinstance(input, tuple) else input
    output, last = _run(module, call_input, checked_call(module, call_input, hx, requested, weights), unwatched())
    return output.data if isinstance(input, tuple) else output, last


def _by_position(module: RNNBase, unnamed: tuple[Any, ...], named: Requested) -> Requested:
    """Return the keyword-only arguments, which torch.onnx.export passes to the exported module by position."""
    if len(unnamed) == len(named) and exports_to_onnx():
        reset, lengths, cu_seqlens = (b if a is None else a for a, b in zip(unnamed, named, strict=True))
        return reset, lengths, cu_seqlens
    expected = "input and hx by position, reset, lengths and cu_seqlens by name"
    raise TypeError(f"{module_name(module)}: forward takes {expected}, got {2 + len(unnamed)} arguments by position")


def _recorded(module: RNNBase, input: Any, hx: Any, requested: Requested) -> tuple[Any, Any]:
    """Record a call of the module, as torch.fx.symbolic_trace does for torch.nn's modules."""
    named = {name: x for name, x in zip(("reset", "lengths", "cu_seqlens"), requested, strict=True) if x is not None}
    arguments = (input,) if hx is None else (input, hx)
    call = input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), arguments, named)
    return call[0], call[1] if len(CELLS[module.mode].states) > 1 else (call[1],)


def _forward_of_torch(module: RNNBase, input: Any, hx: Any, requested: Requested) -> tuple[Any, State]:
    """Run torch.nn's layer, which torch.onnx.export maps to standard operators; raise for unsupported options."""
    name = module_name(module)
    if module.mode not in OF_TORCH:
        raise TypeError(f"{name}: torch.onnx.export takes LSTM, GRU and RNN, got {name}")
    if any(call_input is not None for call_input in requested):
        raise ValueError(f"{name}: reset, lengths and cu_seqlens must be None in torch.onnx.export, got one")
    bound = checked_options(module)[0]
    if heads_of(module) != 1 or bound is not None:
        got = f"num_heads={heads_of(module)}, clip_state={bound}"
        raise ValueError(f"{name}: num_heads must be 1 and clip_state None in torch.onnx.export, got {got}")
    output, last = OF_TORCH[module.mode].forward(module, input, hx)
    return output, last if isinstance(last, tuple) else (last,)


def step(module: RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, State]:
    """Return output (B, H) and states after one more step with input (B, I), without B if the input has none."""
    check_streams(module_name(module), module)
    if module._forward_pre_hooks:
        check_weights(f"{module_name(module)}.step", module)
    if not isinstance(input, Tensor):
        raise TypeError(f"{module_name(module)}: input must be a Tensor, got {type(input).__name__}")
    if input.dim() not in (1, 2):
        raise ValueError(f"{module_name(module)}: input must have 1 or 2 dimensions, got shape {tuple(input.shape)}")
    time = 1 if input.dim() == 2 and module.batch_first else 0
    if hx is None and module.mode == "LSTM":
        hx = _exact_zeros(module, input.shape[:-1])
    output, last = forward(module, input.unsqueeze(time), hx)
    return output.squeeze(time), last


def _exact_zeros(module: RNNBase, rows: torch.Size) -> State | None:
    """Return zero states with c in float32 for a bfloat16 LSTM, as c would otherwise be rounded between steps."""
    weight: Any = module.weight_ih_l0
    if weight.dtype != torch.bfloat16 or not weight.is_cpu or torch.is_autocast_enabled("cpu"):
        return None
    h = weight.new_zeros(module.num_layers, *rows, module.proj_size or module.hidden_size)
    return h, weight.new_zeros(module.num_layers, *rows, module.hidden_size, dtype=torch.float32)


def _run(module: RNNBase, input: Tensor | PackedSequence, call: LayerCall, plain: bool) -> tuple[Any, State]:
    """Return the output in the form of the input, and the final states."""
    cell, layers, heads, options, x, states, sequences, sizes, result = call
    directions, both = 1, [sequences]
    if module.bidirectional:
        directions, both = 2, [sequences, turned_steps(sequences, sizes)]
    x = x.contiguous()  # copied here, so that both directions and the backward pass share one copy
    dtypes = None
    if x.dtype.itemsize == 2 and len(cell.states) > 1:
        states, dtypes = _widened(cell, states, x.dtype)
    finals: list[State] = []
    for first in range(0, len(layers), directions):
        if first > 0 and module.training and module.dropout > 0:
            x = F.dropout(x, module.dropout)
        outs = []
        for k in range(first, first + directions):
            start = None if states is None else tuple([s[k] for s in states])
            direction, (parameters, w_hr) = Direction(cell, heads, k > first, sizes, *options), layers[k]
            if w_hr is None:
                first_states = (
                    ()
                    if start is None
                    else tuple([s.reshape(s.shape[0], heads, parameters.w_hh.shape[1]) for s in start])
                )
                out, last = layer(direction, x, parameters, first_states, None, both[k - first], plain=plain)
            else:
                out, last = _run_projected(direction, x, parameters, w_hr, start, both[k - first], plain)
            outs.append(out)
            finals.append(last)
        x = outs[0] if directions == 1 else torch.cat(outs, -1)
    last = finals[0] if len(finals) == 1 else tuple([torch.cat(s) for s in zip(*finals, strict=True)])
    if dtypes is not None:
        last = tuple([s.to(d) for s, d in zip(last, dtypes, strict=True)])
    if isinstance(input, Tensor) and input.dim() == 3 and result is None and not module.batch_first:
        return x, last
    return _in_form(module, input, call, x, last)


def _widened(cell: Cell, states: State | None, dtype: torch.dtype) -> tuple[State | None, list[torch.dtype]]:
    """Return the states for kernels on 16-bit inputs, all but h in float32, and the dtypes of the results.

    An LSTM's c has 16 bits unless it was given as float32, as in torch. The sLSTM's states other than h are float32, as
    n counts steps, and in bfloat16 the count would stop at 256.
    """
    rest = torch.float32 if cell.counts_steps or (states and states[1].dtype == torch.float32) else dtype
    wide = None if states is None else (states[0], *[s.float() for s in states[1:]])
    return wide, [dtype, *[rest] * (len(cell.states) - 1)]


def _run_projected(
    direction: Direction,
    x: Tensor,
    parameters: Parameters,
    w_hr: Tensor,
    start: State | None,
    sequences: Steps,
    plain: bool,
) -> tuple[Tensor, State]:
    """Return the output (T, B, P) or (M, P), and the final states, each (1, B, .), of a layer with proj_size = P."""
    # h = W_hr u with u = o tanh(c), so the gates are wx + W_hh W_hr u: a plain recurrence in u with r = W_hh W_hr, and
    # one product projects all steps afterwards. But the initial h has no u with h = W_hr u in general, so its
    # contribution W_hh h_0 is added to the first step that each row computes, and u starts from 0.
    w_hh, to_first = parameters.w_hh, None
    first: State = ()
    if start is not None:
        h0, c0 = start[0], start[1].unsqueeze(1)
        first, to_first = (torch.zeros_like(c0, dtype=x.dtype), c0), linear(h0, w_hh)
        dropped = begins_anew(sequences, direction.reverse)
        if dropped is not None:
            to_first = to_first.masked_fill(dropped.unsqueeze(1), 0)
    parameters = parameters._replace(w_hh=linear(w_hh, w_hr.t()))
    u, (u_last, c_last) = layer(direction, x, parameters, first, to_first, sequences, plain=plain)
    h, stays = linear(u, w_hr), has_no_steps(sequences)
    if sequences is ALL_STEPS and direction.batch_sizes is None:
        h_last = h[:1].clone() if direction.reverse else h[-1:].clone()  # as a row of a product depends on no other row
    else:
        h_last = linear(u_last, w_hr)
    if start is not None and stays is not None:
        h_last = torch.where(stays.to(x.device).unsqueeze(1), start[0], h_last)
    return h, (h_last, c_last)


def _in_form(
    module: RNNBase, input: Tensor | PackedSequence, call: LayerCall, out: Tensor, last: State
) -> tuple[Any, State]:
    """Return the output (T, B, .) or (M, .) in the form of the input, and the final states in its order of rows."""
    if call.result is not None:
        out, last = out.to(call.result), tuple([s.to(call.result) for s in last])
    if isinstance(input, PackedSequence):
        order = input.unsorted_indices
        if order is not None:
            last = tuple([s.index_select(1, order) for s in last])
        return PackedSequence(out, input.batch_sizes, input.sorted_indices, order), last
    if input.dim() == 3:
        return out.transpose(0, 1) if module.batch_first else out, last
    return out.squeeze(1), last if call.sequences.cu_seqlens is not None else tuple([s.squeeze(1) for s in last])
