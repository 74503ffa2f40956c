"""Parts of the docstrings of the recurrences with diagonal weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .._docs import documented

F = TypeVar("F", bound=Callable[..., object])

_SECTIONS = """
    Parameters
    ----------
    wx : ndarray (B, T, {count}, D), float32 or float64
        Pre-activations of the gates {gates}: the input projection with its bias.
        Any strides; a time-major view is not copied if its last axis is contiguous.
    a : ndarray ({count}, D)
        Recurrent weights of the gates {gates}.{peepholes}
    state : {state} of ndarray (B, D), optional
        State before the first step; zero by default.
    method : {{"auto", "sequential", "newton"}}
        "sequential": one fused loop over time. "newton": all steps of a window at once, by Newton's method; a window
        that does not converge is run step by step, so the result equals that of the loop within the tolerance. "auto"
        is the loop, which is faster on CPUs. On GPUs paragru and paralstm support both.
    reverse : bool
        Run from the last step to the first.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T; later steps are not computed and their h is 0.
    cu_seqlens : integers (S + 1,), optional
        S sequences packed into one row (B = 1): sequence s is the steps cu_seqlens[s] to cu_seqlens[s + 1], with
        0 = ... <= ... = T. The states before the first and after the last step are then (S, D).
    reset : ndarray of bool (B, T) or (T,), optional
        True where a new sequence begins: the state before this step, or the initial one, is replaced by 0.
    window : int, optional
        Number of steps that Newton's method solves at once; 32 by default. On GPUs 256, which is also the maximum.
    rtol, atol : float, optional
        Newton's method accepts a state s if its residual and its last change are at most atol + rtol |s|; 64 times the
        dtype's eps by default.
    max_steps : int, optional
        Maximum number of passes of Newton's method over a window; 32 by default.
    return_info : bool
        Also return a NewtonInfo.
    out : ndarray (B, T, D), optional
        Where h is written.
    backend : {{"cpu", "reference"}}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    h : ndarray (B, T, D)
        The outputs of all steps.
    state : tuple {parts} of ndarray (B, D)
        State after the last valid step; passed as ``state``, it continues the sequence, bit for bit with the loop.
    info : NewtonInfo
        With ``return_info``: method, steps (per row, the maximum number of passes over any of its windows) and
        fallbacks (per row, the number of windows that fell back to running step by step).

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    BackendError
        If the backend cannot run.
"""

_PEEPHOLES = """
    p : ndarray (2, D)
        Peepholes, the weights of the cell state c, of the gates f, o."""


def documented_cell(gates: str, parts: str = "(h,)", *, peepholes: bool = False) -> Callable[[F], F]:
    """Return a decorator that fills ``%(sections)s``, from Parameters to Raises, for a cell.

    Parameters
    ----------
    gates : str
        The gates in their order, separated by commas.
    parts : str
        The tuple of the state's parts, as text.
    peepholes : bool
        Whether the function has the argument ``p``.
    """
    text = _SECTIONS.format(
        count=gates.count(",") + 1,
        gates=gates,
        peepholes=_PEEPHOLES if peepholes else "",
        state="ndarray, or a tuple (h,)" if parts == "(h,)" else f"tuple {parts}",
        parts=parts,
    )
    return documented({"sections": text})
