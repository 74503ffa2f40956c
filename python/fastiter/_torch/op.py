"""Private ops whose argument list is declared once, as the fields of a NamedTuple that represents a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from . import vmap
from .ops import LIBRARY, needs_no_dispatch

Call = TypeVar("Call", bound=tuple[Any, ...])
Result = TypeVar("Result")
Implementation = Callable[[Call], Result]
#: A tensor that the op changes in place
Changed: TypeAlias = Tensor

#: Types in a schema, by the annotations of a call's fields and of implementations' results
_TYPES = {
    "Tensor": "Tensor",
    "Changed": "Tensor(changed!)",
    "list[Tensor]": "Tensor[]",
    "Tensor | None": "Tensor?",
    "Sequence[Tensor]": "Tensor[]",
    "Sequence[Tensor | None]": "Tensor?[]",
    "Sequence[bool]": "bool[]",
    "bool": "bool",
    "int": "int",
    "float": "float",
    "float | None": "float?",
    "str": "str",
    "torch.dtype": "ScalarType",
}


def count_change(x: Tensor) -> None:
    """Increment the version of a tensor that a kernel has changed in place, as the dispatcher would."""
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)


def schema_of(name: str, call: type[Any], implementation: Callable[..., Any]) -> str:
    """Return the schema of an op with the arguments of a NamedTuple and the result of an implementation."""
    defaults: dict[str, Any] = call._field_defaults
    returned = inspect.signature(implementation).return_annotation  # a string: annotations are postponed
    arguments = [
        f"{_TYPES[annotation.__forward_arg__]} {field}" + (f"={defaults[field]}" if field in defaults else "")
        for field, annotation in call.__annotations__.items()  # ForwardRefs for the same reason
    ]
    return f"{name}({', '.join(arguments)}) -> {_TYPES[returned]}"


class Op(Generic[Call, Result]):
    """An op ``fastiter::<name>`` that maps a call, a NamedTuple, to a tensor or a list of tensors.

    An op that does not change its arguments has a vmap rule.

    Parameters
    ----------
    name : str
        The op's name, which is private: it begins with an underscore.
    call : type of NamedTuple
        Its fields, whose annotations must be in `_TYPES`, are the op's arguments, in this order.
    cpu, fake : callable
        Functions of a call that return the tensor or list: computed, and only allocated, for tracing.

    Attributes
    ----------
    every : list of Op
        All ops, in the order of their definition.
    cuda : callable or None
        The implementation for CUDA tensors.
    """

    every: ClassVar[list[Op[Any, Any]]] = []

    def __init__(
        self, name: str, call: type[Call], cpu: Implementation[Call, Result], fake: Implementation[Call, Result]
    ) -> None:
        self._name, self.call, self._cpu = name, call, cpu
        schema = schema_of(name, call, fake)
        LIBRARY.define(schema)
        LIBRARY.impl(name, self._taking_arguments(lambda call: self._cpu(call)), "CPU")
        torch.library.register_fake(f"fastiter::{name}", self._taking_arguments(fake), lib=LIBRARY)
        annotations = [annotation.__forward_arg__ for annotation in call.__annotations__.values()]
        self._changed = [place for place, annotation in enumerate(annotations) if annotation == "Changed"]
        if not self._changed:
            vmap.register(name)
        self._op = getattr(torch.ops.fastiter, name).default
        self.cuda: Implementation[Call, Result] | None = None
        Op.every.append(self)

    def _taking_arguments(self, implementation: Implementation[Call, Result]) -> Callable[..., Result]:
        call = self.call

        def from_arguments(*args: Any) -> Result:
            return implementation(call(*args))  # torch omits trailing arguments that equal their defaults

        return from_arguments

    def __call__(self, call: Call) -> Result:
        """Run the op, without torch's dispatcher if nothing needs it."""
        if not needs_no_dispatch(call):
            result: Result = self._op(*call)
            return result
        result = self._cpu(call)
        for place in self._changed:
            count_change(call[place])
        return result

    def on_cuda(self, implementation: Implementation[Call, Result]) -> None:
        """Register the implementation for CUDA tensors."""
        self.cuda = implementation
        LIBRARY.impl(self._name, self._taking_arguments(implementation), "CUDA")
