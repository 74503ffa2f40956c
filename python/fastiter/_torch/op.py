"""Private ops whose argument list is declared once, as the fields of a NamedTuple that represents a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from . import vmap
from .ops import LIBRARY, needs_no_dispatch
from .schemas import ON_CPU_ONLY, SCHEMAS

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


def schema_of(call: type[Any], implementation: Callable[..., Any]) -> str:
    """Return the schema, without a name, of an op with a NamedTuple's arguments and an implementation's result."""
    defaults: dict[str, Any] = call._field_defaults
    returned = inspect.signature(implementation).return_annotation  # a string: annotations are postponed
    arguments = [
        f"{_TYPES[annotation.__forward_arg__]} {field}" + (f"={defaults[field]}" if field in defaults else "")
        for field, annotation in call.__annotations__.items()  # ForwardRefs for the same reason
    ]
    return f"({', '.join(arguments)}) -> {_TYPES[returned]}"


#: All ops whose modules are imported, by name, in the order of their definition
OPS: dict[str, Op[Any, Any]] = {}
_MODULES = {name: module for module, schemas in SCHEMAS.items() for name in schemas}


def named(name: str) -> Op[Any, Any]:
    """Return an op, once its module and that of its implementation for CUDA tensors have been imported."""
    if name in _MODULES and (name not in OPS or (OPS[name].cuda is None and name not in ON_CPU_ONLY)):
        import_module(_MODULES[name], __package__)
    return OPS[name]


def _register(name: str, schema: str) -> None:
    """Register an op whose implementations are looked up when it is called first."""
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, lambda *args: named(name).on_cpu(*args), "CPU")
    torch.library.register_fake(f"fastiter::{name}", lambda *args: named(name).on_meta(*args), lib=LIBRARY)
    if "(changed!)" not in schema:
        vmap.register(name)


def _register_cuda(name: str) -> None:
    def on_cuda(*args: Any) -> Any:
        op = named(name)
        assert op.cuda is not None  # its module has set it
        return op.cuda(op.call(*args))

    LIBRARY.impl(name, on_cuda, "CUDA")


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
    cuda : callable or None
        The implementation for CUDA tensors.
    fake : callable
        The function that only allocates.
    """

    def __init__(
        self, name: str, call: type[Call], cpu: Implementation[Call, Result], fake: Implementation[Call, Result]
    ) -> None:
        self._name, self.call, self._cpu, self.fake = name, call, cpu, fake
        if name not in _MODULES:
            _register(name, schema_of(call, fake))
        annotations = [annotation.__forward_arg__ for annotation in call.__annotations__.values()]
        self._changed = [place for place, annotation in enumerate(annotations) if annotation == "Changed"]
        self._op = getattr(torch.ops.fastiter, name).default
        self.cuda: Implementation[Call, Result] | None = None
        OPS[name] = self

    # Calls by torch's dispatcher, which omits trailing arguments that equal their defaults

    def on_cpu(self, *args: Any) -> Result:
        return self._cpu(self.call(*args))

    def on_meta(self, *args: Any) -> Result:
        return self.fake(self.call(*args))

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
        if self._name not in _MODULES:
            _register_cuda(self._name)


for _schemas in SCHEMAS.values():
    for _name, _schema in _schemas.items():
        _register(_name, _schema)
        if _name not in ON_CPU_ONLY:
            _register_cuda(_name)
