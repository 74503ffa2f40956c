"""pymdptoolbox itself: the correspondences of docs/coming_from/decision_processes.md, and their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")  # bench imports it

from bench.mdp.peers import rows_of
from fastiter.mdp import MDP, average, compat, examples, finite_horizon

sparse = pytest.importorskip("scipy.sparse")
toolbox = pytest.importorskip("mdptoolbox.mdp")
toolbox_example = pytest.importorskip("mdptoolbox.example")
forest = toolbox_example.forest
pytestmark = pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")


def run(name: str, *given: Any, **options: Any) -> Any:
    solver = getattr(toolbox, name)(*given, **options)
    solver.run()
    return solver


def test_values_farther_from_the_optimum_than_epsilon() -> None:
    problem = examples.garnet(2000, 10, 5, 0.95)
    matrix, _, actions = rows_of(problem)
    matrices = [matrix[actions == a] for a in range(10)]
    theirs = run("ValueIteration", matrices, problem.rewards.reshape(-1, 10), 0.95, epsilon=1e-6)
    best = problem.solve("pi", atol=1e-9).value
    assert 3.0 < np.abs(np.array(theirs.V) - best).max() < 3.1
    assert np.abs(problem.solve("vi", atol=1e-6).value - best).max() <= 5e-7


METHODS = {"vi": "ValueIteration", "gs": "ValueIterationGS", "pi": "PolicyIteration", "mpi": "PolicyIterationModified"}


@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str) -> None:
    P, R = forest(30, 4, 2, 0.1)
    theirs = run(METHODS[method], P, R, 0.9)
    found = MDP(list(P), R, 0.9).solve(method, atol=1e-6)
    assert tuple(found.policy) == tuple(theirs.policy)
    if method == "pi":
        np.testing.assert_allclose(theirs.V, found.value, rtol=1e-10)


def test_averages_and_finite_horizons() -> None:
    P, R = forest(30, 4, 2, 0.1)
    theirs = run("RelativeValueIteration", P, R, epsilon=1e-9)
    assert average(MDP(list(P), R, None), atol=1e-9).gain == pytest.approx(theirs.average_reward, abs=1e-8)
    last = np.arange(30.0)
    steps = run("FiniteHorizon", P, R, 0.9, 3, h=last)
    found = finite_horizon(MDP(list(P), R, 0.9), 3, last)
    np.testing.assert_allclose(found.value, steps.V.T, rtol=1e-13)
    assert np.array_equal(found.policy, steps.policy.T)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_random_processes_and_q_learning_draw_the_same_numbers(is_sparse: bool) -> None:
    """The processes have the same bits; a sum of corrections may be rounded in another order."""
    both, learned = [], []
    for module, solvers in ((compat.example, compat.mdp), (toolbox_example, toolbox)):
        np.random.seed(5)  # noqa: NPY002
        transitions, rewards = module.rand(6, 3, is_sparse=is_sparse)
        both.append([x.toarray() if is_sparse else x for each in (transitions, rewards) for x in each])
        learning = solvers.QLearning(transitions, rewards, 0.9)
        learning.run()
        learned.append(learning)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*both, strict=True))
    ours, theirs = learned
    assert ours.policy == theirs.policy
    np.testing.assert_allclose(ours.Q, theirs.Q, rtol=1e-10)
    np.testing.assert_allclose(ours.mean_discrepancy, theirs.mean_discrepancy, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_policy_iteration_evaluates_as_many_policies(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    process = compat.example.rand(12, 3)
    theirs, ours = run("PolicyIteration", *process, 0.95), compat.mdp.PolicyIteration(*process, 0.95)
    ours.run()
    assert ours.iter == theirs.iter and ours.policy == theirs.policy
