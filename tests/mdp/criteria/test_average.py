"""Average rewards, optimistic ones and finite horizons against enumeration of all policies and known values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

import fastiter
from fastiter import mdp
from fastiter.mdp import MDP, average, examples, extended_value_iteration, finite_horizon
from fastiter.mdp._process import has_one_class
from tests.mdp.cases import mdp_of, random_process
from tests.support.error_cases import assert_named


def best_by_enumeration(P: np.ndarray, R: np.ndarray, time: Any = None) -> float:
    """Return the largest gain of all deterministic policies, from their stationary distributions."""
    S, A = R.shape
    best = -np.inf
    for policy in itertools.product(range(A), repeat=S):
        chosen = np.arange(S), np.array(policy)
        system = np.vstack([np.eye(S) - P[chosen].T, np.ones(S)])
        share = np.linalg.lstsq(system, np.append(np.zeros(S), 1.0), rcond=None)[0]
        length = 1.0 if time is None else share @ time[chosen]
        best = max(best, float(share @ R[chosen] / length))
    return best


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["rvi", "howard"])
def test_the_best_gain_of_all_policies(method: Any, dtype: str) -> None:
    tol = 1e-8 if dtype == "float64" else 1e-4
    for seed in range(4):
        P, R = random_process(5, 2, 90 + seed, unequal=False)
        P = 0.9 * P + 0.02  # one recurrent class
        problem = mdp_of(P, R, None, dtype)
        found = average(problem, method, atol=tol)
        expected = best_by_enumeration(P, R)
        low, high = found.gain_bounds
        assert low - 1e-6 <= expected <= high + 1e-6 and abs(found.gain - expected) <= tol
        h = found.value.astype(float)
        change = (R + P @ h).max(axis=1) - h
        assert np.ptp(change) <= 2 * tol and found.converged and h[0] == 0
        again = average(problem, value0=found.value, atol=10 * tol)
        assert again.steps == 1
        costs = average(mdp_of(P, -R, None, dtype, sense="min"), method, atol=tol)
        assert costs.gain == pytest.approx(-found.gain, abs=tol) and costs.gain_bounds[0] <= costs.gain


def test_semi_markov_gains_are_per_unit_of_time() -> None:
    for seed in range(3):
        P, R = random_process(5, 2, 95 + seed, unequal=False)
        P = 0.9 * P + 0.02
        time = np.random.default_rng(seed).uniform(0.2, 3, R.shape)
        for method in ("rvi", "howard"):
            found = average(mdp_of(P, R, None), method, sojourn=time.reshape(-1), atol=1e-10)
            assert found.gain == pytest.approx(best_by_enumeration(P, R, time), abs=1e-9)
            h = found.value
            assert np.ptp((R - found.gain * time + P @ h).max(axis=1) - h) < 1e-8


def test_known_gains() -> None:
    forest = average(examples.forest(3, None), atol=1e-10)
    assert forest.gain == pytest.approx(3.24, abs=1e-12) and forest.policy.tolist() == [0, 0, 0]
    river = examples.riverswim(6)
    steps = []
    for tau in (1.0, 0.9, 0.5):
        found = average(river, tau=tau, atol=1e-10)
        assert found.gain == pytest.approx(0.428622434, abs=5e-10) and found.policy.tolist() == [1] * 6
        assert np.ptp(found.value) == pytest.approx(6.3103243, abs=5e-8)
        steps.append(found.steps)
    assert steps[:2] == [113, 126] and 226 <= steps[2] <= 240
    howard = average(river, "howard", atol=1e-10)
    assert howard.gain == pytest.approx(found.gain, abs=1e-10) and howard.steps <= 8


@pytest.mark.parametrize(("method", "sense"), [("rvi", "max"), ("rvi", "min"), ("howard", "min"), ("evi", "max")])
def test_a_callback_sees_the_solution_and_may_end_it(method: Any, sense: Any) -> None:
    river, sign = examples.riverswim(20), -1 if sense == "min" else 1
    P = np.zeros((20, 2, 20))
    weights, to, rows = river.transitions
    np.add.at(P.reshape(40, 20), (np.repeat(np.arange(40), np.diff(rows)), to), weights)
    problem = MDP(P, sign * river.rewards.reshape(20, 2), sense=sense)

    def solve(**how: Any) -> Any:
        if method == "evi":
            return extended_value_iteration(problem, 0.1, **how)
        return average(problem, method, **how)

    found, seen = solve(), list[fastiter.Progress]()
    again = solve(callback=seen.append)
    assert np.array_equal(found.value, again.value) and (found.steps, found.gain) == (again.steps, again.gain)
    ended = solve(callback=lambda progress: seen.append(progress) or True)
    last = seen[-1]
    assert ended.reason == "callback" and not ended.converged and ended.steps == last.steps < found.steps
    assert np.array_equal(ended.value, last.value) and ended.gain_bounds == last.gain_bounds
    assert ended.residual == last.residual == last.gain_bounds[1] - last.gain_bounds[0] > last.tolerance


def test_a_periodic_chain_needs_tau() -> None:
    cycle = MDP([np.eye(2)[::-1].copy()], np.array([1.0, 0.0]), None)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"got 1 after 50 steps \('max_steps'\); try tau=0.5"):
        assert average(cycle, max_steps=50).gain_bounds == pytest.approx((0, 1), abs=1e-12)
    found = average(cycle, tau=0.5)
    assert (found.gain, found.steps) == (0.5, 2) and average(cycle, "howard").gain == pytest.approx(0.5, abs=1e-12)
    with pytest.raises(fastiter.ConvergenceError):
        average(cycle, max_steps=50, throw=True)


def gains_of_states(P: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return the largest gain from each state, by enumeration of policies and long averages of aperiodic chains."""
    S, A = R.shape
    best = np.full(S, -np.inf)
    for policy in itertools.product(range(A), repeat=S):
        chosen = np.arange(S), np.array(policy)
        limit = (P[chosen] + np.eye(S)) / 2
        for _ in range(40):
            limit = limit @ limit
            limit /= limit.sum(axis=1, keepdims=True)
        best = np.maximum(best, limit @ R[chosen])
    return best


