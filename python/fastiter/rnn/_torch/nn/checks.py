"""Checks of the modules LSTM, GRU, RNN and sLSTM and of their arguments: weights by layer, options, input, states."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import RNNBase
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function

from ...._backend import BackendError
from ...._torch.ops import FLOATS, GPU_FLOATS, autocast_dtype, autocast_to, check_dense
from ...._torch.packed import checked_sizes
from ..._cells import CELLS as ALL_CELLS
from ..._cells import FLOAT16_REFUSED, NOT_IN_FLOAT16, Cell, checked_bound, checked_checkpoint
from .layer import ALL_STEPS, NO_OPTIONS, Parameters, State, Steps
from .sequences import checked_packed, checked_steps, without_padding

CPU_FLOATS = (*FLOATS, torch.bfloat16)
_DENSE = torch.strided
OPTIONS = ("clip_state", "clip_grad", "checkpoint")  # attributes of a module

CELLS = {  # by RNNBase.mode
    "LSTM": ALL_CELLS["lstm"],
    "GRU": ALL_CELLS["gru"],
    "RNN_TANH": ALL_CELLS["elman_tanh"],
    "RNN_RELU": ALL_CELLS["elman_relu"],
    "sLSTM": ALL_CELLS["slstm"],
}


Requested = tuple[Any, Any, Any]  # reset, lengths, cu_seqlens
Options = tuple[float | None, float | None, int]  # clip_state, clip_grad, checkpoint


class Layer(NamedTuple):
    """One direction of one layer; w_hr projects h to proj_size."""

    parameters: Parameters
    w_hr: Tensor | None


class LayerCall(NamedTuple):
    """The checked arguments of a call of a module, cast as autocast requires.

    x is (T, B, I), or (M, I) with the batch_sizes of a PackedSequence, and each state (layers * directions, B, H).
    `result` is the dtype that the results are cast to, None for that of x.
    """

    cell: Cell
    layers: list[Layer]
    heads: int
    options: Options
    x: Tensor
    states: State | None
    sequences: Steps
    batch_sizes: Tensor | None
    result: torch.dtype | None


def checked_call(
    module: RNNBase, input: Tensor | PackedSequence, hx: Any, requested: Requested, weights: list[list[Tensor]]
) -> LayerCall:
    """Check the arguments of a module's forward, its weights and its options."""
    cell, sizes, result = CELLS[module.mode], None, None
    if torch.is_autocast_enabled("cuda" if weights[0][0].is_cuda else "cpu"):
        weights, input, hx, result = _autocast(module, cell, weights, input, hx)
    heads: int = getattr(module, "num_heads", 1)
    layers = checked_layers(module, cell, weights, heads)
    arguments = (module, cell, layers[0].parameters.w_ih)
    if isinstance(input, PackedSequence):
        x, states, sequences = _checked_packed(*arguments, input, hx, requested)
        sizes = input.batch_sizes.clone()  # a copy for the backward pass, as the user may change the original
    else:
        x, states, sequences = _checked_rows(*arguments, input, hx, requested)
    options = checked_options(module, sequences.cu_seqlens is not None)
    return LayerCall(cell, layers, heads, options, x, states, sequences, sizes, result)


def _checked_rows(
    module: RNNBase, cell: Cell, weight: Tensor, input: Tensor, hx: Any, requested: Requested
) -> tuple[Tensor, State | None, Steps]:
    """Return the input as (T, B, I), without padding, the states, and the division into sequences."""
    x, sequences, rows = checked_input(module, weight, input, (2, 3)), ALL_STEPS, None
    batched, (reset, lengths, cu_seqlens) = x.dim() == 3, requested
    if reset is not None or lengths is not None or cu_seqlens is not None:
        sequences = checked_steps(module_name(module), x, batched and module.batch_first, *requested)
    if not batched:
        x = x.unsqueeze(1)
    elif module.batch_first:
        x = x.transpose(0, 1)
    if x.shape[0] == 0:
        raise RuntimeError(f"{module_name(module)}: input must have at least one time step, got {tuple(input.shape)}")
    if sequences.cu_seqlens is not None:
        rows = sequences.cu_seqlens.shape[0] - 1
    elif batched:
        rows = x.shape[1]
    states = None if hx is None else checked_states(module, cell, hx, weight, rows)
    if sequences.lengths is not None:
        x = without_padding(x, sequences.lengths)
    return x, states, sequences


