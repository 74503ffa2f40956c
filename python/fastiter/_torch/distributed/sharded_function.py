"""Functions with sharded steps built from one-process functions, which check and compute the steps of each rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sequences import Sequences
from .in_place import Kernels, Optional
from .sharded import Entered, Split
from .sharded_call import Maps, Meeting, Options, Problem, run_sharded


class Function(NamedTuple):
    """A call of a one-process function.

    Attributes
    ----------
    name : str
        The name of the public function.
    local : callable
        The function; takes tensors, state, and the division into sequences by name, returns the results and the last
        state.
    tensors : mapping of str to (Tensor or None)
        The arguments by name; the first determines the numbers of rows and steps.
    timed : mapping of str to int
        The arguments with steps, and their time axis.
    state : Tensor, or sequence of Tensor, or None
        The initial state.
    splits : callable
        Returns the axes that can be divided into chunks, from the tensors of a checked call.
    maps : Maps, optional
        The affine maps.
    options : mapping
        Other options of the function.
    state_name : str
        The name of the initial state.
    has_reverse : bool
        Whether the function has ``reverse``.
    kernels : Kernels, optional
        Kernels that compute slices in place, for tensors on the CPU.
    entered : callable, optional
        Finds the initial states by an exchange, as in :class:`Problem`.
    """

    name: str
    local: Callable[..., Any]
    tensors: Mapping[str, Tensor | None]
    timed: Mapping[str, int]
    state: Any
    splits: Callable[[Mapping[str, Tensor | None]], list[Split]]
    maps: Maps | None = None
    options: Mapping[str, object] = {}
    state_name: str = "state"
    has_reverse: bool = False
    kernels: Kernels | None = None
    entered: Callable[[Meeting], Entered | None] | None = None


def run_function(function: Function, options: Options) -> tuple[list[Tensor], list[Tensor]]:
    """Run the function on the steps of all ranks."""
    options = options._replace(others=(*options.others, *function.options.items()))
    return run_sharded(function.name, options, lambda options, given: _problem(function, options, given))


def cell(local: Any, tensors: Mapping[str, Tensor | None], state: Any, unit: int = 1) -> Function:
    """Return a call of a recurrent cell: rows and heads, or channels, are independent.

    The first tensor is wx, (B, T, G, N, D) or (B, T, G, D), and the others are weights, (G, N, ...) or (G, D). A chunk
    has at least ``unit`` heads or channels.
    """

    def splits(given: Mapping[str, Tensor | None]) -> list[Split]:
        wx, weights = given["wx"], len(given) - 1
        assert wx is not None
        across = Split(wx.shape[3], unit, (3, *[1] * weights), 2, 1)
        return [Split(wx.shape[0], 1, (0, *[None] * weights), 0, 0), across]  # rows first: they share the weights

    return Function(local.__name__, local, tensors, {"wx": 1}, state, splits, has_reverse=True)


def _problem(function: Function, options: Options, given: Sequences) -> Problem:
    """Check a call by running the function itself on zero steps, whose last state is the initial one."""
    parts = None if function.state is None else as_parts(function.state)
    how = dict(function.options) | ({"reverse": options.reverse} if function.has_reverse else {})
    names = list(function.tensors)
    batch, steps = _sizes(function)

    def run(tensors: Optional, state: Sequence[Tensor] | None, cut: Sequences) -> Any:
        return called(function, dict(zip(names, tensors, strict=True)), _whole(function, state), cut, how)

    none = Sequences(
        None,
        None if given.lengths is None else torch.zeros_like(given.lengths),
        None if given.cu_seqlens is None else torch.zeros_like(given.cu_seqlens),
    )
    last = _last_of_no_steps(function, steps, none, how)
    splits = function.splits(function.tensors)
    kernels = function.kernels if last[0].is_cpu else None
    exchanged = (function.maps, kernels, function.entered)
    return Problem(function.tensors, function.timed, batch, steps, parts, last, splits, run, *exchanged)


def _last_of_no_steps(function: Function, steps: int, none: Sequences, how: Mapping[str, object]) -> list[Tensor]:
    """Return the last state of a call on zero steps; an error about a shape shows the original shape."""
    with torch.no_grad():
        try:
            return called(function, _without_steps(function), function.state, none, how)[1]
        except ValueError as error:
            refusal = error
        if none.cu_seqlens is not None:
            none.cu_seqlens[-1:] = steps
        # Raises the same error with all steps in its message
        called(function, function.tensors, function.state, none, how)
    raise refusal


def called(
    function: Function, tensors: Mapping[str, Any], state: Any, cut: Sequences, how: Mapping[str, object]
) -> tuple[list[Tensor], list[Tensor]]:
    """Call the function with a division of its steps into sequences; return results and final states."""
    divided = {name: x for name, x in cut._asdict().items() if x is not None}
    results, last = function.local(**tensors, **{function.state_name: state}, **divided, **how)
    return [results], as_parts(last)


def as_parts(state: Any) -> list[Tensor]:
    """Return the parts of a state."""
    return list(state) if isinstance(state, (tuple, list)) else [state]


def _whole(function: Function, state: Sequence[Tensor] | None) -> Any:
    """Return a state in the form that the function takes; a state with a single part may always be that part itself."""
    return None if state is None else state[0] if len(state) == 1 else tuple(state)


def _sizes(function: Function) -> tuple[int, int]:
    """Return the rows and steps of the first tensor; check that all others have as many steps."""
    first, x = next(iter(function.tensors.items()))
    time = function.timed[first]
    if not isinstance(x, Tensor) or x.dim() <= time:
        return (0, 0)  # the function will refuse it
    for name, other in function.tensors.items():
        axis = function.timed.get(name)
        if axis is None or not isinstance(other, Tensor) or other.dim() <= axis:
            continue
        if other.shape[axis] != x.shape[time]:
            raise ValueError(
                f"{function.name}: {name} must have T = {x.shape[time]} steps like {first}, got {tuple(other.shape)}"
            )
    return x.shape[0], x.shape[time]


def _without_steps(function: Function) -> dict[str, Any]:
    """Return the tensors without their steps."""
    found = dict(function.tensors)
    for name, axis in function.timed.items():
        x = found[name]
        if isinstance(x, Tensor) and x.dim() > axis:
            found[name] = x.narrow(axis, 0, 0)
    return found


def valid_steps(x: Tensor, lengths: Tensor | None, fill: float, time: int = 1) -> Tensor:
    """Return x (B, ...) with the steps beyond each row's length filled with a value."""
    if lengths is None:
        return x
    beyond = torch.arange(x.shape[time], device=x.device) >= lengths.to(x.device).unsqueeze(1)
    shape = [1] * x.dim()
    shape[0], shape[time] = beyond.shape
    return x.masked_fill(beyond.view(shape), fill)
