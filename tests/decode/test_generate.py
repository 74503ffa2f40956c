"""Generation by programs: the same as steps one by one, sampling, stops, and interruptions."""

from __future__ import annotations

import gc
import resource
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.decode import plan as p
from fastiter.decode.builder import Builder
from tests.core.test_signals import interrupted
from tests.decode.machines import Machine

V = 40


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    fastiter.set_num_threads(None)


def model(seed: int = 0) -> tuple[p.Plan, dict[str, Any]]:
    """Return a plan with a convolution, rotary attention, and large weights."""
    rng = np.random.default_rng(seed)
    b, d = Builder(), 32
    x, n, q, wide = b.slot("x", d), b.slot("n", d), b.slot("q", d), b.slot("wide", 4096)
    parameters: dict[str, Any] = {}

    def matrix(rows: int, columns: int) -> p.Matrix:
        name = str(len(parameters))
        parameters[name] = (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
        return p.Matrix(name, rows, columns)

    frequencies = np.array([1.0, 0.1, 0.01, 0.001], np.float32)
    states = b.state("keys", (4, 8), 0), b.state("values", (4, 8), 0)
    b.add(
        p.Embed(x, matrix(V, d)),
        p.Norm(x, n, np.ones(d), 1e-6, d),
        p.Linear(n, q, matrix(d, d)),
        p.Rope(q, q, 4, 8, 8, frequencies),
        p.Attention(q, q, n, b.slot("y", d), *states, 4, 4, 8, 8, 1.0),
        p.Conv(b.slot("y", d), n, b.state("conv", (3, d), 0), rng.standard_normal((4, d)), activation="silu"),
        p.Linear(n, wide, matrix(4096, d), activation="silu"),
        p.Linear(wide, x, matrix(d, 4096), add=True),
        p.Norm(x, n, 4 * np.ones(d), 1e-6, d),
        p.Linear(n, b.slot("logits", V), matrix(V, d)),
    )
    return b.plan(), parameters


def generate(machine: Machine, first: Any, count: int, **options: Any) -> tuple[Any, int]:
    return machine.program.generate(np.array(first), max_new_tokens=count, **machine.places(), **options)


def one_by_one(machine: Machine, first: Any, count: int) -> Any:
    tokens, out = np.array(first), []
    for _ in range(count):
        tokens = machine.step(tokens).argmax(1)
        out.append(tokens)
    return np.stack(out, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_it_is_steps_one_by_one(rows: int, threads: int, dtype: str) -> None:
    fastiter.set_num_threads(threads)
    machines = [Machine(*model(), dtype, rows, 32) for _ in range(2)]
    first = np.arange(rows)
    expected = one_by_one(machines[1], first, 30)
    out, done = generate(machines[0], first, 30)
    assert done == 30 and np.array_equal(out, expected) and len(np.unique(out)) > 3
    for name, x in machines[0].states.items():
        assert x.tobytes() == machines[1].states[name].tobytes(), name


def test_a_row_ends_with_a_stop_and_pads() -> None:
    expected = one_by_one(Machine(*model(), "float32", 3, 32), [0, 1, 2], 30)
    stops = expected[:2, 5]
    out, done = generate(Machine(*model(), "float32", 3, 32), [0, 1, 2], 30, stops=stops, pad=7)
    ends = [next((i for i, token in enumerate(row) if token in stops), 29) for row in expected]
    assert max(ends[:2]) <= 5 and done == max(ends) + 1
    for row, wanted, end in zip(out, expected, ends, strict=True):
        assert np.array_equal(row[: end + 1], wanted[: end + 1])
        assert (row[end + 1 :] == 7).all()


def table(logits: Any) -> tuple[p.Plan, dict[str, Any]]:
    """Return a plan whose logits are the token's row of a table."""
    b, n = Builder(), logits.shape[1]
    b.add(p.Embed(b.slot("x", n), p.Matrix("table", len(logits), n)))
    b.add(p.Gate(b.slot("x", n), np.ones(n), b.slot("logits", n)))
    return b.plan(), {"table": logits}


def test_draws_follow_the_probabilities() -> None:
    logits = np.random.default_rng(1).standard_normal((8, 8))
    machine = Machine(*table(logits), "float64", 8)
    sums = np.exp(logits / 0.7).cumsum(1)
    sums /= sums[:, -1:]
    for u in (0.0, 0.1, 0.35, 0.6, 0.99, 1 - 2**-53):
        out, _ = generate(machine, np.arange(8), 1, temperature=0.7, uniform=np.full((8, 1), u))
        assert np.array_equal(out[:, 0], (sums <= u).sum(1))


def test_a_penalty_counts_the_tokens_seen_the_first_and_new_ones() -> None:
    logits = np.zeros((6, 6))
    logits[:, :3] = [3.0, 2.9, 2.8]
    logits[:, 3:] = [-1.0, -1.1, -1.2]
    machine = Machine(*table(logits), "float64", 2)
    seen = np.array([[0, -1], [1, 1]])
    out, _ = generate(machine, [5, 5], 3, repetition_penalty=4.0, seen=seen)
    assert out.tolist() == [[1, 2, 0], [0, 2, 0]]  # 3 / 4 is still the largest of the others


@pytest.mark.parametrize("u", [None, 0.5])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_reported(wrong: float, u: float | None) -> None:
    logits = np.zeros((3, 3))
    logits[0, 2], logits[2, 1] = 1.0, wrong
    machine = Machine(*table(logits), "float32", 2)
    uniform = None if u is None else np.full((2, 4), u)
    message = "generate: the largest logit must be finite and none NaN, got others in row 1 at step 0$"
    with pytest.raises(RuntimeError, match=message):
        generate(machine, [0, 2], 4, uniform=uniform)
    logits[2, 1] = -np.inf
    assert generate(Machine(*table(logits), "float32", 2), [0, 2], 4, uniform=uniform)[1] == 4


LONG = """
import numpy as np, fastiter
from tests.decode.machines import Machine
from tests.decode.test_generate import generate, table

machine = Machine(*table(np.eye(16)), "float32", 1)

def small():
    return generate(machine, [1], 5)[0].tobytes()

CALLS = {"generate": lambda: lambda: generate(machine, [1], 5_000_000)}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_generation(threads: int) -> None:
    took = interrupted(LONG, threads)
    assert list(took) == ["generate"] and took["generate"] < 0.5


def test_a_handler_that_calls_the_interrupted_program_is_refused() -> None:
    machine = Machine(*table(np.eye(16)), "float32", 1)
    before = signal.signal(signal.SIGALRM, lambda *_: machine.step([1]))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(RuntimeError, match="a signal handler must not call the program that it interrupts"):
            generate(machine, [1], 5_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(machine.step([1]), np.eye(16)[1:2])


def test_programs_are_freed() -> None:
    """Programs with 2 MB of weights leave nothing behind."""
    plan, parameters = model()
    peaks = []
    for _ in range(3):
        for _ in range(20):
            machine = Machine(plan, parameters, "float64", 1, 40_000)
            generate(machine, [0], 2)
            del machine
        gc.collect()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[2] - peaks[0] < 40_000  # KB on Linux
