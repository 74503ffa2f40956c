"""A map on states (an array, or a tuple, list or dict of arrays) as a map on buffers whose rows are samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._call.iterate import Limits
from .._check import check_choice, count, type_name
from ._space import NORMS, Rows, Space


class Stopping(NamedTuple):
    """The arguments that determine when a solver ends."""

    limits: Limits = Limits()
    norm: Any = "l2"
    patience: int = 100

    def checked(self, function: str) -> Stopping:
        """Return the numbers as Python's; refuse other types and values."""
        limits = self.limits.checked(function)
        if not callable(self.norm):
            check_choice(function, "norm", self.norm, NORMS)
        return Stopping(limits, self.norm, count(function, "patience", self.patience, 1))

    def changed(self, options: dict[str, Any]) -> Stopping:
        """Return them with the options that are theirs, which are removed from a solver's other options."""
        limits = {name: options.pop(name) for name in ("rtol", "atol", "max_steps", "throw") if name in options}
        own = {name: options.pop(name) for name in ("norm", "patience") if name in options}
        return self._replace(limits=self.limits._replace(**limits), **own)


class Layout:
    """The shapes and names of a state's arrays, and where they are in a row of the buffer."""

    def __init__(self, function: str, space: Space, x0: Any, batched: bool) -> None:
        self.function, self.space, self.batched = function, space, batched
        self.kind = type(x0) if type(x0) in (tuple, list, dict) else None
        self.keys = list(x0) if self.kind is dict else []
        leaves = [x0] if self.kind is None else self._leaves(x0)
        if not leaves:
            raise ValueError(f"{function}: x0 must have at least one array, got an empty {type_name(x0)}")
        self.shapes: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        for name, leaf in zip(["x0"] if self.kind is None else self._names("x0", x0), leaves, strict=True):
            space.check_leaf(function, name, leaf)
            if self.sizes and not space.is_like_first(leaf):
                first = space.describe(leaves[0])
                raise TypeError(f"{function}: {name} must be {first} like the first array, got {space.describe(leaf)}")
            if batched and leaf.ndim == 0:
                raise ValueError(f"{function}: {name} must have an axis 0 of samples, got a number; or batched=False")
            if batched and leaf.shape[0] != leaves[0].shape[0]:
                wanted = leaves[0].shape[0]
                raise ValueError(f"{function}: {name} must have {wanted} samples, got {leaf.shape[0]}")
            self.shapes.append(tuple(leaf.shape[1:] if batched else leaf.shape))
            self.sizes.append(math.prod(self.shapes[-1]))
        self.samples = int(leaves[0].shape[0]) if batched else 1
        self.is_complex = space.dtype_name.startswith("complex")

    def _leaves(self, state: Any) -> list[Any]:
        return [state[key] for key in self.keys] if self.keys else list(state)

    def _names(self, name: str, state: Any) -> list[str]:
        return [f"{name}[{key!r}]" for key in (self.keys if self.kind is dict else range(len(state)))]

    def pack(self, state: Any) -> Any:
        """Return a new buffer (samples, n) with a copy of the state."""
        if self.kind is None:
            return self.space.copy(self.space.buffer(state.reshape(self.samples, self.sizes[0])))
        pairs = zip(self._leaves(state), self.sizes, strict=True)
        rows = [self.space.buffer(leaf.reshape(self.samples, size)) for leaf, size in pairs]
        return self.space.copy(rows[0]) if len(rows) == 1 else self.space.join(rows)

    def unpack(self, buffer: Any) -> Any:
        """Return the state whose samples are the rows of the buffer, sharing its memory if possible."""
        numbers = self.space.unbuffered(buffer) if self.is_complex else buffer
        if self.kind is None:
            return numbers.reshape((numbers.shape[0], *self.shapes[0]) if self.batched else self.shapes[0])
        first = 0
        leaves = []
        rows = (buffer.shape[0],) if self.batched else ()
        for shape, size in zip(self.shapes, self.sizes, strict=True):
            part = numbers if size == numbers.shape[1] else numbers[:, first : first + size]
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
        if not space.is_like_first(leaf):
            raise TypeError(f"{self.function}: {name} must be {self._wanted()} like x0, got {space.describe(leaf)}")
        expected = (rows, *self.shapes[i]) if self.batched else self.shapes[i]
        if tuple(leaf.shape) != expected:
            raise ValueError(f"{self.function}: {name} must have shape {expected}, got {tuple(leaf.shape)}")
        return space.buffer(leaf.reshape(rows, self.sizes[i]))

    def _wanted(self) -> str:
        return f"{self.space.noun} of {self.space.dtype_name}"


