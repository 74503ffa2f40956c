"""Deflation of the dominant eigenvectors of a chain: the equations, the rates, and the numbers of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter import ConvergenceError, mdp
from fastiter.mdp import examples, reference
from fastiter.mdp._solvers.krylov import Chain, deflated, dominant

ROTATION = np.roll(np.eye(3), 1, axis=1)


def islands(parts: int, size: int, leaves: float, dtype: str = "float64") -> Any:
    """Return a chain of islands that a step leaves with a small probability: ``parts`` eigenvalues near 1."""
    rng = np.random.default_rng(parts)
    weights = rng.random((parts * size, parts * size))
    island = np.arange(parts * size) // size
    coupling = leaves * 4.0 ** np.maximum(island[:, None], island)  # each island is left more often than the last
    weights = (weights + weights.T) * np.where(island[:, None] == island, 1, coupling)
    P = (weights / weights.sum(1, keepdims=True)).astype(dtype)  # reversible, so that all eigenvalues are real
    return P / P.sum(1, keepdims=True, dtype=dtype), rng.random(parts * size).astype(dtype)


def pairs_in_cycles(_: int = 0) -> Any:
    """Return a chain with conjugate eigenvalues of modulus 0.9: a slowly damped rotation."""
    mixed = 0.9 * np.kron(np.eye(4), ROTATION) + 0.1 * np.full((12, 12), 1 / 12)
    mixed = 0.8 * mixed + 0.2 * islands(2, 6, 0.1)[0]
    return mixed, np.random.default_rng(5).random(12)


def chain_of(P: Any, reward: Any, gamma: float) -> Chain:
    problem = mdp.MDP(P[:, None], reward[:, None], gamma)
    return Chain(problem._process.model.chain(np.zeros(len(P), np.int32)), gamma, reward, modulus=gamma)


MADE: list[tuple[Any, int]] = [(islands, k) for k in (0, 1, 2, 3, 5)] + [(pairs_in_cycles, k) for k in (4, 5)]


@pytest.mark.parametrize(("make", "rank"), MADE)
def test_sweeps_are_those_of_the_equations(make: Any, rank: int) -> None:
    P, r = make(3, 7, 5e-3) if make is islands else make()
    chain = chain_of(P, r, 0.99)
    U, B = dominant(chain, r, rank)
    np.testing.assert_allclose(P @ U, U @ B, rtol=0, atol=1e-9)
    assert U.shape == (len(P), rank if make is islands else 5)  # a conjugate pair is not split
    np.testing.assert_allclose(U.T @ U, np.eye(U.shape[1]), rtol=0, atol=1e-12)
    expected_U, expected_B = reference.dominant(P, rank)
    np.testing.assert_allclose(U @ B @ U.T, expected_U @ expected_B @ expected_U.T, rtol=0, atol=1e-8)
    for sweeps in (1, 2, 7):
        expected = reference.deflated_sweeps(P, r, 0.99, np.zeros(len(r)), rank, sweeps)
        np.testing.assert_allclose(deflated(chain, np.zeros(len(r)), rank, sweeps), expected, rtol=0, atol=1e-6)
    exact = reference.policy_values(P[:, None], r[:, None], 0.99, np.zeros(len(r), int))
    np.testing.assert_allclose(deflated(chain, np.zeros(len(r)), rank), exact, rtol=1e-12)


def test_one_eigenvector_is_the_constant() -> None:
    """Its deflation is like the midpoint of MacQueen's bounds, with the mean in place of the midpoint."""
    P, r = islands(2, 5, 0.3)
    chain, v = chain_of(P, r, 0.9), np.random.default_rng(1).random(10)
    w = r + 0.9 * P @ v
    np.testing.assert_allclose(deflated(chain, v, 1, 1), w + 0.9 / (1 - 0.9) * (w - v).mean(), rtol=1e-12)


def test_rates_are_those_of_the_next_eigenvalue() -> None:
    """gamma |lambda_(s + 1)| for s deflated eigenvectors, as in the equations with E = sum of lambda u v^T."""
    P, r = islands(4, 8, 1e-3)
    gamma, exact = 0.999, reference.policy_values(P[:, None], r[:, None], 0.999, np.zeros(32, int))
    sizes = np.sort(np.abs(np.linalg.eigvals(P)))[::-1]
    assert (sizes[:4] > 0.75).all() and sizes[4] < 0.3
    values, right = np.linalg.eig(P)
    left = np.linalg.inv(right)
    order = np.argsort(-np.abs(values))
    chain = chain_of(P, r, gamma)
    for rank, counts in enumerate(((100, 150), (150, 200), (150, 200), (40, 60), (4, 8))):
        E = np.real(right[:, order[:rank]] * values[order[:rank]] @ left[order[:rank]])
        errors, own = [], []
        for k in counts:
            v = np.zeros(32)
            for _ in range(k):
                v = np.linalg.solve(np.eye(32) - gamma * E, r + gamma * (P - E) @ v)
            errors.append(np.abs(v - exact).max())
            own.append(np.abs(deflated(chain, np.zeros(32), rank, k) - exact).max())
        expected = (gamma * sizes[rank]) ** (counts[1] - counts[0])
        assert own[1] / own[0] == pytest.approx(expected, rel=0.1 if rank < 4 else 0.5)
        assert errors[1] / errors[0] == pytest.approx(expected, rel=0.1 if rank < 4 else 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [0, 1, 3, 21])
