"""States of a plan as the cache of a model of transformers, by copies and as views of the same memory.

The cache of transformers 5.24 is a list of layers, with dicts ``conv_states`` and ``recurrent_states`` of tensors, and
tensors ``keys`` and ``values``; xLSTM's is a dict of tuples. RecurrentGemma holds some states in its modules: functions
need the ``model`` if the plan has a state with an attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..plan import Plan, State


def new_states(plan: Plan, rows: int, dtype: torch.dtype, capacity: int) -> dict[str, Tensor]:
    """Return the states before the first token, with room for ``capacity`` keys and values.

    They are zeros of shape (rows, ...) as in the plan; keys and values have shape (rows, heads, capacity, width).
    """
    return {state.name: torch.zeros(_shape(state, rows, capacity), dtype=dtype) for state in plan.states}


def _shape(state: State, rows: int, capacity: int) -> tuple[int, ...]:
    if state.grows:
        heads, width = state.shape
        return rows, heads, capacity, width
    return rows, *state.shape


def new_cache(config: Any, rows: int, dtype: torch.dtype) -> Any:
    """Return an empty cache for a model of this config."""
    if config.model_type == "xlstm":
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache

        return xLSTMCache(config, rows, dtype=dtype)
    from transformers import DynamicCache

    return DynamicCache(config=config)


def position_ids(model: nn.Module, rows: int, first: int, last: int) -> dict[str, Tensor]:
    """Return the positions of the tokens of a call as its argument, nothing for models without it.

    By default models count on from the first layer of a cache, which has no length where it is recurrent.
    """
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return {}
    return {"position_ids": torch.arange(first, last).expand(rows, -1)}


def length_of(plan: Plan, cache: Any) -> int:
    """Return how many keys a cache has seen, 0 if the plan has no attention."""
    attending = [state.layer for state in plan.states if state.kind == "keys"]
    return int(cache.layers[attending[0]].get_seq_length()) if attending else 0


def states_of(
    plan: Plan, cache: Any, rows: int, dtype: torch.dtype, *, capacity: int | None = None, model: Any = None
) -> dict[str, Tensor]:
    """Return copies of the states in a cache; zeros for layers that have seen no token.

    ``capacity``, by default the number of entries, is the room for keys and values. Of a layer that keeps only the
    entries of its window, the older ones are zeros.
    """
    length = length_of(plan, cache)
    states = new_states(plan, rows, dtype, length if capacity is None else capacity)
    for state in plan.states:
        tensor = _tensor_in(_holder(cache, state, model), state)
        if tensor is not None:
            into = _view(state, states[state.name], length)
            into = into[:, :, into.shape[2] - tensor.shape[2] :] if state.grows else into
            if into.shape != tensor.shape:
                raise ValueError(
                    f"states_of: {state.kind} of layer {state.layer} of the cache must have shape "
                    f"{tuple(into.shape)}, got {tuple(tensor.shape)}"
                )
            into.copy_(tensor)
    return states


def cache_of(plan: Plan, states: Mapping[str, Tensor], config: Any, length: int, *, model: Any = None) -> Any:
    """Return a new cache for a model of this config, whose tensors are views of the states."""
    first = next(iter(states.values()))
    cache = new_cache(config, len(first), first.dtype)
    bind(plan, states, cache, length, model=model)
    return cache


def bind(plan: Plan, states: Mapping[str, Tensor], cache: Any, length: int, *, model: Any = None) -> None:
    """Set the tensors of a cache to views of the states, with ``length`` keys and values."""
    for state in plan.states:
        tensor, holder = _view(state, states[state.name], length), _holder(cache, state, model)
        if not state.grows:
            _put(holder, state, tensor)
            if state.attribute is None and not isinstance(holder, dict):
                _mark_state(holder, state, tensor)
        elif tensor.shape[2]:  # a layer before the first token has no tensors
            _put(holder, state, _kept(holder, tensor))
            _mark_entries(holder, tensor)


def cast(plan: Plan, cache: Any, dtype: torch.dtype, *, model: Any = None) -> None:
    """Give the tensors of a cache the dtypes that they have in a model of this dtype.

    In transformers' models of 16 bits, recurrent states are float32; inputs of convolutions, keys and values have the
    model's dtype.
    """
    for state in plan.states:
        is_wide = state.kind == "recurrent" and dtype in (torch.bfloat16, torch.float16)
        expected = torch.float32 if is_wide else dtype
        holder = _holder(cache, state, model)
        tensor = _tensor_in(holder, state)
        if tensor is not None and tensor.dtype != expected:
            _put(holder, state, tensor.to(expected))


def move_attributes(plan: Plan, source: nn.Module, target: nn.Module) -> None:
    """Let the modules of another model of the same kind have the states that those of a model have."""
    for state in plan.states:
        if state.attribute is not None:
            tensor = _tensor_in(_holder(None, state, source), state)
            setattr(_holder(None, state, target), state.attribute.rpartition(".")[2], tensor)


def _put(holder: Any, state: State, tensor: Tensor) -> None:
    """Set the tensor of a state."""
    if state.attribute is not None:
        setattr(holder, state.attribute.rpartition(".")[2], tensor)
    elif isinstance(holder, dict):
        others = holder[state.layer]
        holder[state.layer] = (*others[: state.index], tensor, *others[state.index + 1 :])
    elif state.grows:
        setattr(holder, state.kind, tensor)
    else:
        getattr(holder, f"{state.kind}_states")[state.index] = tensor


def _mark_entries(layer: Any, entries: Tensor) -> None:
    layer.is_initialized, layer.device = True, entries.device
    if getattr(layer, "is_sliding", False):
        layer.cumulative_length = entries.shape[2]


def _mark_state(layer: Any, state: State, tensor: Tensor) -> None:
    getattr(layer, f"is_{state.kind}_states_initialized")[state.index] = True
    layer.has_previous_state[state.index] = True
    layer.dtype, layer.device = tensor.dtype, tensor.device
    if state.kind == "conv":
        layer.conv_kernel_size[state.index] = state.shape[0]


def is_bound(plan: Plan, states: Mapping[str, Tensor], cache: Any, length: int, *, model: Any = None) -> bool:
    """Return whether the tensors of a cache are the views that :func:`bind` has set, and nobody has replaced one."""
    for state in plan.states:
        expected, holder = _view(state, states[state.name], length), _holder(cache, state, model)
        tensor = _tensor_in(holder, state)
        if state.grows:
            expected = _kept(holder, expected)
        if tensor is None:
            if expected.numel():
                return False
        elif _place(tensor) != _place(expected):
            return False
    return True


def _place(x: Tensor) -> tuple[Any, ...]:
    return x.data_ptr(), x.dtype, x.shape, x.stride()


def _view(state: State, tensor: Tensor, length: int) -> Tensor:
    """Return what a cache holds of a state: a transposed convolution's inputs, and the entries so far."""
    if state.kind == "conv":
        return tensor.transpose(1, 2)
    return tensor[:, :, :length] if state.grows else tensor


def _kept(layer: Any, entries: Tensor) -> Tensor:
    """Return the entries that a layer keeps: all, or the last ones of a window."""
    if not getattr(layer, "is_sliding", False):
        return entries
    return entries[:, :, -layer.sliding_window + 1 :]


def _holder(cache: Any, state: State, model: nn.Module | None) -> Any:
    """Return what holds a state: a module of the model, a dict of tuples, or a layer of the cache."""
    if state.attribute is not None:
        if model is None:
            raise ValueError(f"states: model must be given for the state {state.attribute}, got None")
        return model.get_submodule(state.attribute.rpartition(".")[0])
    return cache.rnn_state if hasattr(cache, "rnn_state") else cache.layers[state.layer]


def _tensor_in(holder: Any, state: State) -> Tensor | None:
    """Return the tensor of a state, None before the first token."""
    tensor: Tensor | None
    if state.attribute is not None:
        tensor = getattr(holder, state.attribute.rpartition(".")[2])
    elif isinstance(holder, dict):
        tensor = holder[state.layer][state.index]
    elif state.grows:
        tensor = getattr(holder, state.kind) if holder.is_initialized else None
    else:
        tensor = getattr(holder, f"{state.kind}_states")[state.index]
    return tensor
