"""Calls that torch.compile leaves out of its graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.compiler import is_compiling

Result = TypeVar("Result")


def graph_break(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function, outside the graph if torch.compile traces the caller: a graph has no loop with a dynamic end."""
    result: Result = torch._dynamo.disable(function)(*arguments) if is_compiling() else function(*arguments)
    return result
