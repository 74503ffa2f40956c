"""Values of policies by elimination: exact rationals, dense solutions, budgets, and the graphs that it is for."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from fastiter import _core, mdp

Array = npt.NDArray[Any]
RNG = np.random.default_rng(61)


def random_chain(n: int, next_states: Callable[[int], list[int]], seed: int = 0) -> Any:
    """A chain with random probabilities of the given next states, which may repeat."""
    rng, rows = np.random.default_rng([seed, n]), []
    for s in range(n):
        to = np.array(next_states(s), np.int64)
        rows.append(np.bincount(to, weights=rng.dirichlet(np.ones(len(to))), minlength=n))
    return sparse.csr_array(np.array(rows))


def problem_of(P: Any, reward: Array, gamma: Any, dtype: str = "float64", **more: Any) -> mdp.MDP:
    rows = sparse.csr_array(P, dtype=dtype)
    return mdp.MDP(rows, reward.astype(dtype), gamma, states=np.arange(rows.shape[0]), **more)


def eliminated(problem: mdp.MDP, most: int = 10**9, tool: Any = None) -> Array | None:
    """The values by elimination alone, and only if they take no more operations."""
    values = np.full(problem.S, np.nan, problem.dtype)
    action = np.where(problem._process.is_terminal, -1, 0).astype(np.int32)
    chain, tool = problem._process.model.chain(action), tool or _core.mdp.Elimination()
    discount = problem._process.discount
    assert discount is not None
    return values if tool.solve(chain, discount, None, values, most) else None


SHAPES: dict[str, tuple[int, Callable[[int], list[int]]]] = {
    "one state": (1, lambda s: [0]),
    "two states": (2, lambda s: [0, 1]),
    "chain": (60, lambda s: [max(s - 1, 0), s, min(s + 1, 59)]),
    "band": (70, lambda s: [min(max(s + k, 0), 69) for k in range(-6, 7)]),
    "cycle": (65, lambda s: [(s + 1) % 65]),
    "two cycles": (64, lambda s: [s // 32 * 32 + (s + 1) % 32]),
    "tree": (90, lambda s: [(s - 1) // 2 if s else 0, min(2 * s + 1, 89), min(2 * s + 2, 89)]),
    "star": (400, lambda s: [0, min(s + 1, 399)]),
    "two stars": (500, lambda s: [s % 2, (s + 2) % 500]),
    "dense": (40, lambda s: list(range(40))),
    "random": (80, lambda s: [(7 * s + k * k * 13 + 5) % 80 for k in range(4)]),
    "repeated next states": (50, lambda s: [s, s, (s + 3) % 50, (s + 3) % 50]),
    "loops only": (9, lambda s: [s]),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1 - 1e-7])
def test_values_agree_with_dense_solutions(name: str, gamma: float) -> None:
    P, reward = random_chain(*SHAPES[name]), RNG.standard_normal(SHAPES[name][0])
    problem = problem_of(P, reward, gamma)
    expected = np.linalg.solve(np.eye(problem.S) - gamma * P.toarray(), reward)
    tolerance = 1e-13 * problem.S * np.abs(expected).max() / (1 - gamma)  # the dense solution's error
    for found in (eliminated(problem), problem.evaluate(np.zeros(problem.S, int))):
        assert found is not None and np.abs(found - expected).max() <= tolerance


def exact_values(P: Array, reward: Array, gamma: float) -> list[Fraction]:
    """The values for exactly these floating-point numbers."""
    n = len(P)
    rows = [
        [Fraction(int(i == j)) - Fraction(gamma) * Fraction(P[i, j]) for j in range(n)] + [Fraction(reward[i])]
        for i in range(n)
    ]
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k and rows[i][k] != 0:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n] for row in rows]


@pytest.mark.parametrize("gamma", [0.5, 0.999, 1 - 2.0**-30, 1 - 2.0**-44])
@pytest.mark.parametrize("name", ["two states", "loops only", "chain", "cycle", "dense", "star"])
def test_values_have_small_relative_errors_however_close_gamma_is_to_1(name: str, gamma: float) -> None:
    """Nothing cancels besides rewards, whatever the condition number of 1 - gamma P, which 1 - gamma bounds."""
    n = min(SHAPES[name][0], 7)
    P = random_chain(n, lambda s: [to % n for to in SHAPES[name][1](s)], seed=3).toarray()
    for reward in (RNG.random(n), RNG.standard_normal(n)):
        found = eliminated(problem_of(P, reward, gamma))
        exact, size = exact_values(P, reward, gamma), exact_values(P, np.abs(reward), gamma)
        assert found is not None
        for value, want, most in zip(found, exact, size, strict=True):
            assert abs(Fraction(value) - want) <= 8 * n * Fraction(2) ** -53 * most


def test_a_single_precision_model_is_solved_in_double_precision() -> None:
    P, reward = random_chain(*SHAPES["band"]), RNG.standard_normal(70)
    problem = problem_of(P, reward, 0.9999, "float32", renormalize=True)
    weight, target, entry = problem.transitions
    wide = sparse.csr_array((weight.astype(float), target, entry), shape=(70, 70)).toarray()
    expected = np.linalg.solve(np.eye(70) - 0.9999 * wide, problem.rewards.astype(float))
    found = eliminated(problem)
    assert found is not None and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7 * np.abs(expected).max())


def test_terminal_states_and_discounts_of_rows() -> None:
    P, reward = random_chain(*SHAPES["chain"]), RNG.standard_normal(60)
    ends = np.arange(60) % 17 == 3
    problem = problem_of(P, reward, 0.99, terminal=ends)
    inner = 0.99 * P.toarray() * ~ends
    expected = np.where(ends, 0, np.linalg.solve(np.eye(60) - inner * ~ends[:, None], np.where(ends, 0, reward)))
    gamma = RNG.uniform(0.3, 0.999, 60)
    semi = problem_of(P, reward, gamma)
    pairs = [(problem, expected), (semi, np.linalg.solve(np.eye(60) - gamma[:, None] * P.toarray(), reward))]
    for each, want in pairs:
        np.testing.assert_allclose(eliminated(each), want, rtol=0, atol=1e-11 * np.abs(want).max())
    nothing = problem_of(P, reward, 0.99, terminal=np.ones(60, bool))
    assert np.array_equal(eliminated(nothing), np.zeros(60))


@pytest.mark.parametrize("seed", range(4))
def test_states_without_successors_have_their_rewards(seed: int) -> None:
    """All transitions of such a state are done, which leaves its row without entries."""
    n, gamma = 30 + 20 * seed, 0.95
    rng = np.random.default_rng(seed)
    outcomes = [
        [(0.25, int(rng.integers(n)), float(rng.normal()), bool(rng.random() < 0.8)) for _ in "four"] for _ in range(n)
    ]
    problem = mdp.MDP({s: {0: row} for s, row in enumerate(outcomes)}, gamma=gamma)
    P, reward = np.zeros((n, n)), np.array([sum(p * r for p, _, r, _ in row) for row in outcomes])
    for s, row in enumerate(outcomes):
        for p, to, _, done in row:
            P[s, to] += 0 if done else p
    assert ((P.sum(axis=1) == 0) & (reward != 0)).any()
    expected = np.linalg.solve(np.eye(n) - gamma * P, reward)
    for values in (eliminated(problem), problem.evaluate(np.zeros(n, np.int64))):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13 * np.abs(expected).max() / (1 - gamma))


def test_an_order_is_kept_for_policies_that_it_suits() -> None:
    """Chains in either direction have the same graph; a star does not, and a new order is found."""
    tool = _core.mdp.Elimination()
    n = 2000
    ahead = random_chain(n, lambda s: [s, min(s + 1, n - 1)])
    spent = []
    for P in (ahead, ahead[::-1, ::-1], random_chain(n, lambda s: [0, n - 1, (s * 7) % n]), ahead):
        problem = problem_of(sparse.csr_array(P), 0.5 + RNG.random(n), 0.99)  # values without cancellation
        before = tool.operations()
        found = eliminated(problem, tool=tool)
        spent.append(tool.operations() - before)
        np.testing.assert_allclose(found, eliminated(problem), rtol=1e-12)
    assert spent[1] < spent[0] / 2 and spent[2] > spent[1]


@pytest.mark.parametrize("name", ["chain", "tree", "star"])
def test_operations_grow_with_the_number_of_states(name: str) -> None:
    spent = []
    for n in (1000, 4000):
        tool = _core.mdp.Elimination()
        nexts: dict[str, Callable[[int], list[int]]] = {
            "chain": lambda s, n=n: [max(s - 1, 0), min(s + 1, n - 1)],
            "tree": lambda s, n=n: [(s - 1) // 2 if s else 0, min(2 * s + 1, n - 1)],
            "star": lambda s, n=n: [0, min(s + 1, n - 1)],
        }
        rng = np.random.default_rng(n)
        place = rng.permutation(n)
        s = np.repeat(np.arange(n), 2)
        to = np.concatenate([nexts[name](int(each)) for each in range(n)])
        P = sparse.csr_array((np.full(2 * n, 0.5), (place[s], place[to])), shape=(n, n))
        P.sum_duplicates()
        assert eliminated(problem_of(P, rng.random(n), 0.9), tool=tool) is not None
        spent.append(tool.operations())
    assert spent[1] < 5 * spent[0] and spent[1] < 1000 * 4000


def test_elimination_ends_within_its_budget() -> None:
    """Random graphs fill in: most of the budget is not even needed to see that it is too small."""
    rng, n = np.random.default_rng(5), 3000
    P = random_chain(n, lambda s: list(rng.integers(0, n, 5)))
    problem, tool = problem_of(P, rng.random(n), 0.9), _core.mdp.Elimination()
    for most in (0, 10**4, 10**6, 10**7):
        before = tool.operations()
        assert eliminated(problem, most, tool) is None
        assert tool.operations() - before <= most + 8 * len(problem._process.rows.next)
    before = tool.operations()
    assert eliminated(problem, 10**7, tool) is None  # as before, which is remembered
    assert tool.operations() == before


def test_evaluate_uses_it_where_krylov_methods_fail() -> None:
    n, gamma = 3000, 1 - 1e-9
    cycle = sparse.csr_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    reward = RNG.standard_normal(n)
    problem = problem_of(cycle, reward, gamma)
    found = problem.evaluate(np.zeros(n, int))
    first = float(np.sum(gamma ** np.arange(n) * reward) / -np.expm1(n * np.log(gamma)))
    assert found[0] == pytest.approx(first, rel=1e-6)
    assert np.abs(reward + gamma * np.roll(found, -1) - found).max() <= n * 2.0**-53 * np.abs(found).max()
