"""The step `correctness`: all head sizes and dtypes, forward and gradients, against the CPU; two runs must agree."""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch
from torch import Tensor

import fastiter.torch
from bench.card.device import Place, bound, drawn, error
from bench.card.worker import Item
from bench.harness.record import Record

GATES = {"elman": 1, "gru": 3, "lstm": 4, "slstm": 4}
WIDTHS = (16, 24, 32, 48, 64, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 320, 384, 512, 640, 768, 1024)
#: Widths for the other cells and dtypes: one block per head, several, and widths in between
FEW = (16, 64, 128, 192, 256, 768)
HALF, EXACT = torch.bfloat16, torch.float32
Case = tuple[str, torch.dtype, int]


def cases() -> list[Case]:
    """Return cell, dtype and width: all widths for the LSTM, some for the others, all dtypes."""
    chosen = [("lstm", HALF, width) for width in WIDTHS]
    chosen += [(cell, HALF, width) for cell, width in itertools.product(("slstm", "gru", "elman"), FEW)]
    chosen += [("lstm", dtype, width) for dtype, width in itertools.product((torch.float16, EXACT), FEW)]
    return chosen + [("gru", torch.float64, width) for width in (16, 64)]


def heads(width: int) -> int:
    return max(1, 768 // width)


def inputs(cell: str, dtype: torch.dtype, width: int, batch: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return wx, r and a cotangent of h, rounded to the dtype."""
    count, gates = heads(width), GATES[cell]
    wx = drawn(batch, time, gates, count, width, seed=1, dtype=dtype)
    r = (drawn(gates, count, width, width, seed=2) / math.sqrt(width)).to(dtype)
    return wx, r, drawn(batch, time, count, width, seed=3, dtype=dtype)


def with_gradients(cell: str, wx: Tensor, r: Tensor, dh: Tensor) -> list[Tensor]:
    """Return h, and the gradients of wx and r."""
    leaves = [wx.detach().requires_grad_(), r.detach().requires_grad_()]
    h = getattr(fastiter.torch, cell)(*leaves)[0]
    return [h.detach(), *torch.autograd.grad(h, leaves, dh)]


def path_of(cell: str, dtype: torch.dtype, width: int, batch: int, device: str) -> list[str]:
    """Return how forward and backward are launched: the number of blocks per head, or one step at a time."""
    from fastiter.rnn._torch._gpu import launch_plan

    cores = dtype.itemsize == 2
    name = "elman_tanh" if cell == "elman" else cell
    paths = []
    for backward in (False, True):
        problem = launch_plan.Problem(name, width, heads(width), batch, dtype.itemsize, cores, backward, plain=True)
        plan = launch_plan.plan(problem, launch_plan.card(torch.empty(0, device=device)))
        paths.append("stepwise" if plan is None else f"{plan.blocks} x {plan.threads}")
    return paths


def compare(place: Place, case: Case, batch: int, time: int) -> Record:
    """Compare with float32, or float64, on the CPU; run twice and compare the bits."""
    cell, dtype, width = case
    tensors = inputs(*case, batch, time)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = with_gradients(cell, *(x.to(wide) for x in tensors))
    there = [x.to(place.device) for x in tensors]
    results = place.run(lambda: with_gradients(cell, *there))
    again = place.run(lambda: with_gradients(cell, *there))
    errors = [error(x, y) for x, y in zip(results, exact, strict=True)]
    limits = [bound(dtype, time * (1 if k == 0 else batch), width) for k in range(3)]
    if any(not off <= limit for off, limit in zip(errors, limits, strict=True)):
        raise ArithmeticError(f"h, dwx, dr are off by {errors}, more than {limits}")
    if not all(torch.equal(x, y) for x, y in zip(results, again, strict=True)):
        raise ArithmeticError("two runs differ: a race")
    return {"path": path_of(*case, batch, place.device), "off": errors}


def compile_all(batch: int) -> Record:
    """Compile the kernels of all cases in parallel, as in sequence they take minutes."""
    from fastiter import _cuda
    from fastiter.rnn._cells import CELLS
    from fastiter.rnn._torch._gpu import cuda, launch_plan

    variants = []
    for cell, dtype, width in cases():
        name = "elman_tanh" if cell == "elman" else cell
        element = {"ELEMENT": cuda._ELEMENTS[dtype], "CELL": CELLS[name].code}
        for backward in (False, True):
            cores = dtype.itemsize == 2
            problem = launch_plan.Problem(name, width, heads(width), batch, dtype.itemsize, cores, backward, plain=True)
            plan = launch_plan.plan(problem, launch_plan.card(torch.empty(0, device="cuda")))
            if plan is not None:
                stem = f"rnn/{'backward' if backward else 'forward'}"
                variants.append((stem, {**element, **plan.defines(), "TF32": 0, "PLAIN": 1}))
    _cuda.compile_all(variants)
    return {"variants": len(variants)}


def items(dry: bool) -> list[Item]:
    place = Place(dry)
    if dry:
        return [Item("lstm bfloat16 16", partial(compare, place, ("lstm", HALF, 16), 2, 3))]
    listed = [Item("compile", partial(compile_all, 16), 45, 150)]  # a hundred kernels of 6 s, on 16 cores
    for case in cases():
        cell, dtype, width = case
        name = f"{cell} {str(dtype).removeprefix('torch.')} {width}"
        listed.append(Item(name, partial(compare, place, case, 16, 48), 1, 40))
    return listed
