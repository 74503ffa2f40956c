"""Updates of modern Hopfield networks in float32, against plain torch: two batched products and a softmax.

updates   time of each further update, forward, and forward and backward; the reference is hopfield-layers' layer
stops     until every query has converged: torch updates all queries until the last one has converged

The package hopfield-layers is not on PyPI. Its time was recorded earlier, with two threads of an AMD Zen 4: on another
machine the ratio is only an order of magnitude.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.fixedpoint import hopfield_table as table
from bench.harness import gate, session
from bench.harness.contest import BOTH, FORWARD, MODES, Call, Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average, use_threads
from fastiter.torch.fixedpoint import hopfield_update

SECTIONS = ("updates", "stops")
#: Milliseconds per further update of hopfield-layers at the full size: from the times of 2 and 4 associations
RECORDED = {FORWARD: (1394 - 549) / 2, BOTH: (2677 - 1092) / 2}
TOLERANCE = 1e-4


class Size(NamedTuple):
    """Batch, queries, patterns, width and heads."""

    B: int
    L: int
    S: int
    E: int
    H: int

    def __str__(self) -> str:
        return f"B {self.B}, L {self.L}, S {self.S}, E {self.E}, {self.H} heads"


FULL, QUICK = Size(16, 64, 1024, 256, 8), Size(2, 5, 30, 16, 2)
SPREAD, QUICK_SPREAD = Size(4, 256, 512, 64, 2), Size(1, 20, 30, 16, 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Return state (B, H, L, D), stored (B, H, S, D) and a beta for each head, with the strides of projections."""
    generator = torch.Generator().manual_seed(0)
    D = size.E // size.H
    state = torch.randn(size.B, size.L, size.H, D, generator=generator).transpose(1, 2)
    stored = torch.randn(size.B, size.S, size.H, D, generator=generator).transpose(1, 2)
    return state, stored, D**-0.5 * torch.linspace(0.5, 2, size.H)


def flat(state: Tensor, stored: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return them with a single batch axis, contiguous, for bmm."""
    return state.flatten(0, 1), stored.flatten(0, 1), beta.expand(state.shape[:2]).reshape(-1, 1, 1)


def by_torch(state: Tensor, stored: Tensor, beta: Tensor, steps: int) -> Tensor:
    x, patterns, b = flat(state, stored, beta)
    for _ in range(steps):
        x = torch.bmm(torch.softmax(torch.bmm(b * x, patterns.mT), -1), patterns)
    return x.view(state.shape)


def ours(state: Tensor, stored: Tensor, beta: Tensor, steps: int) -> Tensor:
    value: Tensor = hopfield_update(state, stored, beta=beta, steps=steps).value
    return value


def checked(size: Size) -> float:
    """Return the largest relative difference of two updates and their gradients; raise if it is too large."""
    leaves = [x.requires_grad_() for x in inputs(size)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    results: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for values, function, args in ((results, ours, leaves), (expected, by_torch, exact)):
        value = function(args[0], args[1], args[2], 2)
        slopes = torch.autograd.grad(value, args, torch.ones_like(value))
        values |= {"value": value.detach(), **dict(zip(("dstate", "dstored", "dbeta"), slopes, strict=True))}
    wanted = {name: x.float() for name, x in expected.items()}
    return gate.check(str(size), results, wanted, size.S * size.E)


def call_of(function: object, size: Size, steps: int, mode: str) -> Call:
    state, stored, beta = (x.requires_grad_(mode == BOTH) for x in inputs(size))
    assert callable(function)
    if mode == FORWARD:
        return lambda: function(state, stored, beta, steps)

    def both() -> object:
        value = function(state, stored, beta, steps)
        return torch.autograd.grad(value, (state, stored, beta), torch.ones_like(value))

    return both


def updates(options: Options) -> Iterator[Record]:
    size = QUICK if options.quick else FULL
    difference = checked(QUICK)
    for mode in MODES:
        for threads in options.threads:
            entrants = [
                Competitor(f"{name} {steps}", call_of(function, size, steps, mode), threads)
                for name, function in (("ours", ours), ("torch", by_torch))
                for steps in (1, 3)
            ]
            use_threads(threads)
            timings = interleave(entrants, options.budget, options.stirring(), min_samples=5)
            ms = {name: 1e3 * timing.minimum for name, timing in timings.items()}
            mine, peer = ((ms[f"{name} 3"] - ms[f"{name} 1"]) / 2 for name in ("ours", "torch"))
            yield {
                "work": f"{size}, {mode}",
                "threads": threads,
                "ms": mine,
                "first_ms": ms["ours 1"],
                "peer_ms": peer,
                "peer_first_ms": ms["torch 1"],
                "ratio": peer / mine,
                "recorded_ms": None if options.quick else RECORDED[mode],
                "difference": difference,
                "load": load_average(),
            }


def until_all_converge(state: Tensor, stored: Tensor, beta: Tensor) -> tuple[Tensor, int]:
    """Return torch's states, and the number of updates that all queries made."""
    x, patterns, b = flat(state, stored, beta)
    step = 0
    moves = torch.ones(())
    while moves.any() and step < 1000:
        new = torch.bmm(torch.softmax(torch.bmm(b * x, patterns.mT), -1), patterns)
        moves = (new - x).norm(dim=-1) > TOLERANCE * new.norm(dim=-1)
        x, step = new, step + 1
    return x.view(state.shape), step


def stops(options: Options) -> Iterator[Record]:
    size = QUICK_SPREAD if options.quick else SPREAD
    for beta in (0.5, 1.0):
        state, stored, _ = inputs(size)
        each = torch.full((size.H,), beta)
        solution = hopfield_update(state, stored, beta=each, rtol=TOLERANCE)
        exact, longest = until_all_converge(state, stored, each)
        off = float((solution.value - exact).norm(dim=-1).max() / exact.norm(dim=-1).max())
        if not off <= 1e3 * TOLERANCE:  # both converge close to the same fixed points
            raise gate.GateError(f"{size}: the fixed points are off by {off:.1e}")
        for threads in options.threads:
            calls: dict[str, Call] = {
                "ours": partial(hopfield_update, state, stored, beta=each, rtol=TOLERANCE),
                "torch": partial(until_all_converge, state, stored, each),
            }
            entrants = [Competitor(name, call, threads) for name, call in calls.items()]
            timings = interleave(entrants, options.budget, options.stirring(), min_samples=3)
            yield {
                "work": f"{size}, beta {beta:g}",
                "threads": threads,
                "ms": 1e3 * timings["ours"].minimum,
                "peer_ms": 1e3 * timings["torch"].minimum,
                "ratio": timings["torch"].minimum / timings["ours"].minimum,
                "mean_steps": float(solution.steps.double().mean()),
                "most_steps": longest,
                "difference": off,
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("hopfield", arguments, SECTIONS)
    sections: dict[str, session.Section] = {"updates": updates, "stops": stops}
    return session.measure("hopfield", options, sections, table.HEADERS, table.ROWS)
