"""x_{k+1} = recurrence_k(W_k x_k + b_k): the stack of layers and directions common to LSTM, GRU, RNN and sLSTM.

Everything is time-major inside, as in torch.nn: x (T, B, I), or the data (M, I) of a PackedSequence. So every view
below is free, and the dropout masks between layers equal those of torch.nn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import RNNBase
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ...._torch.linear import linear
from ...._torch.ops import autocast_dtype, autocast_to, exports_to_onnx, is_proxy
from ...._torch.packed import checked_sizes
from ..._cells import Cell
from .checks import (
    CELLS,
    Layer,
    as_torch_takes_it,
    check_streams,
    check_weights,
    checked_input,
    checked_layers,
    checked_options,
    checked_states,
    heads_of,
    module_name,
    weight_of,
    weights_of,
)
from .layer import ALL_STEPS, Direction, State, Steps, layer
from .overrides import is_overridden, run_overridden
from .sequences import begins_anew, both_directions, checked_packed, checked_steps, has_no_steps, without_padding
from .torch_layer import OF_TORCH

Requested = tuple[Any, Any, Any]  # reset, lengths, cu_seqlens


def _is_any_given(requested: Requested | Steps) -> bool:
    first, second, third = requested
    return first is not None or second is not None or third is not None


def forward(
    module: RNNBase,
    input: Tensor | PackedSequence,
    hx: Any,
    reset: Any = None,
    lengths: Any = None,
    cu_seqlens: Any = None,
    unnamed: tuple[Any, ...] = (),
) -> tuple[Any, State]:
    """Return the output in the form of the input, and the final states (layers * directions, B, H), from hx or 0."""
    if unnamed:
        reset, lengths, cu_seqlens = _by_position(module, unnamed, (reset, lengths, cu_seqlens))
    requested = (reset, lengths, cu_seqlens)
    if isinstance(hx, (tuple, list)):
        hx = as_torch_takes_it(module, hx)
    if exports_to_onnx():
        return _forward_of_torch(module, input, hx, requested)
    if not isinstance(input, (Tensor, PackedSequence)) and is_proxy(input):
        return _recorded(module, input, hx, requested)
    weights = weights_of(module)
    if is_overridden(input, hx, weights):
        return run_overridden(_of_parts, module, input, hx, requested, weights)
    return _of_weights(module, input, hx, requested, weights)


def _of_parts(
    module: RNNBase, input: Any, hx: Any, requested: Requested, weights: list[list[Tensor]]
) -> tuple[Any, State]:
    """Do the same for a packed input that is given as the tuple of its parts; its output is only the data."""
    if not isinstance(input, tuple):
        return _of_weights(module, input, hx, requested, weights)
    output, last = _of_weights(module, PackedSequence(*input), hx, requested, weights)
    return output.data, last


def _of_weights(
    module: RNNBase, input: Tensor | PackedSequence, hx: Any, requested: Requested, weights: list[list[Tensor]]
) -> tuple[Any, State]:
    cell, dtype = CELLS[module.mode], autocast_dtype(weights[0][0])
    if dtype is not None:
        return _in_autocast(dtype, module, cell, weights, input, hx, requested)
    return _forward(module, cell, checked_layers(module, cell, weights), input, hx, requested)


def _by_position(module: RNNBase, unnamed: tuple[Any, ...], named: Requested) -> Requested:
    """Return the named arguments that torch.onnx.export passes by position to the exported module."""
    if len(unnamed) == len(named) and exports_to_onnx():
        reset, lengths, cu_seqlens = (b if a is None else a for a, b in zip(unnamed, named, strict=True))
        return reset, lengths, cu_seqlens
    expected = "input and hx by position, reset, lengths and cu_seqlens by name"
    raise TypeError(f"{module_name(module)}: forward takes {expected}, got {2 + len(unnamed)} arguments by position")


def _recorded(module: RNNBase, input: Any, hx: Any, requested: Requested) -> tuple[Any, Any]:
    """Record a call of the module, as torch.fx.symbolic_trace does for torch.nn's modules."""
    named = {name: x for name, x in zip(("reset", "lengths", "cu_seqlens"), requested, strict=True) if x is not None}
    given = (input,) if hx is None else (input, hx)
    call = input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), given, named)
    return call[0], call[1] if len(CELLS[module.mode].states) > 1 else (call[1],)


