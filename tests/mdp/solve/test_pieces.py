"""The kernels' loop in pieces, between which Python handles signals: each makes progress, and no bit changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter import _core
from fastiter.mdp import MDP

OPERATIONS = 2**25  # operations per call


def options(longest: int, **own: Any) -> Any:
    made = _core.mdp.Options()
    for name, x in {"discount": 0.5, "patience": 1000, "longest": longest, **own}.items():
        setattr(made, name, x)
    return made


def loops(model: Any, v: Any, w: Any, kind: int, how: Any) -> Any:
    action, extremes = np.full((1, 1), -1, np.int32), np.array([[0.5, 0.5, 1.0, 0.0, 0.0]])
    return _core.mdp.loops([model], v, w, action, None, extremes, np.full(1, kind, np.uint8), how)


def test_a_sweep_of_more_operations_than_a_call_has() -> None:
    """v <- 1 + v / 4 of a state whose row has 2^25 entries, one of them not 0, ends in three sweeps."""
    n = OPERATIONS
    weight, target = np.zeros(n, np.float32), np.zeros(n, np.int32)  # pages of zeros take no memory
    weight[5] = 0.5
    arrays = (np.array([0, 1]), np.array([0, n]), target, weight, np.ones(1, np.float32))
    model = _core.mdp.model(32, 1, arrays)
    v, w = np.zeros((2, 1, 1), np.float32)
    loop = loops(model, v, w, 0, options(n, atol=1e-6, sup=True, max_steps=3))
    calls = 1
    while not loop.run():
        assert loop.checks() >= calls
        calls += 1
    assert loop.checks() == 3 and w[0, 0] == 1.3125 and calls > 1


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
    model = _core.mdp.model(32, 1, arrays)
    loop = loops(model, v, w, 1, options(n, atol=1e-30, sup=True, max_steps=2, policy_sweeps=300))
    assert not loop.run() and loop.checks() == 1
    assert not loop.run() and loop.checks() == 1
    assert loop.run() and loop.checks() == 2
