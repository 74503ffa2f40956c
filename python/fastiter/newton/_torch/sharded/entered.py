"""The initial states of the shards of a sequence, found by Newton's method on all steps at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._torch.distributed.sharded import Entered
from ...._torch.distributed.sharded_call import PARTS as SHARED
from ...._torch.distributed.sharded_call import Meeting
from ...._torch.distributed.sharded_function import Function, as_parts, called
from ..._cells import CELLS, NewtonInfo, newton_options
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

    def parts(self, function: Function, info: list[NewtonInfo]) -> dict[str, Any]:
        """Return the fields of a Function with this solver, which also check it; ``info`` receives the NewtonInfo."""
        if self.exchange not in _NEWTON:
            names = ("method", "window", "rtol", "atol", "max_steps")
            return {"options": {name: getattr(self, name) for name in names}, "local": self._checked(function)}

        def entered(met: Meeting) -> Entered | None:
            with torch.no_grad(), torch.autocast(met.is_open.device.type, enabled=False):
                find = _entered if self.exchange == "scan" else _shot
                return find(function, self._options(function), met, info)

        return {"options": {"method": "sequential"}, "local": self._checked(function), "entered": entered}

    def _checked(self, function: Function) -> Callable[..., Any]:
        """Return the one-process function, with the checks of the solver's options before it."""

        def local(**arguments: Any) -> Any:
            self._check(function.name)
            if self.exchange in _NEWTON:
                self._options(function)
            return function.local(**arguments)

        return local

    def _check(self, name: str) -> None:
        if not isinstance(self.return_info, bool):
            raise TypeError(f"{name}: return_info must be True or False, got {self.return_info!r}")
        if self.exchange not in _NEWTON:
            if self.return_info:
                raise ValueError(f"{name}: return_info must be False unless exchange is 'scan' or 'shooting', got True")
            return
        condition = f"if exchange is {self.exchange!r}"
        if self.method not in ("auto", "newton"):
            raise ValueError(f"{name}: method must be 'auto' or 'newton' {condition}, got {self.method!r}")
        if self.window is not None:
            raise ValueError(f"{name}: window must be None {condition}, got {self.window!r}")

    def _options(self, function: Function) -> Options:
        wx = function.tensors["wx"]
        eps = torch.finfo(wx.dtype).eps if isinstance(wx, Tensor) and wx.is_floating_point() else 1.0
        given = (None, self.rtol, self.atol, self.max_steps)
        _, most, rtol, atol = newton_options(function.name, "newton", *given, eps=eps) or (0, 0, 0.0, 0.0)
        return Options(rtol, atol, _MAX_STEPS if self.max_steps is None else most)


def _entered(function: Function, options: Options, met: Meeting, info: list[NewtonInfo]) -> Entered | None:
    steps = Steps(met.line, met.steps, met.is_open)
    local = _local(function, met)
    found = newton(local, steps, options)
    info.append(NewtonInfo("newton", found.steps, (~found.converged).long()))
    if not bool(found.converged.all()):
        return None
    before = steps.before(local.first, found.y)
    transition = None
    if met.needs_grad and not (met.line.is_first or met.line.is_last):
        transition = steps.product(local.linearised(found.y, before)[1])
    return Entered(None if met.line.is_first else [x.contiguous() for x in before.unbind(-1)], transition)


def _shot(function: Function, options: Options, met: Meeting, info: list[NewtonInfo]) -> Entered | None:
    tensors = {name: None if x is None else x.detach() for name, x in function.tensors.items()}
    own = None if function.state is None else as_parts(function.state)
    like = _zeros(function, met)
    how = {"reverse": met.line.reverse, "method": "sequential"}

    def run(state: Sequence[Tensor] | None) -> Sequence[Tensor]:
        return called(function, tensors, None if state is None else tuple(state), met.local, how)[1]

    own = None if own is None else [x.detach().to(y.dtype) for x, y in zip(own, like, strict=True)]
    return shoot(Shard(met, run, own, like), met, options, info)


def _zeros(function: Function, met: Meeting) -> list[Tensor]:
    """Return initial states of zeros."""
    x, bounds = function.tensors["wx"], met.local.cu_seqlens
    assert x is not None  # the function has checked it
    rows = x.shape[0] if bounds is None else len(bounds) - 1
    return [x.new_zeros(rows, x.shape[3]) for _ in CELLS[function.name].states]


def _local(function: Function, met: Meeting) -> Local:
    """Return this rank's steps in order of time."""
    tensors: Mapping[str, Tensor | None] = {
        name: None if x is None else x.detach() for name, x in function.tensors.items()
    }
    x, a = tensors["wx"], tensors["a"]
    assert x is not None and a is not None  # the function has checked them
    batch, time, _, width = x.shape
    bounds, reverse = met.local.cu_seqlens, met.line.reverse
    rows = batch if bounds is None else len(bounds) - 1
    first = _first(function, x, (rows, width))
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
    return Local(function.name, turned(x), a, tensors.get("p"), first, guess, starts, *flags)


def _first(function: Function, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the initial states (rows, D, K)."""
    state = function.state
    if state is None:
        return x.new_zeros(*shape, len(CELLS[function.name].states))
    return torch.stack([part.detach().to(x.dtype) for part in as_parts(state)], -1)


def _starts(met: Meeting, bounds: Tensor, first: Tensor, time: int) -> list[tuple[int, Tensor]]:
    """Return the steps of this rank at which packed sequences start, and the states before them."""
    ends, begins = bounds.tolist(), met.border.starts
    assert isinstance(begins, Tensor)  # sequences are packed
    chosen = [s for s in range(len(ends) - 1) if bool(begins[s]) and ends[s] < ends[s + 1]]
    return [(time - ends[s + 1] if met.line.reverse else ends[s], first[s]) for s in chosen]