def test_values_of_a_policy(rank: int, dtype: str) -> None:
    P, r = islands(3, 7, 5e-3, dtype)
    problem = mdp.MDP(np.stack([P, P[::-1]], 1), np.stack([r, -r], 1), 0.95)
    policy = np.random.default_rng(2).integers(0, 2, 21)
    found = problem.evaluate(policy, rank=rank)
    exact = reference.policy_values(np.stack([P, P[::-1]], 1), np.stack([r, -r], 1), 0.95, policy)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, rtol=0, atol=200 * np.finfo(dtype).eps * np.abs(exact).max() / (1 - 0.95))
    again = mdp.MDP(np.stack([P, P[::-1]], 1), -np.stack([r, -r], 1), 0.95, sense="min").evaluate(policy, rank=rank)
    assert np.array_equal(-again, found)
    batch = mdp.MDPBatch(problem, R=np.stack([problem.rewards, 2 * problem.rewards]))
    assert np.array_equal(batch.evaluate(policy, rank=rank)[0], found)


def test_terminal_states_semi_markov_and_tiny_processes() -> None:
    P, r = islands(2, 4, 0.1)
    ended = mdp.MDP(P[:, None], r[:, None], 0.98, terminal=[3])
    semi = mdp.MDP(P[:, None], r[:, None], np.linspace(0.5, 0.99, 8))
    for problem in (ended, semi, mdp.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), 0.5), examples.garnet(2, 1, 2, 0.0)):
        policy = np.zeros(problem.S, int)
        for rank in range(problem.S + 1):
            found = problem.evaluate(policy, rank=rank)
            np.testing.assert_allclose(found, problem.evaluate(policy), rtol=1e-11, atol=0)


def test_krylov_spaces_that_end_early() -> None:
    """P 1 = 1 for the first vector of a block: the remainder of a product is rounding error, and parallel to it."""
    cycle, steps = np.roll(np.eye(30), 1, axis=1), np.eye(12) / 2
    steps[np.arange(12), np.minimum(np.arange(12) + 1, 11)] += 0.5  # one defective eigenvalue
    for P in (cycle, steps, np.eye(20), np.full((20, 20), 0.05)):
        r = np.random.default_rng(3).standard_normal(len(P))
        exact = reference.policy_values(P[:, None], r[:, None], 0.99, np.zeros(len(r), int))
        for rank in range(7):
            U, _ = dominant(chain_of(P, r, 0.99), r, rank)
            np.testing.assert_allclose(U.T @ U, np.eye(U.shape[1]), rtol=0, atol=1e-12)
            found = mdp.MDP(P[:, None], r[:, None], 0.99).evaluate(np.zeros(len(r), int), rank=rank)
            np.testing.assert_allclose(found, exact, rtol=1e-11, atol=1e-11)


def test_numbers_of_the_reference() -> None:
    """Rank one: 30 sweeps instead of 340 on a Garnet, error 8e-9; no gain on a grid with an absorbing goal."""
    problem = examples.garnet(1000, 10, 5, 0.95)
    exact = problem.solve("pi", atol=1e-9)
    for stop in ("span", "sup"):  # the sup norm includes the deflated part of the values
        found = problem.solve("deflated", stop=stop, value0=np.zeros(1000))  # type: ignore[arg-type]
        assert found.steps == 30 and np.abs(found.value - exact.value).max() <= 5e-7
    v, w = np.zeros(1000), np.empty(1000)
    shift, sweeps, change = 0.0, 0, np.inf  # W <- T W - gamma mean(W); V = W + gamma / (1 - gamma) mean(W)
    while change >= 1e-6 * 0.05 / (2 * 0.95):
        problem._process.model.backup(v, w, None, 1, 0.95, None)
        w -= 0.95 * v.mean()
        change, sweeps = float(np.abs(w - v).max()), sweeps + 1
        v, w = w, v
    shift = 0.95 / 0.05 * v.mean()
    assert sweeps == 30 and np.abs(v + shift - exact.value).max() == pytest.approx(8e-9, rel=0.1)
    grid = examples.gridworld(50, 0.99)
    zeros = np.zeros(2500)
    plain, without = (grid.solve(name, stop="sup", value0=zeros) for name in ("vi", "deflated"))
    assert plain.steps == without.steps == 176


def test_wrong_ranks() -> None:
    problem = examples.forest(3, 0.9)
    for rank, error, message in (
        (-1, ValueError, "evaluate: rank must be at least 0, got -1"),
        (4, ValueError, "evaluate: rank must be at most 3, got 4"),
        (1.0, TypeError, "evaluate: rank must be an int, got float"),
    ):
        with pytest.raises(error, match=f"^{message}$"):
            problem.evaluate([0, 0, 0], rank=rank)  # type: ignore[arg-type]
    cycle = mdp.MDP(np.roll(np.eye(400), 1, axis=1)[:, None], np.arange(400.0), 1 - 1e-9)
    with pytest.raises(ConvergenceError, match=r"^evaluate: the residual of a policy's values must vanish, got "):
        cycle.evaluate(np.zeros(400, int), rank=2)