def with_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a process with two classes that no action leaves, and transient states in between."""
    rng = np.random.default_rng(seed)
    P = np.zeros((6, 2, 6))
    for own in (slice(0, 2), slice(4, 6)):
        P[own, :, own] = rng.dirichlet(np.ones(2), (2, 2))
    P[2:4] = rng.dirichlet(np.ones(6), (2, 2))
    R = rng.uniform(-1, 3, (6, 2))
    R[4:] -= 2
    order = rng.permutation(6)
    return P[order][:, :, order], R[order]


@pytest.mark.parametrize("method", ["rvi", "howard"])
@pytest.mark.parametrize("seed", range(5))
def test_several_recurrent_classes_are_named(seed: int, method: Any) -> None:
    P, R = with_classes(seed)
    gains, problem = gains_of_states(P, R), mdp_of(P, R, None)
    with pytest.warns(
        fastiter.ConvergenceWarning, match="average: each policy must have one recurrent class, got several"
    ):
        found = average(problem, method, max_steps=300)
    low, high = found.gain_bounds
    assert found.reason == "stagnated" and found.multichain and low - 1e-9 <= gains.min() < gains.max() <= high + 1e-9
    assert R.max(axis=1).min() - 1e-9 <= low and high <= R.max() + 1e-9
    with pytest.raises(fastiter.ConvergenceError, match="average: each policy must have one recurrent class"):
        average(problem, method, max_steps=300, throw=True)


def test_classes_with_equal_gains_are_solved() -> None:
    """A policy's equations then have a solution, and one that is not the best has several classes."""
    stay, go = np.eye(3), np.roll(np.eye(3), 1, axis=1)
    problem = MDP([stay, go], np.array([[0.5, 0.0], [0.5, 3.0], [0.5, 0.0]]), None)
    found = average(problem, "howard")
    assert found.converged and found.gain == pytest.approx(1.0) and found.policy.tolist() == [1, 1, 1]
    different = MDP([stay, go], np.array([[0.0, -1.0], [1.0, 0.0], [0.0, -1.0]]), None)
    with pytest.warns(fastiter.ConvergenceWarning, match="got several after 0 steps; method='rvi' only needs one gain"):
        average(different, "howard")
    assert average(different).gain == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_recurrent_classes_are_counted_as_by_powers_of_the_chain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    S = int(rng.integers(1, 9))
    P = (rng.random((S, 1, S)) < 0.2) * 1.0
    P[np.arange(S), 0, rng.integers(0, S, S)] = 1
    P /= P.sum(axis=2, keepdims=True)
    limit = np.linalg.matrix_power((P[:, 0] + np.eye(S)) / 2, 2**12)
    classes = round(np.linalg.matrix_rank(limit, tol=1e-6))
    rows = mdp_of(P, np.zeros((S, 1)), None)._process.rows
    assert has_one_class(rows, np.zeros(S, np.int32)) is (classes == 1)


def test_the_gain_of_a_long_cycle() -> None:
    """BiCGSTAB would need as many products as the cycle has states, and fails earlier."""
    cycle = MDP([np.roll(np.eye(300), 1, axis=1)], np.arange(300.0), None)
    found = average(cycle, "howard", atol=1e-8)
    assert found.converged and found.gain == pytest.approx(149.5, abs=1e-8)


