"""The sequences that a decoder reads: their states, their length, and the memory for keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..._check import type_name
from ..plan import Plan
from .cache import length_of, new_states, states_of

#: Keys and values for which there is room from the first one on
SMALLEST_CAPACITY = 64


class Sequences:
    """States of up to 8 sequences of the same length, in tensors.

    ``length`` is the number of tokens so far, which is that of keys and values. ``firsts`` (rows,) is the first token
    of each row that is not padding, None if there is no padding. ``grows`` is whether there are keys and values.
    """

    def __init__(self, plan: Plan, rows: int, dtype: torch.dtype) -> None:
        self.plan, self.rows, self.dtype = plan, rows, dtype
        self.grows = any(state.grows for state in plan.states)
        self.length = 0
        self.capacity = 0
        self.firsts: npt.NDArray[np.int64] | None = None
        self.use(new_states(plan, rows, dtype, 0), 0)

    def use(self, states: dict[str, Tensor], length: int) -> None:
        """Take states over, with ``length`` keys and values."""
        self.states, self.length = states, length
        entries = [state.name for state in self.plan.states if state.grows]
        self.capacity = states[entries[0]].shape[2] if entries else 0
        self.addresses = np.array([states[state.name].data_ptr() for state in self.plan.states], np.int64)

    def reserve(self, tokens: int) -> None:
        """Make room for more keys and values."""
        if not self.grows or self.length + tokens <= self.capacity:
            return
        capacity = max(self.length + tokens, 2 * self.capacity, SMALLEST_CAPACITY)
        states = dict(self.states)
        for state in self.plan.states:
            if state.grows:
                heads, width = state.shape
                old = self.states[state.name]
                states[state.name] = torch.zeros(self.rows, heads, capacity, width, dtype=self.dtype)
                states[state.name][:, :, : self.length] = old[:, :, : self.length]
        self.use(states, self.length)

    def positions(self) -> npt.NDArray[np.int64]:
        """Return the position of the next token of each row."""
        result = np.full(self.rows, self.length, np.int64)
        return result if self.firsts is None else result - self.firsts

    def selected(self, rows: Tensor) -> Sequences:
        """Return copies of some rows, in any order and number."""
        result = Sequences(self.plan, len(rows), self.dtype)
        result.use({name: x.index_select(0, rows) for name, x in self.states.items()}, self.length)
        result.firsts = None if self.firsts is None else self.firsts[rows.numpy()]
        return result

    def saved(self) -> dict[str, Any]:
        """Return copies of the states, keys and values without unused memory."""
        growing = {state.name for state in self.plan.states if state.grows}
        result = {name: (x[:, :, : self.length] if name in growing else x).clone() for name, x in self.states.items()}
        firsts = np.zeros(self.rows, np.int64) if self.firsts is None else self.firsts
        return {"length": torch.tensor(self.length), "firsts": torch.from_numpy(firsts.copy()), **result}


def loaded_sequences(plan: Plan, saved: Mapping[str, Tensor], dtype: torch.dtype) -> Sequences:
    """Return sequences that continue from what :meth:`Sequences.saved` has returned."""
    names = {"length", "firsts", *(state.name for state in plan.states)}
    if not isinstance(saved, Mapping) or set(saved) != names:
        got = ", ".join(sorted(map(str, saved))) if isinstance(saved, Mapping) else type_name(saved)
        raise ValueError(f"load_state: state must have the entries {', '.join(sorted(names))}, got {got}")
    length, firsts = int(saved["length"]), saved["firsts"]
    rows = len(firsts)
    expected = new_states(plan, rows, dtype, length)
    for name, x in expected.items():
        if saved[name].shape != x.shape:
            raise ValueError(
                f"load_state: {name} must have shape {tuple(x.shape)} for {rows} rows and {length} tokens, got "
                f"{tuple(saved[name].shape)}"
            )
        x.copy_(saved[name])
    result = Sequences(plan, rows, dtype)
    result.use(expected, length)
    result.firsts = firsts.numpy().copy() if bool(firsts.any()) else None
    return result


def sequences_of(plan: Plan, cache: Any, dtype: torch.dtype, model: Any) -> Sequences:
    """Return sequences that continue from copies of the states in a cache of transformers, and in its model."""
    tensors = [x for holder in getattr(cache, "layers", [cache]) for x in _tensors_of(holder)]
    if not tensors:
        raise ValueError("from_cache: cache must have been through a call of the model, got an empty one")
    result = Sequences(plan, tensors[0].shape[0], dtype)
    length = length_of(plan, cache)
    room = length + SMALLEST_CAPACITY
    result.use(states_of(plan, cache, result.rows, dtype, capacity=room, model=model), length)
    return result


def _tensors_of(holder: Any) -> list[Tensor]:
    values = list(vars(holder).values())
    values += [x for value in values if isinstance(value, dict) for x in value.values()]
    values += [x for value in values if isinstance(value, tuple) for x in value]
    return [x for x in values if isinstance(x, Tensor) and x.dim() > 1]
