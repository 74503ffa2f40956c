"""Dispatch of calls to arguments that define __torch_function__, and to torch function modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_variadic


def overridden(*arguments: Any, parts: Any = None) -> bool:
    """Return whether an argument, or an element of the list or tuple ``parts``, overrides __torch_function__."""
    if has_torch_function_variadic(*arguments):
        return True
    return isinstance(parts, (tuple, list)) and bool(has_torch_function(parts))


def dispatched(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Dispatch a call of ``function`` to the __torch_function__ of its first overriding argument, or of the mode."""
    return handle_torch_function(function, tuple(_leaves((arguments, *named.values()))), *arguments, **named)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, (tuple, list)):
        for part in x:
            yield from _leaves(part)
    else:
        yield x
