"""Private ops whose argument list is written once: as the fields of a NamedTuple, a call of the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from . import vmap
from .ops import LIBRARY, needs_no_dispatch

Call = TypeVar("Call", bound=tuple[Any, ...])
Implementation = Callable[[Call], list[Tensor]]

#: Types of arguments in a schema, by the annotations of a call's fields
_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "Sequence[Tensor]": "Tensor[]",
    "Sequence[Tensor | None]": "Tensor?[]",
    "bool": "bool",
    "int": "int",
    "float": "float",
    "float | None": "float?",
    "str": "str",
}


def schema_of(name: str, call: type[Any]) -> str:
    """Return the schema of an op with the arguments of a NamedTuple, which returns tensors."""
    defaults: dict[str, Any] = call._field_defaults
    arguments = [
        f"{_TYPES[annotation.__forward_arg__]} {field}" + (f"={defaults[field]}" if field in defaults else "")
        for field, annotation in call.__annotations__.items()  # ForwardRefs: annotations are postponed
    ]
    return f"{name}({', '.join(arguments)}) -> Tensor[]"


class Op(Generic[Call]):
    """An op ``fastiter::<name>`` that maps a call, a NamedTuple, to tensors.

    Parameters
    ----------
    name : str
        The op's name, private: with an underscore.
    call : type of NamedTuple
        Its fields, with the annotations of `_TYPES`, are the op's arguments, in this order.
    cpu, fake : callable
        From a call to the tensors: computed, and only allocated, for tracing.
    """

    def __init__(self, name: str, call: type[Call], cpu: Implementation[Call], fake: Implementation[Call]) -> None:
        self._name, self._call, self._cpu = name, call, cpu
        LIBRARY.define(schema_of(name, call))
        LIBRARY.impl(name, self._taking_arguments(cpu), "CPU")
        torch.library.register_fake(f"fastiter::{name}", self._taking_arguments(fake), lib=LIBRARY)
        vmap.register(name)
        self._op = getattr(torch.ops.fastiter, name).default

    def _taking_arguments(self, implementation: Implementation[Call]) -> Callable[..., list[Tensor]]:
        call = self._call

        def from_arguments(*args: Any) -> list[Tensor]:
            return implementation(call(*args))  # torch omits trailing arguments that equal their defaults

        return from_arguments

    def __call__(self, call: Call) -> list[Tensor]:
        """Run the op, without torch's dispatcher if nothing needs it."""
        if needs_no_dispatch(call):
            return self._cpu(call)
        found: list[Tensor] = self._op(*call)
        return found

    def on_cuda(self, implementation: Implementation[Call]) -> None:
        """Register the implementation for CUDA tensors."""
        LIBRARY.impl(self._name, self._taking_arguments(implementation), "CUDA")
