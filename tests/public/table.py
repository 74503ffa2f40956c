"""One table of the public API: for each name of an ``__all__`` calls with arguments that are right."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fastiter
from tests.public.pick import Pick

Make = Callable[[Pick], dict[str, Any]]


class Entry(NamedTuple):
    """A public function, or a program on a public class, and its right arguments by name.

    names: the functions that may be named at the beginning of a message; written: the arguments that are updated in
    place; terms: the number of rounded sums that explain the difference from the specification, 0 where none is.
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
        """Say whether the specification can be called in place of the kernels."""
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
    """Enter a maker of arguments for the public name ``name``, and for its part ``at``, such as a method.

    also: other functions that the program calls, whose messages begin with their names.
    """

    def enter(make: Make) -> Make:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
        TABLE[f"{name}{at}"] = Entry(run or found, make, (f"{last}{at}", last, *also), written, terms)
        return make

    return enter


def public_names() -> Iterator[tuple[str, Any]]:
    """Yield the qualified name and the object of everything that can be called and that an ``__all__`` lists."""
    waiting = [fastiter]
    while waiting:
        module = waiting.pop()
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.ismodule(found):
                waiting.append(found)
            elif callable(found):
                yield f"{module.__name__}.{name}", found
