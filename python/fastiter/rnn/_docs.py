"""Parts of the docstrings of the recurrent functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .._docs import documented

F = TypeVar("F", bound=Callable[..., object])

_SECTIONS = """
    Parameters
    ----------
    wx : ndarray (B, T, {count}, N, D), float32, float64 or bfloat16 (of ml_dtypes)
        Pre-activations, the input projection with its bias, {gates}.
        Any strides; a time-major view is not copied if its last axis is contiguous. bfloat16 is only the storage type
        of wx, r, b and h: arithmetic is in float32, and so are the states other than h from the first step to the last.
    r : ndarray ({count}, N, D, D)
        Recurrent weights of N heads, [gate, head, unit out, unit in]{torch}.
    b : ndarray ({count}, N, D), optional
        Recurrent bias; zero by default.
    state : {state} of ndarray (B, N, D), optional
        State before the first step; zero by default.{activation}
    reverse : bool
        Run from the last step to the first.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their h is 0.
    return_all_states : bool
        Also return the states of all steps.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1], with
        0 = ... <= ... = T. The states before the first and after the last step are then (S, N, D).
    reset : ndarray of bool (B, T) or (T,), optional
        True where a new sequence begins: the state before this step, or the initial one, is replaced by 0.
    clip_state : float, optional
        h is clipped to [-clip_state, clip_state] after each step, before the next one uses it.
    out : ndarray (B, T, N, D), optional
        Where h is written.
    backend : {{"cpu", "reference"}}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, N, D)
        The outputs of all steps.
    state : tuple {parts} of ndarray (B, N, D)
        State after the last valid step; passed as ``state``, it continues the sequence exactly.
    states : tuple of ndarray (B, T, N, D)
        With ``return_all_states``: {parts} at every step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.
"""

_ACTIVATION = """
    activation : {"tanh", "relu"}
        The function of the pre-activation."""


def documented_cell(
    gates: str, parts: str = "(h,)", *, activation: bool = False, torchs: bool = True
) -> Callable[[F], F]:
    """Return a decorator that fills ``%(sections)s``, from Parameters to Raises, for a cell.

    Parameters
    ----------
    gates : str
        The gates in their order, separated by commas; empty for a cell without gates.
    parts : str
        The tuple of the state's parts, as text.
    activation, torchs : bool
        Whether the function has the option ``activation``, and whether torch.nn has the cell.
    """
    count = gates.count(",") + 1
    text = _SECTIONS.format(
        count=count,
        gates=f"of the gates {gates}" if gates else "of the only gate",
        torch=f"; ``weight_hh`` of torch.nn viewed as ({count}, 1, H, H)" if torchs else "",
        state="ndarray, or a tuple (h,)" if parts == "(h,)" else f"tuple {parts}",
        parts=parts,
        activation=_ACTIVATION if activation else "",
    )
    return documented({"sections": text})
