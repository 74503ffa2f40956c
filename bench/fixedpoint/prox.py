"""The compiled proximal operators against NumPy and SciPy, and against the time of the published code.

The time of the published code, a loop of torch operations for the softmax-entropy operator, was recorded earlier, with
two threads of an AMD Zen 4: on another machine the ratio is only an order of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from bench.harness import tables
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.session import Options
from bench.harness.timing import Competitor, interleave, load_average
from fastiter.fixedpoint import prox

Array = npt.NDArray[Any]

HEADER = f"{'proximal operators':44}{'threads':>8}  {'peer':22}{'ms':>10}{'ours, ms':>10}{'ratio':>8}"
#: Speedup
GOAL = 10.0
#: Milliseconds of the published code for 1.0 M elements in groups of 20, by alpha
RECORDED = {0.125: 143.0, 0.5: 174.0}


class Case(NamedTuple):
    """An operator, a peer that computes the same, and the maximum allowed difference."""

    name: str
    peer: str
    ours: Callable[[], Array]
    theirs: Callable[[], Array] | None
    ms: float = 0.0  # recorded time of a peer that is not run
    tolerance: float = 2e-6


def sorted_simplex(y: Array) -> Array:
    """Project rows onto the simplex by sorting, the usual NumPy implementation."""
    falling = -np.sort(-y, axis=1)
    tau = (np.cumsum(falling, axis=1) - 1) / np.arange(1, y.shape[1] + 1, dtype=y.dtype)
    last = (falling > tau).sum(axis=1) - 1
    return np.asarray(np.maximum(y - np.take_along_axis(tau, last[:, None], axis=1), 0))


def omega(y: Array, t: float) -> Array:
    """Return the entropy's operator by the Wright omega function, which unlike Lambert's W does not overflow."""
    one = y.dtype.type(t)
    return np.asarray(one * scipy.special.wrightomega(y / one - 1 - np.log(one)))


def cases(quick: bool) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    rows, images = (100, 1) if quick else (100_000, 64)
    for dtype in ("float32", "float64"):
        y = rng.standard_normal((rows, 10)).astype(dtype)
        what = f"({rows}, 10) {dtype}"
        yield Case(f"simplex {what}", "NumPy, sorting", partial(prox.project_simplex, y), partial(sorted_simplex, y))
        yield Case(f"entropy {what}", "SciPy wrightomega", partial(prox.prox_entropy, y, 0.5), partial(omega, y, 0.5))
    z = rng.standard_normal((images, 20, 28, 28)).astype(np.float32)
    for alpha, ms in RECORDED.items():
        name = f"softmax entropy {z.shape} float32, {alpha}"
        yield Case(name, "recorded, published", partial(prox.prox_softmax_entropy, z, alpha, axis=1), None, ms)


def section(options: Options) -> Iterator[Record]:
    """Measure each operator and its peer."""
    for case in cases(options.quick):
        if case.theirs is not None:
            difference = float(np.abs(case.ours() - case.theirs()).max())
            if not difference <= case.tolerance:
                raise GateError(f"{case.name}: both must agree to {case.tolerance:g}, got {difference:.2g}")
        for threads in options.threads:
            entrants = [Competitor("ours", case.ours, threads)]
            entrants += [Competitor("theirs", case.theirs, threads)] if case.theirs is not None else []
            timings = interleave(entrants, options.budget, options.stirring())
            ms = 1e3 * timings["ours"].minimum
            theirs = 1e3 * timings["theirs"].minimum if case.theirs is not None else case.ms
            more = {"ms": ms, "peer_ms": theirs, "ratio": theirs / ms, "load": load_average()}
            yield {"work": case.name, "threads": threads, "peer": case.peer, **more}


def row(r: Record) -> str:
    numbers = f"{r['peer_ms']:10.2f}{r['ms']:10.2f}{r['ratio']:8.1f}"
    return f"{r['work']:44}{r['threads']:8}  {r['peer']:22}{numbers}  load {r['load']:.1f}"


def markdown(records: Sequence[Record]) -> list[str]:
    rows = [
        [
            r["work"],
            tables.on_threads(r["threads"]),
            r["peer"],
            tables.against(f"{r['ratio']:.1f}", f"{GOAL:g}", r["ratio"] >= GOAL),
            f"{r['ms']:.2f} ({r['peer_ms']:.1f})",
        ]
        for r in records
    ]
    header = ["operator", "", "peer", "times as fast", "ms (the peer's)"]
    note = "The published code's time for the softmax entropy was recorded earlier, with two threads of an AMD Zen 4."
    return ["### Proximal operators", note, tables.markdown_table(header, rows)]
