"""Tables of outcomes (p, next, reward, done), as Gymnasium's environments have them: the episode ends with done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter import mdp
from fastiter.mdp import MDP, MDPBatch

Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


def frozen_lake(rows: tuple[str, ...], slip: float) -> Table:
    """Return the table of a lake: S start, F ice, H hole, G goal; with ``slip`` to each of the perpendicular moves."""
    height, width = len(rows), len(rows[0])
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))

    def outcome(s: int, a: int, p: float) -> tuple[float, int, float, bool]:
        y = min(max(s // width + moves[a][0], 0), height - 1)
        x = min(max(s % width + moves[a][1], 0), width - 1)
        return p, y * width + x, float(rows[y][x] == "G"), rows[y][x] in "GH"

    def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
        if rows[s // width][s % width] in "GH":
            return [(1.0, s, 0.0, True)]
        shares = ((a - 1, slip), (a, 1 - 2 * slip), (a + 1, slip))
        return [outcome(s, b % 4, p) for b, p in shares if p > 0]

    return {s: {a: outcomes(s, a) for a in range(4)} for s in range(height * width)}


LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")


def random_table(S: int, seed: int) -> Table:
    """Return a table in which transitions with and without done lead to the same states, and actions differ."""
    rng = np.random.default_rng([S, seed])

    def outcomes() -> list[tuple[float, int, float, bool]]:
        n = int(rng.integers(1, 5))
        p = rng.random(n) + 0.1
        shares = p / p.sum()
        return [(shares[k], int(rng.integers(S)), float(rng.normal()), bool(rng.random() < 0.3)) for k in range(n)]

    return {s: {int(a): outcomes() for a in rng.choice(9, rng.integers(1, 4), replace=False)} for s in range(S)}


def action_value(outcomes: Any, v: Any, gamma: float) -> float:
    return sum(p * (r + (0 if done else gamma * v[to])) for p, to, r, done in outcomes)


def values_of(table: Table, gamma: float, sweeps: int = 900) -> np.ndarray:
    v = np.zeros(len(table))
    for _ in range(sweeps):
        v = np.array([max(action_value(x, v, gamma) for x in table[s].values()) for s in range(len(table))])
    return v


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "pi", "mpi", "ipi"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_earned_after_done(seed: int, method: Any) -> None:
    table = random_table(7, seed)
    found = MDP(table, gamma=0.9).solve(method, atol=1e-9)
    expected = values_of(table, 0.9, 400)
    assert found.converged and (found.lower <= expected + 1e-12).all() and (expected <= found.upper + 1e-12).all()
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-9)
    for s, a in enumerate(found.policy):
        assert action_value(table[s][a], expected, 0.9) == pytest.approx(expected[s], abs=1e-8)
    np.testing.assert_allclose(MDP(table, gamma=0.9).evaluate(found.policy), expected, rtol=0, atol=1e-9)


def test_costs_orders_of_keys_and_lists() -> None:
    table = random_table(6, 5)
    expected = values_of(table, 0.8, 300)
    costs = {s: {a: [(p, to, -r, d) for p, to, r, d in x] for a, x in each.items()} for s, each in table.items()}
    backwards = {np.int64(s): dict(reversed(table[s].items())) for s in reversed(range(6))}
    lists = {s: list(each.values()) for s, each in table.items()}
    most, least = MDP(backwards, gamma=0.8).solve(atol=1e-9), MDP(costs, gamma=0.8, sense="min").solve(atol=1e-9)
    np.testing.assert_allclose(most.value, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(least.value, -expected, rtol=0, atol=1e-9)
    listed = MDP(lists, gamma=0.8).solve(atol=1e-9)
    assert np.array_equal(listed.value, most.value)
    assert all(sorted(table[s])[list(table[s]).index(a)] >= 0 for s, a in enumerate(most.policy))
    assert [list(table[s])[a] for s, a in enumerate(listed.policy)] == most.policy.tolist()


@pytest.mark.parametrize("slip", [0.0, 1 / 3])
def test_lakes(slip: float) -> None:
    table = frozen_lake(LAKE, slip)
    discounted = MDP(table, gamma=0.99).solve(atol=1e-10)
    np.testing.assert_allclose(discounted.value, values_of(table, 0.99), rtol=0, atol=1e-9)
    undiscounted = MDP(table, gamma=1.0).solve(atol=1e-10)
    np.testing.assert_allclose(undiscounted.value, values_of(table, 1.0), rtol=0, atol=1e-7)
    # from the start, the goal is reached with probability 14/17 if the ice is slippery
    assert undiscounted.value[0] == pytest.approx(14 / 17 if slip else 1.0, abs=1e-7)
    assert undiscounted.policy[5] == -1 and discounted.value[15] == pytest.approx(0, abs=1e-9)


def test_the_last_reward_counts_once() -> None:
    """A taxi that drops its passenger, +20, in a state from which it would drop the next one, +20 again."""
    table: Table = {0: {0: [(1.0, 1, -1.0, False)]}, 1: {0: [(1.0, 0, 20.0, True)], 1: [(1.0, 0, -10.0, False)]}}
    assert MDP(table, gamma=0.99).solve(atol=1e-9).value.tolist() == pytest.approx([18.8, 20.0], abs=1e-9)
    undiscounted = MDP(table, gamma=1.0).solve(atol=1e-9)
    assert undiscounted.value.tolist() == pytest.approx([19.0, 20.0], abs=1e-9) and undiscounted.converged
    steps = mdp.finite_horizon(MDP(table), 2)
    assert steps.value[0].tolist() == [19.0, 20.0] and steps.policy[0].tolist() == [0, 0]


def test_undiscounted_tables_have_to_end() -> None:
    table: Table = {0: {0: [(1.0, 0, 1.0, False)]}, 1: {0: [(0.5, 0, 1.0, True), (0.5, 1, 0.0, False)]}}
    with pytest.raises(
        ValueError, match="MDP: P must have a path to a terminal state from every state if gamma is 1, got"
    ):
        MDP(table, gamma=1.0)
    table[0][3] = [(0.5, 1, 0.0, True), (0.5, 0, 0.0, False)]
    costly = {s: {a: [(p, to, -1.0, d) for p, to, _, d in x] for a, x in each.items()} for s, each in table.items()}
    found = MDP(costly, gamma=1.0).solve(atol=1e-9)
    assert found.value.tolist() == pytest.approx([-2.0, -2.0], abs=1e-8) and found.policy.tolist() == [3, 0]
    assert np.isfinite(found.upper).all()


GOOD: Table = {0: {0: [(1.0, 0, 1.0, True)]}}
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: MDP(GOOD, np.ones(1), 0.9), TypeError, "MDP: R must be None for P with rewards, a list of (p, next"),
    (lambda: MDP({1: GOOD[0]}, gamma=0.9), ValueError, "MDP: P must have the states from 0 on as keys, got others"),
    (lambda: MDP({0: {"up": []}}, gamma=0.9), ValueError, "MDP: P[0] must have numbers of actions as keys, got others"),
    (lambda: MDP({0: {-1: GOOD[0][0]}}, gamma=0.9), ValueError, "MDP: P[0] must have numbers of actions as keys"),
    (lambda: MDP({0: 3}, gamma=0.9), TypeError, "MDP: P[0] must be a dict or a list of actions, got int"),
    (
        lambda: MDP({0: {0: [(1.0, 0, 1.0)]}}, gamma=0.9),
        TypeError,
        "MDP: P[0][0] must be a list of (p, next, reward, done)",
    ),
    (lambda: MDP({0: {2: [(1.0, 0, 1.0, 1)]}}, gamma=0.9), TypeError, "MDP: P[0][2] must have a bool as done, got int"),
    (lambda: MDP({0: {0: [("x", 0, 1.0, True)]}}, gamma=0.9), TypeError, "MDP: P[0][0] must be numbers, got list"),
    (lambda: MDP({0: {0: [(1.0, 0.5, 1.0, True)]}}, gamma=0.9), TypeError, "MDP: P[0][0] must be integers, got dtype"),
    (
        lambda: MDP({0: {0: [(1.0, 4, 1.0, True)]}}, gamma=0.9),
        ValueError,
        "MDP: P must have next states from 0 to 0, got 4",
    ),
    (
        lambda: MDP({0: {7: [(0.5, 0, 1.0, True)]}}, gamma=0.9),
        ValueError,
        "MDP: P must sum to 1 (renormalize=True divides",
    ),
    (
        lambda: MDP({0: {}}, gamma=0.9),
        ValueError,
        "MDP: P must have an action for each state that is not terminal, got",
    ),
    (lambda: MDP({}, gamma=0.9), ValueError, "MDP: P must have at least one state, got none"),
    (lambda: MDP(GOOD, gamma=0.9, states=[0]), TypeError, "MDP: R must be the rewards, unless P[s][a] is a list"),
    (lambda: mdp.average(MDP(GOOD)), ValueError, "average: P must have no transitions with done, got some"),
    (
        lambda: mdp.robust(MDP(GOOD, gamma=0.9), "l1", 0.1),
        ValueError,
        "robust: P must have no transitions with done, got some",
    ),
    (
        lambda: MDPBatch(MDP(GOOD, gamma=0.9), P=np.ones((2, 0))),
        ValueError,
        "MDPBatch: P must be None for a process with done transitions, got probabilities",
    ),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_tables(case: int) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)
