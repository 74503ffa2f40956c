"""The map of a fixed-point problem as a function of one flat state (B, n) and of a list of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..._backend import BackendError
from ..._check import type_name
from ..._torch.ops import FLOATS, check_dense

#: The dtypes of a state
DTYPES = (*FLOATS, torch.complex64, torch.complex128)


@dataclass(frozen=True)
class Layout:
    """The parts of a state, (B, *shape) or *shape if not a batch, and the tuple, list or dict that holds them."""

    spec: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    device: torch.device
    batched: bool

    @property
    def widths(self) -> list[int]:
        """The number of elements of each part in a row."""
        return [math.prod(shape) for shape in self.shapes]

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Return (B, n) from the parts, (1, n) if they are not a batch."""
        rows = len(parts[0]) if self.batched else 1
        if len(parts) == 1:
            return parts[0].reshape(rows, math.prod(self.shapes[0]))
        return torch.cat([part.reshape(rows, width) for part, width in zip(parts, self.widths, strict=True)], 1)

    def unpack(self, flat: Tensor) -> Any:
        """Return the state in its form from (B, n)."""
        rows = (len(flat),) if self.batched else ()
        parts = (flat,) if len(self.shapes) == 1 else flat.split(self.widths, 1)
        shaped = []
        for part, inner in zip(parts, self.shapes, strict=True):
            shape = (*rows, *inner)
            # A tensor of the right shape is returned itself, as torch.compile warns about views of leaves.
            shaped.append(part if tuple(part.shape) == shape else part.reshape(shape))
        return pytree.tree_unflatten(shaped, self.spec)


def checked_state(function: str, state: Any, batched: bool = True, argument: str = "x") -> tuple[Tensor, Layout]:
    """Return a state as (B, n) and its layout; refuse anything but tensors of one dtype, device and batch."""
    parts, spec = pytree.tree_flatten(state)
    if not parts:
        raise ValueError(
            f"{function}: {argument} must be a tensor or hold at least one, got an empty {type_name(state)}"
        )
    for i, part in enumerate(parts):
        name = argument if len(parts) == 1 else f"part {i} of {argument}"
        if not isinstance(part, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type_name(part)}")
        check_dense(function, name, part)
        if part.dtype not in DTYPES:
            listed = ", ".join(map(str, DTYPES[:-1]))
            raise TypeError(f"{function}: {name} must have dtype {listed} or {DTYPES[-1]}, got {part.dtype}")
        if part.dtype != parts[0].dtype:
            raise TypeError(f"{function}: {name} must have dtype {parts[0].dtype} like part 0, got {part.dtype}")
        if part.device != parts[0].device:
            raise BackendError(f"{function}: {name} must be on device {parts[0].device} like part 0, got {part.device}")
        if batched and (part.dim() < 1 or part.shape[0] != parts[0].shape[0]):
            rows = f"{parts[0].shape[0]}" if i else "B"
            raise ValueError(f"{function}: {name} must have shape ({rows}, ...), got {tuple(part.shape)}")
    return flat_state(parts, spec, batched)


def flat_state(parts: Sequence[Tensor], spec: Any, batched: bool) -> tuple[Tensor, Layout]:
    """Return the parts of a state as (B, n), and its layout."""
    shapes = tuple([tuple(part.shape[1:] if batched else part.shape) for part in parts])
    layout = Layout(spec, shapes, parts[0].dtype, parts[0].device, batched)
    return layout.pack(parts), layout


@dataclass
class Map:
    """The user's ``f(x, *params)`` as a function of a flat state and the tensors of its parameters.

    The parameters of a module are among the tensors, so that their gradients have derivatives, too.
    """

    function: str
    f: Callable[..., Any]
    layout: Layout
    params: tuple[Any, ...]
    tensors: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._leaves, self._spec = pytree.tree_flatten(self.params)
        self.tensors = list(filter(torch.is_tensor, self._leaves))
        #: The names of each parameter of a module
        self._names: list[list[str]] = []
        if isinstance(self.f, nn.Module) and _is_plain_module(self.f):
            for parameter, names in _parameters(self.f):
                self.tensors.append(parameter)
                self._names.append(names)

    def __call__(self, flat: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Return f (B, n) with these tensors in the place of its own."""
        left, leaves = iter(tensors), []
        for leaf in self._leaves:
            leaves.append(next(left) if isinstance(leaf, Tensor) else leaf)
        params, state = pytree.tree_unflatten(leaves, self._spec), self.layout.unpack(flat)
        if not self._names:
            return self._packed(self.f(state, *params), len(flat))
        replaced = {name: tensor for names, tensor in zip(self._names, left, strict=True) for name in names}
        # torch's own tying would leave these tensors in modules with several names.
        result = torch.func.functional_call(self.f, replaced, (state, *params), tie_weights=False)  # type: ignore[arg-type]
        return self._packed(result, len(flat))

    def plain(self, flat: Tensor) -> Tensor:
        """Return f (B, n) with its own tensors."""
        return self._packed(self.f(self.layout.unpack(flat), *self.params), len(flat))

    def _packed(self, result: Any, rows: int) -> Tensor:
        parts, spec = pytree.tree_flatten(result)
        if spec != self.layout.spec and not self._is_sequence_of_parts(result):
            raise ValueError(f"{self.function}: f must return a state in the form of x, got {type_name(result)}")
        for i, (part, shape) in enumerate(zip(parts, self.layout.shapes, strict=True)):
            name = "f must return" if len(parts) == 1 else f"f must return as part {i}"
            expected = (rows, *shape) if self.layout.batched else shape
            if not isinstance(part, Tensor):
                raise TypeError(f"{self.function}: {name} a torch.Tensor, got {type_name(part)}")
            if tuple(part.shape) != expected:
                raise ValueError(f"{self.function}: {name} the shape {expected} of x, got {tuple(part.shape)}")
            if part.dtype != self.layout.dtype:
                raise TypeError(f"{self.function}: {name} the dtype {self.layout.dtype} of x, got {part.dtype}")
            if part.device != self.layout.device:
                raise BackendError(f"{self.function}: {name} a tensor on {self.layout.device}, got {part.device}")
        return self.layout.pack(parts)

    def _is_sequence_of_parts(self, result: Any) -> bool:
        """Return whether the result is a list in place of a tuple, or a tuple in place of a list."""
        same = isinstance(result, (tuple, list)) and self.layout.spec.type in (tuple, list)
        return same and len(result) == len(self.layout.shapes)


def _is_plain_module(f: object) -> bool:
    """Return whether f is a module whose parameters torch.func.functional_call can replace: not a compiled one."""
    return isinstance(f, nn.Module) and not hasattr(f, "_orig_mod") and not isinstance(f, torch.jit.ScriptModule)


def _parameters(module: nn.Module) -> list[tuple[Tensor, list[str]]]:
    """Return each parameter with a gradient, and one name for each place in a module that holds it."""
    result: dict[int, tuple[Tensor, list[str]]] = {}
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                names = result.setdefault(id(parameter), (parameter, []))[1]
                names.append(f"{prefix}.{name}" if prefix else name)
    return list(result.values())
