"""Probing of a cell with a few random states: whether it is supported, and which units its Jacobian couples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .cell import WIDEST, Cell, Linearised, Structure, own_jacobian

#: Magnitude of each random state: nonlinearities saturate, gates open and close.
_SCALES = (0.1, 0.5, 1.0, 1.0, 2.0, 4.0)


def probe_points(cell: Cell, x: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return random states (M, n) and, for each, one step of x (B, T, ...), which must have one."""
    batch, time = x[0].shape[:2]
    generator = torch.Generator().manual_seed(0)  # reproducible, and leaves torch's random state unchanged
    h = torch.randn((len(_SCALES), cell.layout.width), generator=generator, dtype=cell.dtype, device="cpu")
    h *= torch.tensor(_SCALES, dtype=cell.dtype, device="cpu").unsqueeze(1)
    picked = torch.arange(len(h), device=x[0].device) * (batch * time - 1) // (len(h) - 1)
    return h.to(x[0].device), [part[picked // time, picked % time] for part in x]


def check_cell(cell: Cell, x: Sequence[Tensor]) -> None:
    """Refuse a cell that changes its arguments, draws random numbers, mixes rows or closes over trainable tensors."""
    h, x = probe_points(cell, x)
    result = _result(cell, h, x)
    linear = Linearised(cell, h, x)
    if not torch.equal(result.nan_to_num(), linear.f.nan_to_num()):
        raise ValueError(
            "solve_recurrence: cell must be a function of its arguments alone, got two results for the same arguments"
        )
    for foreign in linear.leaves() if torch.is_grad_enabled() else ():
        raise ValueError(
            "solve_recurrence: cell must take whatever requires a gradient from x, params or state (modules: "
            "torch.func.functional_call), as a gradient would be lost; "
            f"got a tensor of shape {tuple(foreign.shape)} from elsewhere"
        )
    first = torch.zeros_like(h)
    first[0] = 1
    if (linear.transposed(first)[1:].abs() > 0).any():
        raise ValueError(
            "solve_recurrence: cell must treat each row of a batch by itself, got a row that depends on another"
        )


def _result(cell: Cell, h: Tensor, x: Sequence[Tensor]) -> Tensor:
    arguments = (h, *x)
    versions = [part._version for part in arguments]
    try:
        with torch.no_grad():
            result = cell(h, x)
    except Exception as error:
        if str(error).startswith("solve_recurrence: "):
            raise
        raise ValueError(
            f"solve_recurrence: cell must accept any number of rows, got {type(error).__qualname__} "
            f"for {len(h)} rows: {error}"
        ) from error
    if versions != [part._version for part in arguments]:
        raise ValueError("solve_recurrence: cell must not change its arguments, got a changed h or x")
    return result


def find_structure(cell: Cell, x: Sequence[Tensor]) -> Structure:
    """Return the smallest block structure that contains all of J, tested with random vectors, else dense."""
    h, x = probe_points(cell, x)
    cotangent = torch.randn(h.shape, generator=torch.Generator().manual_seed(1), dtype=h.dtype, device="cpu").to(h)
    linears: dict[int, Linearised] = {}
    for structure in _candidates(cell):
        packed = cell.with_run(structure.run)
        if structure.run not in linears:
            linears[structure.run] = Linearised(packed, h, x)
        if _holds(linears[structure.run], structure, cotangent):
            return structure
    return Structure("dense", cell.layout.width)


def _candidates(cell: Cell) -> Iterator[Structure]:
    """Yield the structures smaller than dense, smallest first."""
    widths = cell.layout.widths
    yield Structure("diagonal", 1)
    if len(set(widths)) > 1:
        return
    parts = len(widths)
    for run in range(1, WIDEST // parts + 1):
        if widths[0] % run == 0 and 1 < run * parts < max(sum(widths), 2):
            yield Structure("block", run * parts, run if parts > 1 else 0)


def _holds(linear: Linearised, structure: Structure, cotangent: Tensor) -> bool:
    """Return whether J^T times a random vector equals the product with the blocks alone, up to rounding."""
    expected = linear.transposed(cotangent)
    blocks = linear.jacobian(structure).view(len(cotangent), -1, structure.size, structure.size)
    factor = cotangent.view(len(cotangent), -1, structure.size, 1)
    product = (blocks * factor).sum(2).view(expected.shape)
    size = (blocks * factor).abs().sum(2).view(expected.shape) + expected.abs()
    finite = size.isfinite()
    close = (product - expected).abs() <= 64 * torch.finfo(size.dtype).eps * size.nan_to_num().amax(1, keepdim=True)
    return bool(finite.any()) and bool((close | ~finite).all())


def named_structure(cell: Cell, jacobian: Any, x: Sequence[Tensor]) -> Structure:
    """Return the structure named by the argument ``jacobian``; "auto" and functions are probed."""
    widths = cell.layout.widths
    same = len(set(widths)) == 1
    if jacobian == "auto":
        return find_structure(cell, x)
    if jacobian == "diagonal":
        return Structure("diagonal", 1)
    if jacobian == "dense":
        return Structure("dense", cell.layout.width)
    if jacobian == "quasi":
        parts = len(widths) if same and len(widths) <= WIDEST else 1
        return Structure("quasi", parts, 1 if parts > 1 else 0)
    if callable(jacobian):
        return _structure_of(cell, jacobian, x)
    return _block_structure(cell, jacobian, same)


def _structure_of(cell: Cell, jacobian: Callable[..., Any], x: Sequence[Tensor]) -> Structure:
    h, x = probe_points(cell, x)
    with torch.no_grad():
        (kind, size), _ = own_jacobian(cell, jacobian, h, x)
    parts = len(cell.layout.widths)
    run = size // parts if kind == "block" and parts > 1 else 0
    if kind == "block":
        _check_block(cell, size)
    return Structure(kind, size, run, jacobian)


def _block_structure(cell: Cell, jacobian: Any, same: bool) -> Structure:
    parts = len(cell.layout.widths)
    if jacobian == "block":
        if parts == 1:
            raise ValueError(
                "solve_recurrence: jacobian must be ('block', K) with the size of the blocks if the state is one "
                "tensor, got 'block'"
            )
        jacobian = ("block", parts)
    size = jacobian[1]
    _check_block(cell, size)
    return Structure("block" if size > 1 else "diagonal", size, size // parts if parts > 1 else 0)


def _check_block(cell: Cell, size: int) -> None:
    widths = cell.layout.widths
    parts = len(widths)
    if len(set(widths)) > 1:
        raise ValueError(
            f"solve_recurrence: jacobian must not be made of blocks if the parts of the state differ in size, "
            f"got {widths} units"
        )
    if size % parts or widths[0] % (size // parts) or size > WIDEST:
        raise ValueError(
            f"solve_recurrence: jacobian must have blocks of K <= {WIDEST} units, as many of each of the {parts} parts "
            f"of the state, and K must divide its n = {sum(widths)} units; got K = {size}"
        )
