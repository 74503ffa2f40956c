"""Marks of a model's tensors, by which later changes of its weights are noticed."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


class Mark(NamedTuple):
    """A tensor, the memory that it has, and its count of changes in place; both references are weak.

    A weak reference to the memory also prevents that other memory has the same identity later.
    """

    tensor: Any
    memory: Any
    version: int

    def follows(self, x: Tensor) -> bool:
        """Return whether a tensor is this one, and has not been changed."""
        return self.tensor() is x and self.memory == StorageWeakRef(x.untyped_storage()) and self.version == _version(x)


#: By the names of a model's parameters and buffers
Marks: TypeAlias = "dict[str, Mark]"


def marks_of(model: nn.Module) -> Marks:
    """Return the marks of a model's parameters and buffers."""
    return {name: _mark(x) for name, x in _tensors(model).items()}


def are_current(marks: Marks, model: nn.Module) -> bool:
    """Return whether a model has the tensors of these marks, unchanged."""
    tensors = _tensors(model)
    return marks.keys() == tensors.keys() and all(marks[name].follows(x) for name, x in tensors.items())


def copied_marks(marks: Marks, memo: dict[int, Any]) -> Marks:
    """Return the marks of a copy by copy.deepcopy, without those of tensors that had been changed before."""
    tensors = {name: mark.tensor() for name, mark in marks.items()}
    return {name: _mark(memo[id(x)]) for name, x in tensors.items() if id(x) in memo and marks[name].follows(x)}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _mark(x: Tensor) -> Mark:
    return Mark(weakref.ref(x), StorageWeakRef(x.untyped_storage()), _version(x))


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
