"""A user's cell as a function of flat states, and its Jacobians by colouring: one product with J^T for each colour.

Products with J^T, computed by reverse mode from one graph, take a fifth to a half of the time of torch.func.jvp's
products with J, whose decompositions take a millisecond per call on a CPU, and all of torch's operations support them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

#: Maximum block size of the block scans.
WIDEST = 16


@dataclass(frozen=True)
class Layout:
    """The parts of a state, each (M, *shape), and their positions in the flat state (M, n).

    With ``run`` = 0 the parts are concatenated; otherwise they are interleaved, ``run`` units of each part in turn, so
    that the units of a block are adjacent.
    """

    shapes: tuple[tuple[int, ...], ...]
    single: bool
    run: int = 0

    @property
    def widths(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def width(self) -> int:
        return sum(self.widths)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        flat = [part.reshape(len(part), width) for part, width in zip(parts, self.widths, strict=True)]
        if len(flat) == 1:
            return flat[0]
        if not self.run:
            return torch.cat(flat, 1)
        return torch.stack([x.unflatten(1, (x.shape[1] // self.run, self.run)) for x in flat], 2).flatten(1)

    def pack_steps(self, parts: Sequence[Tensor]) -> Tensor:
        """Return (B, T, n) from parts (B, T, *shape)."""
        return self.pack([part.flatten(0, 1) for part in parts]).unflatten(0, parts[0].shape[:2])

    def unpack(self, h: Tensor) -> tuple[Tensor, ...]:
        if len(self.shapes) == 1:
            flat: Sequence[Tensor] = (h,)
        elif self.run:
            size = (self.widths[0] // self.run, len(self.shapes), self.run)
            flat = [x.flatten(1) for x in h.unflatten(1, size).unbind(2)]
        else:
            flat = h.split(self.widths, 1)
        return tuple([x.reshape(len(h), *shape) for x, shape in zip(flat, self.shapes, strict=True)])

    def unpack_steps(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return parts (B, T, *shape), each contiguous, from (B, T, n)."""
        return tuple([part.unflatten(0, h.shape[:2]).contiguous() for part in self.unpack(h.flatten(0, 1))])


@dataclass(frozen=True)
class Structure:
    """Structure of a Jacobian (n, n): its kind, the size K of its diagonal blocks, and ``run`` of the layout."""

    kind: str
    size: int
    run: int = 0
    jacobian: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        return f"block {self.size}" if self.kind == "block" else self.kind


