"""Gauss-Seidel sweeps in windows, outwards from absorbing states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastiter.mdp import MDP, examples
from fastiter.mdp._solvers import options


def without_windows(monkeypatch: pytest.MonkeyPatch, problem: MDP, **how: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(options, "SMALLEST_WINDOW", 10**9)
        return problem.solve("gs", **how)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("slip", "gamma"), [(0.1, 0.98), (0.2, 0.9), (0.0, 0.95)])
def test_values_are_those_of_whole_sweeps(
    slip: float, gamma: float, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = examples.gridworld(110, gamma, slip=slip, dtype=dtype)
    assert options._window(problem._process, options.order_of("solve", problem._process, "bfs")) == 110 * 110 // 24
    tol = 1e-8 if dtype == "float64" else 1e-2
    exact = problem.solve("vi", atol=tol)
    for start in (None, np.zeros(problem.S, dtype), -1e3 * np.random.default_rng(180).random(problem.S).astype(dtype)):
        found = problem.solve("gs", atol=tol, value0=start)
        assert found.converged and (found.lower <= exact.upper).all() and (exact.lower <= found.upper).all()
        np.testing.assert_allclose(found.value, exact.value, rtol=0, atol=tol)
        whole = without_windows(monkeypatch, problem, atol=tol, value0=start)
        np.testing.assert_allclose(found.value, whole.value, rtol=0, atol=tol)
        assert found.steps == whole.steps if start is not None else len(found.history) <= len(whole.history) + 2


def test_windows_save_sweeps_on_long_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """75 of the 750 steps that lead from a corner of this grid to the other lead away from it."""
    problem = examples.gridworld(300, 0.99)
    found, whole = problem.solve(atol=1e-4), without_windows(monkeypatch, problem, atol=1e-4)
    assert found.method == "gs" and found.steps < whole.steps / 2
    np.testing.assert_allclose(found.value, whole.value, rtol=0, atol=1e-4)


def test_processes_without_windows() -> None:
    """There are none if steps lead far in the order, in small processes, and in other orders."""
    garnet = examples.garnet(2000, 3, 4, 0.9)
    rows, states = garnet._process.rows, np.repeat(np.arange(2000), 3)
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array((rows.weight, rows.next, rows.entry), shape=(garnet.rows, 2000))
    random = MDP(matrix, rows.reward, 0.9, states=states, terminal=[3])
    grid, small = examples.gridworld(110, 0.9), examples.gridworld(20, 0.9)
    for problem in (random, small):
        order = options.order_of("solve", problem._process, "bfs")
        assert isinstance(order, np.ndarray) and options._window(problem._process, order) == 0
    for problem, how in ((grid, {"omega": 1.05}), (grid, {"order": np.arange(12100)})):
        method: Any = options.Choice("gs", **how).new_method("solve", problem._process, _limits())
        assert method.window == 0
    ended = MDP(np.eye(3).reshape(3, 1, 3), np.zeros((3, 1)), 0.9, terminal=[0, 1, 2])
    assert (ended.solve("gs").value == 0).all()


def _limits() -> Any:
    from fastiter._call.iterate import Limits

    return Limits(atol=1e-6).checked("solve")


def test_limits_count_the_sweeps_of_windows() -> None:
    problem = examples.gridworld(110, 0.99)
    seen: list[int] = []
    found = problem.solve("gs", atol=1e-6, callback=lambda progress: seen.append(progress.steps) or len(seen) == 3)
    assert found.reason == "callback" and seen == sorted(seen) and seen[2] > 3
    exact = problem.solve("vi", atol=1e-8)
    assert (found.lower <= exact.upper).all() and (exact.lower <= found.upper).all()
    with pytest.warns(UserWarning, match="max_steps"):
        assert problem.solve("gs", atol=1e-9, max_steps=10).steps == 10


def test_shortest_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all rows have costs, values begin below V*; otherwise they begin at 0, without windows, as do given values."""
    grid = examples.gridworld(110, 1.0)
    found, whole = grid.solve(atol=1e-9), without_windows(monkeypatch, grid, atol=1e-9)
    assert found.converged and found.steps < 0.7 * whole.steps
    np.testing.assert_allclose(found.value, whole.value, rtol=0, atol=1e-7)
    assert (found.value <= whole.upper + 1e-9).all() and (found.lower - 1e-9 <= whole.value).all()
    again = grid.solve(atol=1e-9, value0=found.value)
    assert again.steps <= 5 and np.abs(again.value - found.value).max() < 1e-8
    rows, states = grid._process.rows, np.repeat(np.arange(grid.S), np.diff(grid.row_starts))
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array((rows.weight, rows.next, rows.entry), shape=(grid.rows, grid.S))
    rewards = grid.rewards.copy()
    rewards[: 4 * 110] = 0
    free = MDP(matrix, rewards, 1.0, states=states, terminal=[grid.S - 1])
    one, other = free.solve(atol=1e-9), without_windows(monkeypatch, free, atol=1e-9)
    assert one.steps == other.steps and np.array_equal(one.value, other.value)
