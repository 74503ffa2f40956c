"""Pairs of a state and an action that share the rows of P: the same bits as with a row for each pair."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import fastiter
from fastiter import mdp
from fastiter.mdp import MDP, reference

Array = npt.NDArray[Any]


class Parts(NamedTuple):
    """P (X, S), and the reward, state and row of each pair."""

    P: Array
    R: Array
    states: Array
    rows: Array

    def shared(self, gamma: Any = 0.95, **more: Any) -> MDP:
        return MDP(self.P, self.R, gamma, states=self.states, rows=self.rows, **more)

    def expanded(self, gamma: Any = 0.95, **more: Any) -> MDP:
        gamma = gamma[self.rows] if isinstance(gamma, np.ndarray) else gamma
        return MDP(self.P[self.rows], self.R, gamma, states=self.states, **more)


def parts(S: int, X: int, A: int, dtype: str = "float64", density: float = 0.3) -> Parts:
    """Return up to A pairs in each state, some of which share rows and some of whose rows are used by none."""
    rng = np.random.default_rng([S, X, A])
    P = rng.random((X, S)) * (rng.random((X, S)) < density)
    P[np.arange(X), rng.integers(0, S, X)] += 0.1
    P /= P.sum(axis=1, keepdims=True)
    states = np.repeat(np.arange(S), A)
    kept = (rng.random(S * A) < 0.7) | (np.arange(S * A) % A == 0)
    rows, rewards = rng.integers(0, X, S * A), rng.standard_normal(S * A)
    return Parts(P.astype(dtype), rewards[kept].astype(dtype), states[kept], rows[kept])


SIZES = [(6, 9, 4), (25, 8, 5), (30, 90, 5)]
METHODS = ("auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated")


def assert_same(found: Any, expected: Any, *names: str) -> None:
    for name in names:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES)
def test_all_methods_have_the_bits_of_separate_rows(size: tuple[int, int, int], dtype: str) -> None:
    given = parts(*size, dtype)
    shared, expanded = given.shared(), given.expanded()
    for method in METHODS:
        found, expected = (each.solve(method, atol=1e-4) for each in (shared, expanded))  # type: ignore[arg-type]
        assert_same(found, expected, "value", "policy", "lower", "upper", "history", "method")
    assert np.array_equal(shared.evaluate(found.policy), expanded.evaluate(found.policy))
    assert np.array_equal(shared.action_values(found.value), expanded.action_values(found.value))
    value, action = reference.afterstate_backup(given.P, given.R, 0.95, found.value, given.states, given.rows)
    once = mdp.finite_horizon(shared, 1, found.value)
    bound = 4 * size[0] * np.finfo(dtype).eps * (np.abs(given.R).max() + np.abs(found.value).max())
    np.testing.assert_allclose(once.value[0], value, rtol=0, atol=bound)
    assert dtype == "float32" or np.array_equal(once.policy[0], action)


@pytest.mark.parametrize("size", SIZES)
def test_other_criteria_have_the_bits_of_separate_rows(size: tuple[int, int, int]) -> None:
    given = parts(*size)
    shared, expanded = given.shared(), given.expanded()
    policy = shared.solve().policy
    for kind in ("l1", "linf", "kl", "chi2", "contamination", "s-l1"):
        for chosen in (None, policy):
            found, expected = (mdp.robust(one, kind, 0.1, policy=chosen) for one in (shared, expanded))  # type: ignore[arg-type]
            assert_same(found, expected, "value", "lower", "policy")
    weights = shared.transitions[0]
    tight = mdp.robust(shared, "interval", limits=(0.9 * weights, np.minimum(1.1 * weights, 1)))
    assert (tight.lower <= shared.solve().upper).all()
    for method in ("rvi", "howard"):
        found, expected = (mdp.average(one, method, atol=1e-9) for one in (shared, expanded))  # type: ignore[arg-type]
        assert_same(found, expected, "gain", "policy", "value")
    radius = np.random.default_rng(0).random(len(shared.transitions[2]) - 1)
    found = mdp.extended_value_iteration(shared, radius, largest_reward=9.0)
    expected = mdp.extended_value_iteration(expanded, radius[shared.pair_rows], largest_reward=9.0)
    assert_same(found, expected, "gain", "policy", "value")
    assert_same(mdp.finite_horizon(shared, 4), mdp.finite_horizon(expanded, 4), "value", "policy")


def test_terminal_states_costs_discounts_and_sums() -> None:
    given = parts(12, 20, 4)
    ended = np.arange(12) % 5 == 2
    everywhere = given._replace(P=given.P / 2 + 1 / 24)  # so that each state leads to a terminal one
    rates = np.random.default_rng(1).uniform(0.5, 0.9, 20)
    for options in ({"terminal": ended}, {"sense": "min"}, {"terminal": [3], "sense": "min"}):
        for gamma in (0.9, rates):
            found, expected = (make(gamma, **options).solve(atol=1e-8) for make in (given.shared, given.expanded))
            assert_same(found, expected, "value", "policy", "lower")
    costs = everywhere._replace(R=np.abs(given.R) + 0.1)
    for method in ("gs", "vi", "ps"):
        found, expected = (
            make(1.0, terminal=[0, 7], sense="min").solve(method)  # type: ignore[arg-type]
            for make in (costs.shared, costs.expanded)
        )
        assert_same(found, expected, "value", "policy", "upper")
    doubled = given._replace(P=2 * given.P)
    assert_same(doubled.shared(renormalize=True).solve(), doubled.expanded(renormalize=True).solve(), "value")


def test_orders_labels_and_unused_rows() -> None:
    given = parts(10, 14, 4)
    labels = np.concatenate([np.arange(n)[::-1] for n in np.bincount(given.states)])
    by = np.random.default_rng(2).permutation(len(given.states))
    options = {"states": given.states[by], "rows": given.rows[by], "actions": labels[by]}
    found = MDP(given.P, given.R[by], 0.9, **options)
    expected = MDP(given.P[given.rows], given.R, 0.9, states=given.states, actions=labels)
    assert_same(found.solve("vi"), expected.solve("vi"), "value", "policy")
    assert len(found.transitions[2]) - 1 == len(np.unique(given.rows)) and found.rows == len(given.states)
    weights, _, start = found.transitions
    first = int(found.pair_rows[0])
    assert np.array_equal(
        weights[start[first] : start[first + 1]], expected.transitions[0][: expected.transitions[2][1]]
    )
    alone = given._replace(rows=np.random.default_rng(3).permutation(60)[: len(given.states)])
    apart = alone._replace(P=np.eye(60, 10) + np.eye(60, 10, -10) + np.eye(60, 10, -20) + np.eye(60, 10, -30))
    apart.P[40:, 0] = 1
    assert np.array_equal(apart.shared().pair_rows, np.arange(len(given.states)))  # none is shared
    assert_same(apart.shared().solve("vi"), apart.expanded().solve("vi"), "value", "policy")
    assert "pairs" in repr(found) and "pairs" not in repr(apart.shared())


def test_copies_threads_and_orders_of_sweeps() -> None:
    given = parts(300, 400, 6, density=0.4)
    shared = given.shared()
    before = fastiter.get_num_threads()
    fastiter.set_num_threads(1)
    expected = [shared.solve(method, max_steps=200) for method in ("vi", "mpi")]
    values = shared.action_values(expected[0].value)
    fastiter.set_num_threads(2)
    for found, one in zip(
        [shared.solve("vi", max_steps=200), shared.solve("mpi", max_steps=200)], expected, strict=True
    ):
        assert_same(found, one, "value", "policy", "lower")
    assert np.array_equal(shared.action_values(expected[0].value), values)
    fastiter.set_num_threads(before)
    for twin in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert_same(twin.solve("vi", max_steps=200), expected[0], "value", "policy")
    small = parts(25, 30, 5)
    for order in ("descending", "symmetric", np.random.default_rng(4).permutation(25)):
        for exact in (True, False):
            found, one = (
                make(0.9).solve("gs", order=order, exact_diag=exact)  # type: ignore[arg-type]
                for make in (small.shared, small.expanded)
            )
            assert_same(found, one, "value", "policy")


def test_batches() -> None:
    given = parts(12, 10, 4)
    problem, rng = given.shared(), np.random.default_rng(5)
    R = problem.rewards + rng.standard_normal((3, problem.rows))
    weights, _, start = problem.transitions
    P = weights * rng.uniform(0.5, 1, (3, len(weights)))
    P /= np.repeat(np.add.reduceat(P, start[:-1], axis=1), np.diff(start), axis=1)
    batch = mdp.MDPBatch(problem, P=P, R=R)
    for method in ("auto", "mpi", "pi"):
        found = batch.solve(method)  # type: ignore[arg-type]
        for m in range(3):
            assert np.array_equal(found.value[m], batch[m].solve(method).value)  # type: ignore[arg-type]
    dense = np.zeros((problem._process.rows.height, 12))
    dense[np.repeat(np.arange(len(dense)), np.diff(start)), problem.transitions[1]] = P[1]
    alone = MDP(dense[problem.pair_rows], R[1], 0.95, states=given.states)
    assert np.array_equal(alone.solve("mpi").value, batch.solve("mpi").value[1])


def test_errors() -> None:
    given = parts(6, 9, 4)
    wrong = {
        "MDP: rows must be rows of P, from 0 to 8, got 9 in state 0 \\(pair 0\\)": {
            "rows": given.rows + 9 - given.rows[0]
        },
        "MDP: rows must be rows of P, from 0 to 8, got -1 in state": {"rows": given.rows - 1 - given.rows.min()},
        "MDP: rows must have the shape of states": {"rows": given.rows[1:]},
        "MDP: R must have shape .* one for each of the rows=": {"R": given.P},
        "MDP: R must be finite, got nan in state 0, action 0 \\(pair 0\\)": {
            "R": np.where(np.arange(len(given.R)), given.R, np.nan)
        },
    }
    for message, other in wrong.items():
        with pytest.raises(ValueError, match=message):
            MDP(**{"P": given.P, "R": given.R, "gamma": 0.9, "states": given.states, "rows": given.rows} | other)
    used, P = int(given.rows[0]), given.P.copy()
    P[used] *= 0.5
    with pytest.raises(
        ValueError, match=r"MDP: P must sum to 1 .* got 0.5 in state 0, action 0 \(pair 0\), row \d of P"
    ):
        given._replace(P=P).shared()
    with pytest.raises(TypeError, match="MDP: states must be the state of each of the rows= of P, got None"):
        MDP(given.P, given.R, 0.9, rows=given.rows)
    with pytest.raises(TypeError, match="MDP: rows must be integers"):
        MDP(given.P, given.R, 0.9, states=given.states, rows=given.rows + 0.5)
    with pytest.raises(ValueError, match="average: sojourn must be None for pairs that share rows of P, got times"):
        mdp.average(given.shared(), sojourn=np.ones(len(given.R)))
    with pytest.raises(ValueError, match="iwocs: models must have one row of P for each state and action, got shared"):
        fastiter.experimental.iwocs([given.shared()], 0)
