"""The recurrent cells, and the checks of their arguments, for arrays and tensors alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from .. import _core
from .._array_like import as_array, as_arrays
from .._check import check_arrays, check_choice, fits_float, type_name
from .._layouts import torch_features_hint, torch_state_hint, torch_weight_hint

Shape = tuple[int, ...]


#: Flags that are added to a cell's number
_ROUNDS_STATES, _ROUNDS_PRODUCTS = 8, 16


@dataclass(frozen=True)
class Cell:
    """A cell: its name, its number in the kernels, and the parts of its state.

    Attributes
    ----------
    name : str
        The name, with a suffix for each rounding.
    code : int
        The number in the kernels, plus the flags of the roundings.
    states : tuple of str
        The parts of the state.
    mixes_h : bool
        Whether the new h is a mean of the previous one and another value. torch.nn then keeps the dtype of the given h
        under autocast.
    """

    name: str
    code: int
    states: tuple[str, ...]
    mixes_h: bool = False
    #: The number of gates, the number of values that are saved per unit for the backward pass, and whether the
    #: gradients of W x and R h differ, so that the biases beside them cannot be added: csrc/rnn/cpu/kernels.hpp
    gates: int = field(init=False)
    saved: int = field(init=False)
    separates: bool = field(init=False)
    #: The name of the public function, and the names of the parts of the state in messages
    function: str = field(init=False)
    state_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        gates, _, saved, separates = _core.rnn.cell_sizes[self.code % _ROUNDS_STATES]
        derived = {"gates": gates, "saved": saved, "separates": separates, "function": self.name.partition("_")[0]}
        derived["state_names"] = tuple([f"state {name}" for name in self.states])
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def counts_steps(self) -> bool:
        """Whether a part of the state counts steps: the states other than h are then always float32."""
        return "n" in self.states

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


CELLS = {
    cell.name: cell
    for cell in (
        Cell("elman_tanh", 0, ("h",)),
        Cell("elman_relu", 1, ("h",)),
        Cell("lstm", 2, ("h", "c")),
        Cell("gru", 3, ("h",), mixes_h=True),
        Cell("slstm", 4, ("h", "c", "n", "m")),
        # Variants that round c, n and m to the dtype of h after each step, as FlashRNN does
        Cell("lstm_rounding", _ROUNDS_STATES + 2, ("h", "c")),
        Cell("slstm_rounding", _ROUNDS_STATES + 4, ("h", "c", "n", "m")),
        # A variant that also rounds the product r h, as TiRex does
        Cell("slstm_rounding_products", _ROUNDS_PRODUCTS + _ROUNDS_STATES + 4, ("h", "c", "n", "m")),
    )
}

#: The allowed dtypes in messages, with the reason why float16 is not allowed
NOT_IN_FLOAT16 = "as float16 cannot hold what gates and their gradients range over"
DTYPES, FLOAT32 = ("float32", "float64", "bfloat16"), np.dtype(np.float32)
FLOAT16_REFUSED = f"float32, float64 or bfloat16, {NOT_IN_FLOAT16}"


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
    if r != (gates, heads, width, width):
        _check_shape(function, "r", r, (gates, heads, width, width), "(G, N, D, D)")
    if b is not None:
        _check_shape(function, "b", b, (gates, heads, width), "(G, N, D)")
    rows, letters = (batch, "(B, N, D)") if sequences is None else (sequences, "(S, N, D)")
    parts = state or ()
    for name, shape in zip(cell.states[: len(parts)], parts, strict=True):
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


def checked_arrays(function: str, cell: Cell, names: Sequence[str], arrays: Sequence[Any]) -> Any:
    """Convert array-likes among the arguments to arrays, and check the dtypes; return ``arrays`` itself if it can be.

    All dtypes equal that of wx, except that the states other than h are float32 if wx is bfloat16.
    """
    read = as_arrays(function, names, arrays)
    dtype = getattr(read[0], "dtype", None)
    if getattr(dtype, "name", "") == "float16":
        raise TypeError(f"{function}: wx must be a NumPy array of {FLOAT16_REFUSED}, got dtype float16")
    if isinstance(read[0], np.ndarray) and read[0].itemsize == 2:
        return _checked_half(function, cell, names, arrays, read)
    check_arrays(function, names, read, DTYPES)
    return read


def _checked_half(function: str, cell: Cell, names: Sequence[str], arrays: Sequence[Any], read: Sequence[Any]) -> Any:
    """Do the same for a wx of 16 bits; ``read`` are the arguments as arrays."""
    wide = [name in cell.state_names[1:] for name in names]
    if read is not arrays:
        arguments = zip(names, arrays, read, wide, strict=True)
        read = [as_array(function, name, x, FLOAT32) if is_wide else y for name, x, y, is_wide in arguments]
    same = [(name, x) for name, x, is_wide in zip(names, read, wide, strict=True) if not is_wide]
    check_arrays(function, [name for name, _ in same], [x for _, x in same], DTYPES)
    for name, x, is_wide in zip(names, read, wide, strict=True):
        if is_wide and getattr(x, "dtype", None) != np.float32:
            got = type_name(x) if not isinstance(x, np.ndarray) else f"dtype {x.dtype}"
            raise TypeError(f"{function}: {name} must have dtype float32 to go with bfloat16 wx, got {got}")
    return read
