"""Linear mixtures: the regression against a direct solution, plans against backward induction, exploration pays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastiter.experimental import LinearMixture
from fastiter.mdp import MDP, finite_horizon
from tests.support.error_cases import assert_named

S, A, D, H = 20, 4, 4, 10
THETA = np.array([0.1, 0.6, 0.1, 0.2])
FEATURES = np.random.default_rng(100).dirichlet(np.full(S, 0.05), (D, S, A))
P = np.tensordot(THETA, FEATURES, 1)


def test_the_regression_is_weighted_least_squares() -> None:
    rng, model, squares = np.random.default_rng(140), LinearMixture(FEATURES, H, ridge=0.3), LinearMixture(FEATURES, H)
    xs, ys, weights = [], [], []
    for _ in range(60):
        s, a, to, v = rng.integers(S), rng.integers(A), rng.integers(S), rng.random(S)
        variance = float(rng.uniform(0.1, 2))
        model.update(int(s), int(a), int(to), v, variance)
        squares.update(int(s), int(a), int(to), v**2)
        xs.append(FEATURES[:, s, a] @ v)
        ys.append(v[to])
        weights.append(1 / variance)
    x, y, w = np.array(xs), np.array(ys), np.array(weights)
    precision = 0.3 * np.eye(D) + (x.T * w) @ x
    np.testing.assert_allclose(model.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(model.theta, np.linalg.solve(precision, x.T @ (w * y)), rtol=1e-9)
    v = rng.random(S)
    phi = np.einsum("ksat,t->sak", FEATURES, v)
    np.testing.assert_allclose(model.expectations(v), phi, rtol=1e-12)
    widths = np.sqrt(np.einsum("sak,kl,sal->sa", phi, np.linalg.inv(precision), phi))
    np.testing.assert_allclose(model.uncertainty(v), widths, rtol=1e-8)
    np.testing.assert_allclose(model.exploration_rewards(v), np.minimum(widths, 1) / H, rtol=1e-8)
    second = np.einsum("ksat,t->sak", FEATURES, v**2) @ squares.theta
    expected = np.clip(second, 0, H * H) - np.clip(phi @ model.theta, 0, H) ** 2
    found = model.variance(v, squares, least=0.01, bonus=0.05)
    np.testing.assert_allclose(found, np.maximum(0.01, expected + 0.05), rtol=1e-9)


def test_plans_with_the_true_theta_are_backward_induction() -> None:
    model, rewards = LinearMixture(FEATURES, H, ridge=1e-9), np.random.default_rng(141).random((S, A)) / H
    model._sum, model._inverse = THETA.copy(), np.eye(D)
    found = model.plan(rewards)
    exact = finite_horizon(MDP(P, rewards, None), H)
    np.testing.assert_allclose(found.value, exact.value, rtol=0, atol=1e-12)
    assert np.array_equal(found.policy, exact.policy)
    wide = model.plan(rewards, width=0.1)
    assert (wide.value >= found.value).all() and wide.value.max() <= H and not model.has_doubled


def learn(seed: int, explores: bool) -> tuple[list[float], float]:
    """Return the largest error of theta after 10, 30, 100 and 300 episodes, and the determinant of the precision."""
    rng, model, found = np.random.default_rng(seed), LinearMixture(FEATURES, H, ridge=0.01), []
    cumulative = P.cumsum(axis=2)
    for episode in range(1, 301):
        target = rng.integers(0, 2, S).astype(float)
        policy = model.plan(model.exploration_rewards(target)).policy if explores else rng.integers(0, A, (H, S))
        s = 0
        for h in range(H):
            a = int(policy[h, s])
            to = min(int(np.searchsorted(cumulative[s, a], rng.random())), S - 1)
            model.update(s, a, to, target)
            s = to
        if episode in (10, 30, 100, 300):
            found.append(float(np.abs(model.theta - THETA).max()))
    return found, float(np.linalg.slogdet(model.precision)[1])


def test_exploration_sees_more_and_errors_fall_as_a_square_root() -> None:
    exploring, uniform = ([learn(seed, how) for seed in range(16)] for how in (True, False))
    slope = np.polyfit(np.log([10, 30, 100, 300]), np.log(np.mean([e for e, _ in exploring], axis=0)), 1)[0]
    assert -0.6 <= slope <= -0.4
    assert all(one > other for (_, one), (_, other) in zip(exploring, uniform, strict=True))
    mean, other_mean = (np.mean([errors for errors, _ in runs], axis=0) for runs in (exploring, uniform))
    assert np.exp(np.log(mean / other_mean).mean()) <= 0.9


MODEL = LinearMixture(FEATURES, H)
ONES = np.ones(S)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: LinearMixture(FEATURES[0], H), ValueError, "LinearMixture: features"),
    (lambda: LinearMixture(FEATURES, 0), ValueError, "LinearMixture: horizon"),
    (lambda: LinearMixture(FEATURES, H, ridge=0), ValueError, "LinearMixture: ridge"),
    (lambda: MODEL.update(S, 0, 0, ONES), ValueError, "update: state"),
    (lambda: MODEL.update(0, 0, 0, ONES[:3]), ValueError, "update: target"),
    (lambda: MODEL.update(0, 0, 0, ONES, 0.0), ValueError, "update: variance"),
    (lambda: MODEL.plan(np.ones((2, 2))), ValueError, "plan: rewards"),
    (lambda: MODEL.variance(ONES, LinearMixture(FEATURES[:2], H), least=0.1), ValueError, "variance: squares"),
    (lambda: MODEL.plan(np.full((S, A), np.nan)), ValueError, "plan: rewards"),
    (lambda: MODEL.plan(np.ones((S, A)), width=-1), ValueError, "plan: width"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)


def test_the_determinant_decides_when_to_plan_again() -> None:
    model = LinearMixture(FEATURES, H)
    while not model.has_doubled:
        before = np.linalg.slogdet(model.precision)[1]
        model.update(0, 0, 0, ONES * 0.3)
    assert before <= np.log(2) < np.linalg.slogdet(model.precision)[1]
    model.plan(np.zeros((S, A)))
    assert not model.has_doubled
