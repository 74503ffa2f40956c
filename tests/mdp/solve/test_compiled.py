"""Many small models in one call of the kernels have the bits of each alone, for all options, ends and threads."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.mdp import MDP, MDPBatch, _batch, examples

NAMES = ("value", "policy", "lower", "upper", "steps", "residual", "reason", "converged")


def check_same(problem: MDP, R: Any, P: Any = None, **how: Any) -> Any:
    """Solve in one call on one and two threads, and one by one, also by the Python loop; return the solution."""
    batch, found = MDPBatch(problem, P, R), []
    start = how.pop("value0", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        for threads in (1, 2):
            fastiter.set_num_threads(threads)
            found.append(batch.solve(**how, value0=start))
        starts = [None] * len(batch) if start is None else start
        each = [batch[m].solve(**how, value0=v, callback=lambda _: None) for m, v in enumerate(starts)]  # from Python
        alone = [batch[m].solve(**how, value0=v) for m, v in enumerate(starts)]
    for one, other in zip(each, alone, strict=True):
        for name in (*NAMES, "history"):
            assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name != "reason"), name
    for whole in found:
        for m, one in enumerate(each):
            for name in NAMES:
                assert np.array_equal(getattr(whole, name)[m], getattr(one, name), equal_nan=name != "reason"), name
            assert np.array_equal(whole.history[m, : len(one.history)], one.history, equal_nan=True)
            assert np.isnan(whole.history[m, len(one.history) :]).all()
        assert whole.method == each[0].method and whole.value.dtype == problem.dtype
    return found[0]


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The batch is solved by the kernels' own loop, not model by model."""
    before, calls = fastiter.get_num_threads(), []

    def counted(*given: Any) -> Any:
        calls.append(_batch_solver(*given))
        return calls[-1]

    _batch_solver = _batch.MDPBatch._by_kernels
    monkeypatch.setattr(_batch.MDPBatch, "_by_kernels", counted)
    yield
    fastiter.set_num_threads(before)
    assert calls and all(found is not None for found in calls)


def rewards(problem: MDP, B: int = 6) -> Any:
    """Return rewards (B, rows) of magnitudes that need different numbers of sweeps."""
    rng = np.random.default_rng(7)
    scale = 10.0 ** np.arange(-3, B - 3)[:, None]
    return (scale * (problem.rewards + 0.1 * rng.standard_normal((B, problem.rows)))).astype(problem.dtype)


