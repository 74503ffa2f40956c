"""Solvers against a linear program and known values: bounds that hold, policies, stops, warm starts, failures."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import sparse

import fastiter
from fastiter import mdp
from fastiter.mdp import MDP, examples, reference
from fastiter.mdp._solvers import krylov
from tests.mdp.cases import linear_program, mdp_of, random_process
from tests.support.pairs import pairs

ITERATIVE = ("vi", "gs", "ps", "mpi", "ipi", "anderson", "anchored", "deflated")
GARNET = functools.lru_cache(examples.garnet)


@pytest.mark.parametrize("seed", range(20))
def test_all_methods_agree_with_the_linear_program(seed: int) -> None:
    P, R = random_process(5 + 2 * seed, 4, seed)
    gamma = 0.3 + 0.035 * seed
    expected = linear_program(P, R, gamma)
    value, policy = reference.policy_iteration(P, R, gamma)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-8)
    problem = mdp_of(P, R, gamma)
    for method in ("pi", *ITERATIVE):
        found = problem.solve(method, atol=1e-9)
        assert found.converged and found.residual < 1e-9 and found.method == method
        np.testing.assert_allclose(found.value, value, rtol=0, atol=6e-10)
        assert (found.lower <= value + 1e-12).all() and (value - 1e-12 <= found.upper).all()
        np.testing.assert_allclose(problem.evaluate(found.policy), value, rtol=0, atol=1e-9)
        if method == "pi":
            assert np.array_equal(found.policy, policy)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["vi", "gs", "mpi", "anchored"])
def test_bounds_hold_from_the_first_sweep_on(method: Any, dtype: str) -> None:
    """Also for initial values far from the solution, and with the rounding of float32."""
    P, R = random_process(30, 3, 40)
    problem = mdp_of(P, R, 0.97, dtype)
    value = _fixed_point(problem)
    start = 1e3 * np.random.default_rng(41).standard_normal(30).astype(dtype)
    for steps in (1, 2, 5, 30, 300):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
            found = problem.solve(method, atol=1e-12, max_steps=steps, value0=start)
        assert (found.lower <= value).all() and (value <= found.upper).all()


def _fixed_point(problem: mdp.MDP) -> np.ndarray:
    """Return the values in extended precision, for the weights as they are stored, which may not sum to 1."""
    weight, target, entry = problem.transitions
    v = np.zeros(problem.S, np.longdouble)
    weight, reward = (x.astype(np.longdouble) for x in (weight, problem.rewards))
    for _ in range(2000):
        q = reward + np.longdouble(problem._process.discount) * np.add.reduceat(weight * v[target], entry[:-1])
        v = np.maximum.reduceat(q, problem.row_starts[:-1])
    return v


def test_known_values() -> None:
    forest = examples.forest(3, 0.9).solve(atol=1e-10)
    np.testing.assert_allclose(forest.value, [26.244, 29.484, 33.484], atol=1e-9)
    assert forest.policy.tolist() == [0, 0, 0]
    np.testing.assert_allclose(examples.forest(3, 0.96).solve(atol=1e-9).value, [74.6496, 78.1056, 82.1056], atol=1e-8)
    grids = {
        (20, 0.99): -37.105500396,
        (20, 0.999): -45.197423762,
        (50, 0.99): -69.961170824,
        (50, 0.999): -113.044619877,
    }
    for (n, gamma), value in grids.items():
        assert examples.gridworld(n, gamma).solve(atol=1e-9).value[0] == pytest.approx(value, abs=1e-8)
    assert examples.gridworld(20, 0.99).solve("pi", atol=1e-9).value[0] == pytest.approx(-37.105500396, abs=1e-8)
    shortest = examples.gridworld(100, 1.0).solve(atol=1e-8)
    assert shortest.value[0] == pytest.approx(-243.457262, abs=1e-6) and shortest.method == "gs"
    assert shortest.policy[-1] == -1 and shortest.value[-1] == 0


def test_the_span_stop_with_the_shift() -> None:
    """340 sweeps by the sup norm, 30 by the span; without MacQueen's shift the values are off by 3.95."""
    problem = GARNET(1000, 10, 5, 0.95)
    exact = problem.solve("pi", atol=1e-9)
    assert exact.value[0] == pytest.approx(18.487301325417, abs=1e-11)
    assert exact.value.mean() == pytest.approx(18.386472432966, abs=1e-11)
    assert exact.policy.sum() == 4376 and exact.steps <= 5
    zeros = np.zeros(1000)
    sup, span = problem.solve("vi", stop="sup", value0=zeros), problem.solve("vi", value0=zeros)
    assert (sup.steps, span.steps, problem.solve("deflated").steps) == (340, 30, 30)
    for found in (sup, span):
        assert np.abs(found.value - exact.value).max() <= found.tolerance / 2
    assert np.abs(span.value - exact.value).max() == pytest.approx(4.7e-8, rel=0.02)
    v, w = np.zeros((2, 1000))
    problem._process.model.backup(v, w, None, 30, 0.95, None)
    assert np.abs(v - exact.value).max() == pytest.approx(3.95, abs=0.01)