def _checked_packed(
    module: RNNBase, cell: Cell, weight: Tensor, input: PackedSequence, hx: Any, requested: Requested
) -> tuple[Tensor, State | None, Steps]:
    """Return the data (M, I), and the states and the division into sequences in the order of the sorted rows."""
    name, sequences, order = module_name(module), ALL_STEPS, input.sorted_indices
    x, sizes = checked_input(module, weight, input.data, (2,)), checked_sizes(name, input)
    if any(arguments is not None for arguments in requested):
        sequences = checked_packed(name, x, sizes[0], len(sizes), module.batch_first, *requested)
    states = None if hx is None else checked_states(module, cell, hx, weight, sizes[0])
    if order is not None:
        if states is not None:
            states = tuple(s.index_select(1, order) for s in states)
        if sequences.reset is not None:
            sequences = Steps(reset=sequences.reset.index_select(0, order))
    return x, states, sequences


def _autocast(
    module: RNNBase, cell: Cell, weights: list[list[Tensor]], input: Tensor | PackedSequence, hx: Any
) -> tuple[list[list[Tensor]], Tensor | PackedSequence, Any, torch.dtype | None]:
    """Cast weights, input and states to the autocast dtype, as torch.nn does; float64 is not cast.

    The fourth result is the dtype that a GRU's results are cast to: torch's GRU returns the states in their input
    dtype. Weights are cast before they are checked, as autocast may
    have changed the dtype of a parametrized weight.
    """
    dtype, x = autocast_dtype(weights[0][0]), input.data if isinstance(input, PackedSequence) else input
    if dtype is None or weights[0][0].dtype == torch.float64 or not isinstance(x, Tensor):
        return weights, input, hx, None
    if dtype == torch.float16 and x.is_cpu:
        expected = f"bfloat16, {NOT_IN_FLOAT16}"
        raise TypeError(f"{module_name(module)}: the dtype of torch.autocast must be {expected}, got float16")
    first, result = autocast_to(hx, dtype), None
    if isinstance(hx, (tuple, list)):
        rest = torch.float32 if cell.counts_steps else dtype
        first = tuple([autocast_to(s, rest if k else dtype) for k, s in enumerate(hx)])
    if cell.mixes_h:
        result = hx.dtype if isinstance(hx, Tensor) else x.dtype
    lower = autocast_to(x, dtype)
    lower = input._replace(data=lower) if isinstance(input, PackedSequence) else lower
    return [[autocast_to(weight, dtype) for weight in some] for some in weights], lower, first, result


def checked_options(module: RNNBase, is_cut: bool = False) -> Options:
    """Return clip_state, clip_grad and checkpoint of a module."""
    clip_state, clip_grad = getattr(module, "clip_state", None), getattr(module, "clip_grad", None)
    checkpoint = getattr(module, "checkpoint", None)
    if clip_state is None and clip_grad is None and checkpoint is None:
        return NO_OPTIONS
    name = module_name(module)
    if is_cut and checkpoint is not None:
        why = "as chunks of time are those of padded rows"
        raise ValueError(f"{name}: checkpoint must be None if cu_seqlens is given, {why}, got {checkpoint}")
    bounds = checked_bound(name, "clip_state", clip_state), checked_bound(name, "clip_grad", clip_grad)
    return *bounds, checked_checkpoint(name, checkpoint)


def layers_of(module: RNNBase, cell: Cell) -> list[Layer]:
    return checked_layers(module, cell, weights_of(module), heads_of(module))


