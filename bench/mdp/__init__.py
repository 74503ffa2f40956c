"""The family mdp against QuantEcon, mdpsolver, pymdptoolbox and Storm.

sweeps     one sweep over all states in float64, against a copy of the same number of bytes
solvers    values to the same tolerance, on fresh models, one thread
afterstates  one sweep of pairs that share rows of P, against a row for each pair
occupancy  a step of an occupancy and of its gradients, against a sweep
never-slower  the automatic method against each of ours and QuantEcon's, on thirty shapes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bench.harness import limits, session
from bench.harness.contest import Record
from bench.harness.session import Options
from bench.harness.timing import Competitor, collect_garbage, interleave, load_average, use_threads
from bench.mdp import cases, table
from bench.mdp.flows import afterstates, occupancies
from bench.mdp.never_slower import never_slower
from bench.mdp.peers import Solver, ours
from fastiter.mdp import MDP, examples

SECTIONS = ("sweeps", "solvers", "afterstates", "occupancy", "never-slower")
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (500,)
GRID, QUICK_GRID = 300, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_arguments(parser, SECTIONS)


def sweep_of(problem: MDP) -> tuple[Competitor, int]:
    """One sweep, and the bytes that it must move."""
    process = problem._process
    v, w = np.zeros((2, problem.S))
    action = np.empty(problem.S, np.int32)
    nbytes = sum(array.nbytes for array in process.arrays) + v.nbytes + w.nbytes + action.nbytes
    discount = process.discount or 1.0
    return Competitor("sweep", lambda: process.model.backup(v, w, action, 1, discount, None)), nbytes


def sweeps(options: Options) -> Iterator[Record]:
    problems = {f"Garnet {S:g}, 10 actions, 5 next": (S, None) for S in (QUICK_SIZES if options.quick else SIZES)}
    n = QUICK_GRID if options.quick else GRID
    for name, size in {**problems, f"grid {n} x {n}": (None, n)}.items():
        problem = examples.gridworld(n) if size[0] is None else examples.garnet(size[0], 10, 5)
        competitor, nbytes = sweep_of(problem)
        for threads in options.threads:
            copies = limits.copies(nbytes // 2, threads)  # which read and write the same number of bytes in total
            entrants = [Competitor("sweep", competitor.call, threads)]
            entrants += [Competitor(copy.name, copy.call, threads) for copy in copies]
            timings = interleave(entrants, options.budget, options.stirring(), min_samples=3)
            seconds = timings["sweep"].minimum
            rate = max(copy.rate(timings[copy.name]) for copy in copies)
            yield {
                "work": name,
                "threads": threads,
                "ms": 1e3 * seconds,
                "ns_per_entry": 1e9 * seconds / len(problem._process.rows.next),
                "gbs": nbytes / seconds / 1e9,
                "share": nbytes / seconds / rate,
                "load": load_average(),
            }
        collect_garbage()


def in_turn(solvers: Sequence[Solver], budget: float) -> dict[str, float]:
    """The minimum time of each solver in seconds, each time on a fresh model."""
    best = {solver.name: float("inf") for solver in solvers}
    began = time.perf_counter()
    for rounds in range(200):
        if rounds >= 2 and time.perf_counter() - began > budget:
            break
        # Each solver runs twice in a row: at the second run its data is in cache, whichever solver ran before.
        for solver in (each for each in solvers for _ in range(2)):
            prepared = solver.prepare()
            started = time.perf_counter()
            solver.solve(prepared)
            best[solver.name] = min(best[solver.name], time.perf_counter() - started)
    return best


def solvers(options: Options) -> Iterator[Record]:
    use_threads(1)
    for case in cases.QUICK if options.quick else cases.FULL:
        problem = case.make()
        value, uncertainty = cases.exact(problem)
        mine = ours(problem, case.tol, (1,))
        entrants = [peer for make in case.peers for peer in make(problem, case.tol)]
        entrants = [peer for peer in entrants if not options.peers or any(w in peer.name for w in options.peers)]
        errors = {s.name: cases.checked(case, s, value, uncertainty) for s in (mine, *entrants)}
        seconds = in_turn([mine, *entrants], options.budget)
        for peer in entrants:
            yield {
                "work": case.name,
                "peer": peer.name,
                "ms": 1e3 * seconds[mine.name],
                "peer_ms": 1e3 * seconds[peer.name],
                "ratio": seconds[peer.name] / seconds[mine.name],
                "goal": case.goals.get(peer.name),
                "error": errors[mine.name],
                "peer_error": errors[peer.name],
                "load": load_average(),
            }


def main(arguments: argparse.Namespace) -> Record:
    """Measure, printing each row as soon as it is known; return what bench/__main__.py writes to --out."""
    options = session.read_options("mdp", arguments, SECTIONS)
    sections = {"sweeps": sweeps, "solvers": solvers, "afterstates": afterstates, "occupancy": occupancies}
    sections |= {"never-slower": never_slower}
    return session.measure("mdp", options, sections, table.HEADERS, table.ROWS)
