"""The results of the recurrent functions on tensors, and the types of these functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, cast, overload

from torch import Tensor

from ..._torch.results import returned_by_torch

if TYPE_CHECKING:
    from typing_extensions import Unpack

States: TypeAlias = tuple[Tensor, ...]


@returned_by_torch
class RnnResult(NamedTuple):
    """Outputs of all steps and the last state; ``h, state = fastiter.torch.lstm(wx, r)`` unpacks it.

    Attributes
    ----------
    output : Tensor (B, T, N, D)
        h at every step.
    state : tuple of Tensor (B, N, D)
        The parts of the state after the last valid step: (h,), (h, c) or (h, c, n, m).

    See Also
    --------
    RnnStates : The result that includes the states of all steps.
    lstm, gru, elman, slstm : The functions that return it.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> found = fastiter.torch.gru(torch.ones(2, 5, 3, 1, 4), torch.zeros(3, 1, 4, 4))
    >>> found.output.shape, len(found.state)
    (torch.Size([2, 5, 1, 4]), 1)
    """

    output: Tensor
    state: States


@returned_by_torch
class RnnStates(NamedTuple):
    """Outputs, the last state and the states of all steps: the result with ``return_all_states=True``.

    Attributes
    ----------
    output : Tensor (B, T, N, D)
        h at every step.
    state : tuple of Tensor (B, N, D)
        The parts of the state after the last valid step.
    states : tuple of Tensor (B, T, N, D)
        The parts of the state at every step.

    See Also
    --------
    RnnResult : Outputs and the last state only.
    lstm, gru, elman, slstm : The functions that return it.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> wx, r = torch.ones(2, 5, 4, 1, 3), torch.zeros(4, 1, 3, 3)
    >>> h, c = fastiter.torch.lstm(wx, r, return_all_states=True).states
    >>> h.shape, c.shape
    (torch.Size([2, 5, 1, 3]), torch.Size([2, 5, 1, 3]))
    """

    output: Tensor
    state: States
    states: States


# Results pickle by their public names, also if nobody has looked those up.
RnnResult.__module__ = RnnStates.__module__ = "fastiter.torch"


class Options(TypedDict, total=False):
    """The remaining options of the functions; only elman has ``activation``."""

    activation: Literal["tanh", "relu"]
    reverse: bool
    lengths: Tensor | Sequence[int] | None
    cu_seqlens: Tensor | Sequence[int] | None
    reset: Tensor | None
    checkpoint: int | None
    clip_grad: float | None
    clip_state: float | None
    out: Tensor | None


class Function(Protocol):
    """A recurrent function: ``return_all_states`` decides what it returns."""

    @overload
    def __call__(
        self,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None = ...,
        state: Tensor | Sequence[Tensor] | None = ...,
        *,
        return_all_states: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> RnnResult: ...

    @overload
    def __call__(
        self,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None = ...,
        state: Tensor | Sequence[Tensor] | None = ...,
        *,
        return_all_states: Literal[True],
        **options: Unpack[Options],
    ) -> RnnStates: ...

    @overload
    def __call__(
        self,
        wx: Tensor,
        r: Tensor,
        b: Tensor | None = ...,
        state: Tensor | Sequence[Tensor] | None = ...,
        *,
        return_all_states: bool,
        **options: Unpack[Options],
    ) -> RnnResult | RnnStates: ...


def typed(function: Callable[..., RnnResult | RnnStates]) -> Function:
    """Return the function itself, typed so that ``return_all_states`` determines the type of its result."""
    return cast(Function, function)
