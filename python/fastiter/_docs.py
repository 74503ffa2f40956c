"""Parts that several docstrings have in common, filled in when a module is imported."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def documented(parts: Mapping[str, str]) -> Callable[[F], F]:
    """Return a decorator that replaces each line ``%(name)s`` of a docstring by the part of that name.

    A line may also have arguments after the name, ``%(name)s words``: they replace ``...`` in the part.

    Parameters
    ----------
    parts : mapping of str to str
        The parts; their lines are indented like the line that they replace.
    """

    def filled(match: re.Match[str]) -> str:
        indent, name, words = match.groups()
        text = inspect.cleandoc(parts[name]).replace("...", words.strip())
        return "\n".join(indent + line if line else "" for line in text.split("\n"))

    def decorate(function: F) -> F:
        if function.__doc__ is not None:  # None under python -OO
            function.__doc__ = re.sub(r"^( *)%\((\w+)\)s(.*)$", filled, function.__doc__, flags=re.MULTILINE)
        return function

    return decorate
