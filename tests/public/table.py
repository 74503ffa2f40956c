"""One table of the public API: for each name of an ``__all__``, calls with valid arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fastiter
from tests.public.pick import Pick

Make = Callable[[Pick], dict[str, Any]]


class Entry(NamedTuple):
    """A public function, or a program that uses a public class, and its valid arguments by name.

    names: the functions that a message may begin with; written: the arguments that are updated in place; terms: the
    number of rounded sums that explain the difference from the specification, 0 if there is no difference.
    """

    run: Callable[..., Any]
    make: Make
    names: tuple[str, ...]
    written: tuple[str, ...] = ()
    terms: int = 0

    @property
    def parameters(self) -> list[str]:
        """The names of all arguments."""
        return list(inspect.signature(self.run).parameters)

    @property
    def has_reference(self) -> bool:
        """Return whether the specification can be called in place of the kernels."""
        return "backend" in self.parameters


TABLE: dict[str, Entry] = {}


def calls(
    name: str,
    *,
    run: Callable[..., Any] | None = None,
    written: tuple[str, ...] = (),
    terms: int = 0,
    at: str = "",
    also: tuple[str, ...] = (),
) -> Callable[[Make], Make]:
    """Register a function that makes arguments for the public name ``name``, and for its part ``at``, such as a method.

    also: other functions that the program calls, with whose names messages may begin.
    """

    def enter(make: Make) -> Make:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
        TABLE[f"{name}{at}"] = Entry(run or found, make, (f"{last}{at}", last, *also), written, terms)
        return make

    return enter


def public_names(package: Any = fastiter) -> Iterator[tuple[str, Any]]:
    """Yield the qualified name and the object of every callable that an ``__all__`` of a package lists."""
    waiting = [package]
    while waiting:
        module = waiting.pop()
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.ismodule(found):
                waiting.append(found)
            elif callable(found):
                yield f"{module.__name__}.{name}", found
