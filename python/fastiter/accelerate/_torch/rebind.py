"""Copies of functions in which some global names have other values."""

from __future__ import annotations

import dis
import hashlib
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from functools import update_wrapper
from typing import Any

import torch
from torch import nn


def rebound(function: types.FunctionType, names: Mapping[str, Any]) -> types.FunctionType:
    """Return a copy of a function in which the global names have the given values.

    Decorators that call the decorated function through a variable of their closure are kept, and copied as well.

    Parameters
    ----------
    function : function
        A method, possibly decorated.
    names : mapping
        Values by global name. Other names keep their present values.

    Raises
    ------
    TypeError
        If a decorator hides the function.
    """
    inner = _inner_of(function)
    if inner is None:
        scope, closure = {**function.__globals__, **names}, function.__closure__
        scope.pop("__name__", None)  # else torch.compile reads the names from the module, with the original values
    else:
        inner, closure = _decorated(function, inner, names)
        scope = function.__globals__
    result = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
    result.__kwdefaults__ = function.__kwdefaults__
    update_wrapper(result, function)
    del vars(result)["__wrapped__"]
    if "__wrapped__" in vars(function):
        vars(result)["__wrapped__"] = inner
    return result


def _inner_of(function: types.FunctionType) -> Any:
    """Return the function that a decorator wraps, None if the function is not decorated.

    A decorator without functools.wraps is recognised by having exactly one method in its closure.
    """
    if "__wrapped__" in vars(function):
        return vars(function)["__wrapped__"]
    result = [_content(cell) for cell in function.__closure__ or ()]
    methods = [x for x in result if isinstance(x, types.FunctionType) and x.__code__.co_varnames[:1] == ("self",)]
    return methods[0] if len(methods) == 1 else None


def unwrapped(function: Any) -> Any:
    """Return the function below all decorators."""
    while isinstance(function, types.FunctionType):
        inner = _inner_of(function)
        if inner is None:
            break
        function = inner
    return function


def _decorated(function: types.FunctionType, inner: Any, names: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the rebound copy of the decorated function, and the decorator's closure with that copy."""
    cells = function.__closure__ or ()
    result = [cell for cell in cells if _content(cell) is inner]
    if not result or not isinstance(inner, types.FunctionType):
        raise TypeError(f"a decorator hides the function {function.__qualname__}")
    wrapped = rebound(inner, names)
    new = types.CellType(wrapped)
    return wrapped, tuple(new if cell in result else cell for cell in cells)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def methods_of(of: type[nn.Module]) -> dict[str, types.FunctionType]:
    """Return the functions that a class and its bases define, static ones too, except those of torch.nn.Module."""
    result: dict[str, types.FunctionType] = {}
    for base in reversed(of.__mro__[: of.__mro__.index(nn.Module)]):
        plain = {name: x.__func__ if isinstance(x, staticmethod) else x for name, x in vars(base).items()}
        result |= {name: value for name, value in plain.items() if isinstance(value, types.FunctionType)}
    return result


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the global names that the code of a function uses, below its decorators, and their values."""
    inner = unwrapped(function)
    if not isinstance(inner, types.FunctionType):
        return {}
    scope = inner.__globals__
    if not any(name in scope for name in _names(inner.__code__)):
        return {}
    return {name: scope[name] for name in _loaded(inner.__code__) if name in scope}


def _loaded(code: types.CodeType) -> dict[str, None]:
    """Return the names of globals in the order in which the code uses them, without attributes of the same names."""
    result = {str(x.argval): None for x in dis.get_instructions(code) if x.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            result |= _loaded(inner)
    return result


def names_of(function: types.FunctionType) -> set[str]:
    """Return the names of globals and attributes that the code of a function uses, below its decorators."""
    inner = unwrapped(function)
    return set(_names(inner.__code__)) if isinstance(inner, types.FunctionType) else set()


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def owner_of(function: Any) -> Any:
    """Return the class of a class method, such as the `apply` of an autograd function; the function itself if none."""
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, type) else function


def parameters_of(function: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters, without those of ``*args`` and ``**kwargs``.

    Those of the `apply` of an autograd function are those of its `forward` after the context.
    """
    owner = owner_of(function)
    if owner is not function and issubclass(owner, torch.autograd.Function):
        return parameters_of(owner.forward)[1:]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(name for name, p in inspect.signature(function).parameters.items() if p.kind not in kinds)


def digest_of(function: Any) -> str:
    """Return a digest of a function's source code without decorators, comments and white space."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # there is no source file
        return ""
    source = source[source.index("def ") :]
    result = [x.string for x in tokenize.generate_tokens(io.StringIO(source).readline) if x.type != tokenize.COMMENT]
    return hashlib.sha256("".join("".join(result).split()).encode()).hexdigest()[:16]
