"""Gymnasium's table environments, and the layouts of pymdptoolbox and QuantEcon as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from fastiter.mdp import MDP
from fastiter.mdp.compat import example
from tests.mdp.cases import mdp_of, pairs, random_process

Array = npt.NDArray[Any]
gymnasium = pytest.importorskip("gymnasium")


def dense(table: Any) -> tuple[Array, Array]:
    """Return P (S, A, S) without the transitions that end the episode, and the expected rewards (S, A)."""
    S, A = len(table), len(table[0])
    P, R = np.zeros((S, A, S)), np.zeros((S, A))
    for s in range(S):
        for a in range(A):
            for p, to, reward, done in table[s][a]:
                P[s, a, to] += 0 if done else p
                R[s, a] += p * reward
    return P, R


def solved(table: Any, gamma: float) -> Array:
    """Return V* by policy iteration with dense equations, for a table whose episodes end under every policy so far."""
    P, R = dense(table)
    policy = np.zeros(len(P), int)
    for _ in range(100):
        s = np.arange(len(P))
        v = np.linalg.solve(np.eye(len(P)) - gamma * P[s, policy], R[s, policy])
        q = R + gamma * P @ v
        better = np.where(q.max(1) > q[s, policy] + 1e-10, q.argmax(1), policy)
        if np.array_equal(better, policy):
            return v
        policy = better
    raise AssertionError("policy iteration has not ended")


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("FrozenLake-v1", {"map_name": "4x4"}, 0.5420259),
        ("FrozenLake-v1", {"map_name": "8x8"}, 0.4146404),
        ("FrozenLake-v1", {"map_name": "4x4", "is_slippery": False}, 0.99**5),
        ("CliffWalking-v1", {}, -(1 - 0.99**13) / 0.01),
    ],
)
def test_environments(name: str, options: dict[str, Any], published: float) -> None:
    table = gymnasium.make(name, **options).unwrapped.P
    start = 36 if "Cliff" in name else 0
    problem = MDP(table, gamma=0.99)
    found = problem.solve(atol=1e-10)
    np.testing.assert_allclose(found.value, solved(table, 0.99), rtol=0, atol=1e-9)
    assert found.value[start] == pytest.approx(published, abs=1e-7)
    over = [s for s in table if all(done and r == 0 for each in table[s].values() for *_, r, done in each)]
    assert np.flatnonzero(found.policy == -1).tolist() == over and ("Frozen" in name) == (len(over) > 0)
    undiscounted = MDP(table, gamma=1.0).solve(atol=1e-10)
    expected = {"FrozenLake-v1": 14 / 17 if options.get("is_slippery", True) else 1.0, "CliffWalking-v1": -13.0}
    if options.get("map_name") != "8x8":
        assert undiscounted.value[start] == pytest.approx(expected[name], abs=1e-7)


def test_taxi() -> None:
    from gymnasium.envs.toy_text.taxi import TaxiEnv

    environment = TaxiEnv()
    found = MDP(environment.P, gamma=0.99).solve(atol=1e-9)
    np.testing.assert_allclose(found.value, solved(environment.P, 0.99), rtol=0, atol=1e-8)
    # The best return, 7.93 on average, is +20 for the passenger and -1 for each step before the last one
    returns = MDP(environment.P, gamma=1.0).solve(atol=1e-9).value
    assert environment.initial_state_distrib @ returns == pytest.approx(7.93, abs=0.005)


def test_other_packages_layouts() -> None:
    P, R = random_process(6, 3, 200, unequal=False)
    expected = mdp_of(P, R, 0.9).solve("vi")
    by_action = np.ascontiguousarray(P.swapaxes(0, 1))
    for given in (by_action, list(by_action), [sparse.csr_matrix(one) for one in by_action], P):
        assert np.array_equal(MDP(given, R, 0.9).solve("vi").value, expected.value)
    rewards = np.random.default_rng(0).standard_normal(by_action.shape)
    assert np.array_equal(MDP(by_action, rewards, 0.9).rewards, MDP(list(by_action), rewards, 0.9).rewards)
    matrix, reward, s_indices, a_indices = pairs(P, R)
    same = MDP(matrix, reward, 0.9, states=s_indices, actions=a_indices).solve("vi")
    assert np.array_equal(same.value, expected.value) and np.array_equal(same.policy, expected.policy)
    forest = MDP(*example.forest(), 0.9).solve(atol=1e-9)  # (2, 3, 3)
    np.testing.assert_allclose(forest.value, [26.244, 29.484, 33.484], rtol=0, atol=1e-9)


def test_errors_name_state_and_action() -> None:
    right: Any = {0: {0: [(1.0, 1, 0.0, False)]}, 1: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 1, 0.0, False)]}}
    wrong = {
        "MDP: P must sum to 1 .*, got 0.9 in state 1, action 1": {1: [(0.9, 1, 0.0, False)], 0: right[1][0]},
        "MDP: P must have next states from 0 to 1, got 7 in state 1, action 0": {0: [(1.0, 7, 0.0, False)]},
        "MDP: P must sum to 1 .*, got 0 in state 1, action 3": {3: []},
        "MDP: P must have an action for each state that is not terminal, got none in state 1": {},
        r"MDP: P\[1\] must have numbers of actions as keys, got others": {"up": right[1][0]},
    }
    assert MDP(right, gamma=0.9).solve().policy.tolist() == [0, 0]
    for message, actions in wrong.items():
        with pytest.raises(ValueError, match=message):
            MDP({0: right[0], 1: actions}, gamma=0.9)
    with pytest.raises(TypeError, match=r"MDP: P\[1\]\[0\] must be a list of \(p, next, reward, done\), got list"):
        MDP({0: right[0], 1: {0: [(1.0, 0, 0.0)]}}, gamma=0.9)
