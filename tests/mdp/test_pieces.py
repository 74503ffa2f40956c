"""The kernels' loop in pieces, between which Python handles signals: each makes progress, and no bit changes."""

from __future__ import annotations

import numpy as np

from fastiter import _core
from fastiter.mdp import MDP

OPERATIONS = 2**25  # operations per call


def test_a_sweep_of_more_operations_than_a_call_has() -> None:
    """v <- 1 + v / 4 of a state whose row has 2^25 entries, one of them not 0, ends in three sweeps."""
    n = OPERATIONS
    weight, target = np.zeros(n, np.float32), np.zeros(n, np.int32)  # pages of zeros take no memory
    weight[5] = 0.5
    arrays = (np.array([0, 1]), np.array([0, n]), target, weight, np.ones(1, np.float32))
    model = _core.mdp.model(32, 1, arrays)
    v, w = np.zeros((2, 1, 1), np.float32)
    vectors, numbers = (v, w, np.full((1, 1), -1, np.int32), None), np.array([[0.5, 0.5, 1.0, 0.0, 0.0]])
    rule = (0.5, 1e-6, True, 3, 1000, 0, 1.0, True, 0, n, None)  # max_steps 3
    several = _core.mdp.several(32, [model], vectors, numbers, np.zeros(1, np.uint8), rule, False)
    calls = 1
    while not several.run():
        assert several.checks() >= calls
        calls += 1
    assert several.checks() == 3 and w[0, 0] == 1.3125 and calls > 1


def test_sweeps_of_a_policy_in_pieces() -> None:
    rng = np.random.default_rng(170)
    n = 200
    problem = MDP(rng.dirichlet(np.ones(n), (n, 2)), rng.random((n, 2)), 0.99)
    assert n * (n + 1) * 900 > OPERATIONS
    found = problem.solve("mpi", policy_sweeps=900)
    python = problem.solve("mpi", policy_sweeps=900, callback=lambda _: None)
    assert np.array_equal(found.value, python.value) and np.array_equal(found.history, python.history)
    assert found.converged and found.steps == python.steps > 2


def test_sweeps_of_a_policy_count_as_operations() -> None:
    """A call ends within the sweeps of a policy if these exceed its limit."""
    n = 2**18
    weight, target = np.zeros(n, np.float32), np.zeros(n, np.int32)
    arrays = (np.array([0, 1]), np.array([0, n]), target, weight, np.ones(1, np.float32))
    v, w = np.zeros((2, 1, 1), np.float32)
    vectors, numbers = (v, w, np.full((1, 1), -1, np.int32), None), np.array([[0.5, 0.5, 1.0, 0.0, 0.0]])
    rule = (0.5, 1e-30, True, 2, 1000, 300, 1.0, True, 0, n, None)  # 300 sweeps of a policy
    model = _core.mdp.model(32, 1, arrays)
    several = _core.mdp.several(32, [model], vectors, numbers, np.ones(1, np.uint8), rule, False)
    assert not several.run() and several.checks() == 1
    assert not several.run() and several.checks() == 1
    assert several.run() and several.checks() == 2
