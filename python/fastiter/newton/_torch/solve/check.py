"""Checks of the arguments of `solve_recurrence`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...._backend import BackendError
from ...._call.iterate import Limits
from ...._check import check_choice, check_takes, count, type_name
from ...._torch.ops import FLOATS
from .cell import WIDEST, Layout

METHODS = ("auto", "sequential", "newton", "quasi", "elk")
JACOBIANS = ("auto", "diagonal", "block", "dense", "quasi")
_NAME = "solve_recurrence"


@dataclass(frozen=True)
class Request:
    """The options of a call."""

    method: str
    jacobian: Any
    window: int | None
    damping: float | str
    limits: Limits
    #: Whether atol is that of the limits, not the default
    has_atol: bool

    def checked(self, params: tuple[Any, ...]) -> Request:
        """Return the options with its numbers as such; refuse other types and values."""
        check_choice(_NAME, "method", self.method, METHODS)
        if callable(self.jacobian):
            check_function("jacobian", self.jacobian, params)
        else:
            _check_jacobian(self.jacobian)
        window = None if self.window is None else count(_NAME, "window", self.window, 1)
        if self.damping != "auto" and not 0 <= _number("damping", self.damping, "'auto' or a number") < 1:
            raise ValueError(f"{_NAME}: damping must be 'auto' or a gain from 0 to below 1, got {self.damping}")
        return replace(self, window=window, limits=self.limits.checked(_NAME, smallest_max=1))


def check_function(name: str, function: Any, params: Sequence[Any]) -> None:
    """Check that a function of the user takes a state, an input and the parameters."""
    check_takes(_NAME, name, function, "(h, x, *params)", 2 + len(params), "the initial state is given as state=")


def _check_jacobian(jacobian: Any) -> None:
    listed = f"one of {', '.join(map(repr, JACOBIANS))}, ('block', K) or a function of (h, x, *params)"
    if isinstance(jacobian, (tuple, list)):
        if len(jacobian) != 2 or jacobian[0] != "block":
            raise ValueError(f"{_NAME}: jacobian must be {listed}, got {jacobian!r}")
        count(_NAME, "jacobian's K", jacobian[1], 1, WIDEST)
    elif not isinstance(jacobian, str):
        raise TypeError(f"{_NAME}: jacobian must be {listed}, got {type_name(jacobian)}")
    elif jacobian not in JACOBIANS:
        raise ValueError(f"{_NAME}: jacobian must be {listed}, got {jacobian!r}")


def _number(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{_NAME}: {name} must be {expected}, got {type_name(value)}")
    return value


def checked_x(x: Any) -> tuple[list[Tensor], bool]:
    """Return the parts of x, and whether it is one tensor."""
    single = isinstance(x, Tensor)
    if not single and not isinstance(x, (tuple, list)):
        raise TypeError(f"{_NAME}: x must be a tensor or a tuple of tensors, got {type_name(x)}")
    parts: list[Any] = [x] if single else list(x)
    if not parts:
        raise ValueError(f"{_NAME}: x must be a tensor or a tuple of at least one, got an empty tuple")
    for i, part in enumerate(parts):
        name = "x" if single else f"x[{i}]"
        _check_tensor(name, part)
        if part.dim() < 2:
            raise ValueError(f"{_NAME}: {name} must have shape (B, T, ...), got {tuple(part.shape)}")
        if part.shape[:2] != parts[0].shape[:2]:
            batch, time = parts[0].shape[:2]
            raise ValueError(
                f"{_NAME}: {name} must have shape (B, T, ...) = ({batch}, {time}, ...) like x[0], "
                f"got {tuple(part.shape)}"
            )
    return parts, single


def _check_tensor(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{_NAME}: {name} must be a torch.Tensor, got {type_name(x)}")
    if x.layout != torch.strided:
        raise TypeError(f"{_NAME}: {name} must be a dense tensor, got layout {x.layout}")
    if not x.is_cpu and not x.is_cuda:
        raise BackendError(f"{_NAME}: {name} must be on the CPU or a CUDA device, as the scans are; got {x.device}")


def check_device(tensors: Sequence[Tensor]) -> None:
    """Check that all tensors are on the device of the first one, x."""
    for other in tensors:
        if other.device != tensors[0].device:
            raise BackendError(
                f"{_NAME}: x, params and state must be on one device, got {tensors[0].device} and {other.device}"
            )


def check_params(leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.nn.Module):
            expected = "tensors, such as dict(module.named_parameters())"
            raise TypeError(f"{_NAME}: params must be {expected}, got the module {type_name(leaf)}")
        if isinstance(leaf, Tensor):
            _check_tensor("params", leaf)


def checked_state(state: Any, batch: int) -> tuple[list[Tensor], Layout]:
    """Return the parts of the initial state, checked to have one dtype, and their layout."""
    single = isinstance(state, Tensor)
    if not single and not isinstance(state, (tuple, list)):
        raise TypeError(f"{_NAME}: state must be a tensor or a tuple of tensors, got {type_name(state)}")
    parts: list[Any] = [state] if single else list(state)
    if not parts:
        raise ValueError(f"{_NAME}: state must be a tensor or a tuple of at least one, got an empty tuple")
    for i, part in enumerate(parts):
        name = "state" if single else f"state[{i}]"
        _check_tensor(name, part)
        if part.dtype not in FLOATS:
            raise TypeError(f"{_NAME}: {name} must have dtype torch.float32 or torch.float64, got {part.dtype}")
        if part.dtype != parts[0].dtype:
            raise TypeError(f"{_NAME}: {name} must have dtype {parts[0].dtype} like state[0], got {part.dtype}")
        if part.dim() < 1 or part.shape[0] != batch:
            raise ValueError(
                f"{_NAME}: {name} must have shape (B, ...) = ({batch}, ...) to go with x, got {tuple(part.shape)}"
            )
    return parts, Layout(tuple([tuple(part.shape[1:]) for part in parts]), single)


def probed_state(function: Any, x: Sequence[Tensor], single_x: bool, params: tuple[Any, ...]) -> Any:
    """Return a zero state, whose shape is found by calling the cell with a one-unit state that broadcasts.

    The number of parts is the one for which the cell returns as many parts as it is given.
    """
    dtype = next((part.dtype for part in x if part.dtype in FLOATS), torch.get_default_dtype())
    batch = x[0].shape[0]
    # if there are no steps, zeros instead of the first step give the same shape
    step = [part[:, 0].clone() if part.shape[1] else part.new_zeros((batch, *part.shape[2:])) for part in x]
    x_0 = step[0] if single_x else tuple(step)
    errors = []
    for parts in range(1, 5):
        unit = [torch.zeros((batch, 1), dtype=dtype, device=x[0].device) for _ in range(parts)]
        try:
            with torch.no_grad():
                state = function(unit[0] if parts == 1 else tuple(unit), x_0, *params)
            if _is_state(state, parts, batch):
                return torch.zeros_like(state) if parts == 1 else tuple([torch.zeros_like(part) for part in state])
        except Exception as error:
            errors.append(f"{type(error).__qualname__}: {error}")
    reason = errors[0] if errors else "states in other forms"
    raise ValueError(
        f"{_NAME}: state must be given if the cell does not show the state's shape by broadcasting a state of shape "
        f"(B, 1), got {reason}"
    )


def _is_state(state: Any, count: int, batch: int) -> bool:
    parts = [state] if count == 1 else state
    if not isinstance(parts, (tuple, list)) or len(parts) != count:
        return False
    return all(isinstance(x, Tensor) and x.dtype in FLOATS and x.dim() > 0 and len(x) == batch for x in parts)
