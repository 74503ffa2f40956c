"""A map on states as a map on buffers: some rows at a time, with the arguments that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import type_name
from ._space import Rows, Space
from ._state import Layout


@dataclass
class Problem:
    """A map on states, as a map on buffers."""

    function: str
    f: Callable[..., Any]
    space: Space
    layout: Layout
    args: tuple[Any, ...] = ()
    compact: bool = True
    jvp: Callable[..., Any] | None = None
    judged: str = "||f(x) - x||"

    def __post_init__(self) -> None:
        for i, arg in enumerate(self.args):
            if not hasattr(arg, "shape") or len(arg.shape) == 0 or arg.shape[0] != self.layout.samples:
                got = tuple(arg.shape) if hasattr(arg, "shape") else type_name(arg)
                raise ValueError(f"{self.function}: args[{i}] must have {self.layout.samples} rows, got {got}")
        self.taken, self.all_rows = self.args, True

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
        found = layout.read(self._called(f, full, name), layout.samples, name)
        return space.take(found, slots)

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
        before = space.versions(buffers)
        result = f(*[layout.unpack(space.protected(buffer)) for buffer in buffers], *self.taken)
        if space.versions(buffers) != before:
            raise ValueError(f"{self.function}: {name} must leave x as it is, got one that is changed in place")
        return result
