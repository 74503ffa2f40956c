"""Where threads wait for each other during a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter.decode import plan as p
from fastiter.decode.builder import Builder
from tests.decode.machines import Machine

D, INNER, LAYERS = 32, 64, 3


class Layers:
    """Builds a model of some layers, between an embedding and a head."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.parameters: dict[str, Any] = {}
        self.x, self.n = self.builder.slot("x", D), self.builder.slot("n", D)
        self.builder.add(p.Embed(self.x, self.matrix(50, D)))

    def matrix(self, rows: int, columns: int) -> p.Matrix:
        name = str(len(self.parameters))
        self.parameters[name] = np.zeros((rows, columns))
        return p.Matrix(name, rows, columns)

    def norm(self) -> p.Norm:
        return p.Norm(self.x, self.n, np.ones(D), 1e-6, D)

    def linear(self, x: p.Slot, out: p.Slot, **options: Any) -> p.Linear:
        return p.Linear(x, out, self.matrix(out.size, x.size), **options)

    def waits(self) -> list[int]:
        self.builder.add(self.norm(), self.linear(self.n, self.builder.slot("logits", 50)))
        machine = Machine(self.builder.plan(), self.parameters, "float32", 1, 4)
        return machine.program.waits


def mamba(m: Layers, i: int) -> None:
    b, N = m.builder, 16
    xz, u, y, dt = b.slot("xz", 2 * INNER), b.slot("u", INNER), b.slot("y", INNER), b.slot("dt", INNER)
    x, z = xz.split(INNER, INNER)
    rest = b.slot("rest", 4 + 2 * N)
    low, B, C = rest.split(4, N, N)
    vectors = -np.ones((INNER, N)), np.ones(INNER), np.ones(INNER)
    b.add(
        m.norm(),
        m.linear(m.n, xz),
        p.Conv(x, u, b.state("conv", (3, INNER), i), np.ones((4, INNER))),
        m.linear(u, rest),
        m.linear(low, dt),
        p.Selective(u, dt, B, C, y, b.state("recurrent", (INNER, N), i), *vectors),
        p.Gate(z, y, y, "silu"),
        m.linear(y, m.x, add=True),
    )


def mamba2(m: Layers, i: int) -> None:
    b, N, heads = m.builder, 16, 4
    projected, convolved, y = (
        b.slot("projected", 2 * INNER + 2 * N + heads),
        b.slot("c", INNER + 2 * N),
        b.slot("y", INNER),
    )
    gate, mixed, dt = projected.split(INNER, INNER + 2 * N, heads)
    x, B, C = convolved.split(INNER, N, N)
    sizes, vectors = (heads, INNER // heads, 1, N), [np.ones(heads)] * 3
    b.add(
        m.norm(),
        m.linear(m.n, projected),
        p.Conv(mixed, convolved, b.state("conv", (3, mixed.size), i), np.ones((4, mixed.size))),
        p.SSD(x, dt, B, C, y, b.state("recurrent", (heads, INNER // heads, N), i), *vectors, *sizes),
        p.Norm(y, y, np.ones(INNER), 1e-6, INNER, gate=gate, gate_first=True),
        m.linear(y, m.x, add=True),
    )


def delta(m: Layers, i: int) -> None:
    b, heads, width = m.builder, 4, 16
    mixed, convolved, z = b.slot("mixed", 3 * INNER), b.slot("convolved", 3 * INNER), b.slot("z", INNER)
    decays, beta, y = b.slot("decays", heads), b.slot("beta", heads), b.slot("y", INNER)
    q, k, v = convolved.split(INNER, INNER, INNER)
    b.add(
        m.norm(),
        m.linear(m.n, mixed),
        m.linear(m.n, z),
        m.linear(m.n, decays),
        m.linear(m.n, beta, activation="sigmoid"),
        p.Decay(decays, decays, np.ones(heads), np.ones(heads)),
        p.Conv(mixed, convolved, b.state("conv", (3, mixed.size), i), np.ones((4, mixed.size))),
        p.Delta(
            q, k, v, decays, beta, y, b.state("recurrent", (heads, width, width), i), heads, heads, width, width, 1.0
        ),
        p.Norm(y, y, np.ones(width), 1e-6, width, gate=z),
        m.linear(y, m.x, add=True),
    )


def network(m: Layers, i: int) -> None:
    b = m.builder
    wide = b.slot("wide", 4 * INNER)
    gate, up = wide.split(2 * INNER, 2 * INNER)
    b.add(m.norm(), m.linear(m.n, wide), p.Gate(gate, up, gate, "silu"), m.linear(gate, m.x, add=True))


@pytest.mark.parametrize(("layer", "waits"), [(mamba, 4), (mamba2, 3), (delta, 3), (network, 2)])
def test_waits_of_a_layer(layer: Any, waits: int) -> None:
    """The first is before the norm, which reads what the last product has written."""
    model = Layers()
    for i in range(LAYERS):
        layer(model, i)
    steps = len(model.builder.steps)
    found = model.waits()
    assert len(found) == LAYERS * waits + 1 and found[0] == 1 and found[-1] == steps
