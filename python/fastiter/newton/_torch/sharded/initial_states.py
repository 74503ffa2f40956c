"""The initial states of the shards of a sequence, found by Newton's method on all steps at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._torch.distributed.docs import PARTS as SHARED
from ...._torch.distributed.engine import Entered
from ...._torch.distributed.sharded import sharded
from ...._torch.distributed.sharding import Meeting, Request, Sharding, as_parts
from ..._cells import CELLS, NewtonInfo, newton_options
from ..results import ParaResult, ParaResultInfo
from .line import Steps
from .newton import Local, Options, newton
from .shooting import Shard, shoot

#: The exchanges that use Newton's method over the ranks
_NEWTON = ("scan", "shooting")
EXCHANGES = ("auto", "pipeline", *_NEWTON)
#: The default maximum number of iterations, as in solve_recurrence
_MAX_STEPS = 100

PARTS = SHARED | {
    "exchange": """
        exchange : {"auto", "pipeline", "scan", "shooting"}
            "pipeline", the choice of "auto": a rank computes one chunk of the rows or channels after another by
            ``method``, each when its state has arrived. "shooting": all ranks run their steps by the loop at once, and
            Newton's method finds the states at their borders. "scan": Newton's method on all steps, whose linear
            recurrence is a scan of maps; then each rank runs its own steps by the loop. If a row does not converge, the
            pipeline runs instead, as the loop does in one process.
    """,
    "window": """
        window : int, optional
            Number of steps that Newton's method solves at once in a chunk of the pipeline; 32 by default.
    """,
    "max_steps": """
        max_steps : int, optional
            Maximum number of passes of Newton's method: by default 32 over a window of the pipeline, 100 over all steps
            or borders.
    """,
    "return_info": """
        return_info : bool
            With "scan" or "shooting": also return the iterations of each row of wx, and whether the pipeline followed.
    """,
}


class Solver(NamedTuple):
    """The options of the solver, unchecked."""

    exchange: str
    method: Any
    window: Any
    rtol: Any
    atol: Any
    max_steps: Any
    return_info: Any

    def check(self, name: str, wx: Any) -> dict[str, Any]:
        """Check the options; return those of the one-process function."""
        if not isinstance(self.return_info, bool):
            raise TypeError(f"{name}: return_info must be True or False, got {self.return_info!r}")
        if self.exchange not in _NEWTON:
            if self.return_info:
                raise ValueError(f"{name}: return_info must be False unless exchange is 'scan' or 'shooting', got True")
            return {option: getattr(self, option) for option in ("method", "window", "rtol", "atol", "max_steps")}
        condition = f"if exchange is {self.exchange!r}"
        if self.method not in ("auto", "newton"):
            raise ValueError(f"{name}: method must be 'auto' or 'newton' {condition}, got {self.method!r}")
        if self.window is not None:
            raise ValueError(f"{name}: window must be None {condition}, got {self.window!r}")
        self.limits(name, wx)
        return {"method": "sequential"}

    def limits(self, name: str, wx: Any) -> Options:
        """Return the checked tolerances and the maximum number of iterations over the ranks."""
        eps = torch.finfo(wx.dtype).eps if isinstance(wx, Tensor) and wx.is_floating_point() else 1.0
        options = newton_options(name, "newton", None, self.rtol, self.atol, self.max_steps, eps=eps)
        _, largest, rtol, atol = options or (0, 0, 0.0, 0.0)
        return Options(rtol, atol, _MAX_STEPS if self.max_steps is None else largest)


def solved(function: Sharding[ParaResult], arguments: Mapping[str, Any]) -> ParaResult | ParaResultInfo:
    """Call a cell on this rank's steps; with Newton's method, the initial states of all ranks are found first."""
    solver, info = Solver(*(arguments[name] for name in Solver._fields)), list[NewtonInfo]()

    @wraps(function.local)
    def local(*, reverse: bool = False, **passed: Any) -> Any:
        tensors = {name: x for name, x in passed.items() if name not in Solver._fields}
        return function.local(**tensors, reverse=reverse, **solver.check(function.name, passed["wx"]))

    def entered(request: Request, met: Meeting) -> Entered | None:
        with torch.no_grad(), torch.autocast(met.is_open.device.type, enabled=False):
            find = _entered if solver.exchange == "scan" else _shot
            return find(request, solver.limits(function.name, request.tensors["wx"]), met, info)

    initial = entered if solver.exchange in _NEWTON else None
    result = sharded(replace(function, local=local, entered=initial), arguments)
    return ParaResultInfo(*result, info[0]) if info and solver.return_info else result


def _entered(request: Request, options: Options, met: Meeting, info: list[NewtonInfo]) -> Entered | None:
    steps = Steps(met.line, met.steps, met.is_open)
    local = _local(request, met)
    result = newton(local, steps, options)
    info.append(NewtonInfo("newton", result.steps, (~result.converged).long()))
    if not bool(result.converged.all()):
        return None
    before = steps.before(local.first, result.y)
    transition = None
    if met.needs_grad and not (met.line.is_first or met.line.is_last):
        transition = steps.product(local.linearised(result.y, before)[1])
    return Entered(None if met.line.is_first else [x.contiguous() for x in before.unbind(-1)], transition)


def _shot(request: Request, options: Options, met: Meeting, info: list[NewtonInfo]) -> Entered | None:
    tensors = {name: None if x is None else x.detach() for name, x in request.tensors.items()}
    own = None if request.state is None else as_parts(request.state)
    like = _zeros(request, met)

    def run(state: Sequence[Tensor] | None) -> Sequence[Tensor]:
        return request.function.run(tensors, None if state is None else tuple(state), met.local, request.options)[1]

    own = None if own is None else [x.detach().to(y.dtype) for x, y in zip(own, like, strict=True)]
    return shoot(Shard(met, run, own, like), met, options, info)


def _zeros(request: Request, met: Meeting) -> list[Tensor]:
    """Return initial states of zeros."""
    x, bounds = request.tensors["wx"], met.local.cu_seqlens
    assert x is not None  # the function has checked it
    rows = x.shape[0] if bounds is None else len(bounds) - 1
    return [x.new_zeros(rows, x.shape[3]) for _ in CELLS[request.function.name].states]


def _local(request: Request, met: Meeting) -> Local:
    """Return this rank's steps in order of time."""
    tensors: Mapping[str, Tensor | None] = {
        name: None if x is None else x.detach() for name, x in request.tensors.items()
    }
    x, a = tensors["wx"], tensors["a"]
    assert x is not None and a is not None  # the function has checked them
    batch, time, _, width = x.shape
    bounds, reverse = met.local.cu_seqlens, met.line.reverse
    rows = batch if bounds is None else len(bounds) - 1
    first = _first(request, x, (rows, width))
    turned: Callable[[Tensor], Tensor] = (lambda y: y.flip(1)) if reverse else (lambda y: y)
    valid = None
    if met.local.lengths is not None:
        valid = torch.arange(time, device=x.device) < met.local.lengths.to(x.device).unsqueeze(1)
    resets = None if met.local.reset is None else met.local.reset.expand(batch, time)
    if resets is not None and valid is not None:
        resets = resets & valid
    guess, starts = first.unsqueeze(1), []
    if bounds is not None:
        starts = _starts(met, bounds, first, time)
        at = torch.searchsorted(bounds[1:].contiguous(), torch.arange(time), right=True).to(x.device)
        guess, first = turned(first[at].unsqueeze(0)), first.new_zeros(1, *first.shape[1:])
    flags = [None if y is None else turned(y) for y in (resets, valid)]
    return Local(request.function.name, turned(x), a, tensors.get("p"), first, guess, starts, *flags)


def _first(request: Request, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the initial states (rows, D, K)."""
    state = request.state
    if state is None:
        return x.new_zeros(*shape, len(CELLS[request.function.name].states))
    return torch.stack([part.detach().to(x.dtype) for part in as_parts(state)], -1)


def _starts(met: Meeting, bounds: Tensor, first: Tensor, time: int) -> list[tuple[int, Tensor]]:
    """Return the steps of this rank at which packed sequences start, and the states before them."""
    ends, begins = bounds.tolist(), met.border.starts
    assert isinstance(begins, Tensor)  # sequences are packed
    chosen = [s for s in range(len(ends) - 1) if bool(begins[s]) and ends[s] < ends[s + 1]]
    return [(time - ends[s + 1] if met.line.reverse else ends[s], first[s]) for s in chosen]