def test_optimism() -> None:
    river, truth = examples.riverswim(6), 0.428622434
    gains = [extended_value_iteration(river, radius, atol=1e-8).gain for radius in (0, 0.1, 0.2, 0.5)]
    assert gains == pytest.approx([truth, 0.53333, 0.6, 0.8], abs=5e-6)
    assert extended_value_iteration(river, 0.0, 0.1, atol=1e-8).gain > truth
    assert extended_value_iteration(river, 2.0, 5.0).gain == pytest.approx(1.0)  # the largest reward that is possible
    forest = extended_value_iteration(examples.forest(3, None), 0.0, largest_reward=4.0, atol=1e-8)
    assert forest.gain == pytest.approx(3.24, abs=1e-8)
    wide = np.full(river.rows, 0.1)
    assert extended_value_iteration(river, wide, atol=1e-8).gain == gains[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_finite_horizons(dtype: str) -> None:
    H, steps = 4, [random_process(7, 3, 100 + h) for h in range(4)]
    last = np.random.default_rng(101).standard_normal(7).astype(dtype)
    found = finite_horizon([mdp_of(P, R, None, dtype) for P, R in steps], value=last)
    v = last.astype(float)
    for h in range(H - 1, -1, -1):
        P, R = steps[h]
        q = R + P @ v
        v = q.max(axis=1)
        np.testing.assert_allclose(found.value[h], v, rtol=0, atol=1e-12 if dtype == "float64" else 1e-5)
        assert np.array_equal(found.policy[h], q.argmax(axis=1))
    assert found.value.shape == (H + 1, 7) and found.policy.shape == (H, 7) and np.array_equal(found.value[H], last)


def test_one_process_for_all_steps() -> None:
    P, R = random_process(7, 3, 102, unequal=False)
    long = finite_horizon(mdp_of(P, R, 0.8), 80)
    np.testing.assert_allclose(long.value[0], mdp_of(P, R, 0.8).solve(atol=1e-9).value, rtol=0, atol=1e-6)
    costs = finite_horizon(mdp_of(P, -R, 0.8, sense="min"), 80)
    assert np.array_equal(costs.value, -long.value) and np.array_equal(costs.policy, long.policy)


def test_terminal_states_are_those_of_the_last_step() -> None:
    P, R = random_process(4, 2, 103, unequal=False)
    last = np.arange(1.0, 5)
    found = finite_horizon([mdp_of(P, R, None, terminal=[0]), mdp_of(P, R, None)], value=last)
    assert np.array_equal(found.value[2], last)
    v = np.max(R + P @ last, axis=1)
    np.testing.assert_allclose(found.value[1], v, rtol=0, atol=1e-14)
    before = np.max(R + P @ v, axis=1)
    np.testing.assert_allclose(found.value[0], [0, *before[1:]], rtol=0, atol=1e-14)


RIVER = examples.riverswim(6)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: average(RIVER, "vi"), ValueError, "average: method"),
    (lambda: average(1), TypeError, "average: problem"),
    (lambda: average(examples.gridworld(3, 1.0)), ValueError, "average: problem"),
    (lambda: average(RIVER, tau=1.5), ValueError, "average: tau"),
    (lambda: average(RIVER, sojourn=np.ones(3)), ValueError, "average: sojourn"),
    (lambda: average(RIVER, sojourn=np.zeros(12)), ValueError, "average: sojourn"),
    (lambda: average(RIVER, value0=np.ones(2)), ValueError, "average: value0"),
    (lambda: extended_value_iteration(RIVER, -1.0), ValueError, "extended_value_iteration: probability_radius"),
    (lambda: extended_value_iteration(RIVER, np.ones(3)), ValueError, "extended_value_iteration: probability_radius"),
    (
        lambda: extended_value_iteration(examples.forest(3, None), 0.1),
        ValueError,
        "extended_value_iteration: largest_reward",
    ),
    (
        lambda: extended_value_iteration(RIVER, 0.1, largest_reward=np.nan),
        ValueError,
        "extended_value_iteration: largest_reward",
    ),
    (
        lambda: extended_value_iteration(RIVER, 0.1, largest_reward="1"),
        TypeError,
        "extended_value_iteration: largest_reward",
    ),
    (lambda: finite_horizon(RIVER), TypeError, "finite_horizon: horizon"),
    (lambda: finite_horizon([]), TypeError, "finite_horizon: problem"),
    (lambda: finite_horizon([RIVER], 2), TypeError, "finite_horizon: horizon"),
    (lambda: finite_horizon([RIVER, examples.riverswim(5)]), ValueError, "finite_horizon: problem"),
    (lambda: finite_horizon(RIVER, 0), ValueError, "finite_horizon: horizon"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)


def test_names() -> None:
    assert isinstance(average(RIVER), mdp.AverageSolution) and repr(average(RIVER)).startswith("AverageSolution(rvi, ")
