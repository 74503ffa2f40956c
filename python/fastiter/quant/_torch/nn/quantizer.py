"""Base classes of quantizers: modules that round a tensor, with a seed and a counter for stochastic rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from ...._check import type_name
from ..._formats.base import Format
from ..ops import Seed, seed_op

_Q = TypeVar("_Q", bound="Quantizer")
#: The seed of a quantizer, or the generator from which it is drawn
Rng: TypeAlias = "int | torch.Generator | None"


class Quantizer(nn.Module):
    """A module that rounds a tensor to a number format. NaN stays NaN.

    With stochastic rounding, call number c uses the seed 2^32 seed + c, with c in the buffer ``counter``: a run that is
    repeated, or resumed from a checkpoint, draws the same numbers. In eval mode c does not change, so the same input
    gives the same output.
    """

    __call__: Callable[..., Tensor]
    counter: Tensor | None
    #: Bits of a code
    bits: int

    def __init__(self, stochastic: bool, rng: Rng) -> None:
        super().__init__()
        self.seed = drawn_seed(type(self).__name__, rng)
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64) if stochastic else None)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The current format, or one for each channel if they differ."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> None:
        """Initialize the learned parameter or the fixed scale from a sample; does nothing if there is none.

        Parameters
        ----------
        x : Tensor of floats
            Finite numbers.
        """

    def place(self, shape: tuple[int, ...]) -> None:
        """Set the number of channels from the shape of the tensors to come.

        Parameters
        ----------
        shape : tuple of int
            The shape of the tensors that will be rounded.
        """

    def fresh(self: _Q) -> _Q:
        """Return a copy with its own seed, drawn from torch's generator.

        Returns
        -------
        Quantizer
            A copy with the same parameters.
        """
        other = copy.deepcopy(self)
        other.seed = drawn_seed(type(self).__name__, None)
        return other

    def _checked_sample(self, x: Tensor) -> Tensor:
        name = type(self).__name__
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type_name(x)
            raise TypeError(f"{name}: x must be a torch.Tensor of floats, got {got}")
        if x.numel() == 0 or not bool(torch.isfinite(x).all()):
            got = "an empty tensor" if x.numel() == 0 else "NaN or infinity"
            raise ValueError(f"{name}: x must be finite numbers to initialize from, got {got}")
        return x.detach().to(torch.promote_types(x.dtype, torch.float32))

    def _next_seed(self) -> Tensor | None:
        if self.counter is None:
            return None
        return seed_op(Seed(self.counter, self.seed, self.training))


def drawn_seed(name: str, rng: Rng) -> int:
    """Return a seed of 31 bits, or one drawn from a generator, by default torch's own."""
    if rng is None or isinstance(rng, torch.Generator):
        device = "cpu" if rng is None else rng.device  # independent of the default device
        return int(torch.randint(0, 2**31, (), generator=rng, device=device))
    if isinstance(rng, bool) or not isinstance(rng, int):
        raise TypeError(f"{name}: rng must be an int, a torch.Generator or None, got {type_name(rng)}")
    if not 0 <= rng < 2**31:
        raise ValueError(f"{name}: rng must be from 0 to 2**31 - 1, got {rng}")
    return rng


class LearnedQuantizer(Quantizer):
    """A quantizer with one parameter, or one for each index of an axis, set by its first input or initialize()."""

    initialized: Tensor

    def __init__(
        self,
        parameter: str,
        learn: bool,
        stochastic: bool,
        rng: Rng,
        axis: int | None,
        channels: int | None,
        gradient_scale: float | Literal["lsq"],
    ) -> None:
        super().__init__(stochastic, rng)
        name = type(self).__name__
        for what, value in (("axis", axis), ("channels", channels)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name}: {what} must be an int or None, got {type_name(value)}")
        if channels is not None and (axis is None or channels < 1):
            raise ValueError(f"{name}: channels must be positive and go with an axis, got {channels} and axis={axis}")
        if not isinstance(learn, bool):
            raise TypeError(f"{name}: learn_{parameter} must be a bool, got {type_name(learn)}")
        if isinstance(gradient_scale, str):
            if gradient_scale != "lsq":
                raise ValueError(f"{name}: gradient_scale must be a number or 'lsq', got {gradient_scale!r}")
        elif isinstance(gradient_scale, bool) or not isinstance(gradient_scale, (int, float)):
            raise TypeError(f"{name}: gradient_scale must be a number or 'lsq', got {type_name(gradient_scale)}")
        self.axis, self.channels, self.gradient_scale = axis, channels, gradient_scale
        self._parameter, self._learn, self._is_initialized = parameter, learn, False
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self._make()

    def _make(self) -> None:
        value = None if self.axis is not None and self.channels is None else torch.zeros(self.channels or ())
        if self._learn:
            self.register_parameter(self._parameter, None if value is None else nn.Parameter(value))
        else:
            self.register_buffer(self._parameter, value)

    def place(self, shape: tuple[int, ...]) -> None:
        """Allocate a parameter for each channel along the axis, if their number was not given.

        Parameters
        ----------
        shape : tuple of int
            The shape of the tensors that will be rounded.
        """
        if self.axis is not None and self.channels is None:
            self.channels = shape[self._along(len(shape))]
            self._make()

    def _along(self, dims: int) -> int:
        assert self.axis is not None
        if not -dims <= self.axis < dims:
            raise ValueError(f"{type(self).__name__}: x must have an axis {self.axis}, got {dims} axes")
        return self.axis % dims

    def _spread(self, x: Tensor) -> Tensor:
        """Return the parameter shaped to broadcast to x."""
        value: Tensor | None = getattr(self, self._parameter)
        if value is None:
            raise ValueError(f"{type(self).__name__}: channels must be given if there is an axis, got None")
        if self.axis is None:
            return value
        shape = [1] * x.dim()
        shape[self._along(x.dim())] = value.numel()
        if x.shape[self._along(x.dim())] != value.numel():
            expected = f"{value.numel()} channels along axis {self.axis}"
            raise ValueError(f"{type(self).__name__}: x must have {expected}, got shape {tuple(x.shape)}")
        return value.reshape(shape)

    def _others(self, x: Tensor) -> list[int]:
        """Return the axes whose elements share the parameter."""
        return [k for k in range(x.dim()) if self.axis is None or k != self._along(x.dim())]

    def _factor(self, x: Tensor, highest: int) -> float:
        if isinstance(self.gradient_scale, str):
            shared = x.numel() // (self.channels or 1) if self.axis is not None else x.numel()
            return float((max(shared, 1) * max(highest, 1)) ** -0.5)
        return self.gradient_scale

    def _set(self, value: Tensor) -> None:
        parameter = getattr(self, self._parameter)
        with torch.no_grad():
            parameter.copy_(value.reshape(parameter.shape))
            self.initialized.fill_(True)
        self._is_initialized = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        saved = state_dict.get(prefix + self._parameter)
        if isinstance(saved, Tensor) and saved.dim() == 1:
            self.place((saved.numel(),) * (abs(self.axis or 0) + 1))
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._is_initialized = bool(self.initialized)
