"""The family fixedpoint against torchdeq, jaxopt and SciPy.

solvers    z = tanh(z M + x) for 64 samples of 256 numbers, to the same residual: milliseconds and evaluations of f
large      one system of 100,000 unknowns, against SciPy
small      one system of a few unknowns, and 20,000 scalars, against SciPy
overhead   time of a step of each method, without f itself
prox       the compiled proximal operators, against NumPy, SciPy and a recorded time
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bench.fixedpoint import cases, prox, small, table
from bench.harness import session
from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from fastiter.fixedpoint import fixed_point
from fastiter.fixedpoint._methods import METHODS

#: Factor by which residuals may exceed the tolerance: norms of the whole batch, and sums in float32
SLACK = 20.0
#: Steps whose overhead is measured
STEPS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, tuple(SECTIONS))


def checked(name: str, residual: float, rtol: float, *, ours: bool) -> None:
    """Raise if the residual of a result exceeds the tolerance."""
    if not residual <= rtol * (1.05 if ours else SLACK):
        raise GateError(f"{name}: the residual must be at most {rtol:g}, got {residual:.2g}")


def solvers(options: Options) -> Iterator[Record]:
    for case in cases.QUICK if options.quick else cases.FULL:
        mine = list(cases.ours(case))
        theirs = [peer for make in cases.PEERS for peer in make(case)]
        theirs = [peer for peer in theirs if not options.peers or any(word in peer.name for word in options.peers)]
        results: dict[str, tuple[float, int]] = {}
        for solver in (*mine, *theirs):
            try:
                z, evaluations = solver.solve()
                results[solver.name] = case.residual(z), evaluations
                checked(solver.name, results[solver.name][0], case.rtol, ours=solver in mine)
            except Exception as error:  # a peer that does not converge is left out; if ours does not, the run ends
                if solver in mine:
                    raise
                print(f"not timed: {solver.name}: {str(error).partition(chr(10))[0][:120]}", flush=True)
                results.pop(solver.name, None)
        for threads in options.threads:
            running = [solver for solver in (*mine, *theirs) if solver.name in results]
            entrants = [Competitor(solver.name, solver.solve, threads) for solver in running]
            timings = interleave(entrants, options.budget, options.stirring())
            for solver in running:
                seconds = timings[solver.name].minimum
                yield {
                    "work": case.name,
                    "threads": threads,
                    "solver": solver.name,
                    "ours": solver in mine,
                    "ms": 1e3 * seconds,
                    "evaluations": results[solver.name][1],
                    "residual": results[solver.name][0],
                    "load": load_average(),
                }
        collect_garbage()


def large(options: Options) -> Iterator[Record]:
    case = cases.Large(1000 if options.quick else 100_000)
    pairs = (("anderson", "anderson"), ("broyden", "broyden1"))
    for threads in options.threads:
        use_threads(threads)
        for method, name in pairs:
            z, evaluations = case.ours(method)
            checked(method, case.residual(z), case.rtol, ours=True)
            peer_z, peer_evaluations = case.scipy(name)
            checked(name, case.residual(peer_z), case.rtol, ours=False)
            entrants = [
                Competitor("ours", partial(case.ours, method), threads),
                Competitor("scipy", partial(case.scipy, name), threads),
            ]
            timings = interleave(entrants, options.budget, options.stirring())
            yield {
                "work": f"{case.n} unknowns, {case.rtol:g}: {method}",
                "threads": threads,
                "peer": f"scipy {name}",
                "ms": 1e3 * timings["ours"].minimum,
                "peer_ms": 1e3 * timings["scipy"].minimum,
                "ratio": timings["scipy"].minimum / timings["ours"].minimum,
                "evaluations": evaluations,
                "peer_evaluations": peer_evaluations,
                "load": load_average(),
            }


def overhead(options: Options) -> Iterator[Record]:
    """A map that costs nothing: it returns one of a few arrays. No sample converges or is abandoned."""
    values = np.random.default_rng(0).normal(size=(7, 64, 256)).astype(np.float32)
    cases_of: tuple[tuple[str, dict[str, Any]], ...] = (
        ("picard", {}),
        ("anderson", {"m": 6}),
        ("anderson", {"m": 10}),
        ("broyden", {"m": 10}),
    )
    for method, settings in cases_of:
        cls: Any = METHODS[method]

        def steps(method: Any = method, settings: dict[str, Any] = settings, cls: Any = cls) -> None:
            calls, before = itertools.count(), cls.growth
            cls.growth = 1e300
            limits: dict[str, Any] = {"rtol": 0.0, "max_steps": STEPS, "patience": 10**6}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    solution = fixed_point(
                        lambda _: values[next(calls) % 7],
                        np.zeros((64, 256), np.float32),
                        method=method,
                        **limits,
                        **settings,
                    )
            finally:
                cls.growth = before
            assert (solution.steps == STEPS).all()

        timing = interleave([Competitor("ours", steps, 1)], options.budget, options.stirring())["ours"]
        name = ", ".join([method, *(f"{key}={value}" for key, value in settings.items())])
        yield {"work": f"64 x 256 float32, {name}", "us": 1e6 * timing.minimum / STEPS, "load": load_average()}


#: Additional sections are functions here, with a header and a row in table.py.
SECTIONS = {"solvers": solvers, "large": large, "small": small.section, "overhead": overhead, "prox": prox.section}


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("fixedpoint", arguments, tuple(SECTIONS))
    return session.measure("fixedpoint", options, SECTIONS, table.HEADERS, table.ROWS)
