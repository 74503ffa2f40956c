"""pararnn-torch, which computes the same cells: its modules with our parameters, in each of their modes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.harness.contest import BOTH, Absent, Entrant, Results, Work, run
from bench.harness.peers import absent, compile_once_for_all_threads, load
from bench.newton.cases import Case

PARARNN = "pararnn-torch"
WINDOW = 256

# The rows of our parameters under the peer's names, and in its order of the three parts of the input projection
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "paragru": {"a": ("a_z", "a_r", "a_n")},
    "paralstm": {"a": ("a_f", "a_o", "a_z"), "p": ("c_f", "c_o")},
}
PARTS = {"paragru": (0, 1, 2), "paralstm": (0, 2, 1)}


def reordered(projection: Tensor, cell: str) -> Tensor:
    """Convert between the two orders of the parts, in either direction, as an order moves at most two of them."""
    parts: Tensor = projection.unflatten(0, (3, -1))
    return parts[list(PARTS[cell])].flatten(0, 1)


def peer_cell(pararnn: ModuleType, case: Case, work: Work) -> Any:
    """The peer's cell, without its clamp on the recurrent weights, which ours does not have."""
    kind = {"paragru": pararnn.ParaGRU, "paralstm": pararnn.ParaLSTM}[case.cell]
    cell = kind(case.H, case.H, max_recurrent_norm=None)
    with torch.no_grad():
        for ours, theirs in NAMES[case.cell].items():
            for name, row in zip(theirs, work.inputs[ours], strict=True):
                getattr(cell, name).copy_(row)
        cell.W_x.weight.copy_(reordered(work.inputs["weight"], case.cell))
        cell.W_x.bias.copy_(reordered(work.inputs["bias"], case.cell))
    return cell


def as_ours(h: Tensor, x: Tensor, cell: Any, case: Case, cotangent: Tensor) -> Results:
    """The results under our names and in our order."""
    named = {"x": x, **dict(cell.named_parameters())}
    gradients = dict(zip(named, torch.autograd.grad(h, list(named.values()), cotangent), strict=True))
    rows = {f"d{ours}": torch.stack([gradients[name] for name in theirs]) for ours, theirs in NAMES[case.cell].items()}
    return {
        "h": h.detach(),
        "dx": gradients["x"],
        "dweight": reordered(gradients["W_x.weight"], case.cell),
        "dbias": reordered(gradients["W_x.bias"], case.cell),
        **rows,
    }


def ways(pararnn: ModuleType, cell: Any, case: Case, compiled: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Its modes that run on a CPU, by the names in its documentation."""
    by_name = {
        "sequential": pararnn.ParaRNN(cell, solver="sequential"),
        "Newton": pararnn.ParaRNN(cell, solver="newton"),
    }
    if case.T > WINDOW:
        config = pararnn.NewtonConfig(chunk_len=WINDOW)
        by_name[f"Newton in windows of {WINDOW}"] = pararnn.ParaRNN(cell, solver="newton", config=config)
    if not compiled:
        return by_name
    compile_once_for_all_threads()
    newton = pararnn.ParaRNN(cell, solver="newton", config=pararnn.compile_safe_config())
    sequential = load("pararnn.solvers.sequential")
    if sequential is not None:

        def step_compiled(x: Tensor) -> Tensor:
            states: Tensor = sequential.sequential_apply_compiled(cell, x)
            return states[:, :, cell.hidden_slot] if states.dim() == 4 else states

        by_name["sequential, compiled"] = step_compiled
    return {**by_name, "Newton, compiled": torch.compile(newton)}


def entrants(case: Case, work: Work, compiled: bool) -> list[Entrant | Absent]:
    pararnn = load("pararnn")
    if pararnn is None:
        return [absent(PARARNN, "pararnn")]
    cell = peer_cell(pararnn, case, work)
    x = work.inputs["x"].detach().requires_grad_()
    inputs = [x, *cell.parameters()]

    def entrant(way: str, function: Callable[[Tensor], Tensor]) -> Entrant:
        return Entrant(
            PARARNN,
            run(lambda: function(x), inputs, work.cotangent, BOTH),
            lambda: as_ours(function(x), x, cell, case, work.cotangent),
            way,
        )

    return [entrant(way, function) for way, function in ways(pararnn, cell, case, compiled).items()]
