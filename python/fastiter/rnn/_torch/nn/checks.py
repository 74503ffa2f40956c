"""Checks of LSTM, GRU, RNN and sLSTM and of their arguments: weights by layer, options, input, states."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import RNNBase
from torch.nn.utils import parametrize

from ...._backend import BackendError
from ...._torch.ops import FLOATS, GPU_FLOATS, check_dense
from ..._cells import CELLS as ALL_CELLS
from ..._cells import FLOAT16_REFUSED, Cell, checked_bound, checked_checkpoint
from .layer import Parameters, State

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


class Layer(NamedTuple):
    """One direction of one layer; w_hr projects h to proj_size."""

    parameters: Parameters
    w_hr: Tensor | None


def checked_options(module: RNNBase, is_cut: bool = False) -> tuple[float | None, float | None, int]:
    """Return clip_state, clip_grad and checkpoint of a module."""
    name = module_name(module)
    clip_state, clip_grad, checkpoint = (getattr(module, option, None) for option in OPTIONS)
    if clip_state is None and clip_grad is None and checkpoint is None:
        return None, None, 0
    if is_cut and checkpoint is not None:
        why = "as chunks of time are those of padded rows"
        raise ValueError(f"{name}: checkpoint must be None where cu_seqlens is given, {why}, got {checkpoint}")
    bounds = checked_bound(name, "clip_state", clip_state), checked_bound(name, "clip_grad", clip_grad)
    return *bounds, checked_checkpoint(name, checkpoint)


def layers_of(module: RNNBase, cell: Cell) -> list[Layer]:
    return checked_layers(module, cell, weights_of(module))


def weights_of(module: RNNBase) -> list[list[Tensor]]:
    # Read once from the attributes, not _flat_weights: they may be parametrizations, or swapped by functional_call.
    return [[weight_of(module, name) for name in names] for names in module._all_weights]


def checked_layers(module: RNNBase, cell: Cell, every: list[list[Tensor]]) -> list[Layer]:
    H, P, rows = module.hidden_size, module.proj_size, cell.gates * module.hidden_size
    directions = 2 if module.bidirectional else 1
    biases = ((rows,), (rows,)) if module.bias else ()
    layers: list[Layer] = []
    like, dtype, device = every[0][0], every[0][0].dtype, every[0][0].device
    for k, (names, weights) in enumerate(zip(module._all_weights, every, strict=True)):
        features = module.input_size if k < directions else directions * (P or H)
        shapes = ((rows, features), (rows, P or H // heads_of(module)), *biases, (P, H))
        # the kernels do not check their input
        for name, weight, shape in zip(names, weights, shapes[: len(names)], strict=True):
            same = weight.dtype == dtype and weight.device == device and weight.layout is _DENSE
            if not same or weight.shape != shape:
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


def weight_of(module: RNNBase, name: str) -> Tensor:
    # Module.__getattr__ does the same, but takes five times as long.
    weight: Tensor | None = module._parameters.get(name)
    return getattr(module, name) if weight is None else weight


def heads_of(module: RNNBase) -> int:
    heads: int = getattr(module, "num_heads", 1)
    return heads


def module_name(module: RNNBase) -> str:
    return type(module).__name__.removeprefix("Parametrized")


def checked_input(module: RNNBase, weight: Tensor, x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # Exceptions have the classes of torch.nn's if it checks the same thing.
    name = module_name(module)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: input must be a Tensor or a PackedSequence, got {type(x).__name__}")
    check_place(name, weight, x)
    if x.dtype != weight.dtype:
        raise ValueError(f"{name}: input must be {_dtype(weight)} like the parameters, got {_dtype(x)}")
    if x.dim() not in dims:
        expected = " or ".join(str(d) for d in dims)
        error = ValueError if len(dims) > 1 else RuntimeError
        raise error(f"{name}: input must have {expected} dimensions, got shape {tuple(x.shape)}")
    if x.shape[-1] != module.input_size:
        raise RuntimeError(f"{name}: input must have input_size = {module.input_size} features, got {x.shape[-1]}")
    return x


def check_place(name: str, weight: Tensor, x: Tensor) -> None:
    """Check that a module's input and parameters have a device and dtype for which there are kernels."""
    check_dense(name, "input", x)
    for what, tensor in (("input", x), ("parameters", weight)):
        if not tensor.is_cpu and tensor.device.type not in ("cpu", "cuda"):
            raise BackendError(f"{name}: {what} must be on the CPU or a CUDA device, got {tensor.device}")
    if x.device != weight.device:
        raise BackendError(f"{name}: input must be on {weight.device} like the parameters, got {x.device}")
    if weight.dtype not in (GPU_FLOATS if weight.is_cuda else CPU_FLOATS):
        on_cpu = FLOAT16_REFUSED if weight.dtype == torch.float16 else "float32, float64 or bfloat16"
        expected = "float32, float64, bfloat16 or float16" if weight.is_cuda else on_cpu
        raise TypeError(f"{name}: parameters must be {expected}, got {_dtype(weight)}")


def as_torch_takes_it(module: RNNBase, hx: Any) -> Any:
    """Return the state of a GRU or RNN as a Tensor, as in torch.nn, if it is given as a tuple of one."""
    is_one = isinstance(hx, (tuple, list)) and len(hx) == 1 and len(CELLS[module.mode].states) == 1
    return hx[0] if is_one else hx


def checked_states(module: RNNBase, cell: Cell, hx: Any, weight: Tensor, batch: int | None) -> State | None:
    """Return hx as one (layers * directions, B, H) tensor per state; batch is None for unbatched input."""
    if hx is None:
        return None
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
    """Check that the module runs the standard forward, not one of its own, such as a quantized one."""
    if "forward" in module.__dict__ or type(module).forward.__module__ not in _STOCK:
        expected = "run the forward of torch.nn's or fastiter.torch.nn's LSTM, GRU, RNN or sLSTM"
        raise TypeError(f"{function}: module must {expected}, got a {module_name(module)} with another one")


def check_streams(module: RNNBase) -> None:
    """Check that the module is not bidirectional."""
    if module.bidirectional:
        raise ValueError(f"{module_name(module)}: bidirectional must be False to go step by step, got True")


def check_weights(function: str, module: RNNBase) -> None:
    """Check that the weights are parameters or parametrizations: a hook would update others only in module calls."""
    for names in module._all_weights:
        for name in names:
            if name not in module._parameters and not parametrize.is_parametrized(module, name):
                expected = (
                    f"hold {name} as a parameter or a parametrization, as torch.nn.utils.parametrizations makes it"
                )
                raise TypeError(f"{function}: module must {expected}, got a tensor that a hook or its owner replaces")
