"""x_{k+1} = recurrence_k(W_k x_k + b_k): the stack of layers and directions that LSTM, GRU, RNN and sLSTM share.

Everything is time-major inside, as torch.nn is: x (T, B, I), or the data (M, I) of a PackedSequence. That makes every
view below free, and the dropout masks between layers those of torch.nn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import RNNBase
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ..._backend import BackendError
from ..._rnn import CELLS as ALL_CELLS
from ..._rnn import Cell
from .._linear import linear
from .._op import FLOATS, GPU_FLOATS
from ._rnn_layer import Direction, Parameters, State, layer

CELLS = {  # by RNNBase.mode
    "LSTM": ALL_CELLS["lstm"],
    "GRU": ALL_CELLS["gru"],
    "RNN_TANH": ALL_CELLS["elman_tanh"],
    "RNN_RELU": ALL_CELLS["elman_relu"],
    "sLSTM": ALL_CELLS["slstm"],
}


class Layer(NamedTuple):
    """One direction of one layer; w_hr projects h to proj_size."""

    parameters: Parameters
    w_hr: Tensor | None


def forward(module: RNNBase, input: Tensor | PackedSequence, hx: Any) -> tuple[Any, State]:
    """Output in the form of the input, and the final states (layers * directions, B, H) of `module` from hx or 0."""
    cell = CELLS[module.mode]
    layers = layers_of(module, cell)
    if isinstance(input, PackedSequence):
        return _forward_packed(module, cell, layers, input, hx)
    weight = layers[0].parameters.w_ih
    x = _checked_input(module, weight, input, (2, 3))
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
    elif module.batch_first:
        x = x.transpose(0, 1)
    if x.shape[0] == 0:
        raise RuntimeError(f"{module_name(module)}: input must have at least one time step, got {tuple(input.shape)}")
    states = checked_states(module, cell, hx, weight, x.shape[1] if batched else None)
    out, last = _run(module, cell, layers, x, states)
    if not batched:
        return out.squeeze(1), tuple(s.squeeze(1) for s in last)
    return out.transpose(0, 1) if module.batch_first else out, last


def step(module: RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, State]:
    """Output (B, H) and states after one more step with input (B, I), both without B if the input is."""
    check_streams(module)
    if not isinstance(input, Tensor):
        raise TypeError(f"{module_name(module)}: input must be a Tensor, got {type(input).__name__}")
    if input.dim() not in (1, 2):
        raise ValueError(f"{module_name(module)}: input must have 1 or 2 dimensions, got shape {tuple(input.shape)}")
    time = 1 if input.dim() == 2 and module.batch_first else 0
    output, last = forward(module, input.unsqueeze(time), hx)
    return output.squeeze(time), last


def check_streams(module: RNNBase) -> None:
    """Check that the module goes forward in time alone."""
    if module.bidirectional:
        raise ValueError(f"{module_name(module)}: bidirectional must be False to go step by step, got True")


def _forward_packed(
    module: RNNBase, cell: Cell, layers: list[Layer], input: PackedSequence, hx: Any
) -> tuple[PackedSequence, State]:
    data, batch_sizes, sorted_indices, unsorted_indices = input
    weight = layers[0].parameters.w_ih
    x = _checked_input(module, weight, data, (2,))
    sizes = batch_sizes.tolist()
    if sum(sizes) != x.shape[0] or sizes[-1] < 1 or sizes != sorted(sizes, reverse=True):
        lines = f"batch_sizes that decrease to 1 or more and have the sum {x.shape[0]} of its lines"
        raise RuntimeError(f"{module_name(module)}: a PackedSequence must have {lines}, got {sizes}")
    states = checked_states(module, cell, hx, weight, sizes[0])
    if states is not None and sorted_indices is not None:
        states = tuple(s.index_select(1, sorted_indices) for s in states)
    out, last = _run(module, cell, layers, x, states, batch_sizes)
    if unsorted_indices is not None:
        last = tuple(s.index_select(1, unsorted_indices) for s in last)
    return PackedSequence(out, batch_sizes, sorted_indices, unsorted_indices), last


def _run(
    module: RNNBase,
    cell: Cell,
    layers: list[Layer],
    x: Tensor,
    states: State | None,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    directions = 2 if module.bidirectional else 1
    x = x.contiguous()  # here, so that both directions and the backward pass share one copy
    finals: list[State] = []
    for first in range(0, len(layers), directions):
        if first > 0 and module.training and module.dropout > 0:
            x = F.dropout(x, module.dropout)
        outs = []
        for k in range(first, first + directions):
            start = None if states is None else tuple(s[k] for s in states)
            direction = Direction(cell, heads_of(module), k > first, batch_sizes)
            out, last = _run_layer(direction, x, layers[k], start)
            outs.append(out)
            finals.append(last)
        x = outs[0] if directions == 1 else torch.cat(outs, -1)
    return x, finals[0] if len(finals) == 1 else tuple(torch.cat(s) for s in zip(*finals, strict=True))


def _run_layer(direction: Direction, x: Tensor, what: Layer, start: State | None) -> tuple[Tensor, State]:
    """Return the output (T, B, .) or (M, .), and the final states (1, B, .) each."""
    parameters, w_hr = what
    w_hh, heads = parameters.w_hh, direction.heads
    if w_hr is None:
        width = w_hh.shape[1]
        first = () if start is None else tuple([s.reshape(s.shape[0], heads, width) for s in start])
        return layer(direction, x, parameters, first)
    # h = W_hr u with u = o tanh(c), so the gates are wx + W_hh W_hr u: a plain recurrence in u with r = W_hh W_hr, and
    # one product projects all steps afterwards. Only h_0 is not W_hr times anything (W_hr maps to fewer dimensions):
    # its contribution W_hh h_0 is added to the first step that each row computes, and u starts from 0.
    first, to_first = (), None
    if start is not None:
        h0, c0 = start[0], start[1].unsqueeze(1)
        first, to_first = (torch.zeros_like(c0), c0), linear(h0, w_hh)
    parameters = parameters._replace(w_hh=linear(w_hh, w_hr.t()))
    u, (u_last, c_last) = layer(direction, x, parameters, first, to_first)
    return linear(u, w_hr), (linear(u_last, w_hr), c_last)


def layers_of(module: RNNBase, cell: Cell) -> list[Layer]:
    # Attributes, each read once, and not _flat_weights: they may be parametrizations, or swapped by functional_call.
    H, P, rows = module.hidden_size, module.proj_size, cell.gates * module.hidden_size
    directions = 2 if module.bidirectional else 1
    biases = ((rows,), (rows,)) if module.bias else ()
    layers = []
    for k, names in enumerate(module._all_weights):
        features = module.input_size if k < directions else directions * (P or H)
        weights = [_weight(module, name) for name in names]
        shapes = ((rows, features), (rows, P or H // heads_of(module)), *biases, (P, H))
        for name, weight, shape in zip(names, weights, shapes, strict=False):  # the kernels trust their input
            if weight.shape != shape or weight.dtype != weights[0].dtype:
                got = f"{tuple(weight.shape)}, {_dtype(weight)}"
                expected = f"shape {shape}, {_dtype(weights[0])}"
                raise ValueError(f"{module_name(module)}: {name} must have {expected}, got {got}")
        b_ih, b_hh = weights[2:4] if biases else (None, None)
        layers.append(Layer(Parameters(weights[0], weights[1], b_ih, b_hh), weights[-1] if P > 0 else None))
    return layers


def _weight(module: RNNBase, name: str) -> Tensor:
    # Module.__getattr__ ends here too, for five times the time.
    weight: Tensor | None = module._parameters.get(name)
    return getattr(module, name) if weight is None else weight


def heads_of(module: RNNBase) -> int:
    heads: int = getattr(module, "num_heads", 1)
    return heads


def module_name(module: RNNBase) -> str:
    return type(module).__name__.removeprefix("Parametrized")


def _checked_input(module: RNNBase, weight: Tensor, x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # The classes of the exceptions are torch.nn's where it checks the same thing.
    name = module_name(module)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: input must be a Tensor or a PackedSequence, got {type(x).__name__}")
    for what, tensor in (("input", x), ("parameters", weight)):
        if not tensor.is_cpu and tensor.device.type not in ("cpu", "cuda"):
            raise BackendError(f"{name}: {what} must be on the CPU or a CUDA device, got {tensor.device}")
    if x.device != weight.device:
        raise BackendError(f"{name}: input must be on {weight.device} like the parameters, got {x.device}")
    if weight.dtype not in (GPU_FLOATS if weight.is_cuda else FLOATS):
        more = ", bfloat16, float16" if weight.is_cuda else ""
        raise TypeError(f"{name}: parameters must be float32 or float64{more}, got {_dtype(weight)}")
    x = _cast(x, weight)
    if x.dtype != weight.dtype:
        raise ValueError(f"{name}: input must be {_dtype(weight)} like the parameters, got {_dtype(x)}")
    if x.dim() not in dims:
        expected = " or ".join(str(d) for d in dims)
        error = ValueError if len(dims) > 1 else RuntimeError
        raise error(f"{name}: input must have {expected} dimensions, got shape {tuple(x.shape)}")
    if x.shape[-1] != module.input_size:
        raise RuntimeError(f"{name}: input must have input_size = {module.input_size} features, got {x.shape[-1]}")
    return x


def checked_states(module: RNNBase, cell: Cell, hx: Any, weight: Tensor, batch: int | None) -> State | None:
    """hx as one (layers * directions, B, H) tensor per state; batch is None for unbatched input."""
    if hx is None:
        return None
    name, names = module_name(module), cell.states
    values = (hx,) if len(names) == 1 else hx
    sequence = isinstance(values, (tuple, list)) and len(values) == len(names)
    if not sequence or not all(isinstance(s, Tensor) for s in values):
        expected = "a Tensor" if len(names) == 1 else f"a tuple of {len(names)} Tensors ({', '.join(names)})"
        got = f"{type(hx).__name__} of {len(hx)}" if isinstance(hx, (tuple, list)) else type(hx).__name__
        raise TypeError(f"{name}: hx must be {expected}, got {got}")
    rows = module.num_layers * (2 if module.bidirectional else 1)
    states = []
    for i, (label, s) in enumerate(zip(names, values, strict=True)):
        width = module.proj_size if label == "h" and module.proj_size > 0 else module.hidden_size
        shape = (rows, width) if batch is None else (rows, batch, width)
        argument = "hx" if len(names) == 1 else f"hx[{i}] ({label})"
        if s.shape != shape:
            raise RuntimeError(f"{name}: {argument} must have shape {shape}, got {tuple(s.shape)}")
        if s.device != weight.device:
            raise BackendError(f"{name}: {argument} must be on {weight.device} like the parameters, got {s.device}")
        state = _cast(s, weight)
        if state.dtype != weight.dtype:
            raise TypeError(f"{name}: {argument} must be {_dtype(weight)} like the parameters, got {_dtype(s)}")
        states.append(state.unsqueeze(1) if batch is None else state)
    return tuple(states)


def _cast(x: Tensor, weight: Tensor) -> Tensor:
    # Under autocast torch.nn accepts any mixture of floats; here the parameters' dtype is the one computed in.
    if x.dtype != weight.dtype and x.is_floating_point() and torch.is_autocast_enabled(weight.device.type):
        return x.to(weight.dtype)
    return x


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