def _forward_of_torch(module: RNNBase, input: Any, hx: Any, requested: Requested) -> tuple[Any, State]:
    """Run torch.nn's layer, which torch.onnx.export maps to standard operators; raise for unsupported options."""
    name = module_name(module)
    if module.mode not in OF_TORCH:
        raise TypeError(f"{name}: torch.onnx.export takes LSTM, GRU and RNN, got {name}")
    if _is_any_given(requested):
        raise ValueError(f"{name}: reset, lengths and cu_seqlens must be None in torch.onnx.export, got one")
    bound = checked_options(module)[0]
    if heads_of(module) != 1 or bound is not None:
        got = f"num_heads={heads_of(module)}, clip_state={bound}"
        raise ValueError(f"{name}: num_heads must be 1 and clip_state None in torch.onnx.export, got {got}")
    output, last = OF_TORCH[module.mode].forward(module, input, hx)
    return output, last if isinstance(last, tuple) else (last,)


def _in_autocast(
    dtype: torch.dtype,
    module: RNNBase,
    cell: Cell,
    weights: list[list[Tensor]],
    input: Tensor | PackedSequence,
    hx: Any,
    requested: Requested,
) -> tuple[Any, State]:
    """Run in the autocast dtype, as torch.nn does; float64 is not cast."""
    x = input.data if isinstance(input, PackedSequence) else input
    if weights[0][0].dtype == torch.float64 or not isinstance(x, Tensor):
        return _forward(module, cell, checked_layers(module, cell, weights), input, hx, requested)

    def cast(value: Any, to: torch.dtype = dtype) -> Any:
        return autocast_to(value, to)

    # Cast before the check: autocast may have changed the dtype of a parametrized weight.
    lower = checked_layers(module, cell, [list(map(cast, some)) for some in weights])
    first = cast(hx)
    if isinstance(hx, (tuple, list)):
        rest = torch.float32 if cell.name == "slstm" else dtype
        first = tuple([cast(s, rest if k else dtype) for k, s in enumerate(hx)])
    input = input._replace(data=cast(x)) if isinstance(input, PackedSequence) else cast(x)
    out, last = _forward(module, cell, lower, input, first, requested)
    if cell.name != "gru":
        return out, last
    # torch's GRU returns the states in their input dtype, as they are no direct result of a product.
    wanted = hx.dtype if isinstance(hx, Tensor) else x.dtype
    last = tuple([s.to(wanted) for s in last])
    return (out._replace(data=out.data.to(wanted)) if isinstance(out, PackedSequence) else out.to(wanted)), last


def _forward(
    module: RNNBase, cell: Cell, layers: list[Layer], input: Tensor | PackedSequence, hx: Any, requested: Requested
) -> tuple[Any, State]:
    if isinstance(input, PackedSequence):
        return _forward_packed(module, cell, layers, input, hx, requested)
    weight = layers[0].parameters.w_ih
    x = checked_input(module, weight, input, (2, 3))
    batched = x.dim() == 3
    steps, rows = ALL_STEPS, None
    if _is_any_given(requested):
        steps = checked_steps(module_name(module), x, batched and module.batch_first, *requested)
    if not batched:
        x = x.unsqueeze(1)
    elif module.batch_first:
        x = x.transpose(0, 1)
    if x.shape[0] == 0:
        raise RuntimeError(f"{module_name(module)}: input must have at least one time step, got {tuple(input.shape)}")
    if steps.cu_seqlens is not None:
        rows = steps.cu_seqlens.shape[0] - 1
    elif batched:
        rows = x.shape[1]
    states = checked_states(module, cell, hx, weight, rows)
    if steps.lengths is not None:
        x = without_padding(x, steps.lengths)
    out, last = _run(module, cell, layers, x, states, None, steps)
    if not batched:
        return out.squeeze(1), last if rows is not None else tuple(s.squeeze(1) for s in last)
    return out.transpose(0, 1) if module.batch_first else out, last


def step(module: RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, State]:
    """Return output (B, H) and states after one more step with input (B, I), both without B if the input has none."""
    check_streams(module)
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
    weight = weight_of(module, "weight_ih_l0")
    if weight.dtype != torch.bfloat16 or not weight.is_cpu or torch.is_autocast_enabled("cpu"):
        return None
    h = weight.new_zeros(module.num_layers, *rows, module.proj_size or module.hidden_size)
    return h, weight.new_zeros(module.num_layers, *rows, module.hidden_size, dtype=torch.float32)