def weights_of(module: RNNBase) -> list[list[Tensor]]:
    # Each weight is read once, from the attributes and not from _flat_weights: it may be a parametrization, or swapped
    # by functional_call. Module.__getattr__ also finds parameters, but takes five times as long.
    every, parameters = [], module._parameters
    for names in module._all_weights:
        weights = []
        for name in names:
            weight: Tensor | None = parameters.get(name)
            weights.append(getattr(module, name) if weight is None else weight)
        every.append(weights)
    return every


def is_overridden(input: Any, hx: Any, weights: list[list[Tensor]]) -> bool:
    """Return whether a tensor of the call, or an active mode, overrides __torch_function__."""
    arguments = [input, hx]
    for parts in (input, hx, *weights):
        if isinstance(parts, (tuple, list)):
            arguments += parts
    return bool(has_torch_function(arguments))


def checked_layers(module: RNNBase, cell: Cell, every: list[list[Tensor]], heads: int) -> list[Layer]:
    H, P, rows = module.hidden_size, module.proj_size, cell.gates * module.hidden_size
    directions = 2 if module.bidirectional else 1
    biases = ((rows,), (rows,)) if module.bias else ()
    layers: list[Layer] = []
    like, dtype, device = every[0][0], every[0][0].dtype, every[0][0].device
    for k, (names, weights) in enumerate(zip(module._all_weights, every, strict=True)):
        features = module.input_size if k < directions else directions * (P or H)
        shapes = ((rows, features), (rows, P or H // heads), *biases, (P, H))
        # the kernels do not check their input
        for name, weight, shape in zip(names, weights, shapes[: len(names)], strict=True):
            is_alike = weight.dtype is dtype and weight.device == device and weight.layout is _DENSE
            if weight.shape != shape or not is_alike:
                _explain_weight(module, name, weight, shape, like)
        b_ih, b_hh = weights[2:4] if biases else (None, None)
        layers.append(Layer(Parameters(weights[0], weights[1], b_ih, b_hh), weights[-1] if P > 0 else None))
    return layers


def _explain_weight(module: RNNBase, name: str, weight: Tensor, shape: tuple[int, ...], like: Tensor) -> NoReturn:
    check_dense(module_name(module), name, weight)
    if weight.shape != shape or weight.dtype != like.dtype:
        got, expected = f"{tuple(weight.shape)}, {_dtype(weight)}", f"shape {shape}, {_dtype(like)}"
        raise ValueError(f"{module_name(module)}: {name} must have {expected}, got {got}")
    expected = f"on {like.device} like weight_ih_l0"
    raise BackendError(f"{module_name(module)}: {name} must be {expected}, got {weight.device}")


def heads_of(module: RNNBase) -> int:
    heads: int = getattr(module, "num_heads", 1)
    return heads


def module_name(module: RNNBase) -> str:
    return type(module).__name__.removeprefix("Parametrized")


def checked_input(module: RNNBase, weight: Tensor, x: Any, dims: tuple[int, ...]) -> Tensor:
    if isinstance(x, Tensor) and x.is_cpu and weight.is_cpu and x.layout is _DENSE and not x.is_nested:
        is_right = x.dtype == weight.dtype and x.dtype in CPU_FLOATS and x.dim() in dims
        if is_right and x.shape[-1] == module.input_size:
            return x
    return _checked_unusual_input(module, weight, x, dims)


def _checked_unusual_input(module: RNNBase, weight: Tensor, x: Any, dims: tuple[int, ...]) -> Tensor:
    # Exceptions have the same classes as torch.nn's where it makes the same check.
    name = module_name(module)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: input must be a Tensor or a PackedSequence, got {type(x).__name__}")
    check_place(name, weight, x, has_shapes_alone=x.is_meta and weight.is_meta and len(dims) > 1)
    if x.dtype != weight.dtype:
        raise ValueError(f"{name}: input must be {_dtype(weight)} like the parameters, got {_dtype(x)}")
    if x.dim() not in dims:
        expected = " or ".join(str(d) for d in dims)
        error = ValueError if len(dims) > 1 else RuntimeError
        raise error(f"{name}: input must have {expected} dimensions, got shape {tuple(x.shape)}")
    if x.shape[-1] != module.input_size:
        raise RuntimeError(f"{name}: input must have input_size = {module.input_size} features, got {x.shape[-1]}")
    return x


def check_place(name: str, weight: Tensor, x: Tensor, *, has_shapes_alone: bool = False) -> None:
    """Check that there are kernels for the device and dtype of a module's input and parameters.

    Meta tensors, which have only shapes, are allowed if ``has_shapes_alone``, as in torch.nn. Packed rows are not, as
    their division depends on the data.
    """
    check_dense(name, "input", x)
    for what, tensor in (("input", x), ("parameters", weight)):
        if not tensor.is_cpu and tensor.device.type not in ("cpu", "cuda") and not has_shapes_alone:
            raise BackendError(f"{name}: {what} must be on the CPU or a CUDA device, got {tensor.device}")
    if x.device != weight.device:
        raise BackendError(f"{name}: input must be on {weight.device} like the parameters, got {x.device}")
    if weight.dtype not in (GPU_FLOATS if weight.is_cuda else CPU_FLOATS):
        on_cpu = FLOAT16_REFUSED if weight.dtype == torch.float16 else "float32, float64 or bfloat16"
        expected = "float32, float64, bfloat16 or float16" if weight.is_cuda else on_cpu
        raise TypeError(f"{name}: parameters must be {expected}, got {_dtype(weight)}")


def as_torch_takes_it(module: RNNBase, hx: Any) -> Any:
    """Unwrap the state of a GRU or RNN that is given as a tuple of one tensor, as torch.nn expects a Tensor."""
    is_one = isinstance(hx, (tuple, list)) and len(hx) == 1 and len(CELLS[module.mode].states) == 1
    return hx[0] if is_one else hx


def checked_states(module: RNNBase, cell: Cell, hx: Any, weight: Tensor, batch: int | None) -> State:
    """Return hx as one (layers * directions, B, H) tensor per state; batch is None for unbatched input."""
    name, names = module_name(module), cell.states
    values = (as_torch_takes_it(module, hx),) if len(names) == 1 else hx
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
        check_dense(name, argument, s)
        if s.shape != shape:
            raise RuntimeError(f"{name}: {argument} must have shape {shape}, got {tuple(s.shape)}")
        if s.device != weight.device:
            raise BackendError(f"{name}: {argument} must be on {weight.device} like the parameters, got {s.device}")
        also = torch.float32 if weight.dtype.itemsize == 2 and i > 0 else weight.dtype
        if s.dtype not in (weight.dtype, also):
            raise TypeError(f"{name}: {argument} must be {_dtype(weight)} like the parameters, got {_dtype(s)}")
        states.append(s.unsqueeze(1) if batch is None else s)
    return tuple(states)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


_STOCK = (nn.modules.rnn.__name__, f"{__package__}.modules")


def check_forward(function: str, module: RNNBase) -> None:
    """Check that the module has the standard forward, not one of its own, such as that of a quantized module."""
    if "forward" in module.__dict__ or type(module).forward.__module__ not in _STOCK:
        expected = "run the forward of torch.nn's or fastiter.torch.nn's LSTM, GRU, RNN or sLSTM"
        raise TypeError(f"{function}: module must {expected}, got a {module_name(module)} with another one")


def check_streams(function: str, module: RNNBase) -> None:
    """Check that the module is not bidirectional, as a reverse direction would begin at the last step."""
    if module.bidirectional:
        raise ValueError(f"{function}: bidirectional must be False to go step by step, got True")


def check_weights(function: str, module: RNNBase) -> None:
    """Check that the weights are parameters or parametrizations: hooks update other weights only in module calls."""
    for names in module._all_weights:
        for name in names:
            if name not in module._parameters and not parametrize.is_parametrized(module, name):
                expected = (
                    f"hold {name} as a parameter or a parametrization, as torch.nn.utils.parametrizations makes it"
                )
                raise TypeError(f"{function}: module must {expected}, got a tensor that a hook or its owner replaces")
