"""Text shared by several docstrings, inserted when a module is imported."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def documented(parts: Mapping[str, str]) -> Callable[[F], F]:
    """Return a decorator that replaces each line ``%(name)s`` of a docstring by the part of that name.

    A line may have words after the name, ``%(name)s words``: they replace ``...`` in the part.

    Parameters
    ----------
    parts : mapping of str to str
        The parts; their lines are indented like the line that they replace.
    """

    def filled(match: re.Match[str]) -> str:
        indent, name, words = match.groups()
        text = inspect.cleandoc(parts[name])
        text = text.replace("...", words.strip()) if words.strip() else text
        return "\n".join(indent + line if line else "" for line in text.split("\n"))

    def decorate(function: F) -> F:
        if function.__doc__ is not None:  # None under python -OO
            function.__doc__ = re.sub(r"^( *)%\((\w+)\)s(.*)$", filled, function.__doc__, flags=re.MULTILINE)
        return function

    return decorate


def documented_like(function: Callable[..., Any], after: str = "", more: str = "") -> Callable[[F], F]:
    """Return a decorator that fills ``%(sections)s`` of a tensor function from the docstring of its array counterpart.

    These are the sections from Parameters to Raises, with arrays replaced by tensors and without parameters that the
    tensor function does not have.

    Parameters
    ----------
    function : callable
        The array function.
    after, more : str
        The name of a parameter, and the text of further parameters to insert after it.
    """
    sections = _sections(function)
    entries = re.split(r"\n(?=\S)", sections.pop("Parameters", ""))

    def decorate(own: F) -> F:
        parameters, chosen = inspect.signature(own).parameters, []
        for entry in entries:
            name = entry.partition(" :")[0]
            if name.split(", ")[0] in parameters:
                chosen.append(entry)
            if name == after:
                chosen.append(inspect.cleandoc(more))
        every = {"Parameters": "\n".join(chosen), **sections}
        present = (name for name in ("Parameters", "Returns", "Raises") if name in every)
        text = "\n\n".join(f"{name}\n{'-' * len(name)}\n{every[name]}" for name in present)
        for array, tensor in (("ndarray", "Tensor"), ("bfloat16 (of ml_dtypes)", "bfloat16"), ("NumPy", "torch")):
            text = text.replace(array, tensor)
        return documented({"sections": text})(own)

    return decorate


def parts_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return the parameter entries of a docstring by name; an entry with several names appears under each of them.

    Parameters
    ----------
    function : callable
        The function; its docstring has already been filled.
    """
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", _sections(function).get("Parameters", "")):
        names, _, text = entry.partition(" :")
        entries |= {name: f"\n{name} :{text}" for name in names.split(", ")}
    return entries


def _sections(function: Callable[..., Any]) -> dict[str, str]:
    """Return the sections of a numpydoc docstring by their names."""
    _, *parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(function.__doc__ or ""), flags=re.MULTILINE)
    return {name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def documented_by(parts: Mapping[str, str], /, **others: str) -> Callable[[F], F]:
    """Return a decorator that fills ``%(parameters)s`` with the parts of a function's parameters, in their order.

    Other lines ``%(name)s`` are filled as by :func:`documented`. A parameter without a part is an error on import.

    Parameters
    ----------
    parts : mapping of str to str
        The parts, by parameter name, including the stars of ``*args`` and ``**kwargs``.
    **others : str
        Maps names of parameters and lines to the names of the parts that replace them here.
    """
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    chosen = {**parts, **{name: parts[other] for name, other in others.items()}}

    def decorate(function: F) -> F:
        names = [stars.get(each.kind, "") + each.name for each in inspect.signature(function).parameters.values()]
        text = "\n".join(inspect.cleandoc(chosen[name]) for name in names)
        return documented({**chosen, "parameters": text})(function)

    return decorate
