"""The compiled interpreter of plans against the specification, and its bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.decode import plan as p
from tests.decode.machines import Machine
from tests.decode.program.operations import CASES, TOKENS, make

STEPS, CAPACITY = 7, 9
EACH = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    fastiter.set_num_threads(None)


def close(got: Any, expected: Any, dtype: str) -> None:
    """Compare with a tolerance of 200 roundings of the largest number: sums have up to 300 terms."""
    scale = max(1.0, float(abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=200 * np.finfo(dtype).eps * scale)


def tokens(rows: int, step: int) -> Any:
    return (np.arange(rows) * 3 + step * step) % TOKENS


def run(machine: Machine, firsts: Any = None) -> list[bytes]:
    """Return the bits of the logits of some steps, and of the states after them."""
    bits = [machine.step(tokens(machine.rows, step), firsts).tobytes() for step in range(STEPS)]
    return bits + [x.tobytes() for x in machine.states.values()]


@EACH
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 1), ("float64", 3), ("float32", 8)])
def test_operations(name: str, dtype: str, rows: int) -> None:
    machine = Machine(*make(name), dtype, rows, CAPACITY)
    for step in range(STEPS):
        expected = machine.specified(tokens(rows, step))
        close(machine.step(tokens(rows, step)), expected, dtype)
    for state, got, wanted in machine.pairs():
        assert np.shape(got) == np.shape(wanted), state
        close(got, wanted, dtype)


def heavy(plan: p.Plan, parameters: dict[str, Any]) -> tuple[p.Plan, dict[str, Any]]:
    """Return the plan with a product that is worth several threads."""
    inputs, outputs = plan.buffers["in"], 2**21 // plan.buffers["in"]
    matrix = p.Matrix("heavy", outputs, inputs)
    product = p.Linear(p.Slot("in", 0, inputs), p.Slot("heavy", 0, outputs), matrix)
    steps = (plan.steps[0], product, *plan.steps[1:])
    weights = np.ones((outputs, inputs))
    return replace(plan, steps=steps, buffers={**plan.buffers, "heavy": outputs}), {**parameters, "heavy": weights}


@EACH
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    plan, parameters = heavy(*make(name))
    for rows in (1, 3):
        expected = None
        for count in (1, 3):
            fastiter.set_num_threads(count)
            machine = Machine(plan, parameters, "float32", rows, CAPACITY)
            assert machine.program.nbytes > 8 * 2**20  # enough for all threads
            bits = run(machine)
            expected = expected or bits
            assert bits == expected, (rows, count)


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_alone_has_the_bits_of_a_row_in_a_batch(name: str, dtype: str) -> None:
    plan, parameters = make(name)
    for rows in (2, 5, 8):
        batch = Machine(plan, parameters, dtype, rows, CAPACITY)
        alone = [Machine(plan, parameters, dtype, 1, CAPACITY) for _ in range(rows)]
        for step in range(STEPS):
            logits = batch.step(tokens(rows, step))
            for row, machine in enumerate(alone):
                got = machine.step(tokens(rows, step)[row : row + 1])
                assert got.tobytes() == logits[row : row + 1].tobytes(), (rows, row)
        for row, machine in enumerate(alone):
            for state, x in machine.states.items():
                assert x.tobytes() == batch.states[state][row : row + 1].tobytes(), (rows, row, state)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("attention")])
def test_padding_on_the_left(name: str) -> None:
    rows, firsts = 3, np.array([0, 2, 4])
    machine = Machine(*make(name), "float64", rows, CAPACITY)
    for step in range(STEPS):
        seen = np.minimum(firsts, step)
        expected = machine.specified(tokens(rows, step), seen)
        close(machine.step(tokens(rows, step), seen), expected, "float64")


def test_long_attention() -> None:
    """More keys than fit into a block of the online softmax."""
    machine = Machine(*make("attention"), "float32", 2, 200)
    for step in range(200):
        expected = machine.specified(tokens(2, step))
        close(machine.step(tokens(2, step)), expected, "float32")


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_pass_through(name: str, value: float) -> None:
    """NaN is where the specification has it, infinities have their sign, and other rows are as without.

    Routing chooses NaN first, which the specification leaves open.
    """
    plan, parameters = make(name)
    clean = Machine(plan, parameters, "float64", 2, CAPACITY)
    embedding = parameters["embedding"].copy()
    embedding[3, 4::5] = value
    machine = Machine(plan, {**parameters, "embedding": embedding}, "float64", 2, CAPACITY)
    for step in ([1, 3], [2, 5]):
        with np.errstate(all="ignore"):
            expected = machine.specified(step)
        got = machine.step(step)
        if name.startswith("route"):
            assert np.isnan(got[1]).any() == (np.isnan(expected[1]).any() or np.isnan(embedding[step[1]]).any())
        else:
            hidden = [np.where(np.isfinite(x), 0, x) for x in (got, expected)]
            np.testing.assert_array_equal(*hidden)
        assert got[0].tobytes() == clean.step(step)[0].tobytes()