def test_orders_of_sweeps_and_the_heap() -> None:
    """A good order needs fewer sweeps than prioritized sweeping, which needs fewer than value iteration."""
    problem = examples.gridworld(20, 0.95, reward=0.0, goal=1.0)
    steps = {"vi": problem.solve("vi", stop="sup").steps}
    orders: dict[str, Any] = {name: name for name in ("ascending", "descending", "symmetric", "bfs")}
    orders["array"] = np.arange(400)[::-1]
    for name, order in orders.items():
        found = problem.solve("gs", stop="sup", order=order, exact_diag=False)
        assert found.value[0] == pytest.approx(0.1006946507, abs=5e-7)
        steps[name] = found.steps - 1  # without the last one, which is for the bounds
    assert (steps["vi"], steps["ascending"], steps["bfs"]) == (78, 61, 24)
    assert steps["array"] == steps["descending"] <= 25 and steps["symmetric"] < 61
    assert problem.solve("ps").value[0] == pytest.approx(0.1006946507, abs=5e-7)
    assert problem.solve("gs", omega=1.5).converged and problem.solve("gs", omega=0.8).converged


def test_the_first_values_are_a_lower_bound() -> None:
    """From these values, a sweep outwards from the goal is nearly exact far away, where a step costs 1 for ever."""
    problem = examples.gridworld(40, 0.9)
    near, far = problem.solve("gs"), problem.solve("gs", value0=np.zeros(1600))
    assert near.steps < 0.8 * far.steps
    seen: list[np.ndarray] = []
    examples.gridworld(5, 0.9).solve("vi", callback=lambda progress: seen.append(progress.value))
    assert seen[0][0] == pytest.approx(-10) and seen[0][24] == pytest.approx(-9)  # T of -10 everywhere


def test_acceleration() -> None:
    problem = GARNET(1000, 10, 5, 0.99)
    zeros = np.zeros(1000)
    plain, fast = (problem.solve(name, stop="sup", value0=zeros) for name in ("vi", "anderson"))
    assert plain.steps == 1894 and fast.steps <= 80
    np.testing.assert_allclose(fast.value, plain.value, rtol=0, atol=1e-6)


def test_anchored_iteration_stays_below_its_certificate() -> None:
    gamma, problem = 0.95, GARNET(1000, 10, 5, 0.95)
    distance = max(abs(float(x)) for x in (problem.solve("pi", atol=1e-9).value.max(), _anti_optimal(problem)))
    errors: list[float] = []
    values: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        problem.solve(
            "anchored",
            max_steps=201,
            atol=1e-12,
            value0=np.zeros(1000),
            callback=lambda progress: values.append(progress.value),
        )
    for k, Tv in enumerate(values):  # T v_k; v_k is a combination of the start, 0, and T v_(k-1)
        beta = 1 / sum(gamma ** (-2 * i) for i in range(k + 1))
        v = (1 - beta) * values[k - 1] if k else np.zeros(1000)
        bound = (1 / gamma - gamma) * (1 + 2 * gamma - gamma ** (k + 1)) / (gamma ** -(k + 1) - gamma ** (k + 1))
        errors.append(float(np.abs(Tv - v).max()))
        assert errors[-1] <= 0.343 * bound * distance
    assert [errors[k] for k in (10, 50, 200)] == pytest.approx([0.693, 0.129, 6.29e-5], rel=0.005)


def _anti_optimal(problem: mdp.MDP) -> float:
    rows = problem._process.rows._replace(reward=-problem.rewards)
    return float(-mdp.MDP._of(rows, 0.95).solve("pi", atol=1e-9).value.min())


