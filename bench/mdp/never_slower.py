"""The automatic method against each single one and QuantEcon's, on shapes that suit different methods."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.harness.contest import Record
from bench.harness.gate import GateError
from bench.harness.peers import load
from bench.harness.session import Options
from bench.harness.timing import load_average, use_threads
from bench.mdp import shapes
from bench.mdp.peers import ours, rows_of
from bench.mdp.shapes import Shape
from fastiter import _core
from fastiter.mdp import MDP
from fastiter.mdp._solvers.options import METHODS

#: Methods may take this many times as long as the automatic one, or so many seconds; otherwise they are capped.
TIMES, SECONDS = 3.0, 0.1
#: Repetitions of all entrants; a budget that does not suffice for them is extended by this factor
ROUNDS, EXTENSION = 5, 10
RATE = 3e8  # entries per second at which QuantEcon's iterations are limited
ELIMINATION = 20_000_000  # operations beyond which QuantEcon's direct solution of a policy's values takes too long
Call = Callable[[], Any]


def quietly(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def seconds(prepare: Call, solve: Callable[[Any], Any]) -> float:
    prepared = prepare()
    began = time.perf_counter()
    solve(prepared)
    return time.perf_counter() - began


def single(shape: Shape, problem: MDP, method: str, cap: float) -> Any | None:
    """Return the solution by one method; None if it fails, or takes longer than the cap."""
    began = time.perf_counter()
    limit = max(50, int(cap * RATE / len(problem.transitions[0])))
    try:
        solution = quietly(
            lambda: problem.solve(
                method,  # type: ignore[arg-type]
                atol=shape.tol,
                max_steps=limit if method == "ps" else 10**9,
                callback=lambda _: time.perf_counter() - began > cap,
            )
        )
    except ValueError:  # the method is not for this process
        return None
    return solution if solution.converged else None


def quantecon(shape: Shape, problem: MDP, policy: Any, cap: float) -> Iterator[tuple[str, Call, Any]]:
    """Each of QuantEcon's methods that ends in time: its name, a fresh model, and its solution."""
    if load("quantecon") is None:
        return
    from quantecon.markov import DiscreteDP

    matrix, states, actions = rows_of(problem)
    matrix.sum_duplicates()
    chain = problem._process.model.chain(problem._process.place("solve", policy))
    is_cheap = _core.mdp.Elimination().solve(chain, problem.gamma or 0.0, None, np.empty(problem.S), ELIMINATION)
    limit = max(20, int(cap * RATE / matrix.nnz))
    methods = {"value_iteration": limit, "modified_policy_iteration": limit // 4 + 5, "policy_iteration": 100}
    for short, (method, limit) in zip(("vi", "mpi", "pi"), methods.items(), strict=True):
        if short == "pi" and not is_cheap:
            continue

        def prepare() -> Any:
            return DiscreteDP(problem.rewards, matrix, problem.gamma, states, actions)

        def solve(prepared: Any, method: str = method, limit: int = limit) -> Any:
            return prepared.solve(method=method, epsilon=shape.tol, max_iter=limit)

        solution = solve(prepare())
        if solution.num_iter < limit:
            yield f"QuantEcon {short}", prepare, (solve, solution)


def check(shape: Shape, name: str, value: Any, solution: Any, allowed: float) -> None:
    off = float(np.maximum(solution.lower - value, value - solution.upper).max())
    if not off <= allowed:
        raise GateError(f"{shape.name}: the values of {name} are {off:.1e} beyond the bounds")


def record_of(shape: Shape, budget: float) -> Record:
    problem = shape.make()
    auto = ours(problem, shape.tol, (1,))
    result = problem.solve(atol=shape.tol)
    if not result.converged:
        raise GateError(f"{shape.name}: the automatic method has not converged")
    cap = max(SECONDS, TIMES * seconds(auto.prepare, auto.solve))
    entrants: dict[str, tuple[Call, Callable[[Any], Any]]] = {}
    capped = []
    for method in METHODS[1:]:
        other = single(shape, auto.prepare(), method, cap)
        if other is None:
            capped.append(method)
            continue
        check(shape, method, other.value, result, shape.tol)
        entrants[method] = (auto.prepare, lambda prepared, m=method: prepared.solve(m, atol=shape.tol))
    theirs = list(quantecon(shape, problem, result.policy, cap))
    for name, prepare, (solve, solution) in theirs:
        # A residual of rounding size in each row may be an error of that size over 1 - gamma.
        rounding = 1e-12 * float(np.abs(solution.v).max()) / (1 - (problem.gamma or 0.0))
        check(shape, name, solution.v, result, shape.tol + rounding)
        entrants[name] = (prepare, solve)
    best, own = dict.fromkeys(entrants, np.inf), np.inf
    began, rounds = time.perf_counter(), 0
    while own == np.inf or time.perf_counter() - began < budget * (1 if rounds >= ROUNDS else EXTENSION):
        rounds += 1
        own = min(own, seconds(auto.prepare, auto.solve))
        for name, (prepare, solve) in entrants.items():
            if best[name] < 4 * own or best[name] == np.inf:  # others cannot be the best
                best[name] = min(best[name], quietly(lambda p=prepare, s=solve: seconds(p, s)))
    first = min(best, key=lambda name: best[name], default="none")
    fastest = best.get(first, np.inf)  # infinite if every method alone is capped
    return {
        "work": shape.name,
        "method": result.method,
        "ms": 1e3 * own,
        "best": first,
        "best_ms": 1e3 * fastest,
        "ratio": own / fastest,
        "all_ms": {name: 1e3 * each for name, each in best.items()},
        "capped": capped,
        "load": load_average(),
    }


def never_slower(options: Options) -> Iterator[Record]:
    """One thread; a budget for each shape, of which a fifth suffices for most."""
    use_threads(1)
    for shape in shapes.QUICK if options.quick else shapes.FULL:
        yield record_of(shape, options.budget / 5)
