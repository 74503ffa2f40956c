"""The declaration of a function of sequences whose steps can be sharded over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..sequences import Sequences
from .borders import Border
from .collectives import Line
from .engine import Entered, Split
from .in_place import Kernels

#: The tensor arguments of a call by name
Tensors: TypeAlias = "Mapping[str, Tensor | None]"
R = TypeVar("R")
EXCHANGES = ("auto", "pipeline", "scan", "speculative")


class Maps(NamedTuple):
    """The affine maps of a function.

    Attributes
    ----------
    transition : callable
        Returns M of the shard from the tensors by name, the lengths of this rank's rows, and the function's options.
    kind : str
        The kind of M, as in :class:`Affine`.
    """

    transition: Callable[[Tensors, Tensor | None, Mapping[str, Any]], Tensor]
    kind: Literal["numbers", "rows", "vector", "matrix"]


class Meeting(NamedTuple):
    """The information about the steps of all ranks that every rank has: their order and numbers, and the borders."""

    line: Line
    border: Border
    local: Sequences
    steps: tuple[int, ...]
    is_open: Tensor
    needs_grad: bool


def pair(result: Tensor, last: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the results and the only part of the final state."""
    return result, last[0]


@dataclass(frozen=True)
class Sharding(Generic[R]):
    """A one-process function, and the axes along which a call of it can be divided.

    Axes are a string with one letter for each axis of a tensor: B for rows, T for steps, N for independent channels or
    heads, a dot for any other. A tensor that can have different numbers of axes has several strings, separated by
    spaces. An axis of size 1 may stand for all rows or heads.

    Attributes
    ----------
    local : callable
        The function; it takes tensors, state, the division into sequences and options by name, and returns the results
        and the last state.
    tensors : mapping of str to str
        The axes of the tensors by their names, in the order of the call; the first has all rows and steps.
    result : str
        The axes of the results; the states have the axes B and N first.
    pack : callable
        Returns the result of the public function from the results and the parts of the final state.
    unit, smallest : int
        The granularity of chunks along N, and the minimum size of those that are worthwhile.
    maps : Maps, optional
        The affine maps; None for a function that is not affine in the state.
    kernels : callable, optional
        Returns from the options the kernels that compute slices in place, for tensors on the CPU, or None.
    check : callable, optional
        Checks a call and returns its arguments; by default the function itself does on zero steps.
    entered : callable, optional
        Finds the initial states by an exchange, for a function without maps; returns None on all ranks if that fails.
    exchanges : tuple of str
        The choices of ``exchange``.
    """

    local: Callable[..., Any]
    tensors: Mapping[str, str]
    result: str
    pack: Callable[[Tensor, tuple[Tensor, ...]], R]
    unit: int = 1
    smallest: int = 1
    maps: Maps | None = None
    kernels: Callable[[Mapping[str, Any]], Kernels | None] | None = None
    check: Callable[[Request], Checked] | None = None
    entered: Callable[[Request, Meeting], Entered | None] | None = None
    exchanges: tuple[str, ...] = EXCHANGES

    @property
    def name(self) -> str:
        """The name of the public function."""
        return str(self.local.__name__)

    def axis(self, name: str, x: object, letter: str) -> int | None:
        """Return the axis with a letter in a tensor; None if the tensor has none or is None."""
        if not isinstance(x, Tensor):
            return None
        axes = next((axes for axes in self.tensors[name].split() if len(axes) == x.dim()), "")
        return axes.index(letter) if letter in axes else None

    def timed(self, tensors: Tensors) -> dict[str, int]:
        """Return the time axes of the tensors that have one."""
        axes = {name: self.axis(name, x, "T") for name, x in tensors.items()}
        return {name: axis for name, axis in axes.items() if axis is not None}

    def splits(self, tensors: Tensors) -> list[Split]:
        """Return the axes that can be divided into chunks; rows come first, as they share the weights."""
        return [*self._split("B", 1, 1, tensors), *self._split("N", self.unit, self.smallest, tensors)]

    def _split(self, letter: str, unit: int, smallest: int, tensors: Tensors) -> list[Split]:
        axes = [self.axis(name, x, letter) for name, x in tensors.items()]
        each = [None if x is None or a is None else x.shape[a] for x, a in zip(tensors.values(), axes, strict=True)]
        sizes = {n for n in each if n is not None} - {1}
        if len(sizes) > 1:  # each group of heads shares some tensors
            return []
        size = sizes.pop() if sizes else 1
        divided = tuple(axis if n == size else None for axis, n in zip(axes, each, strict=True))
        return [Split(size, unit, divided, self.result.index(letter), "BN".index(letter), smallest)]

    def run(
        self, tensors: Mapping[str, Any], state: Any, cut: Sequences, options: Mapping[str, object]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Call the function with a division of its steps into sequences; return results and final states."""
        divided = {name: x for name, x in cut._asdict().items() if x is not None}
        results, last = self.local(**tensors, state=state, **divided, **options)
        return [results], as_parts(last)


class Checked(NamedTuple):
    """The checked arguments of a call.

    Attributes
    ----------
    tensors : mapping of str to (Tensor or None)
        The tensors; all have the axes that the kernels take.
    state : sequence of Tensor, optional
        The parts of the initial state.
    default : list of Tensor
        The parts of the default initial states.
    """

    tensors: Tensors
    state: Sequence[Tensor] | None
    default: list[Tensor]


@dataclass
class Request:
    """A call of a function with sharded steps, before its checks.

    Attributes
    ----------
    function : Sharding
        The function.
    tensors : mapping of str to (Tensor or None)
        The tensor arguments by name.
    state : Tensor, sequence of Tensor, or None
        The initial state.
    sequences : Sequences
        The division into sequences.
    options : mapping
        The other options of the function.
    group, exchange, chunks
        The options of the exchange between ranks.
    """

    function: Sharding[Any]
    tensors: Tensors
    state: Any
    sequences: Sequences
    options: Mapping[str, Any]
    group: Any
    exchange: str
    chunks: int | None
    rows: int = field(init=False, default=0)
    steps: int = field(init=False, default=0)

    @property
    def reverse(self) -> bool:
        """Whether the steps run from the last one to the first."""
        return bool(self.options.get("reverse", False))

    def check(self) -> Checked:
        """Check the arguments of the function, and set the numbers of rows and of steps on this rank."""
        self.rows, self.steps = self._sizes()
        return self._checked_by_itself() if self.function.check is None else self.function.check(self)

    def _sizes(self) -> tuple[int, int]:
        """Return the rows and steps of the first tensor; check that all others have as many steps."""
        function, timed = self.function, self.function.timed(self.tensors)
        first, x = next(iter(self.tensors.items()))
        if x is None or first not in timed:
            return 0, 0  # the function will refuse it
        steps = x.shape[timed[first]]
        for name, axis in timed.items():
            other = self.tensors[name]
            assert other is not None  # it has a time axis
            if function.check is None and other.shape[axis] != steps:
                raise ValueError(
                    f"{function.name}: {name} must have T = {steps} steps like {first}, got {tuple(other.shape)}"
                )
        return x.shape[0], steps

    def _checked_by_itself(self) -> Checked:
        """Check a call by running the function itself on zero steps, whose last state is the initial one."""
        _, lengths, bounds = self.sequences
        none = Sequences(
            None,
            None if lengths is None else torch.zeros_like(lengths),
            None if bounds is None else torch.zeros_like(bounds),
        )
        last = self._last_of_no_steps(none)
        return Checked(self.tensors, None if self.state is None else as_parts(self.state), last)

    def _last_of_no_steps(self, none: Sequences) -> list[Tensor]:
        """Return the last state of a call on zero steps; an error about a shape shows the original shape."""
        function = self.function
        empty: dict[str, Any] = dict(self.tensors)
        for name, axis in function.timed(empty).items():
            empty[name] = empty[name].narrow(axis, 0, 0)
        with torch.no_grad():
            try:
                return function.run(empty, self.state, none, self.options)[1]
            except ValueError as error:
                refusal = error
            if none.cu_seqlens is not None:
                none.cu_seqlens[-1:] = self.steps
            # Raises the same error with all steps in its message
            function.run(self.tensors, self.state, none, self.options)
        raise refusal


def as_parts(state: Any) -> list[Tensor]:
    """Return the parts of a state."""
    return list(state) if isinstance(state, (tuple, list)) else [state]


def as_state(parts: Sequence[Tensor] | None) -> Any:
    """Return a state in the form that functions take; a state with a single part may always be that part itself."""
    return None if parts is None else parts[0] if len(parts) == 1 else tuple(parts)


def valid_steps(x: Tensor, lengths: Tensor | None, fill: float, time: int = 1) -> Tensor:
    """Return x (B, ...) with the steps beyond each row's length filled with a value."""
    if lengths is None:
        return x
    beyond = torch.arange(x.shape[time], device=x.device) >= lengths.to(x.device).unsqueeze(1)
    shape = [1] * x.dim()
    shape[0], shape[time] = beyond.shape
    return x.masked_fill(beyond.view(shape), fill)