@dataclass
class Problem:
    """A map on states, as a map on buffers.

    ``args`` have one row for each sample; ``taken`` are the arguments for the samples of a call.
    """

    function: str
    f: Callable[..., Any]
    space: Space
    layout: Layout
    args: tuple[Any, ...]
    taken: tuple[Any, ...]
    compact: bool = True
    jvp: Callable[..., Any] | None = None
    judged: str = "||f(x) - x||"

    #: Whether calls are for all samples
    all_rows: bool = True

    def check_rows(self) -> None:
        """Check that ``args`` have a row for each sample."""
        for i, arg in enumerate(self.args):
            if not hasattr(arg, "shape") or len(arg.shape) == 0 or arg.shape[0] != self.layout.samples:
                got = tuple(arg.shape) if hasattr(arg, "shape") else type_name(arg)
                raise ValueError(f"{self.function}: args[{i}] must have {self.layout.samples} rows, got {got}")

    def choose(self, slots: Rows) -> None:
        """Select the rows of the arguments that belong to the samples."""
        self.all_rows = len(slots) == self.layout.samples
        if self.compact and self.args:
            self.taken = self.args if self.all_rows else tuple(self.space.take(arg, slots) for arg in self.args)

    def call(self, f: Callable[..., Any], slots: Rows, buffers: tuple[Any, ...], name: str) -> Any:
        """Return a buffer with the result of f for the states in buffers."""
        layout, space = self.layout, self.space
        if self.all_rows or self.compact:
            try:
                return layout.read(self._called(f, buffers, name), len(slots), name)
            except Exception as error:
                if self.all_rows or isinstance(error, TypeError):
                    raise
                raise ValueError(
                    f"{self.function}: f must take any number of samples, got an error with {len(slots)} of "
                    f"{layout.samples} (arrays of one row for each sample can be args; or compact=False): {error}"
                ) from error
        full = tuple(self._spread(slots, buffer) for buffer in buffers)
        result = layout.read(self._called(f, full, name), layout.samples, name)
        return space.take(result, slots)

    def admits(self, domain: Callable[..., Any], slots: Rows, x: Any) -> Any:
        """Return the mask of the rows whose x is in the domain."""
        is_whole = self.all_rows or self.compact
        got = self._called(domain, (x if is_whole else self._spread(slots, x),), "domain(x)")
        rows = len(slots) if is_whole else self.layout.samples
        is_bool = isinstance(got, (bool, np.bool_)) or str(getattr(got, "dtype", "")).endswith("bool")
        flags = self.space.host(got).reshape(-1) > 0 if hasattr(got, "shape") else np.array([got])
        if not is_bool or flags.shape != (rows,):
            what = f"{got.dtype} {tuple(got.shape)}" if hasattr(got, "shape") else type_name(got)
            raise ValueError(
                f"{self.function}: domain(x) must return one bool for each of the {rows} samples, got {what}"
            )
        return flags if is_whole else flags[slots]

    def _spread(self, slots: Rows, buffer: Any) -> Any:
        """Return rows in the places of their samples, with zeros for the others."""
        every = self.space.zeros(self.layout.samples, buffer.shape[1])
        self.space.put(every, slots, buffer)
        return every

    def _called(self, f: Callable[..., Any], buffers: tuple[Any, ...], name: str) -> Any:
        """Return the result of f for the states in buffers, which it must not change: the method still needs them."""
        layout, space = self.layout, self.space
        before = list(map(space.version, buffers))
        result = f(*map(layout.unpack, map(space.protected, buffers)), *self.taken)
        if list(map(space.version, buffers)) != before:
            raise ValueError(f"{self.function}: {name} must leave x as it is, got one that is changed in place")
        return result
