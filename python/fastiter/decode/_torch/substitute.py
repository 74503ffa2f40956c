"""Modules with packed weights: they multiply by these, and unpack them where something else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._pack import PackedMatrix
from ..plan import Matrix

#: Rows of a product for which unpacking the weights first, for torch's product, takes less time
_MANY_ROWS = 64
#: Numbers of a matrix that are unpacked at once
_BLOCK = 1 << 22
_PARTS = "_fastiter_packed_parts"


class Parts:
    """A parameter as the packed matrices that it consists of."""

    def __init__(self, like: Tensor, dtype: torch.dtype, matrices: Mapping[Matrix, PackedMatrix]) -> None:
        self.shape, self.dtype, self.matrices = like.shape, dtype, dict(matrices)

    def is_whole(self) -> bool:
        """Return whether the matrices cover the parameter."""
        return sum(matrix.rows * matrix.columns for matrix in self.matrices) == self.shape.numel()

    def tensor(self) -> Tensor:
        """Return the parameter with the numbers that the codes stand for."""
        result = torch.empty(self.shape, dtype=self.dtype)
        for matrix, packed in self.matrices.items():
            if self.has_rows(matrix) and matrix.block is None:
                into = matrix.of(result)
                for first, last in _blocks(packed):
                    into[first:last] = torch.from_numpy(packed.unpack(first, last - first))
            else:
                places = matrix.of(torch.arange(result.numel()).view(self.shape))
                result.view(-1)[places] = torch.from_numpy(packed.unpack()).to(self.dtype)
        return result

    def has_rows(self, matrix: Matrix) -> bool:
        """Return whether a matrix consists of rows of the parameter, viewed as (-1, columns)."""
        return not matrix.transposed and matrix.columns == self.shape[-1]

    def rows(self, matrix: Matrix) -> Tensor:
        """Return the rows of the parameter, viewed as (-1, columns), that are those of one of its matrices."""
        lines = self.shape.numel() // matrix.columns
        return matrix.of(torch.arange(lines)[:, None].expand(lines, matrix.columns))[:, 0]


def _blocks(packed: PackedMatrix) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row, exclusive, of blocks of rows."""
    rows = max(_BLOCK // max(packed.K, 1), 1)
    yield from ((first, min(first + rows, packed.N)) for first in range(0, packed.N, rows))


def substitute(module: nn.Module, name: str, parts: Parts) -> None:
    """Let a module read one of its parameters from packed weights, and forget the parameter."""
    plain = type(module)
    if not hasattr(plain, _PARTS):
        names: dict[str, Any] = {_PARTS: True, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
        names |= {"_save_to_state_dict": _save, "__reduce_ex__": _refuse}
        if plain in _FORWARD:
            names["forward"] = _FORWARD[plain]
        module.__class__ = plain = type(plain.__name__, (plain,), names)
        vars(module)[_PARTS] = {}
    del module._parameters[name]
    vars(module)[_PARTS][name] = parts
    setattr(plain, name, property(lambda self: vars(self)[_PARTS][name].tensor()))


def _linear(self: Any, x: Tensor) -> Tensor:
    parts: Parts = vars(self)[_PARTS]["weight"]
    if not all(parts.has_rows(matrix) for matrix in parts.matrices):
        return nn.functional.linear(x, self.weight, self.bias)
    lines = x.reshape(-1, x.shape[-1])
    y = lines.new_empty(len(lines), parts.shape[0])
    for matrix, packed in parts.matrices.items():
        rows = parts.rows(matrix)
        if len(lines) <= _MANY_ROWS:
            y[:, rows] = torch.from_numpy(packed.product(lines.detach().to(_float(packed)).numpy())).to(x.dtype)
            continue
        for first, last in _blocks(packed):
            y[:, rows[first:last]] = lines @ torch.from_numpy(packed.unpack(first, last - first)).to(x.dtype).T
    y = y if self.bias is None else y + self.bias
    return y.view(*x.shape[:-1], parts.shape[0])


def _embedding(self: Any, tokens: Tensor) -> Tensor:
    parts: Parts = vars(self)[_PARTS]["weight"]
    (packed,) = parts.matrices.values()
    found, inverse = tokens.unique(return_inverse=True)
    table = torch.empty(len(found), packed.K, dtype=parts.dtype)
    for row, token in zip(table, found.tolist(), strict=True):
        row.copy_(torch.from_numpy(packed.unpack(token, 1)[0]))
    return table[inverse]


_FORWARD = {nn.Linear: _linear, nn.Embedding: _embedding}


def _float(packed: PackedMatrix) -> torch.dtype:
    return torch.float64 if packed.format == "f64" else torch.float32


def _save(self: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)
    for name, parts in vars(self)[_PARTS].items():
        destination[prefix + name] = parts.tensor()


def _refuse(self: Any, protocol: Any) -> Any:
    raise TypeError(f"{type(self).__name__}: a module with packed weights must be saved by its state_dict, got pickle")
