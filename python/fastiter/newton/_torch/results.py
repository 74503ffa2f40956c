"""The results of the cells with diagonal weights on tensors, and the types of their functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, cast, overload

from torch import Tensor

from ..._torch.results import returned_by_torch
from .._cells import NewtonInfo
from .._results import Method

if TYPE_CHECKING:
    from typing_extensions import Unpack

States: TypeAlias = tuple[Tensor, ...]


@returned_by_torch
class ParaResult(NamedTuple):
    """Outputs of all steps and the last state; ``h, state = fastiter.torch.paralstm(wx, a, p)`` unpacks it.

    Attributes
    ----------
    output : Tensor (B, T, D)
        h at every step.
    state : tuple of Tensor (B, D)
        The parts of the state after the last valid step.
    """

    output: Tensor
    state: States


@returned_by_torch
class ParaResultInfo(NamedTuple):
    """Outputs, the last state, and how the call was solved: the result with ``return_info=True``.

    Attributes
    ----------
    output : Tensor (B, T, D)
        h at every step.
    state : tuple of Tensor (B, D)
        The parts of the state after the last valid step.
    info : NewtonInfo
        The method, and passes and fallbacks of each row.
    """

    output: Tensor
    state: States
    info: NewtonInfo


class Options(TypedDict, total=False):
    """The remaining options of the functions."""

    method: Method
    reverse: bool
    lengths: Tensor | Sequence[int] | None
    cu_seqlens: Tensor | Sequence[int] | None
    reset: Tensor | None
    window: int | None
    rtol: float | None
    atol: float | None
    max_steps: int | None
    out: Tensor | None


class Function(Protocol):
    """A function of wx, a, p (only paralstm) and the state; ``return_info`` determines the type of its result."""

    @overload
    def __call__(
        self,
        wx: Tensor,
        a: Tensor,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> ParaResult: ...

    @overload
    def __call__(
        self,
        wx: Tensor,
        a: Tensor,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[True],
        **options: Unpack[Options],
    ) -> ParaResultInfo: ...

    @overload
    def __call__(
        self, wx: Tensor, a: Tensor, *inputs: Any, state: Any = ..., return_info: bool, **options: Unpack[Options]
    ) -> ParaResult | ParaResultInfo: ...


class ShardedOptions(TypedDict, total=False):
    """The remaining options of the functions of sharded steps."""

    group: Any
    exchange: Literal["auto", "pipeline", "scan", "shooting"]
    chunks: int | None
    method: Method
    reverse: bool
    lengths: Tensor | Sequence[int] | None
    cu_seqlens: Tensor | Sequence[int] | None
    reset: Tensor | None
    window: int | None
    rtol: float | None
    atol: float | None
    max_steps: int | None


class ShardedFunction(Protocol):
    """The counterpart of :class:`Function` for sharded steps."""

    @overload
    def __call__(
        self,
        wx: Tensor,
        a: Tensor,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[False] = ...,
        **options: Unpack[ShardedOptions],
    ) -> ParaResult: ...

    @overload
    def __call__(
        self,
        wx: Tensor,
        a: Tensor,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[True],
        **options: Unpack[ShardedOptions],
    ) -> ParaResultInfo: ...

    @overload
    def __call__(
        self,
        wx: Tensor,
        a: Tensor,
        *inputs: Any,
        state: Any = ...,
        return_info: bool,
        **options: Unpack[ShardedOptions],
    ) -> ParaResult | ParaResultInfo: ...


def typed_sharded(function: Callable[..., ParaResult | ParaResultInfo]) -> ShardedFunction:
    """Return the function itself, with a type that tells its results apart."""
    return cast(ShardedFunction, function)


def typed(function: Callable[..., ParaResult | ParaResultInfo]) -> Function:
    """Return the function itself, with a type that tells its results apart."""
    return cast(Function, function)
