"""NamedTuples that functions on tensors return, as torch treats those of its own functions."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.utils._pytree

_R = TypeVar("_R", bound=tuple[Any, ...])


def returned_by_torch(result: type[_R]) -> type[_R]:
    """Let a class of NamedTuples be made from an iterable too, and be part of saved programs.

    torch makes the result of a call on a subclass of Tensor anew as ``type(result)(iterable)``; and a program of
    torch.export that returns a NamedTuple can be saved only if the class has a name for files.

    Parameters
    ----------
    result : type
        A NamedTuple without defaults. It is changed and returned, as by a decorator.
    """
    count = len(result._fields)  # type: ignore[attr-defined]

    def new(cls: type[_R], *parts: Any, **named: Any) -> _R:
        if len(parts) == 1 and not named:
            parts = tuple(parts[0])
        if named:
            parts = (*parts, *[named[name] for name in cls._fields[len(parts) :]])  # type: ignore[attr-defined]
        if len(parts) != count:
            raise TypeError(f"{cls.__name__} has {count} fields, got {len(parts)}")
        return tuple.__new__(cls, parts)

    result.__new__ = new  # type: ignore[assignment]
    register = getattr(torch.utils._pytree, "_register_namedtuple", None)
    if register is not None:
        register(result, serialized_type_name=f"fastiter.torch.{result.__name__}")
    return result