OPTIONS: list[dict[str, Any]] = [
    {"method": "vi"},
    {"method": "vi", "stop": "sup"},
    {"method": "vi", "atol": 1e-14},
    *({"method": method, "max_steps": most} for method in ("vi", "mpi", "gs") for most in (1, 2, 5)),
    *({"method": "mpi", "policy_sweeps": sweeps} for sweeps in (0, 1, 4, 65)),
    {"method": "mpi", "stop": "sup", "atol": 1e-3},
    *({"method": "gs", "order": order} for order in ("bfs", "ascending", "descending", "symmetric")),
    {"method": "gs", "order": np.random.default_rng(3).permutation(30)},
    {"method": "gs", "omega": 1.4, "exact_diag": False},
    {"method": "gs", "omega": 0.7, "order": "symmetric", "atol": 1e-14},
    {},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", OPTIONS, ids=lambda how: "-".join(str(x) for x in how.values() if np.ndim(x) == 0))
def test_bits_of_separate_calls(how: dict[str, Any], dtype: str) -> None:
    problem = examples.garnet(30, 3, 4, 0.93, dtype=dtype)
    found = check_same(problem, rewards(problem), **{"atol": 1e-5} | how)
    assert len(set(found.steps.tolist())) > 1 or how.get("max_steps", 9) < 9
    start = np.random.default_rng(8).standard_normal((6, 30)).astype(dtype)
    check_same(problem, rewards(problem), value0=start, **{"atol": 1e-5} | how)


def test_ends_of_all_kinds() -> None:
    """Each model has its own reason: converged, out of sweeps, limited by rounding, and overflow."""
    problem = examples.garnet(30, 3, 4, 0.93)
    R = rewards(problem)
    R[4:] *= [[1e16], [1e306]]
    R[5, 0] = 1.7e308
    found = check_same(problem, R, atol=1e-6)
    assert found.reason == ("converged",) * 4 + ("stagnated", "diverged")
    limited = check_same(problem, R, method="vi", atol=1e-3, max_steps=25)
    assert set(limited.reason) == {"converged", "max_steps", "diverged"}


@pytest.mark.parametrize("method", ["auto", "vi", "mpi", "gs"])
def test_terminal_states_costs_and_discounts_of_rows(method: Any) -> None:
    rng = np.random.default_rng(9)
    P = rng.dirichlet(np.ones(6), (6, 2))
    ended = MDP(P, rng.random((6, 2)), 0.9, terminal=[1, 4], sense="min")
    check_same(ended, rewards(ended), method=method)
    semi = MDP(P, rng.random((6, 2)), rng.uniform(0.3, 0.97, 12))
    check_same(semi, rewards(semi), method=method)
    grid = examples.gridworld(6, 1.0)
    costs = -rng.uniform(0.5, 2, (4, grid.rows))
    costs[2, 5] = 0  # a step that costs nothing, with infinite bounds
    found = check_same(grid, costs, method=method)
    assert found.converged.all() and (found.policy[:, -1] == -1).all()
    nothing = MDP(np.ones((1, 1, 1)), np.ones((1, 1)), 0.9, terminal=[0])
    assert check_same(nothing, np.ones((2, 0)), method=method).value.tolist() == [[0], [0]]
    alone = MDP(np.ones((1, 1, 1)), np.ones((1, 1)), 0.0)
    assert check_same(alone, np.array([[1.0], [-2.0]]), method=method).value.tolist() == [[1], [-2]]


def test_absorbing_states_of_some_models() -> None:
    """ "auto" then uses another method and another order for these models than for the others."""
    rows = np.array([[[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]]).transpose(1, 0, 2).copy()
    problem = MDP(rows, np.arange(3.0)[:, None], 0.9)
    P = np.stack([problem.transitions[0]] * 3)
    P[1, :2], P[2, 4:] = [1, 0], [0, 1]
    found = check_same(problem, np.stack([problem.rewards] * 3), P)
    assert found.converged.all()
    for m in (0, 1, 2):
        exact = found.value[m]
        dense = np.zeros((3, 3))
        weight, target, entry = MDPBatch(problem, P)[m].transitions
        np.add.at(dense, (np.repeat(np.arange(3), np.diff(entry)), target), weight)
        np.testing.assert_allclose(np.linalg.solve(np.eye(3) - 0.9 * dense, problem.rewards), exact, atol=1e-6)


@pytest.mark.parametrize("places", [(0, 1), (1, 0), (0, 1, 0)])
def test_orders_of_some_models(places: tuple[int, ...]) -> None:
    """Outwards from an absorbing state, beside models that have none and are swept in ascending order."""
    rng = np.random.default_rng(171)
    P = rng.dirichlet(np.ones(5), (5, 2))
    problem = MDP(P, rng.random((5, 2)), 0.9)
    ends = P.copy()
    ends[4] = np.eye(5)[4]
    weights = np.stack([(P, ends)[place].reshape(-1) for place in places])
    found = check_same(problem, np.stack([problem.rewards] * len(places)), weights, method="gs", atol=1e-9)
    assert found.converged.all() and len(set(found.steps.tolist())) == 2


def test_names_of_actions() -> None:
    """Positions within states are converted to the actions' numbers."""
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array(np.tile([[0.5, 0.5]], (4, 1)))
    problem = MDP(matrix, np.zeros(4), 0.9, states=np.array([0, 0, 1, 1]), actions=np.array([7, 3, 5, 9]))
    found = check_same(problem, np.array([[0.0, 1, 2, 0], [1, 0, 0, 2]]))
    assert found.policy.tolist() == [[7, 5], [3, 9]]
