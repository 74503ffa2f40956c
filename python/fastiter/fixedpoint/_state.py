"""States of fixed-point maps (an array, or a tuple, list or dict of arrays) packed into rows of one buffer and back."""

from __future__ import annotations

import math
from typing import Any

from .._check import type_name
from ._space import Space


class Layout:
    """The shapes and names of a state's arrays, and where they are in a row of the buffer."""

    def __init__(self, function: str, space: Space, x0: Any, batched: bool) -> None:
        self.function, self.space, self.batched = function, space, batched
        self.kind = type(x0) if type(x0) in (tuple, list, dict) else None
        self.keys = list(x0) if self.kind is dict else []
        leaves = self._leaves(x0)
        if not leaves:
            raise ValueError(f"{function}: x0 must have at least one array, got an empty {type_name(x0)}")
        for name, leaf in zip(self._names("x0", x0), leaves, strict=True):
            space.check_leaf(function, name, leaf)
            if not space.same(leaf):
                first = space.describe(leaves[0])
                raise TypeError(f"{function}: {name} must be {first} like the first array, got {space.describe(leaf)}")
            if batched and leaf.ndim == 0:
                raise ValueError(f"{function}: {name} must have an axis 0 of samples, got a number; or batched=False")
            if batched and leaf.shape[0] != leaves[0].shape[0]:
                wanted = leaves[0].shape[0]
                raise ValueError(f"{function}: {name} must have {wanted} samples, got {leaf.shape[0]}")
        self.samples = int(leaves[0].shape[0]) if batched else 1
        self.shapes = [tuple(leaf.shape[1:] if batched else leaf.shape) for leaf in leaves]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def _leaves(self, state: Any) -> list[Any]:
        return [state] if self.kind is None else [state[key] for key in self.keys] if self.keys else list(state)

    def _names(self, name: str, state: Any) -> list[str]:
        if self.kind is None:
            return [name]
        return [f"{name}[{key!r}]" for key in (self.keys if self.kind is dict else range(len(state)))]

    def pack(self, state: Any) -> Any:
        """Return a new buffer (samples, n) with a copy of the state."""
        pairs = zip(self._leaves(state), self.sizes, strict=True)
        rows = [self.space.as_real(leaf.reshape(self.samples, size)) for leaf, size in pairs]
        return self.space.copy(rows[0]) if len(rows) == 1 else self.space.join(rows)

    def unpack(self, buffer: Any) -> Any:
        """Return the state whose samples are the rows of the buffer, sharing its memory if possible."""
        given = self.space.as_given(buffer)
        if self.kind is None:
            return given.reshape((given.shape[0], *self.shapes[0]) if self.batched else self.shapes[0])
        first = 0
        leaves = []
        rows = (buffer.shape[0],) if self.batched else ()
        for shape, size in zip(self.shapes, self.sizes, strict=True):
            part = given if size == given.shape[1] else given[:, first : first + size]
            leaves.append(part.reshape((*rows, *shape)))
            first += size
        return dict(zip(self.keys, leaves, strict=True)) if self.kind is dict else self.kind(leaves)

    def read(self, state: Any, rows: int, name: str = "f(x)") -> Any:
        """Return a state that the user's function has returned as a contiguous buffer; refuse another structure."""
        if self.kind is None:
            return self._read_leaf(state, 0, rows, name)
        if not isinstance(state, dict if self.kind is dict else (tuple, list)):
            raise TypeError(f"{self.function}: {name} must be a {self.kind.__name__} like x0, got {type_name(state)}")
        same = set(state) == set(self.keys) if self.kind is dict else len(state) == len(self.shapes)
        if not same:
            expected = f"the keys {self.keys}" if self.kind is dict else f"{len(self.shapes)} arrays"
            got = list(state) if self.kind is dict else len(state)
            raise ValueError(f"{self.function}: {name} must have {expected} like x0, got {got}")
        names, leaves = self._names(name, state), self._leaves(state)
        parts = [self._read_leaf(leaf, i, rows, names[i]) for i, leaf in enumerate(leaves)]
        return parts[0] if len(parts) == 1 else self.space.join(parts)

    def _read_leaf(self, leaf: Any, i: int, rows: int, name: str) -> Any:
        space = self.space
        leaf = space.read(leaf)
        if not space.same(leaf):
            raise TypeError(f"{self.function}: {name} must be {self._wanted()} like x0, got {space.describe(leaf)}")
        expected = (rows, *self.shapes[i]) if self.batched else self.shapes[i]
        if tuple(leaf.shape) != expected:
            raise ValueError(f"{self.function}: {name} must have shape {expected}, got {tuple(leaf.shape)}")
        return space.contiguous(space.as_real(leaf.reshape(rows, self.sizes[i])))

    def _wanted(self) -> str:
        return f"{self.space.noun} of {self.space.dtype_name}"
