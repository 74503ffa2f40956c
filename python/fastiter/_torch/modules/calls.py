"""Types of the calls of layers: torch.nn.Module declares its call with any arguments and any result.

A layer whose result has one type declares ``__call__: Callable[..., Tensor]`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

State = TypeVar("State")
Integers = Tensor | Sequence[int]


class RecurrentCall(Protocol[State]):
    """The call of torch.nn's recurrent modules, with further options: the output has the form of the input."""

    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None = ...,
        *,
        reset: Tensor | None = ...,
        lengths: Integers | None = ...,
        cu_seqlens: Integers | None = ...,
    ) -> tuple[Tensor, State]: ...

    @overload
    def __call__(self, input: PackedSequence, hx: State | None = ...) -> tuple[PackedSequence, State]: ...


class SequenceCall(Protocol[State]):
    """The call of a SequenceLayer: the output has the form of the input."""

    @overload
    def __call__(
        self, input: Tensor, state: State | None = ..., lengths: Integers | None = ...
    ) -> tuple[Tensor, State]: ...

    @overload
    def __call__(self, input: PackedSequence, state: State | None = ...) -> tuple[PackedSequence, State]: ...


class SegmentedCall(Protocol[State]):
    """The call of a SequenceLayer that also takes segments."""

    @overload
    def __call__(
        self,
        input: Tensor,
        state: State | None = ...,
        lengths: Integers | None = ...,
        *,
        reset: Tensor | None = ...,
        cu_seqlens: Integers | None = ...,
    ) -> tuple[Tensor, State]: ...

    @overload
    def __call__(self, input: PackedSequence, state: State | None = ...) -> tuple[PackedSequence, State]: ...