def test_automatic_choices_and_warm_starts() -> None:
    assert examples.gridworld(60, 0.99).solve().method == "gs"
    assert GARNET(1000, 10, 5, 0.95).solve().method == "mpi"
    slow = GARNET(1000, 10, 5, 0.999)
    cold = slow.solve(atol=1e-7)
    assert cold.method == "mpi" and cold.steps <= 16
    warm = slow.solve("vi", value0=cold.value)
    assert warm.steps == 1 and np.abs(warm.value - cold.value).max() < 1e-6


def test_costs_are_rewards_with_the_other_sign() -> None:
    P, R = random_process(12, 3, 50, unequal=False)
    most, least = mdp_of(P, -R, 0.9).solve(atol=1e-9), mdp_of(P, R, 0.9, sense="min").solve(atol=1e-9)
    for one, other in ((most.value, -least.value), (most.lower, -least.upper), (most.upper, -least.lower)):
        assert np.array_equal(one, other)
    assert np.array_equal(most.policy, least.policy)
    problem = mdp_of(P, R, 0.9, sense="min")
    again = problem.solve(atol=1e-9, value0=least.value)
    assert again.steps == 1 and np.array_equal(problem.rewards, mdp_of(P, R, 0.9).rewards)
    assert problem.action_values(least.value).reshape(12, 3).min(axis=1) == pytest.approx(least.value, abs=1e-8)


def test_semi_markov_processes() -> None:
    """A discount for each row; the modulus is the largest."""
    P, R = random_process(15, 3, 51, unequal=False)
    gamma = np.random.default_rng(52).uniform(0.2, 0.95, 45)
    problem = mdp_of(P, R, gamma)
    expected = linear_program(P * gamma.reshape(15, 3, 1), R, 1.0)
    for method in ("pi", "vi", "gs", "ps", "mpi", "ipi"):
        found = problem.solve(method, atol=1e-9)
        np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-8)
        assert (found.lower <= expected + 1e-8).all() and (expected - 1e-8 <= found.upper).all()
    assert problem.gamma == pytest.approx(gamma.max(), rel=1e-12)


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "mpi", "pi", "ipi", "anderson", "anchored"])
def test_terminal_states(method: Any) -> None:
    """Their rows are ignored, and bounds hold although constants do not pass through them."""
    P, R = random_process(14, 3, 53)
    terminal = np.array([2, 9])
    ended = R.copy()
    ended[terminal] = -np.inf
    expected, _ = reference.policy_iteration(P, ended, 0.95)
    found = mdp_of(P, R, 0.95, terminal=terminal).solve(method, atol=1e-9)
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-9)
    assert (found.policy[terminal] == -1).all() and (found.lower[terminal] == 0).all()
    assert (found.lower <= expected + 1e-12).all() and (expected - 1e-12 <= found.upper).all()


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "mpi", "auto"])
def test_shortest_paths(method: Any) -> None:
    """At gamma 1, bounds are relative to the cost of a step."""
    problem = examples.gridworld(15, 1.0)
    found = problem.solve(method, atol=1e-10)
    weight, target, entry = problem.transitions
    P = np.zeros((225, 4, 225))
    np.add.at(P.reshape(900, 225), (np.repeat(np.arange(len(entry) - 1), np.diff(entry)), target), weight)
    R = np.where(np.arange(225)[:, None] < 224, -1.0, 0.0) + np.zeros(4)
    expected = linear_program(P, R, 1.0)
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-8)
    assert found.converged and (found.lower <= found.value).all() and (found.value <= found.upper).all()
    assert (found.lower <= expected + 1e-9).all() and (expected - 1e-9 <= found.upper).all()
    assert (found.upper - found.lower).max() < 1e-6


def test_one_state_a_cycle_and_states_that_nothing_reaches() -> None:
    assert mdp.MDP([np.ones((1, 1))], np.array([[2.0]]), 0.5).solve().value == pytest.approx([4.0], abs=1e-6)
    cycle = mdp.MDP([np.eye(2)[::-1].copy()], np.array([1.0, 0.0]), 0.5)
    for method in ("vi", "gs", "pi", "mpi", "deflated"):
        assert cycle.solve(method, atol=1e-9).value == pytest.approx([4 / 3, 2 / 3], abs=1e-9)
    apart = mdp.MDP([np.array([[0.0, 1.0], [0.0, 1.0]])], np.array([5.0, 1.0]), 0.5)
    assert apart.solve(atol=1e-9).value == pytest.approx([6.0, 2.0], abs=1e-9)
    assert mdp.MDP([np.ones((1, 1))], np.array([[2.0]]), 0.0).solve().value.tolist() == [2.0]


