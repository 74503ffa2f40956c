"""The results of the cells with diagonal weights on arrays, and the types of their functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, cast, overload

import numpy.typing as npt

from ._cells import NewtonInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._backend import Backend

Array: TypeAlias = npt.NDArray[Any]
States: TypeAlias = tuple[Array, ...]
Method: TypeAlias = Literal["auto", "sequential", "newton"]


class ParaResult(NamedTuple):
    """Outputs of all steps and the last state; ``h, state = fastiter.paralstm(wx, a, p)`` unpacks it.

    Attributes
    ----------
    output : ndarray (B, T, D)
        h at every step.
    state : tuple of ndarray (B, D)
        The parts of the state after the last valid step.

    See Also
    --------
    ParaResultInfo : The result that includes how the call was solved.
    paragru, paralstm, paraslstm : The functions that return it.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> h, (last,) = fastiter.paragru(np.ones((2, 8, 3, 4)), np.ones((3, 4)))
    >>> h.shape, bool((h[:, -1] == last).all())
    ((2, 8, 4), True)
    """

    output: Array
    state: States


class ParaResultInfo(NamedTuple):
    """Outputs, the last state, and how the call was solved: the result with ``return_info=True``.

    Attributes
    ----------
    output : ndarray (B, T, D)
        h at every step.
    state : tuple of ndarray (B, D)
        The parts of the state after the last valid step.
    info : NewtonInfo
        The method, and passes and fallbacks of each row.

    See Also
    --------
    ParaResult : Outputs and the last state only.
    paragru, paralstm, paraslstm : The functions that return it.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> h, state, info = fastiter.paragru(np.ones((2, 8, 3, 4)), np.ones((3, 4)), return_info=True)
    >>> info.method
    'sequential'
    """

    output: Array
    state: States
    info: NewtonInfo


class Options(TypedDict, total=False):
    """The remaining options of the functions."""

    method: Method
    reverse: bool
    lengths: npt.ArrayLike | None
    cu_seqlens: npt.ArrayLike | None
    reset: Array | None
    window: int | None
    rtol: float | None
    atol: float | None
    max_steps: int | None
    out: Array | None
    backend: Backend | None


class Function(Protocol):
    """A function of wx, a, p (only paralstm) and the state; ``return_info`` determines the type of its result."""

    @overload
    def __call__(
        self,
        wx: Array,
        a: Array,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> ParaResult: ...

    @overload
    def __call__(
        self,
        wx: Array,
        a: Array,
        *inputs: Any,
        state: Any = ...,
        return_info: Literal[True],
        **options: Unpack[Options],
    ) -> ParaResultInfo: ...

    @overload
    def __call__(
        self, wx: Array, a: Array, *inputs: Any, state: Any = ..., return_info: bool, **options: Unpack[Options]
    ) -> ParaResult | ParaResultInfo: ...


def typed(function: Callable[..., ParaResult | ParaResultInfo]) -> Function:
    """Return the function itself, typed so that ``return_info`` determines the type of its result."""
    return cast(Function, function)
