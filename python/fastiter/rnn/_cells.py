"""The recurrent cells, and the checks of their arguments, for arrays and tensors alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any

from .._check import check_choice, fits_float, type_name
from .._layouts import torch_features_hint, torch_state_hint, torch_weight_hint

Shape = tuple[int, ...]


#: Flags that are added to a cell's number
_ROUNDS_STATES, _ROUNDS_PRODUCTS = 8, 16


@dataclass(frozen=True)
class Cell:
    """A cell: its number in the kernels, gates, states, and the number of values saved per unit for backward."""

    name: str
    code: int
    gates: int
    states: tuple[str, ...]
    saved: int

    @cached_property
    def layout(self) -> tuple[int, int, int, int]:
        """The cell's description for the kernels: number, gates, states, saved values."""
        return self.code, self.gates, len(self.states), self.saved

    @property
    def rounds_states(self) -> bool:
        """Whether the states other than h are rounded to its dtype after each step."""
        return bool(self.code & _ROUNDS_STATES)

    @property
    def rounds_products(self) -> bool:
        """Whether r h is rounded to the dtype of h before it is added."""
        return bool(self.code & _ROUNDS_PRODUCTS)

    @property
    def kind(self) -> str:
        """The name of the cell without the rounding suffixes."""
        return self.name.partition("_rounding")[0]

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the parts of the state in messages."""
        return tuple(f"state {name}" for name in self.states)


CELLS = {
    cell.name: cell
    for cell in (
        Cell("elman_tanh", 0, 1, ("h",), 0),
        Cell("elman_relu", 1, 1, ("h",), 0),
        Cell("lstm", 2, 4, ("h", "c"), 4),
        Cell("gru", 3, 3, ("h",), 4),
        Cell("slstm", 4, 4, ("h", "c", "n", "m"), 4),
        # Variants that round c, n and m to the dtype of h after each step, as FlashRNN does
        Cell("lstm_rounding", _ROUNDS_STATES + 2, 4, ("h", "c"), 4),
        Cell("slstm_rounding", _ROUNDS_STATES + 4, 4, ("h", "c", "n", "m"), 4),
        # A variant that also rounds the product r h, as TiRex does
        Cell("slstm_rounding_products", _ROUNDS_PRODUCTS + _ROUNDS_STATES + 4, 4, ("h", "c", "n", "m"), 4),
    )
}

#: The allowed dtypes in messages, with the reason why float16 is not allowed
NOT_IN_FLOAT16 = "as float16 cannot hold what gates and their gradients range over"
FLOAT16_REFUSED = f"float32, float64 or bfloat16, {NOT_IN_FLOAT16}"


def is_half(x: Any) -> bool:
    """Return whether an array or tensor is bfloat16; its states other than h are then float32."""
    return bool(x.dtype.itemsize == 2)


def elman_cell(activation: object) -> str:
    """Return the name of the Elman cell with this activation."""
    check_choice("elman", "activation", activation, ("tanh", "relu"))
    return f"elman_{activation}"


def checked_bound(function: str, name: str, bound: object) -> float | None:
    """Return a bound on magnitudes as a float, None for no bound."""
    if bound is None:
        return None
    if not isinstance(bound, Real) or isinstance(bound, bool):
        raise TypeError(f"{function}: {name} must be a number or None, got {type_name(bound)}")
    if not fits_float(bound):
        raise ValueError(f"{function}: {name} must be a positive number that a float can hold, got a larger one")
    may_cut = name == "clip_grad"  # a bound of 0 cuts the gradient
    if not float(bound) > 0 and not (may_cut and bound == 0):
        raise ValueError(f"{function}: {name} must be positive{' or 0' if may_cut else ''}, got {bound}")
    return None if float(bound) == math.inf else float(bound)  # torch.compile cannot trace isinf of a symbol


def checked_checkpoint(function: str, every: object) -> int:
    """Return the number of steps between two saved states, 0 for None."""
    if every is None:
        return 0
    if not isinstance(every, Integral) or isinstance(every, bool):
        raise TypeError(f"{function}: checkpoint must be a number of steps or None, got {type_name(every)}")
    if every < 1:
        raise ValueError(f"{function}: checkpoint must be at least 1 step, got {every}")
    if int(every) > sys.maxsize:  # the kernels' limit
        raise ValueError(f"{function}: checkpoint must be at most {sys.maxsize} steps, got a larger number")
    return int(every)


def check_shapes(
    function: str,
    cell: Cell,
    wx: Shape,
    r: Shape,
    b: Shape | None,
    state: Sequence[Shape] | None,
    sequences: int | None = None,
) -> tuple[int, int, int, int]:
    """Return (B, T, N, D) if all shapes are consistent; states have one row per sequence, by default B rows."""
    if len(wx) != 5 or wx[2] != cell.gates:
        hint = torch_features_hint("wx", wx, cell.gates, heads=True)
        raise ValueError(f"{function}: wx must have shape (B, T, {cell.gates}, N, D), got {tuple(wx)}{hint}")
    batch, time, gates, heads, width = wx
    if heads < 1 or width < 1:
        raise ValueError(f"{function}: wx must have at least one head and one unit, got shape {tuple(wx)}")
    _check_shape(function, "r", r, (gates, heads, width, width), "(G, N, D, D)")
    if b is not None:
        _check_shape(function, "b", b, (gates, heads, width), "(G, N, D)")
    rows, letters = (batch, "(B, N, D)") if sequences is None else (sequences, "(S, N, D)")
    given = state or ()
    for name, shape in zip(cell.states[: len(given)], given, strict=True):
        _check_shape(function, f"state {name}", shape, (rows, heads, width), letters)
    return batch, time, heads, width


def _check_shape(function: str, name: str, shape: Shape, expected: Shape, letters: str) -> None:
    if shape != expected:
        hint = torch_weight_hint(shape, expected) if name in ("r", "b") else torch_state_hint(shape, expected)
        got = f"{tuple(shape)}{hint}"
        raise ValueError(f"{function}: {name} must have shape {letters} = {expected} to go with wx, got {got}")


def check_state(function: str, cell: Cell, state: Any) -> None:
    """Check that ``state`` is a tuple (or list) with one part per state of the cell."""
    letters = f"({', '.join(cell.states)}{',' if len(cell.states) == 1 else ''})"
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{function}: state must be a tuple {letters}, got {type(state).__name__}")
    if len(state) != len(cell.states):
        raise ValueError(f"{function}: state must be a tuple {letters} of {len(cell.states)}, got {len(state)} parts")