@pytest.mark.parametrize(("n", "gamma"), [(200, 0.999), (1000, 0.9995)])
def test_values_of_policies_on_long_cycles(n: int, gamma: float) -> None:
    """A Krylov method would need as many products as the cycle has states, and fails earlier."""
    cycle = np.roll(np.eye(n), 1, axis=1)[:, None]
    reward = np.random.default_rng(n).random((n, 1))
    expected = np.linalg.solve(np.eye(n) - gamma * cycle[:, 0], reward[:, 0])
    problem = mdp.MDP(cycle, reward, gamma)
    np.testing.assert_allclose(problem.evaluate(np.zeros(n, int)), expected, rtol=1e-11)
    found = problem.solve("pi", atol=1e-6)
    assert found.converged and found.steps <= 3
    semi = mdp.MDP(cycle, reward, np.full(n, gamma))
    np.testing.assert_allclose(semi.evaluate(np.zeros(n, int)), expected, rtol=1e-11)


@pytest.mark.parametrize(("dtype", "powers"), [("float32", (-110, 100)), ("float64", (-900, 900))])
def test_values_of_policies_scale_with_rewards(dtype: str, powers: tuple[int, int]) -> None:
    """Powers of 2 change no bit; squares of these rewards overflow or underflow."""
    P, R = random_process(9, 1, 50, unequal=False)
    policy = np.zeros(9, int)
    plain = mdp_of(P, R, 0.9, dtype).evaluate(policy)
    for power in powers:
        scaled = mdp_of(P, np.ldexp(R, power), 0.9, dtype).evaluate(policy)
        assert np.array_equal(scaled, np.ldexp(plain, power))
    with pytest.raises(fastiter.ConvergenceError, match=f"evaluate: values must be within the range of {dtype}"):
        mdp_of(P, 0 * R + np.finfo(dtype).max / 2, 0.9, dtype).evaluate(policy)


