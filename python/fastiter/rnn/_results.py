"""The results of the recurrent functions on arrays, and the types of these functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, cast, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._backend import Backend

Array: TypeAlias = npt.NDArray[Any]
States: TypeAlias = tuple[Array, ...]


class RnnResult(NamedTuple):
    """Outputs of all steps and the last state; ``h, state = fastiter.lstm(wx, r)`` unpacks it.

    Attributes
    ----------
    output : ndarray (B, T, N, D)
        h at every step.
    state : tuple of ndarray (B, N, D)
        The parts of the state after the last valid step: (h,), (h, c) or (h, c, n, m).

    See Also
    --------
    RnnStates : The result that includes the states of all steps.
    lstm, gru, elman, slstm : The functions that return it.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> found = fastiter.gru(np.ones((2, 5, 3, 1, 4)), np.zeros((3, 1, 4, 4)))
    >>> found.output.shape, [part.shape for part in found.state]
    ((2, 5, 1, 4), [(2, 1, 4)])
    """

    output: Array
    state: States


class RnnStates(NamedTuple):
    """Outputs, the last state and the states of all steps: the result with ``return_all_states=True``.

    Attributes
    ----------
    output : ndarray (B, T, N, D)
        h at every step.
    state : tuple of ndarray (B, N, D)
        The parts of the state after the last valid step.
    states : tuple of ndarray (B, T, N, D)
        The parts of the state at every step.

    See Also
    --------
    RnnResult : Outputs and the last state only.
    lstm, gru, elman, slstm : The functions that return it.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> found = fastiter.lstm(np.ones((2, 5, 4, 1, 3)), np.zeros((4, 1, 3, 3)), return_all_states=True)
    >>> h, c = found.states
    >>> bool((h == found.output).all()), bool((c[:, -1] == found.state[1]).all())
    (True, True)
    """

    output: Array
    state: States
    states: States


class Options(TypedDict, total=False):
    """The remaining options of the functions; only elman has ``activation``."""

    activation: Literal["tanh", "relu"]
    reverse: bool
    lengths: npt.ArrayLike | None
    cu_seqlens: npt.ArrayLike | None
    reset: npt.NDArray[np.bool_] | None
    clip_state: float | None
    out: Array | None
    backend: Backend | None


class Function(Protocol):
    """A recurrent function: ``return_all_states`` decides what it returns."""

    @overload
    def __call__(
        self,
        wx: Array,
        r: Array,
        b: Array | None = ...,
        state: Array | Sequence[Array] | None = ...,
        *,
        return_all_states: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> RnnResult: ...

    @overload
    def __call__(
        self,
        wx: Array,
        r: Array,
        b: Array | None = ...,
        state: Array | Sequence[Array] | None = ...,
        *,
        return_all_states: Literal[True],
        **options: Unpack[Options],
    ) -> RnnStates: ...

    @overload
    def __call__(
        self,
        wx: Array,
        r: Array,
        b: Array | None = ...,
        state: Array | Sequence[Array] | None = ...,
        *,
        return_all_states: bool,
        **options: Unpack[Options],
    ) -> RnnResult | RnnStates: ...


def typed(function: Callable[..., RnnResult | RnnStates]) -> Function:
    """Return the function itself, typed so that ``return_all_states`` determines the type of its result."""
    return cast(Function, function)
