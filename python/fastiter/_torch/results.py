"""Support for NamedTuples as results of functions on tensors, equal to that of torch's own functions."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.utils._pytree

_R = TypeVar("_R", bound=tuple[Any, ...])


def returned_by_torch(result: type[_R]) -> type[_R]:
    """Let a NamedTuple class be constructed from an iterable as well, and be part of saved programs.

    torch reconstructs the result of a call on a subclass of Tensor as ``type(result)(iterable)``; and a program of
    torch.export that returns a NamedTuple can be saved only if the class is registered under a name for serialisation.

    Parameters
    ----------
    result : type
        A NamedTuple class without defaults. It is modified and returned, so this can be used as a decorator.
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
