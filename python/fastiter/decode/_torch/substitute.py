"""Modules with packed weights: they multiply by these, and unpack them where something else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...accelerate._torch.layers import product_with
from .._pack import PackedMatrix
from ..plan import Matrix

#: Rows of a product for which unpacking the weights first takes less time
_MANY_ROWS = 256
#: Numbers of a matrix that are unpacked at once
_BLOCK = 1 << 19
_PARTS = "_fastiter_packed_parts"


class Parts:
    """A parameter as the packed matrices that it consists of."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, matrices: Mapping[Matrix, PackedMatrix]) -> None:
        self.shape, self.dtype, self.matrices = shape, dtype, dict(matrices)
        self._items: list[Parts] | None = None

    def is_whole(self) -> bool:
        """Return whether the matrices cover the parameter."""
        return sum(matrix.rows * matrix.columns for matrix in self.matrices) == self.shape.numel()

    def tensor(self) -> Tensor:
        """Return the parameter with the numbers that the codes stand for."""
        result = torch.empty(self.shape, dtype=self.dtype)
        for matrix, packed in self.matrices.items():
            into = matrix.of(result) if matrix.transposed else result.view(-1, matrix.columns)
            for rows, block in _blocks(matrix, packed):
                into[rows] = block.to(self.dtype)
        return result

    def consists_of_rows(self) -> bool:
        """Return whether all matrices consist of rows of the parameter, viewed as (-1, columns)."""
        return all(not matrix.transposed and matrix.columns == self.shape[-1] for matrix in self.matrices)

    def product(self, x: Tensor) -> Tensor:
        """Return x W^T for a parameter W that consists of rows, without gradients."""
        lines = x.reshape(-1, x.shape[-1])
        y = lines.new_empty(len(lines), self.shape.numel() // self.shape[-1])
        for matrix, packed in self.matrices.items():
            if len(lines) <= _MANY_ROWS:
                of_all = packed.product(lines.detach().to(_float(packed)).numpy())
                y[:, _on_tensors(matrix.places())] = torch.from_numpy(of_all).to(x.dtype)
                continue
            for rows, block in _blocks(matrix, packed):
                y[:, rows] = product_with(block.to(x.dtype), lines)
        return y.view(*x.shape[:-1], y.shape[1])

    def item(self, index: int) -> Parts:
        """Return an item of a parameter that consists of rows: one expert of a stack."""
        if self._items is None:
            lines = self.shape[1:].numel() // self.shape[-1]
            items: list[dict[Matrix, PackedMatrix]] = [{} for _ in range(self.shape[0])]
            for matrix, packed in self.matrices.items():
                items[matrix.first // lines][replace(matrix, first=matrix.first % lines)] = packed
            self._items = [Parts(self.shape[1:], self.dtype, matrices) for matrices in items]
        return self._items[index]


class PackedWeight(Tensor):
    """A parameter that is unpacked where an operation reads its numbers, and for this operation alone.

    Products, tables that are looked up, and the choice of an item need none or few of its numbers.
    """

    parts: Parts

    @staticmethod
    def __new__(cls, parts: Parts) -> PackedWeight:
        made: PackedWeight = Tensor._make_wrapper_subclass(cls, parts.shape, dtype=parts.dtype)  # type: ignore[attr-defined]
        made.parts = parts
        return made

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(function)
        result = None if rule is None else rule(*args, **(kwargs or {}))
        if result is not None:
            return result
        if function in _ARRAYS:
            return function(args[0].parts.tensor(), *args[1:], **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = tree_map_only(PackedWeight, lambda x: x.parts.tensor(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not isinstance(weight, PackedWeight) or not weight.parts.consists_of_rows():
        return None
    if isinstance(input, PackedWeight) or (input.requires_grad and torch.is_grad_enabled()):
        return None
    y = weight.parts.product(input)
    return y if bias is None else y + bias


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: Any = None, max_norm: Any = None, *_: Any, **others: Any
) -> Tensor | None:
    if max_norm is not None or not isinstance(weight, PackedWeight) or len(weight.parts.matrices) != 1:
        return None
    (packed,) = weight.parts.matrices.values()
    found, inverse = input.unique(return_inverse=True)
    table = torch.empty(len(found), packed.K, dtype=weight.dtype)
    for row, token in zip(table, found.tolist(), strict=True):
        row.copy_(torch.from_numpy(packed.unpack(token, 1)[0]))
    return table[inverse]


def _item(weight: Any, index: Any) -> Tensor | None:
    is_number = isinstance(index, int) or (isinstance(index, Tensor) and not index.shape and index.dtype == torch.int64)
    if not is_number or not isinstance(weight, PackedWeight) or weight.dim() != 3:
        return None
    return PackedWeight(weight.parts.item(int(index))) if weight.parts.consists_of_rows() else None


#: Functions that need not unpack a whole parameter; they return None for arguments for which they have to
_RULES: dict[Any, Any] = {nn.functional.linear: _linear, nn.functional.embedding: _embedding, Tensor.__getitem__: _item}
#: Methods that torch does not have for classes derived from Tensor
_ARRAYS = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


def _blocks(matrix: Matrix, packed: PackedMatrix) -> Iterator[tuple[Any, Tensor]]:
    """Yield blocks of rows of a matrix, and their places: in the parameter, or in the matrix if it is transposed."""
    count = max(_BLOCK // max(packed.K, 1), 1)
    places = slice(0, matrix.rows) if matrix.transposed else _on_tensors(matrix.places())
    for first in range(0, packed.N, count):
        last = min(first + count, packed.N)
        where = slice(places.start + first, places.start + last) if isinstance(places, slice) else places[first:last]
        yield where, torch.from_numpy(packed.unpack(first, last - first))


def _on_tensors(places: Any) -> Any:
    """Return places of rows with which a tensor is indexed."""
    return places if isinstance(places, slice) else torch.from_numpy(places)


def substitute(module: nn.Module, name: str, parts: Parts) -> None:
    """Let a module read one of its parameters from packed weights, and forget the parameter."""
    plain = type(module)
    if not hasattr(plain, _PARTS):
        names: dict[str, Any] = {_PARTS: True, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
        names |= {"_save_to_state_dict": _save, "__reduce_ex__": _refuse}
        module.__class__ = plain = type(plain.__name__, (plain,), names)
        vars(module)[_PARTS] = {}
    del module._parameters[name]
    vars(module)[_PARTS][name] = parts
    setattr(plain, name, property(lambda self: PackedWeight(vars(self)[_PARTS][name])))


def _float(packed: PackedMatrix) -> torch.dtype:
    return torch.float64 if packed.format == "f64" else torch.float32


def _save(self: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)
    for name, parts in vars(self)[_PARTS].items():
        destination[prefix + name] = parts.tensor()


def _refuse(self: Any, protocol: Any) -> Any:
    raise TypeError(f"{type(self).__name__}: a module with packed weights must be saved by its state_dict, got pickle")
