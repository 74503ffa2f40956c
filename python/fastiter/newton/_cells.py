"""The cells with diagonal weights, and the checks of their arguments, for arrays and tensors alike."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .._check import check_choice, type_name
from .._layouts import torch_features_hint, torch_state_hint
from .._sequences import as_part

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParaCell:
    """A cell: its function, its number in the kernels, its gates and states, and whether it has peepholes p."""

    name: str
    code: int
    gates: int
    states: tuple[str, ...]
    peepholes: bool = False

    #: Names in messages for the parts of the state (a single part is the argument itself), and for all arrays, in the
    #: order of the signature. They are fields, as torch.compile cannot trace a cached_property.
    state_names: tuple[str, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        state = ("state",) if len(self.states) == 1 else tuple(f"state {name}" for name in self.states)
        object.__setattr__(self, "state_names", state)
        object.__setattr__(self, "names", ("wx", "a", *(["p"] if self.peepholes else []), *state))


CELLS = {
    cell.name: cell
    for cell in (
        ParaCell("paragru", 0, 3, ("h",)),
        ParaCell("paralstm", 1, 3, ("h", "c"), peepholes=True),
        ParaCell("paraslstm", 2, 4, ("h", "c", "n", "m")),
    )
}

METHODS = ("auto", "sequential", "newton")

#: Steps per window of Newton's method, and the maximum number of passes over a window
WINDOW, MAX_STEPS = 32, 32
#: The default of rtol and atol, in multiples of the dtype's eps
TOLERANCE = 64

#: (window, max_steps, rtol, atol) of Newton's method; empty: step by step
Options = tuple[()] | tuple[int, int, float, float]


@dataclass(frozen=True)
class NewtonInfo:
    """How a call was solved: the method, its passes and its fallbacks.

    Both arrays are None if the method is "sequential".

    Attributes
    ----------
    method : {"sequential", "newton"}
        The method that ran: the requested one, or the choice of "auto".
    steps : integers (B,), or None
        Per row, the maximum number of passes over any of its windows.
    fallbacks : integers (B,), or None
        Per row, the number of windows that fell back to running step by step, at least for some of their units: they
        had not converged after max_steps, their changes grew, or a state was not finite.

    See Also
    --------
    paragru, paralstm, paraslstm : The functions, which return it with ``return_info=True``.

    Examples
    --------
    >>> import numpy as np, fastiter
    >>> found = fastiter.paragru(np.ones((1, 8, 3, 4)), np.ones((3, 4)), method="newton", return_info=True)
    >>> found.info.method, found.info.steps.shape, found.info.fallbacks
    ('newton', (1,), array([0]))
    """

    method: Literal["sequential", "newton"]
    steps: Any
    fallbacks: Any


def newton_options(
    function: str,
    method: object,
    window: object,
    rtol: object,
    atol: object,
    max_steps: object,
    eps: float,
    default_window: int = WINDOW,
) -> Options:
    """Return the options of Newton's method, or () for the fused loop, which "auto" chooses as it is faster."""
    check_choice(function, "method", method, METHODS)
    if method != "newton" and window is None and rtol is None and atol is None and max_steps is None:
        return ()
    options = (
        _count(function, "window", window, default_window),
        _count(function, "max_steps", max_steps, MAX_STEPS),
        _tolerance(function, "rtol", rtol, TOLERANCE * eps),
        _tolerance(function, "atol", atol, TOLERANCE * eps),
    )
    return options if method == "newton" else ()


def _count(function: str, name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{function}: {name} must be an int or None, got {type_name(value)}")
    count = operator.index(value)
    if not 1 <= count <= 2**31 - 1:
        raise ValueError(f"{function}: {name} must be from 1 to 2**31 - 1, got {count}")
    return count


def _tolerance(function: str, name: str, value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{function}: {name} must be a float or None, got {type_name(value)}")
    tolerance = float(value)
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"{function}: {name} must be finite and not negative, got {value}")
    return tolerance


def check_shapes(
    function: str, cell: ParaCell, wx: Shape, a: Shape, p: Shape | None, state: Sequence[Shape], rows: int | None = None
) -> tuple[int, int, int]:
    """Return (B, T, D) if all shapes are consistent; states have one row per sequence, by default B."""
    if len(wx) != 4 or wx[2] != cell.gates:
        hint = torch_features_hint("wx", wx, cell.gates, heads=False)
        raise ValueError(f"{function}: wx must have shape (B, T, {cell.gates}, D), got {tuple(wx)}{hint}")
    batch, time, gates, width = wx
    if a != (gates, width):
        _wrong_shape(function, "a", a, (gates, width), f"({gates}, D)")
    if p is not None and p != (2, width):
        _wrong_shape(function, "p", p, (2, width), "(2, D)")
    for name, shape in zip(cell.state_names[: len(state)], state, strict=True):
        if shape != (batch if rows is None else rows, width):
            letters, expected = ("(B, D)", (batch, width)) if rows is None else ("(S, D)", (rows, width))
            _wrong_shape(function, name, shape, expected, letters)
    return batch, time, width


def _wrong_shape(function: str, name: str, shape: Shape, expected: Shape, letters: str) -> None:
    got = f"{tuple(shape)}{torch_state_hint(shape, expected) if name.startswith('state') else ''}"
    raise ValueError(f"{function}: {name} must have shape {letters} = {expected} to go with wx, got {got}")


def state_parts(function: str, cell: ParaCell, state: Any) -> tuple[Any, ...]:
    """Return the parts of the given state; a single part may be an array or a tuple of one array."""
    if len(cell.states) == 1 and not isinstance(state, tuple):
        return (as_part(state),)
    letters = "(h,)" if len(cell.states) == 1 else f"({', '.join(cell.states)})"
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{function}: state must be a tuple {letters}, got {type_name(state)}")
    if len(state) != len(cell.states):
        raise ValueError(f"{function}: state must be a tuple {letters} of {len(cell.states)}, got {len(state)} parts")
    return tuple(state)
