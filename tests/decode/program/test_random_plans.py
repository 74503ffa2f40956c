"""Plans of random operations in random order against the specification, with one thread and two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.decode import plan as p
from fastiter.decode.builder import Builder
from tests.decode.machines import Machine

TOKENS, STEPS = 9, 5


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    fastiter.set_num_threads(None)


class Random:
    """Builds a plan: each operation reads parts of buffers that have been written, and writes parts of any."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = Builder()
        self.parameters: dict[str, Any] = {}
        self.written: list[p.Slot] = []

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))

    def size(self, most: int = 70) -> int:
        """Return a size, every second one a multiple of 16."""
        return 16 * (1 + self.below(most // 16)) if self.below(2) else 1 + self.below(most)

    def numbers(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape)

    def matrix(self, rows: int, columns: int) -> p.Matrix:
        name = f"matrix.{len(self.parameters)}"
        self.parameters[name] = self.numbers(rows, columns) / columns**0.5
        return p.Matrix(name, rows, columns)

    def state(self, kind: str, *shape: int) -> p.State:
        return self.builder.state(kind, shape, 0, len(self.builder.states))

    def input(self, size: int) -> p.Slot:
        """Return a part of what has been written, after a product that makes one if none is large enough."""
        large = [slot for slot in self.written if slot.size >= size]
        if not large:
            x, out = self.written[self.below(len(self.written))], self.builder.slot(self.name(), size + self.below(40))
            self.builder.add(p.Linear(x, out, self.matrix(out.size, x.size)))
            self.written.append(out)
            large = [out]
        slot = large[self.below(len(large))]
        starts = (slot.size - size) // 16 if self.below(2) else 0
        return slot.part(16 * self.below(starts + 1) if starts else self.below(slot.size - size + 1), size)

    def name(self) -> str:
        return f"buffer.{len(self.builder.buffers)}"

    def output(self, size: int, *inputs: p.Slot) -> p.Slot:
        """Return a part of an old or of a new buffer that has no number of an input."""
        names = [name for name, n in self.builder.buffers.items() if n >= size]
        names = [name for name in names if all(name != slot.name for slot in inputs)]
        if names and self.below(3):
            name = names[self.below(len(names))]
            slot = p.Slot(name, self.below(self.builder.buffers[name] - size + 1), size)
        else:
            slot = self.builder.slot(self.name(), size + self.below(30)).part(0, size)
        self.written.append(slot)
        return slot

    def sum_of(self, size: int, *inputs: p.Slot) -> p.Slot:
        """Return a slot that an operation may add to: it has been written, by a copy if by nothing else."""
        x = self.input(size)
        out = self.output(size, x, *inputs)
        self.builder.add(p.Gate(x, np.ones(size), out))
        return out

    def plan(self, count: int) -> p.Plan:
        width = 64 + self.below(64)
        x = self.builder.slot("x", width)
        self.builder.add(p.Embed(x, self.matrix(TOKENS, width)))
        self.written.append(x)
        for _ in range(count):
            operation = OPERATIONS[self.below(len(OPERATIONS))](self)
            out = operation.out  # type: ignore[attr-defined]
            self.builder.add(operation, p.Norm(out, out, None, 1e-2, out.size))
        wide = self.builder.slot("wide", 3000)
        last = self.written[-1]
        self.builder.add(p.Linear(last, wide, self.matrix(3000, last.size)))
        self.builder.add(p.Linear(wide, self.builder.slot("logits", 50), self.matrix(50, 3000)))
        for slot in self.written[-8:]:  # numbers that no later operation reads count too
            self.builder.add(p.Linear(slot, self.builder.slot("logits", 50), self.matrix(50, slot.size), add=True))
        return self.builder.plan()


def linear(r: Random) -> p.Operation:
    x, n = r.input(r.size()), r.size(130)
    activation = ("silu", None, "tanh")[r.below(3)]
    adds = bool(r.below(2))
    out = r.sum_of(n, x) if adds else r.output(n, x)
    return p.Linear(x, out, r.matrix(n, x.size), r.numbers(n), activation, 0.5, adds)


def norm(r: Random) -> p.Operation:
    size, groups = r.size(20), 1 + r.below(4)
    x = r.input(size * groups)
    gate = r.input(size * groups) if r.below(2) else None
    out = r.output(x.size, *([x] if gate is None else [x, gate]))
    return p.Norm(x, out, r.numbers(size), 1e-2, size, ("rms", "layer")[r.below(2)], gate=gate)


def conv(r: Random) -> p.Operation:
    x, width = r.input(r.size()), 1 + r.below(4)
    state = r.state("conv", max(1, width - 1) + r.below(2), x.size)
    return p.Conv(x, r.output(x.size, x), state, r.numbers(width, x.size), activation="silu")


def gate(r: Random) -> p.Operation:
    n = r.size()
    a, b = r.input(n), r.input(n)
    return p.Gate(a, b, r.output(n, a, b), "silu")


def in_place(r: Random) -> p.Operation:
    x = r.input(r.size())
    return (p.Activate(x, x, "silu"), p.Gate(x, r.numbers(x.size), x), p.Add(x, x, x, 0.5, 0.25))[r.below(3)]


def decay(r: Random) -> p.Operation:
    x = r.input(r.size())
    return p.Decay(x, r.output(x.size, x), -abs(r.numbers(x.size)), r.numbers(x.size))


def selective(r: Random) -> p.Operation:
    D, N = r.size(), 1 + r.below(20)
    slots = [r.input(n) for n in (D, D, N, N)]
    vectors = -abs(r.numbers(D, N)), r.numbers(D), r.numbers(D)
    return p.Selective(*slots, r.output(D, *slots), r.state("recurrent", D, N), *vectors)


def ssd(r: Random) -> p.Operation:
    groups, P, N = 1 + r.below(2), 1 + r.below(12), 1 + r.below(20)
    H = groups * (1 + r.below(3))
    slots = [r.input(n) for n in (H * P, H, groups * N, groups * N)]
    vectors = -abs(r.numbers(H)), r.numbers(H), r.numbers(H)
    return p.SSD(*slots, r.output(H * P, *slots), r.state("recurrent", H, P, N), *vectors, H, P, groups, N)


def delta(r: Random) -> p.Operation:
    keys, K, V = 1 + r.below(3), 1 + r.below(12), 1 + r.below(20)
    values = keys * (1 + r.below(2))
    sizes = (keys * K, keys * K, values * V, values, values)
    q, k, v, g, beta = (r.input(n) for n in sizes)
    small = r.builder.slot(r.name(), 2 * values)
    decays, strengths = small.split(values, values)
    r.builder.add(
        p.Decay(g, decays, -abs(r.numbers(values)), r.numbers(values)), p.Activate(beta, strengths, "sigmoid")
    )
    out = r.output(values * V, q, k, v, small)
    return p.Delta(q, k, v, decays, strengths, out, r.state("recurrent", values, K, V), keys, values, K, V, 0.5, 1e-2)


def attention(r: Random) -> p.Operation:
    keys, K, V, queries = 1 + r.below(3), 2 * (1 + r.below(6)), 1 + r.below(20), 1 + r.below(6)
    q, k, v = (r.input(n) for n in (keys * queries * K, keys * K, keys * V))
    turned = r.output(q.size, q, k, v)
    r.builder.add(p.Rope(q, turned, keys * queries, K, K, r.rng.random(K // 2).astype(np.float32)))
    states = r.state("keys", keys, K), r.state("values", keys, V)
    out = r.output(keys * queries * V, turned, k, v)
    return p.Attention(turned, k, v, out, *states, keys * queries, keys, K, V, 0.3, window=(None, 2)[r.below(2)])


def experts(r: Random) -> p.Operation:
    count, inner, n = 2 + r.below(5), r.size(), r.size()
    x, logits = r.input(r.size()), r.input(count)
    routes = r.builder.slot(r.name(), count)
    r.builder.add(p.Route(logits, routes, 1 + r.below(2), "softmax", normalize=True))
    ups, gates = (tuple(r.matrix(inner, x.size) for _ in range(count)) for _ in range(2))
    downs = tuple(r.matrix(n, inner) for _ in range(count))
    adds = bool(r.below(2))
    out = r.sum_of(n, x, routes) if adds else r.output(n, x, routes)
    return p.Experts(x, routes, out, gates, ups, downs, "silu", adds)


OPERATIONS: tuple[Callable[[Random], p.Operation], ...] = (
    *(linear, linear, norm, conv, gate, in_place, decay, selective, ssd, delta, attention, experts),
)


@pytest.mark.parametrize("seed", range(40))
def test_random_plans(seed: int) -> None:
    """Two threads have the bits of one, and both the specification's numbers.

    Norms keep the numbers near 1 and amplify an error by up to 10 times; there are up to 10 in a row.
    """
    random = Random(seed)
    plan, rows = random.plan(3 + seed % 8), 1 + seed % 3
    machines = [Machine(plan, random.parameters, "float64", rows, STEPS) for _ in range(2)]
    assert machines[0].program.nbytes > 2**20 + len(machines[0].program.waits) * 2**15  # enough for two threads
    for step in range(STEPS):
        tokens = (np.arange(rows) + step) % TOKENS
        expected, bits = machines[0].specified(tokens), []
        for machine, threads in zip(machines, (1, 2), strict=True):
            fastiter.set_num_threads(threads)
            logits = machine.step(tokens)
            np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9 * abs(expected).max())
            bits.append([logits.tobytes(), *(x.tobytes() for x in machine.states.values())])
        assert bits[0] == bits[1], step
