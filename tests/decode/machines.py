"""Programs and their states as NumPy arrays, beside the specification's."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter import _core
from fastiter.decode import plan as p
from fastiter.decode import reference
from fastiter.decode._program import Program

FORMATS = {"float32": "f32", "float64": "f64"}


def matrices_of(plan: p.Plan) -> list[p.Matrix]:
    found = []
    for step in plan.steps:
        for x in vars(step).values():
            found += (
                [x]
                if isinstance(x, p.Matrix)
                else [m for m in x if isinstance(m, p.Matrix)]
                if isinstance(x, tuple)
                else []
            )
    return found


def packed(x: np.ndarray, dtype: str) -> _core.decode.PackedMatrix:
    """Return a matrix (N, K) as packed weights of ``dtype``."""
    codes = np.ascontiguousarray(x, dtype)
    matrix = _core.decode.PackedMatrix(FORMATS[dtype], *x.shape, 0, 1.0)
    matrix.pack_rows(0, len(codes), codes, None)
    return matrix


class Machine:
    """A program with states for some rows, and the specification's states."""

    def __init__(self, plan: p.Plan, parameters: dict[str, Any], dtype: str, rows: int, capacity: int = 0) -> None:
        self.plan, self.parameters, self.rows, self.capacity = plan, parameters, rows, capacity
        matrices = {m: packed(np.asarray(m.of(parameters[m.name])), dtype) for m in matrices_of(plan)}
        self.program = Program(plan, matrices, dtype, rows=8)
        self.states = {state.name: np.zeros(self.shape(state), dtype) for state in plan.states}
        self.expected = reference.initial_states(plan, rows)
        self.length = 0

    def shape(self, state: p.State) -> tuple[int, ...]:
        if state.kind in ("keys", "values"):
            return self.rows, state.shape[0], self.capacity, state.shape[1]
        return self.rows, *state.shape

    @property
    def addresses(self) -> np.ndarray:
        return np.array([self.states[state.name].ctypes.data for state in self.plan.states], np.int64)

    def places(self, positions: np.ndarray | None = None, firsts: np.ndarray | None = None) -> dict[str, Any]:
        positions = np.full(self.rows, self.length) if positions is None else positions
        places = {"positions": positions, "states": self.addresses, "length": self.length, "capacity": self.capacity}
        return {**places, "firsts": firsts}

    def step(self, tokens: Any, firsts: np.ndarray | None = None) -> np.ndarray:
        """Return the logits after one more token per row."""
        logits = self.program.step(np.asarray(tokens), **self.places(firsts=firsts))
        self.length += 1
        return logits

    def specified(self, tokens: Any, firsts: np.ndarray | None = None) -> np.ndarray:
        """Return the specification's logits for the step that follows the last."""
        entries = [len(x[0][0]) for name, x in self.expected.items() if self.grows(name)]
        position = entries[0] if entries else self.length
        positions = np.full(self.rows, position)
        logits, self.expected = reference.step(self.plan, self.parameters, self.expected, tokens, positions, firsts)
        return logits

    def grows(self, name: str) -> bool:
        return any(state.name == name and state.kind in ("keys", "values") for state in self.plan.states)

    def pairs(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Return name, state and specified state of all states."""
        states = {name: x[:, :, : self.length] if self.grows(name) else x for name, x in self.states.items()}
        return [(name, x, self.expected[name]) for name, x in states.items()]
