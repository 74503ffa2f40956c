"""LOOP: losses against the equations, beliefs and switches, and a river that is learned among wrong hypotheses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastiter.experimental import LOOP
from fastiter.mdp import MDP, average, examples, reference
from tests.support.error_cases import assert_named


def river(advance: float, right: float, left: float) -> MDP:
    """Return RiverSwim(6) with another current and other rewards at its ends; 0.35, 1 and 0.005 are its own."""
    problem = examples.riverswim(6)
    weight, target, entry = problem.transitions
    P = np.zeros((12, 6))
    np.add.at(P, (np.repeat(np.arange(12), np.diff(entry)), target), weight)
    for s in range(6):
        P[2 * s + 1, min(s + 1, 5)] += advance - 0.35
        P[2 * s + 1, s if s < 5 else 4] -= advance - 0.35
    rewards = problem.rewards.reshape(6, 2)
    rewards[0, 0], rewards[5, 1] = left, right
    return MDP(P.reshape(6, 2, 6), rewards, None)


def random_steps(count: int, rng: Any, S: int, A: int) -> list[tuple[int, int, float, int]]:
    return [
        (int(rng.integers(S)), int(rng.integers(A)), float(rng.normal()), int(rng.integers(S))) for _ in range(count)
    ]


def test_losses_are_those_of_the_equations() -> None:
    rng = np.random.default_rng(1)
    Q, J = rng.standard_normal((5, 4, 3)), rng.random(5)
    learner, steps = LOOP(Q, J, 1e9), random_steps(60, rng, 4, 3)
    assert (learner.losses == 0).all() and learner.believed.all() and learner.chosen == J.argmax()
    assert not any(learner.update(*step) for step in steps)
    expected = reference.loop_losses(Q, J, steps)
    np.testing.assert_allclose(learner.losses, expected[:-1], rtol=1e-10)
    excess = expected[-1] - expected[:-1].min(axis=0)
    np.testing.assert_allclose(learner.excess, excess, rtol=1e-10, atol=1e-10)
    assert np.array_equal(learner.policy, Q[learner.chosen].argmax(1)) and learner.switches == 0
    large = LOOP(Q + 1e6, J, 1e9)  # constants have no effect, and large ones do not hide the differences
    for step in steps:
        large.update(*step)
    np.testing.assert_allclose(large.excess, excess, rtol=1e-5, atol=1e-5)


def test_the_largest_numbers_do_not_overflow() -> None:
    rng = np.random.default_rng(3)
    Q, J = rng.uniform(-1, 1, (3, 2, 2)), rng.uniform(-1, 1, 3)
    huge, ones, steps = LOOP(1e100 * Q, 1e100 * J, 1e200), LOOP(Q, J, 1.0), random_steps(30, rng, 2, 2)
    for state, action, reward, after in steps:
        reward = max(-1.0, min(reward, 1.0))
        assert huge.update(state, action, 1e100 * reward, after) == ones.update(state, action, reward, after)
    assert ones.losses.max() > 1
    np.testing.assert_allclose(huge.losses / 1e200, ones.losses, rtol=1e-10)


def test_switches_follow_the_rule() -> None:
    """A hypothesis is kept up to 4 beta; then the largest gain among those within beta, or else the smallest excess."""
    rng = np.random.default_rng(2)
    for beta in (0.3, 2.0, 8.0):
        Q, J = rng.standard_normal((6, 3, 2)), rng.random(6)
        learner, steps, switches = LOOP(Q, J, beta), random_steps(40, rng, 3, 2), 0
        chosen = int(J.argmax())
        for k, step in enumerate(steps):
            losses = reference.loop_losses(Q, J, steps[: k + 1])
            excess = losses[-1] - losses[:-1].min(axis=0)
            before = chosen
            if excess[chosen] > 4 * beta:
                within = np.flatnonzero(excess <= beta)
                chosen = int(within[J[within].argmax()]) if len(within) else int(excess.argmin())
            switches += chosen != before
            assert learner.update(*step) == (chosen != before)
            assert (learner.chosen, learner.switches) == (chosen, switches)
            assert np.array_equal(learner.believed, excess <= beta)
        assert switches > 0 or beta > 2


def test_hypotheses_of_processes_solve_their_equation() -> None:
    models = [river(0.2, 1.0, 0.005), river(0.35, 0.5, 0.3)]
    learner = LOOP.of(models, 1.0)
    for f, model in enumerate(models):
        weight, target, entry = model.transitions
        P = np.zeros((12, 6))
        np.add.at(P, (np.repeat(np.arange(12), np.diff(entry)), target), weight)
        Q = learner._Q[f].reshape(6, 2)
        np.testing.assert_allclose(Q + learner._J[f], (model.rewards + P @ Q.max(1)).reshape(6, 2), rtol=0, atol=1e-8)
        assert learner._J[f] == pytest.approx(average(model, "howard").gain, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_river_is_learned_among_wrong_hypotheses(seed: int) -> None:
    """The truth always stays in the set, the hypothesis in use never has a lower gain, and few are tried."""
    currents, rights, lefts = (0.15, 0.25, 0.35, 0.45), (0.25, 0.5, 1.0), (0.005, 0.8)
    kinds = list(itertools.product(currents, rights, lefts))
    models = [river(*kind) for kind in kinds]
    truth, T = kinds.index((0.35, 1.0, 0.005)), 4000
    learner, rng = LOOP.of(models, 5.0), np.random.default_rng(seed)
    gain, problem = average(models[truth], atol=1e-9).gain, examples.riverswim(6)
    assert gain == pytest.approx(0.428622434, abs=1e-9)
    weight, target, entry = problem.transitions
    state, policy, swims = 0, learner.policy, []
    for k in range(T):
        row = 2 * state + int(policy[state])
        at = slice(entry[row], entry[row + 1])
        to = int(rng.choice(target[at], p=weight[at]))
        swims.append(bool(policy[state]))
        if learner.update(state, int(policy[state]), float(problem.rewards[row]), to):
            policy = learner.policy
        state = to
        if k % 100 == 0:
            assert learner.believed[truth] and learner._J[learner.chosen] >= gain - 1e-9
    assert (policy == 1).all() and learner.switches <= 6
    assert swims.count(False) <= 0.05 * T and all(swims[T // 2 :])  # drifting, which earns .005, is soon abandoned


def wrong() -> list[tuple[Any, type[Exception], str]]:
    Q, J = np.zeros((2, 3, 2)), np.zeros(2)
    learner, model = LOOP(Q, J, 1.0), examples.riverswim(4)
    return [
        (lambda: LOOP([[["1"]]], J, 1.0), TypeError, "LOOP: Q"),  # type: ignore[arg-type]
        (lambda: LOOP(Q[:, :0], J, 1.0), ValueError, "LOOP: Q"),
        (lambda: LOOP(Q, J[:1], 1.0), ValueError, "LOOP: J"),
        (lambda: LOOP(Q + np.nan, J, 1.0), ValueError, "LOOP: Q"),
        (lambda: LOOP(Q, J - np.inf, 1.0), ValueError, "LOOP: J"),
        (lambda: LOOP(Q - 1e200, J, 1.0), ValueError, "LOOP: Q"),
        (lambda: LOOP(Q, J + 1e101, 1.0), ValueError, "LOOP: J"),
        (lambda: learner.update(0, 0, 2e100, 0), ValueError, "update: reward"),
        (lambda: LOOP(Q, J, 0.0), ValueError, "LOOP: beta"),
        (lambda: learner.update(3, 0, 0.0, 0), ValueError, "update: state"),
        (lambda: learner.update(0, 2, 0.0, 0), ValueError, "update: action"),
        (lambda: learner.update(0, 0, np.nan, 0), ValueError, "update: reward"),
        (lambda: learner.update(0, 0, 0.0, 0.0), TypeError, "update: next_state"),  # type: ignore[arg-type]
        (lambda: LOOP.of([], 1.0), ValueError, "LOOP.of: models"),
        (lambda: LOOP.of([model, 3], 1.0), TypeError, "LOOP.of: models"),  # type: ignore[list-item]
        (lambda: LOOP.of([model, examples.riverswim(5)], 1.0), ValueError, "LOOP.of: models"),
        (
            lambda: LOOP.of([MDP(np.ones((1, 1, 1)), np.ones((1, 1)), None, sense="min")], 1.0),
            ValueError,
            "LOOP.of: models",
        ),
        (
            lambda: LOOP.of([MDP(np.full((2, 2, 2), 0.5), np.array([[0.0, -np.inf], [1, 1]]), None)], 1.0),
            ValueError,
            "LOOP.of: models",
        ),
        (
            lambda: LOOP.of([MDP(np.ones((1, 1, 1)), np.ones((1, 1)), np.array([0.5]))], 1.0),
            ValueError,
            "LOOP.of: models",
        ),
    ]


def test_wrong_arguments() -> None:
    assert_named(wrong())
