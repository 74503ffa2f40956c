"""Inputs of the cells with diagonal weights, and calls of the kernels and of the specification by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter.reference import newton as reference
from tests.rnn.calls import cast
from tests.support.cases import Array

PARA_CELLS = ("paragru", "paralstm", "paraslstm")
GATES = {"paragru": 3, "paralstm": 3, "paraslstm": 4}
STATES = {"paragru": ("h",), "paralstm": ("h", "c"), "paraslstm": ("h", "c", "n", "m")}
every_cell = pytest.mark.parametrize("cell", PARA_CELLS)

Output = tuple[Array, tuple[Array, ...]]


class ParaInputs(NamedTuple):
    """Arguments of a cell; p is empty if it has no peepholes."""

    wx: Array
    a: Array
    p: Array
    state: tuple[Array, ...]

    def weights(self) -> tuple[Array, ...]:
        return (self.a, self.p) if len(self.p) else (self.a,)

    def arguments(self) -> tuple[Any, ...]:
        """Return the arguments in the order of the signature; a state with one part is that part."""
        return (self.wx, *self.weights(), self.state[0] if len(self.state) == 1 else self.state)


def para_inputs(
    cell: str, B: int, T: int, D: int, dtype: npt.DTypeLike, seed: int = 0, bound: float = 1.0
) -> ParaInputs:
    """Pre-activations ~ N(0, 1), weights ~ U(-bound, bound), a state mid-sequence."""
    # Drawn in float64, then rounded, so that both dtypes get the same case.
    rng = np.random.default_rng([seed, B, T, D])
    wx = rng.standard_normal((B, T, GATES[cell], D))
    a = rng.uniform(-bound, bound, (GATES[cell], D))
    p = rng.uniform(-bound, bound, (2 if cell == "paralstm" else 0, D))
    h, c, m = np.tanh(rng.standard_normal((B, D))), rng.standard_normal((B, D)), rng.standard_normal((B, D))
    n = rng.choice([0.0, 0.5, 1.0, 2.5], (B, D))  # values that begin, that the clamp at 1 may touch, that continue
    state = (h, c, n, m)[: len(STATES[cell])]
    return ParaInputs(wx.astype(dtype), a.astype(dtype), p.astype(dtype), tuple(s.astype(dtype) for s in state))


def run(cell: str, inputs: ParaInputs, **more: Any) -> Any:
    """Return (h, final states) of the kernels, and the info if requested."""
    return getattr(fastiter, cell)(*inputs.arguments(), **more)


def specified(cell: str, inputs: ParaInputs, **more: Any) -> Output:
    """Return the same from the specification in float64, rounded to the inputs' dtype."""
    wx, a, p, state = cast(tuple(inputs), np.float64)
    h, last, _ = reference.sequential(cell, wx, a, p, state, **more)
    result: Output = cast((h, last), inputs.wx.dtype)
    return result


def places(cell: str) -> list[str]:
    return ["wx", "a", *(["p"] if cell == "paralstm" else []), *STATES[cell]]


def replaced(inputs: ParaInputs, cell: str, place: str, change: Any) -> ParaInputs:
    if place in inputs._fields:
        return inputs._replace(**{place: change(getattr(inputs, place))})
    state = dict(zip(STATES[cell], inputs.state, strict=True))
    return inputs._replace(state=tuple(change(s) if name == place else s for name, s in state.items()))
