"""Calls whose arguments redefine torch's functions by __torch_function__, and modes that see every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_variadic


def overridden(*arguments: Any, parts: Any = None) -> bool:
    """Say whether one of the arguments, or one of the ``parts`` of another, redefines what torch's functions do."""
    if has_torch_function_variadic(*arguments):
        return True
    return isinstance(parts, (tuple, list)) and bool(has_torch_function(parts))


def dispatched(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Hand a call of ``function`` to the first of its arguments, or to the mode, that redefines it."""
    return handle_torch_function(function, tuple(_leaves((arguments, *named.values()))), *arguments, **named)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, (tuple, list)):
        for part in x:
            yield from _leaves(part)
    else:
        yield x
