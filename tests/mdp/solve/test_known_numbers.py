"""Counts of sweeps, products and backups, and residuals, compared with those of other implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter import mdp
from fastiter.mdp import examples


def test_backups_from_the_heap() -> None:
    """Prioritized sweeping backs up 35.7 S states, sweeps outwards from the goal 24 S."""
    process = examples.gridworld(20, 0.95, reward=0.0, goal=1.0)._process
    v, tolerance = np.zeros(400), 1e-6 * 0.05 / (2 * 0.95)
    heap = process.model.prioritized(*process.predecessors, 0.95, tolerance)
    taken = heap.run(v, 10**9, 10**9)[0]
    assert taken / 400 == pytest.approx(35.7, abs=0.05) and v[0] == pytest.approx(0.1006946507, abs=1.1e-7)


@pytest.mark.parametrize(("gamma", "plain", "mixed"), [(0.99, 176, 217), (0.999, 186, 171)])
def test_acceleration_gains_little_where_the_maximum_switches(gamma: float, plain: int, mixed: int) -> None:
    problem = examples.gridworld(50, gamma)
    methods: tuple[Any, ...] = ("vi", "anderson")
    found = [problem.solve(method, stop="sup", value0=np.zeros(2500)).steps for method in methods]
    assert found[0] == plain and found[1] == pytest.approx(mixed, rel=0.05)


def test_residuals_of_value_iteration() -> None:
    """Below those of anchored iteration: 0.693, 0.129 and 6.29e-5 after as many sweeps."""
    process, residuals = examples.garnet(1000, 10, 5, 0.95)._process, []
    v, w = np.zeros((2, 1000))
    for _ in range(201):
        process.model.backup(v, w, None, 1, 0.95, None)
        residuals.append(float(np.abs(w - v).max()))
        v, w = w, v
    assert [residuals[k] for k in (10, 50, 200)] == pytest.approx([0.552, 0.0708, 3.23e-5], rel=0.002)


def test_policies_and_products_of_inexact_policy_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven policies, with about 112 and 176 products; value iteration with the sup norm takes thousands."""
    from fastiter.mdp._solvers import krylov

    rows, products = examples.garnet(100_000, 10, 5, 0.95)._process.rows, [0]
    multiply = krylov.Chain.multiply

    def counted(chain: Any, x: Any) -> Any:
        products[0] += 1
        return multiply(chain, x)

    monkeypatch.setattr(krylov.Chain, "multiply", counted)
    for gamma, most in ((0.95, 112), (0.999, 176)):
        products[0] = 0
        found = mdp.MDP._of(rows, gamma).solve("ipi", value0=np.zeros(100_000))
        assert found.converged and found.steps <= 8 and products[0] <= most
        assert (found.upper - found.lower).max() <= 2e-6


def test_a_long_shortest_path() -> None:
    assert examples.gridworld(300, 1.0).solve(atol=1e-8).value[0] == pytest.approx(-739.799442, abs=1e-6)
