"""Base of layers with one recurrence over time: the layouts of input, output and state, as in torch.nn.RNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ... import _check
from ..._backend import BackendError
from ..._sequences import as_parts, check_absent, check_packing
from ..launch import clamped_lengths
from ..ops import CPU_AND_CUDA, autocast_dtype, check_dense, check_reset, checked_bounds, checked_lengths
from ..packed import checked_sizes
from .calls import SequenceCall

State = tuple[Tensor, ...]


class Part(NamedTuple):
    """A part of a layer's state: its name in messages, its shape in one row, its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class SequenceLayer(nn.Module):
    """Base of the layers. A subclass describes its state and runs a batch; the rest is implemented here.

    `time` is the time axis of a batch x: 0 in (T, B, I), 1 in (B, T, I). Inputs are projected in their memory layout;
    the recurrences take them as a view (B, T, ...) (:meth:`_rows`).
    """

    __call__: SequenceCall[Any]

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool) -> None:
        super().__init__()
        self.input_size = check_count(self, "input_size", input_size)
        self.hidden_size = check_count(self, "hidden_size", hidden_size)
        self.batch_first = check_bool(self, "batch_first", batch_first)

    def forward(
        self, input: Tensor | PackedSequence, state: Any = None, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Any, Any]:
        """Return output and final state for input (T, B, I), (B, T, I) if batch_first, (T, I), or a PackedSequence.

        Parameters
        ----------
        input : Tensor or PackedSequence
            The input, with the dtype and device of the parameters.
        state : Tensor, or tuple or list of Tensor, optional
            Initial state, in the form that the layer returns, without B for unbatched input. A single Tensor may be in
            a tuple. None: zeros.
        lengths : integers (B,), optional
            Number of valid steps of each row of a padded batch, 0 to T. Later steps are ignored, and their output is 0.
            Not for a PackedSequence, which has its own, nor for unbatched input.

        Returns
        -------
        output : Tensor or PackedSequence
            hidden_size features at each step, in the form of the input.
        state : Tensor, or tuple of Tensor
            The state after the last valid step of each row.

        Raises
        ------
        TypeError, ValueError
            For a wrong type or dtype; for a wrong shape or value.
        BackendError
            For tensors on different devices, or on a device other than the CPU or CUDA.
        """
        return self._divided(input, state, lengths)

    def _divided(self, input: Any, state: Any, lengths: Any, reset: Any = None, cu_seqlens: Any = None) -> Any:
        """Implement forward with reset and cu_seqlens, for subclasses whose :meth:`_run` takes them."""
        run: Any = self._run
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, state, lengths, reset, cu_seqlens)
        x = self._checked_input(input, (2, 3))
        if cu_seqlens is not None:
            return self._concatenated(x, state, lengths, reset, cu_seqlens)
        if x.dim() == 2:
            check_absent(name_of(self), "unbatched input", lengths=lengths)
            cut = self._flags(reset, x, 1, x.shape[0], 1)
            y, last = run(x.unsqueeze(0), 1, self._checked_state(state, None), None, **cut)
            return y.squeeze(0), self._state([part.squeeze(0) for part in last])
        time = 1 if self.batch_first else 0
        batch, steps = x.shape[1 - time], x.shape[time]
        first, cut = self._checked_state(state, batch), self._flags(reset, x, batch, steps, time)
        if lengths is None:
            y, last = run(x, time, first, None, **cut)
            return y, self._state(last)
        whole = checked_lengths(name_of(self), lengths, batch, steps, x.device)
        whole = whole if whole.is_cpu else clamped_lengths(whole, steps)
        padding = torch.arange(steps, device=x.device) >= whole.unsqueeze(1).to(x.device, non_blocking=True)
        padding = (padding if time == 1 else padding.t()).unsqueeze(-1)
        # A NaN in the padding, multiplied by a gradient of 0, would make the gradients of the weights NaN.
        y, last = run(x.masked_fill(padding, 0), time, first, whole, **cut)
        return y.masked_fill(padding, 0), self._state(last)

    def step(self, input: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return output and state after one more step.

        Parameters
        ----------
        input : Tensor (B, I) or (I,)
            The input of the step.
        state : Tensor or tuple of Tensor, optional
            The state, in the form that forward takes and returns; zeros by default.

        Returns
        -------
        output : Tensor (B, hidden_size) or (hidden_size,)
            The output of the step.
        state : Tensor or tuple of Tensor
            The state after the step.

        Raises
        ------
        TypeError, ValueError, BackendError
            As for :meth:`forward`.
        """
        x = self._checked_input(input, (1, 2))
        time = 1 if x.dim() == 2 and self.batch_first else 0
        y, last = self.forward(x.unsqueeze(time), state)
        return y.squeeze(time), last

    def _concatenated(self, x: Tensor, state: Any, lengths: Any, reset: Any, cu_seqlens: Any) -> Any:
        """Return output (M, H) and final state of the sequences concatenated in x (M, I)."""
        check_packing(name_of(self), 1, lengths)
        if x.dim() != 2:
            expected, got = "2 dimensions (M, I) if cu_seqlens is given", tuple(x.shape)
            raise ValueError(f"{name_of(self)}: input must have {expected}, got {got}")
        bounds = checked_bounds(name_of(self), cu_seqlens, x.shape[0], x.device)
        first, cut = self._checked_state(state, bounds.shape[0] - 1), self._flags(reset, x, 1, x.shape[0], 1)
        run: Any = self._run
        y, last = run(x.unsqueeze(0), 1, first, None, cu_seqlens=bounds, **cut)
        return y.squeeze(0), self._state(last)

    def _flags(self, reset: Any, x: Tensor, batch: int, steps: int, time: int) -> dict[str, Any]:
        """Return the option reset of :meth:`_run`, flags (B, T) or (T,), as a dict; empty without reset."""
        if reset is None:
            return {}
        check_reset(name_of(self), reset, x, batch, steps, "input", time == 0)
        return {"reset": self._rows(reset, time) if reset.dim() == 2 else reset}

    def _forward_packed(
        self, input: PackedSequence, state: Any, lengths: Any, reset: Any, cu_seqlens: Any
    ) -> tuple[PackedSequence, Any]:
        check_absent(name_of(self), "a PackedSequence", lengths=lengths, cu_seqlens=cu_seqlens)
        self._checked_input(input.data, (2,))
        checked_sizes(name_of(self), input)
        x, own = pad_packed_sequence(input)
        cut = self._flags(reset, x, x.shape[1], x.shape[0], 1 if self.batch_first else 0)
        run: Any = self._run
        y, last = run(self._cast(x), 0, self._checked_state(state, x.shape[1]), own, **cut)
        order = input.sorted_indices
        if order is not None:
            y, own = y.index_select(1, order), own.index_select(0, order.to(own.device))
        data = pack_padded_sequence(y, own).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), self._state(last)

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the output in the layout of x, and the parts of the final state; `first` has the initial ones.

        In a subclass that calls :meth:`_divided`, this also takes reset (B, T) or (T,) and cu_seqlens (S + 1,) by name.
        """
        raise NotImplementedError

    def _parts(self) -> Sequence[Part]:
        """Return the parts of the state."""
        raise NotImplementedError

    def _like(self) -> Tensor:
        """Return a parameter, which has the layer's dtype and device."""
        raise NotImplementedError

    @staticmethod
    def _rows(x: Tensor, time: int) -> Tensor:
        """Transpose between (T, B, ...) and (B, T, ...) if time is 0."""
        return x if time == 1 else x.transpose(0, 1)

    @classmethod
    def _convolve(
        cls, x: Tensor, time: int, weight: Tensor, recent: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the causal depthwise convolution with weight (C, K) after `recent`, and the last K - 1 inputs."""
        before = weight.shape[1] - 1
        if recent is None:
            recent = x.new_zeros(x.shape[1 - time], before, x.shape[-1])
        x = torch.cat([cls._rows(recent, time), x], time)
        steps = x.shape[time] - before
        y = x.narrow(time, 0, steps) * weight[:, 0]
        for i in range(1, before + 1):
            y = y + x.narrow(time, i, steps) * weight[:, i]
        rows = cls._rows(x, time)
        if lengths is None:
            return y, rows[:, steps:].contiguous()
        # Row b contains `before` earlier inputs, then lengths[b] inputs.
        last = (lengths.unsqueeze(1) + torch.arange(before, device=lengths.device)).to(x.device, non_blocking=True)
        return y, rows.gather(1, last.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))

    @staticmethod
    def _state(parts: Sequence[Tensor]) -> Any:
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _checked_input(self, x: Any, dims: tuple[int, ...]) -> Tensor:
        name, weight = name_of(self), self._like()
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: input must be a Tensor or a PackedSequence, got {type(x).__name__}")
        if weight.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: parameters must be float32 or float64, got {_dtype(weight.dtype)}")
        self._check_tensor("input", x, weight.dtype)
        if x.dim() not in dims:
            expected = " or ".join(str(d) for d in dims)
            raise ValueError(f"{name}: input must have {expected} dimensions, got shape {tuple(x.shape)}")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"{name}: input must have input_size = {self.input_size} features, got {x.shape[-1]}")
        return self._cast(x)

    def _checked_state(self, state: Any, batch: int | None) -> State | None:
        """Return the parts, each with a batch axis; batch is None for unbatched input."""
        if state is None:
            return None
        name, parts = name_of(self), self._parts()
        values = as_parts([part.name for part in parts], state)
        matches = isinstance(values, (tuple, list)) and len(values) == len(parts)
        if not matches or not all(isinstance(s, Tensor) for s in values):
            names = ", ".join(part.name for part in parts)
            expected = "a Tensor" if len(parts) == 1 else f"a tuple of {len(parts)} Tensors ({names})"
            got = (
                f"{type(state).__name__} of {len(state)}" if isinstance(state, (tuple, list)) else type(state).__name__
            )
            raise TypeError(f"{name}: state must be {expected}, got {got}")
        for part, s in zip(parts, values, strict=True):
            label = "state" if len(parts) == 1 else f"state {part.name}"
            self._check_tensor(label, s, part.dtype)
            shape = part.shape if batch is None else (batch, *part.shape)
            if s.shape != shape:
                raise ValueError(f"{name}: {label} must have shape {shape}, got {tuple(s.shape)}")
        # Some parts may have the autocast dtype.
        values = [s.to(part.dtype) for part, s in zip(parts, values, strict=True)]
        return tuple(s.unsqueeze(0) if batch is None else s for s in values)

    def _check_tensor(self, label: str, x: Tensor, dtype: torch.dtype) -> None:
        name, device = name_of(self), self._like().device
        if device.type not in CPU_AND_CUDA:
            raise BackendError(f"{name}: parameters must be on the CPU or a CUDA device, got {device}")
        check_dense(name, label, x)
        if x.device != device:
            raise BackendError(f"{name}: {label} must be on {device} like the parameters, got {x.device}")
        if x.dtype != dtype and not (x.is_floating_point() and autocast_dtype(x) is not None):
            raise TypeError(f"{name}: {label} must be {_dtype(dtype)} to go with the parameters, got {_dtype(x.dtype)}")

    def _cast(self, x: Tensor) -> Tensor:
        """Cast x to the dtype of the parameters, in which the recurrence is computed, as autocast may change it."""
        return x.to(self._like().dtype)


def name_of(module: nn.Module) -> str:
    """Return the name of a layer in messages."""
    return type(module).__name__.removeprefix("Parametrized")


def check_count(module: nn.Module, label: str, value: Any, minimum: int = 1) -> int:
    """Check a size and return it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name_of(module)}: {label} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name_of(module)}: {label} must be at least {minimum}, got {value}")
    return value


def check_heads(module: nn.Module, num_heads: Any, **sizes: int) -> int:
    """Check that a number of heads divides all sizes, and return it."""
    heads = check_count(module, "num_heads", num_heads)
    for label, size in sizes.items():
        if size % heads:
            raise ValueError(f"{name_of(module)}: num_heads must divide {label} = {size}, got {heads}")
    return heads


def check_bool(module: nn.Module, label: str, value: Any) -> bool:
    """Check a flag and return it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name_of(module)}: {label} must be a bool, got {type(value).__name__}")
    return value


def check_choice(module: nn.Module, label: str, value: Any, choices: Sequence[str]) -> Any:
    """Check that a value is one of the choices, and return it."""
    _check.check_choice(name_of(module), label, value, choices)
    return value


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
