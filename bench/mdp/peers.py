"""Solvers of other libraries for one process: a fresh model is built before each timed solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness.peers import load
from fastiter.mdp import MDP

Array = Any


@dataclass(frozen=True)
class Solver:
    """`prepare` builds the argument of `solve` and is not timed; `solve` returns the values."""

    name: str
    prepare: Callable[[], Any]
    solve: Callable[[Any], Array]
    threads: tuple[int, ...] = (1,)


def ours(problem: MDP, tol: float, threads: tuple[int, ...]) -> Solver:
    """The automatic method, from zeros; nothing is kept between solves."""

    def prepare() -> MDP:
        rows = problem._process.rows
        return MDP._of(rows, problem._process.discount, np.diff(rows.row) == 0)

    return Solver("fastiter", prepare, lambda prepared: prepared.solve(atol=tol).value, threads)


def rows_of(problem: MDP) -> tuple[Any, Array, Array]:
    """The matrix of the rows, and the state and the action of each."""
    from scipy import sparse

    weight, target, entry = problem.transitions
    counts = np.diff(problem.row_starts)
    states = np.repeat(np.arange(problem.S), counts)
    actions = np.arange(problem.rows) - np.repeat(problem.row_starts[:-1], counts)
    return sparse.csr_matrix((weight, target, entry), shape=(problem.rows, problem.S)), states, actions


def quantecon(problem: MDP, tol: float) -> Iterator[Solver]:
    """Value iteration and modified policy iteration; the first solve compiles, and is not timed."""
    if load("quantecon") is None:
        return
    from quantecon.markov import DiscreteDP

    matrix, states, actions = rows_of(problem)
    matrix.sum_duplicates()

    def prepare() -> Any:
        return DiscreteDP(problem.rewards, matrix, problem.gamma, states, actions)

    for short, method in (("vi", "value_iteration"), ("mpi", "modified_policy_iteration")):

        def solve(prepared: Any, method: str = method) -> Array:
            solution = prepared.solve(method=method, epsilon=tol, max_iter=10**6)
            return np.asarray(solution.v)

        solve(prepare())
        yield Solver(f"QuantEcon {short}", prepare, solve)


def mdpsolver(problem: MDP, tol: float) -> Iterator[Solver]:
    """Value iteration, modified policy iteration and Gauss-Seidel, on one thread."""
    module = load("mdpsolver")
    if module is None:
        return
    weight, target, entry = (x.tolist() for x in problem.transitions)
    start, reward = problem.row_starts.tolist(), problem.rewards.tolist()
    rewards = [reward[start[s] : start[s + 1]] for s in range(problem.S)]
    by_state = [range(start[s], start[s + 1]) for s in range(problem.S)]
    columns = [[target[entry[j] : entry[j + 1]] for j in rows] for rows in by_state]
    weights = [[weight[entry[j] : entry[j + 1]] for j in rows] for rows in by_state]

    def prepare() -> Any:
        prepared = module.model()
        prepared.mdp(discount=problem.gamma, rewards=rewards, tranMatProbs=weights, tranMatColumns=columns)
        return prepared

    for short, algorithm, update in (("vi", "vi", "standard"), ("mpi", "mpi", "standard"), ("vi-GS", "vi", "gs")):

        def solve(prepared: Any, algorithm: str = algorithm, update: str = update) -> Array:
            prepared.solve(algorithm=algorithm, update=update, tolerance=tol, parallel=False)
            return np.array(prepared.getValueVector())

        yield Solver(f"mdpsolver {short}", prepare, solve)


def pymdptoolbox(problem: MDP, tol: float) -> Iterator[Solver]:
    """Value iteration and modified policy iteration, on lists of CSR matrices."""
    module = load("mdptoolbox.mdp")
    if module is None:
        return
    matrix, _, actions = rows_of(problem)
    A = int(actions.max()) + 1
    matrices, rewards = [matrix[actions == a] for a in range(A)], problem.rewards.reshape(-1, A)
    for short, name in (("vi", "ValueIteration"), ("mpi", "PolicyIterationModified")):

        def prepare(name: str = name) -> Any:
            return getattr(module, name)(matrices, rewards, problem.gamma, epsilon=tol)

        def solve(prepared: Any) -> Array:
            prepared.run()
            return np.array(prepared.V)

        yield Solver(f"pymdptoolbox {short}", prepare, solve)


def storm(problem: MDP, tol: float) -> Iterator[Solver]:
    """Storm's default method for the minimum expected cost until a terminal state, for gamma = 1."""
    module = load("stormpy")
    if module is None:
        return
    from stormpy.developer import storage

    matrix, _, _ = rows_of(problem)
    matrix.sum_duplicates()
    target, weight, entry = matrix.indices.tolist(), matrix.data.tolist(), matrix.indptr.tolist()
    start, costs = problem.row_starts.tolist(), (-problem.rewards).tolist()

    def prepare() -> Any:
        builder = storage._SparseMatrixBuilder_Double(0, 0, 0, False, True, 0)
        labels = storage.StateLabeling(problem.S)
        labels.add_label("end")
        rewards: list[float] = []
        for s in range(problem.S):
            builder.new_row_group(len(rewards))
            if start[s] == start[s + 1]:
                labels.add_label_to_state("end", s)
                builder.add_next_value(len(rewards), s, 1.0)
                rewards.append(0.0)
            for j in range(start[s], start[s + 1]):
                for e in range(entry[j], entry[j + 1]):
                    builder.add_next_value(len(rewards), target[e], weight[e])
                rewards.append(costs[j])
        model = storage._SparseRewardModel_Double(optional_state_action_reward_vector=rewards)
        parts = storage._SparseModelComponents_Double(
            transition_matrix=builder.build(), state_labeling=labels, reward_models={"cost": model}
        )
        return storage._SparseMdp_Double(parts), module.parse_properties('R{"cost"}min=? [F "end"]')[0]

    def solve(prepared: Any) -> Array:
        solution = module.model_checking(*prepared, only_initial_states=False)
        return -np.array(solution.get_value_vector())

    yield Solver("Storm", prepare, solve)
