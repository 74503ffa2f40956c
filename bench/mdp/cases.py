"""The processes of the family mdp, the peers that can solve them, and their exact values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.harness.gate import GateError
from bench.mdp import peers
from bench.mdp.peers import Solver
from fastiter.mdp import MDP, examples

Peers = Callable[[MDP, float], Iterator[Solver]]


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], MDP]
    tol: float
    peers: tuple[Peers, ...]
    goals: Mapping[str, float] = field(default_factory=dict)


QUANTECON, MDPSOLVER, TOOLBOX, STORM = peers.quantecon, peers.mdpsolver, peers.pymdptoolbox, peers.storm
FULL = (
    Case("forest 1000, gamma .96", lambda: examples.forest(1000, 0.96), 1e-6, (QUANTECON, MDPSOLVER, TOOLBOX)),
    Case(
        "Garnet 2000, gamma .95",
        lambda: examples.garnet(2000, 10, 5, 0.95),
        1e-6,
        (QUANTECON, MDPSOLVER, TOOLBOX),
        {"pymdptoolbox vi": 20, "pymdptoolbox mpi": 20},
    ),
    Case(
        "Garnet 1e4, gamma .95",
        lambda: examples.garnet(10_000, 10, 5, 0.95),
        1e-6,
        (QUANTECON, MDPSOLVER),
        {"QuantEcon vi": 25, "QuantEcon mpi": 1.5, "mdpsolver vi": 10, "mdpsolver mpi": 8, "mdpsolver vi-GS": 40},
    ),
    Case(
        "grid 300 x 300, gamma .99",
        lambda: examples.gridworld(300, 0.99),
        1e-4,
        (QUANTECON,),
        {"QuantEcon vi": 4, "QuantEcon mpi": 8},
    ),
    Case("grid 300 x 300, shortest paths", lambda: examples.gridworld(300, 1.0), 1e-6, (STORM,), {"Storm": 1.5}),
)
QUICK = (
    Case("forest 60, gamma .9", lambda: examples.forest(60, 0.9), 1e-6, (QUANTECON, MDPSOLVER, TOOLBOX)),
    Case("grid 12 x 12, shortest paths", lambda: examples.gridworld(12, 1.0), 1e-6, (STORM,)),
    Case("Garnet 200, gamma .9", lambda: examples.garnet(200, 4, 3, 0.9), 1e-6, (MDPSOLVER, TOOLBOX)),
)


def exact(problem: MDP) -> Any:
    """The values and their error: SciPy's direct solution for our policy, which must satisfy Bellman's equation."""
    from scipy import sparse
    from scipy.sparse import linalg

    if problem.gamma == 1:  # the tolerance limits the change of a sweep, which does not bound errors here
        return problem.solve(atol=1e-11).value, 1e-5
    solution = problem.solve(atol=1e-9)
    matrix, _, _ = peers.rows_of(problem)
    chosen = problem.row_starts[:-1] + solution.policy
    if problem.S > 2000:  # the factors fill in: our bounds are checked instead
        return solution.value, float((solution.upper - solution.lower).max())
    chain = sparse.eye_array(problem.S) - problem.gamma * matrix[chosen]
    value = np.asarray(linalg.spsolve(chain.tocsc(), problem.rewards[chosen]))
    best = np.maximum.reduceat(problem.rewards + problem.gamma * (matrix @ value), problem.row_starts[:-1])
    return value, float(np.abs(best - value).max() / (1 - problem.gamma))


def checked(case: Case, solver: Solver, value: Any, uncertainty: float) -> float:
    """Return a solver's error; raise if the solver is ours and the error too large."""
    error = float(np.abs(solver.solve(solver.prepare()) - value).max())
    if solver.name == "fastiter" and not error <= case.tol / 2 + uncertainty:
        raise GateError(f"{case.name}: the values are off by {error:.1e}, more than {case.tol / 2:.1e}")
    return error