def _forward_packed(
    module: RNNBase, cell: Cell, layers: list[Layer], input: PackedSequence, hx: Any, requested: Requested
) -> tuple[PackedSequence, State]:
    data, batch_sizes, sorted_indices, unsorted_indices = input
    weight = layers[0].parameters.w_ih
    x = checked_input(module, weight, data, (2,))
    sizes = checked_sizes(module_name(module), input)
    steps = ALL_STEPS
    if _is_any_given(requested):
        steps = checked_packed(module_name(module), x, sizes[0], len(sizes), module.batch_first, *requested)
    states = checked_states(module, cell, hx, weight, sizes[0])
    if sorted_indices is not None:
        if states is not None:
            states = tuple(s.index_select(1, sorted_indices) for s in states)
        if steps.reset is not None:
            steps = Steps(reset=steps.reset.index_select(0, sorted_indices))
    own = batch_sizes.clone()  # a copy for the backward pass, as the user may change theirs
    out, last = _run(module, cell, layers, x, states, own, steps)
    if unsorted_indices is not None:
        last = tuple(s.index_select(1, unsorted_indices) for s in last)
    return PackedSequence(out, batch_sizes, sorted_indices, unsorted_indices), last


def _run(
    module: RNNBase,
    cell: Cell,
    layers: list[Layer],
    x: Tensor,
    states: State | None,
    batch_sizes: Tensor | None,
    steps: Steps,
) -> tuple[Tensor, State]:
    directions = 2 if module.bidirectional else 1
    both = both_directions(steps, batch_sizes) if _is_any_given(steps) else (steps, steps)
    heads, options = heads_of(module), checked_options(module, steps.cu_seqlens is not None)
    x = x.contiguous()  # here, so that both directions and the backward pass share one copy
    dtypes = None
    if x.dtype.itemsize == 2 and len(cell.states) > 1:
        states, dtypes = _widened(cell, states, x.dtype)
    finals: list[State] = []
    for first in range(0, len(layers), directions):
        if first > 0 and module.training and module.dropout > 0:
            x = F.dropout(x, module.dropout)
        outs = []
        for k in range(first, first + directions):
            start = None if states is None else tuple(s[k] for s in states)
            direction = Direction(cell, heads, k > first, batch_sizes, *options)
            out, last = _run_layer(direction, x, layers[k], start, both[k - first])
            outs.append(out)
            finals.append(last)
        x = outs[0] if directions == 1 else torch.cat(outs, -1)
    last = finals[0] if len(finals) == 1 else tuple(torch.cat(s) for s in zip(*finals, strict=True))
    return x, last if dtypes is None else tuple(s.to(d) for s, d in zip(last, dtypes, strict=True))


def _widened(cell: Cell, states: State | None, dtype: torch.dtype) -> tuple[State | None, list[torch.dtype]]:
    """Return the states for kernels on 16-bit inputs, all but h in float32, and the dtypes of the results.

    An LSTM's c has 16 bits unless it was given as float32, as in torch. The sLSTM's states other than h are float32, as
    n counts steps, which bfloat16 can only do up to 256.
    """
    rest = torch.float32 if cell.name == "slstm" or (states and states[1].dtype == torch.float32) else dtype
    wide = None if states is None else (states[0], *[s.float() for s in states[1:]])
    return wide, [dtype, *[rest] * (len(cell.states) - 1)]


def _run_layer(direction: Direction, x: Tensor, what: Layer, start: State | None, steps: Steps) -> tuple[Tensor, State]:
    """Return the output (T, B, .) or (M, .), and the final states, each (1, B, .)."""
    parameters, w_hr = what
    w_hh, heads = parameters.w_hh, direction.heads
    if w_hr is None:
        width = w_hh.shape[1]
        first = () if start is None else tuple([s.reshape(s.shape[0], heads, width) for s in start])
        return layer(direction, x, parameters, first, None, steps)
    # h = W_hr u with u = o tanh(c), so the gates are wx + W_hh W_hr u: a plain recurrence in u with r = W_hh W_hr, and
    # one product projects all steps afterwards. But the initial h has no u with h = W_hr u in general, so its
    # contribution W_hh h_0 is added to the first step that each row computes, and u starts from 0.
    first, to_first = (), None
    if start is not None:
        h0, c0 = start[0], start[1].unsqueeze(1)
        first, to_first = (torch.zeros_like(c0, dtype=x.dtype), c0), linear(h0, w_hh)
        dropped = begins_anew(steps, direction.reverse)
        if dropped is not None:
            to_first = to_first.masked_fill(dropped.unsqueeze(1), 0)
    parameters = parameters._replace(w_hh=linear(w_hh, w_hr.t()))
    u, (u_last, c_last) = layer(direction, x, parameters, first, to_first, steps)
    h_last, stays = linear(u_last, w_hr), has_no_steps(steps)
    if start is not None and stays is not None:
        h_last = torch.where(stays.to(x.device).unsqueeze(1), start[0], h_last)
    return linear(u, w_hr), (h_last, c_last)