def test_values_out_of_reach_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(krylov, "_MAX_SWEEPS", 250)
    n = 400
    problem = mdp.MDP(np.roll(np.eye(n), 1, axis=1)[:, None], np.arange(n * 1.0), 1 - 1e-9)
    with pytest.raises(fastiter.ConvergenceError, match=r"evaluate: the residual .* must vanish, got "):
        problem.evaluate(np.zeros(n, int), rank=0)


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "mpi", "anderson", "auto"])
def test_values_that_grow_without_end(method: Any) -> None:
    """A cycle with rewards and without a discount: even a heap that never empties ends after max_steps."""
    P = np.array([[[0.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]])
    problem = mdp.MDP(P, np.array([[1.0, 0], [1, 0], [0, 0]]), 1.0)
    with pytest.warns(fastiter.ConvergenceWarning, match="'max_steps'"):
        found = problem.solve(method, max_steps=30)
    assert not found.converged and np.isposinf(found.upper[:2]).all()


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "mpi"])
def test_cycles_that_earn_nothing(method: Any) -> None:
    """At gamma 1, staying is worth 0 and leaving -1; every value from -1 upwards solves V = T V."""
    P = np.array([[[1.0, 0], [0, 1]], [[0, 1], [0, 1]]])
    problem = mdp.MDP(P, np.array([[0.0, -1], [0, 0]]), 1.0)
    found = problem.solve(method)
    assert found.converged and found.value.tolist() == [0, 0] and np.isinf([found.lower[0], found.upper[0]]).all()
    with pytest.raises(ValueError, match=r"^solve: value0 must be 0 if gamma is 1 and a cycle earns nothing"):
        problem.solve(method, value0=np.array([-5.0, 0]))
    # The first state earns nothing either, but is left: bounds hold if the cycle behind it has costs.
    P = np.array([[[0.0, 1, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]])
    for free, reward in ((False, [[-1.0, -2], [-1, -3], [0, 0]]), (True, [[0.0, -2], [-1, -3], [0, 0]])):
        found = mdp.MDP(P, np.array(reward), 1.0).solve(method, value0=np.array([-9.0, 4, 0]), atol=1e-9)
        assert found.converged and found.value[:2] == pytest.approx([-3.0 if free else -4, -3])
        assert bool(np.isfinite(found.upper - found.lower).all()) is not free


def test_idle_states_are_terminal_for_discounts_of_rows_too() -> None:
    P = [np.eye(2), np.array([[0.0, 1], [0, 1]])]
    for gamma in (1.0, np.ones(4), np.array([1.0, 1, 0.5, 1])):
        found = mdp.MDP(P, np.array([[-1.0, -1], [0, 0]]), gamma).solve()
        assert found.value.tolist() == [-1, 0] and found.policy.tolist() == [1, -1]


def test_rows_that_nearly_sum_to_one() -> None:
    almost = np.array([[0.5, 0.5 - 1e-7], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"^MDP: P must sum to 1 .*, got 0.9999999 in state 0, action 0 \(row 0\)$"):
        mdp.MDP([almost], np.ones(2), 0.9)
    found = mdp.MDP([almost], np.ones(2), 0.9, renormalize=True).solve(atol=1e-9)
    assert found.value == pytest.approx([10.0, 10.0], abs=1e-8)


def test_failures_are_reported() -> None:
    problem = GARNET(1000, 10, 5, 0.95)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^solve: the bounds must come within 1e-06, got .*max_steps"):
        found = problem.solve("vi", max_steps=3)
    assert (found.steps, len(found.history), found.reason, found.converged) == (3, 3, "max_steps", False)
    with pytest.raises(fastiter.ConvergenceError, match="max_steps") as raised:
        problem.solve("vi", max_steps=3, throw=True)
    assert isinstance(raised.value.solution, mdp.MDPSolution)
    with pytest.warns(fastiter.ConvergenceWarning, match="'stagnated'.*rounding"):
        problem.solve(atol=1e-15)
    huge = mdp.MDP([np.eye(2)], np.array([1e308, 0.0]), 0.99)
    with pytest.warns(fastiter.ConvergenceWarning, match="'diverged'"):
        huge.solve("vi")
    with pytest.warns(fastiter.ConvergenceWarning, match="'diverged'"):
        huge.solve("gs", order="ascending", exact_diag=False)


@pytest.mark.parametrize("method", ["vi", "gs", "mpi", "pi"])
def test_callbacks(method: Any) -> None:
    problem = examples.gridworld(8, 0.9)
    seen: list[fastiter.Progress] = []

    def callback(progress: fastiter.Progress) -> bool:
        seen.append(progress)
        assert progress.value.shape == (64,)
        return len(seen) == 2

    found = problem.solve(method, callback=callback, atol=1e-13)
    assert len(seen) == 2 and found.reason == "callback" and not found.converged
    assert seen[1].steps > seen[0].steps and seen[0].tolerance == 1e-13


def test_single_precision() -> None:
    single = examples.garnet(500, 4, 3, 0.9, dtype=np.float32)
    double = examples.garnet(500, 4, 3, 0.9)
    found = single.solve(atol=1e-4)
    assert found.value.dtype == np.float32 and found.converged
    assert np.abs(found.value - double.solve(atol=1e-9).value).max() < 1e-4


@pairs
@pytest.mark.parametrize("method", ["pi", "ipi", "anderson"])
@pytest.mark.parametrize("exponent", [-900, -600, 600, 900, 1000])
@pytest.mark.parametrize("gamma", [0.9, 0.99])
def test_methods_with_squares_at_any_size_of_rewards(method: str, exponent: int, gamma: float) -> None:
    """Powers of two scale all values exactly, so that every sum of squares has the same bits but for its exponent."""
    problem = examples.garnet(1500, 3, 8, gamma, seed=174)
    weight, target, entry = problem.transitions
    P = sparse.csr_array((weight, target, entry), shape=(problem.rows, problem.S))
    states = np.repeat(np.arange(problem.S), np.diff(problem.row_starts))
    scaled = MDP(P, np.ldexp(problem.rewards, exponent), gamma, states=states)
    expected = problem.solve(method, atol=2.0**-20)
    found = scaled.solve(method, atol=2.0 ** (exponent - 20))
    assert found.converged and found.steps == expected.steps
    assert np.array_equal(found.value, np.ldexp(expected.value, exponent))