@dataclass(frozen=True)
class Cell:
    """The cell (h, x) -> f(h, x): the user's function, its detached parameters, and the layout of its state."""

    function: Callable[..., Any]
    params: tuple[Any, ...]
    layout: Layout
    dtype: torch.dtype
    single_x: bool

    def with_run(self, run: int) -> Cell:
        return replace(self, layout=replace(self.layout, run=run))

    def arguments(self, parts: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the arguments of the user's functions."""
        h = parts[0] if self.layout.single else tuple(parts)
        return h, x[0] if self.single_x else tuple(x), *self.params

    def step(self, parts: Sequence[Tensor], x: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return f for the parts of M states and inputs (M, ...)."""
        return self._checked(self.function(*self.arguments(parts, x)), len(parts[0]))

    def __call__(self, h: Tensor, x: Sequence[Tensor]) -> Tensor:
        """Return f for M flat states (M, n) and inputs (M, ...)."""
        return self.layout.pack(self.step(self.layout.unpack(h), x))

    def _checked(self, result: Any, rows: int) -> Sequence[Tensor]:
        layout = self.layout
        if layout.single:
            result = (result,)
        elif not isinstance(result, (tuple, list)) or len(result) != len(layout.shapes):
            got = f"{len(result)} parts" if isinstance(result, (tuple, list)) else type(result).__qualname__
            raise ValueError(
                f"solve_recurrence: cell must return a state of {len(layout.shapes)} parts like the state, got {got}"
            )
        for part, shape in zip(result, layout.shapes, strict=True):
            if not isinstance(part, Tensor):
                raise TypeError(
                    f"solve_recurrence: cell must return tensors in the form of state, got {type(part).__qualname__}"
                )
            if part.dtype != self.dtype:
                raise TypeError(
                    f"solve_recurrence: cell must return states of dtype {self.dtype} like the state, got {part.dtype}"
                )
            if part.shape != (rows, *shape):
                raise ValueError(
                    f"solve_recurrence: cell must return states of shape {(rows, *shape)} for {rows} rows, "
                    f"got {tuple(part.shape)}"
                )
        return result


class Linearised:
    """The cell linearised at M states and inputs: vector-Jacobian products, and Jacobians."""

    def __init__(self, cell: Cell, h: Tensor, x: Sequence[Tensor]) -> None:
        self._cell, self._x = cell, x
        with torch.enable_grad():
            self.h = h.detach().requires_grad_()
            self._f = cell(self.h, x)
        self.f = self._f.detach()

    def transposed(self, cotangent: Tensor) -> Tensor:
        """Return J^T times a cotangent (M, n)."""
        return self.products(cotangent, ())[0]

    def products(self, cotangent: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Return J^T times a cotangent (M, n), and the vector-Jacobian products for other inputs of f."""
        wanted = (self.h, *leaves)
        if not self._f.requires_grad:
            return [torch.zeros_like(leaf) for leaf in wanted]
        gradients = torch.autograd.grad(self._f, wanted, cotangent, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients, strict=True)]

    def leaves(self) -> Iterator[Tensor]:
        """Yield the leaf tensors in the graph of f, other than h."""
        visited, waiting = set(), [self._f.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in visited:
                continue
            visited.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf is not self.h:
                yield leaf
            waiting += [following for following, _ in node.next_functions]

    def jacobian(self, structure: Structure) -> Tensor:
        """Return the Jacobians' blocks (M, N, K, K), or their diagonals (M, n) if K = 1."""
        size, (rows, width) = structure.size, self.h.shape
        if structure.jacobian is not None:
            return self._own(structure)
        if structure.kind == "quasi":
            return self._blocks_of_dense(size)
        if size == 1:
            return self.transposed(self._seed(slice(None)))
        result = self.h.new_empty((rows, width // size, size, size))
        for i in range(size):
            result[:, :, i] = self.transposed(self._seed(slice(i, None, size))).view(rows, width // size, size)
        return result

    def _blocks_of_dense(self, size: int) -> Tensor:
        """Return the diagonal blocks of a dense Jacobian, with one product for each unit; the rest is discarded."""
        rows, width = self.h.shape
        result = self.h.new_empty((rows, width, size))
        for unit in range(width):
            start = unit - unit % size
            result[:, unit] = self.transposed(self._seed(slice(unit, unit + 1)))[:, start : start + size]
        return result.view(rows, width) if size == 1 else result.view(rows, width // size, size, size)

    def _seed(self, units: slice) -> Tensor:
        seed = self.h.new_zeros(self.h.shape[1])
        seed[units] = 1
        return seed.expand(self.h.shape)

    def _own(self, structure: Structure) -> Tensor:
        assert structure.jacobian is not None
        with torch.no_grad():
            kind, jacobian = own_jacobian(self._cell, structure.jacobian, self.h.detach(), self._x)
        if structure.kind == "quasi" and kind[0] == "dense":
            return jacobian[:, 0].diagonal(dim1=1, dim2=2)
        if kind != (structure.kind, structure.size):
            raise ValueError(
                f"solve_recurrence: jacobian must return the same structure for any rows, got {kind[0]} "
                f"after {structure.kind}"
            )
        return jacobian


def own_jacobian(
    cell: Cell, function: Callable[..., Any], h: Tensor, x: Sequence[Tensor]
) -> tuple[tuple[str, int], Tensor]:
    """Call the user's Jacobian; return its kind and K, from its shape, and it in the form of `Linearised.jacobian`."""
    result = function(*cell.arguments(cell.layout.unpack(h), x))
    layout, rows, width = cell.layout, len(h), cell.layout.width
    parts = (result,) if layout.single else result
    if isinstance(parts, (tuple, list)) and len(parts) == len(layout.shapes):
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else None for part in parts]
        if shapes == [(rows, *shape) for shape in layout.shapes]:
            return ("diagonal", 1), layout.pack(_of_dtype(parts, cell.dtype))
    if not isinstance(result, Tensor):
        raise TypeError(
            f"solve_recurrence: jacobian must return a tensor, or diagonals in the form of the state, "
            f"got {type(result).__qualname__}"
        )
    (result,) = _of_dtype((result,), cell.dtype)
    shape = tuple(result.shape)
    if shape == (rows, width, width):
        return ("dense", width), result.unsqueeze(1)
    if len(shape) == 4 and shape[2] == shape[3] and shape[0] == rows and shape[1] * shape[2] == width:
        if shape[2] == 1:
            return ("diagonal", 1), result.reshape(rows, width)
        return ("block", shape[2]), result
    raise ValueError(
        f"solve_recurrence: jacobian must return a diagonal like the state, blocks (M, N, K, K) or a dense (M, n, n) "
        f"with M = {rows} rows and N K = n = {width}, got shape {shape}"
    )


def _of_dtype(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    for x in tensors:
        if x.dtype != dtype:
            raise TypeError(f"solve_recurrence: jacobian must return dtype {dtype} like the state, got {x.dtype}")
    return tensors
