"""Projections against loops, and the tails of the best policies against all history-dependent policies."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.mdp import distributional as laws
from tests.support.error_cases import assert_named

#: outcomes[s][a] of (probability, reward, next state)
OUTCOMES: Any = [
    [[(0.5, 1, 0), (0.5, 0, 1)], [(0.8, 2, 1), (0.2, -3, 0)]],
    [[(0.9, 1, 1), (0.1, -1, 0)], [(0.6, 4, 0), (0.4, -4, 1)]],
]
STOCKS = np.arange(-30.0, 31.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_categorical_projection(threads: int) -> None:
    fastiter.set_num_threads(threads)
    rng = np.random.default_rng(120)
    p, x, z = rng.dirichlet(np.ones(7), (40, 30)), rng.normal(0, 2, (40, 30, 7)), np.sort(rng.normal(0, 2, 9))
    found = laws.project_categorical(p, x, z)
    expected = np.zeros((40, 30, 9))
    for i, j, k in np.ndindex(p.shape):
        tents = np.array([np.interp(x[i, j, k], z, np.eye(9)[m]) for m in range(9)])
        expected[i, j] += p[i, j, k] * tents
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    inside = laws.project_categorical(p, np.clip(x, z[0], z[-1]), z)
    np.testing.assert_allclose(inside @ z, (p * np.clip(x, z[0], z[-1])).sum(axis=2), rtol=0, atol=1e-12)
    assert np.array_equal(laws.project_categorical(p[::2, ::-1], x[::2, ::-1], z), found[::2, ::-1])


def test_quantile_projection() -> None:
    rng = np.random.default_rng(121)
    p, x = rng.dirichlet(np.ones(6), 20), rng.normal(size=(20, 6))
    found = laws.project_quantile(p, x, 4)
    for i in range(20):
        fine = np.sort(rng.choice(x[i], 40_000, p=p[i])).reshape(4, -1).mean(axis=1)
        np.testing.assert_allclose(found[i], fine, atol=0.06)
    np.testing.assert_allclose(found.mean(axis=1), (p * x).sum(axis=1), atol=1e-12)
    for level in (0.25, 0.5, 1.0):
        np.testing.assert_allclose(laws.cvar(p, x, level), found[:, : int(4 * level)].mean(axis=1), atol=1e-12)


def tails_of_all_policies(markov: bool) -> dict[float, float]:
    """Return the largest CVaR of three steps from state 0 over deterministic policies, by enumeration.

    With the history, a policy has an action for each history that it can reach; otherwise one for each step and state.
    """
    levels, best = (0.05, 0.1, 0.25, 0.5, 1.0), dict.fromkeys((0.05, 0.1, 0.25, 0.5, 1.0), -np.inf)

    def laws_of(s: int, h: int) -> list[dict[float, float]]:
        if h == 3:
            return [{0.0: 1.0}]
        found = []
        for listed in OUTCOMES[s]:
            for chosen in itertools.product(*(laws_of(to, h + 1) for _, _, to in listed)):
                law: dict[float, float] = {}
                for (p, r, _), rest in zip(listed, chosen, strict=True):
                    for g, q in rest.items():
                        law[r + g] = law.get(r + g, 0.0) + p * q
                found.append(law)
        return found

    def markov_laws() -> list[dict[float, float]]:
        found = []
        for policy in itertools.product((0, 1), repeat=6):
            now = {(0, 0.0): 1.0}
            for h in range(3):
                after: dict[tuple[int, float], float] = {}
                for (s, g), q in now.items():
                    for p, r, to in OUTCOMES[s][policy[2 * h + s]]:
                        after[to, g + r] = after.get((to, g + r), 0.0) + p * q
                now = after
            law: dict[float, float] = {}
            for (_, g), q in now.items():
                law[g] = law.get(g, 0.0) + q
            found.append(law)
        return found

    every = markov_laws() if markov else laws_of(0, 0)
    assert len(every) == (64 if markov else 128)
    for law in every:
        for level in levels:
            tail = float(laws.cvar(np.array(list(law.values())), np.array(list(law)), level))
            best[level] = max(best[level], tail)
    return best


def test_the_best_tails_need_the_stock() -> None:
    every, markov = tails_of_all_policies(False), tails_of_all_policies(True)
    found = {level: laws.best_tail(OUTCOMES, 0, 3, level, STOCKS) for level in every}
    for level, best in every.items():
        assert found[level].value == pytest.approx(best, abs=1e-12)
    assert list(every.values()) == pytest.approx([-0.5, -0.2, 1.04, 1.52, 2.744])
    assert list(markov.values()) == pytest.approx([-0.5, -0.25, 0.94, 1.47, 2.744])
    assert [found[level].stock for level in (0.05, 0.1, 0.25, 0.5)] == [0, -1, -2, -2]
    assert found[1.0].stock <= -8


def test_expected_utilities_with_a_discount() -> None:
    """On a fine grid it is close to the enumeration of all policies of two steps."""
    grid, gamma = np.linspace(-15, 15, 3001), 0.8
    for degree, utility in ((1.0, lambda c: np.minimum(c, 0)), (2.0, lambda c: -(np.abs(c) ** 2)), (1.0, lambda c: c)):
        found = laws.stock_augmented(OUTCOMES, 2, grid, utility, gamma, degree=degree)
        for c in (-1.0, 0.3):
            best = -np.inf
            for first in OUTCOMES[0]:
                value = 0.0
                for p, r, to in first:
                    second = [
                        sum(q * utility(np.float64(c + r + gamma * x)) for q, x, _ in law) for law in OUTCOMES[to]
                    ]
                    value += p * max(second)
                best = max(best, float(value))
            value = np.interp(c, grid, found.value[0, 0])
            assert value == pytest.approx(best, abs=1e-3)


def test_rounding_keeps_the_mass_of_distant_outcomes() -> None:
    p, x = np.array([0.1, 0.1, 0.1, 1e-18]), np.array([0.0, 0, 0, 1e18])
    np.testing.assert_allclose(laws.project_quantile(p, x, 3), [0, 0, 10], rtol=1e-12)
    p, x = np.array([0.1] * 10 + [0.0]), np.array([1.0] * 10 + [1e300])
    for m in range(1, 30):
        np.testing.assert_allclose(laws.project_quantile(p, x, m), np.ones(m), rtol=1e-14)


def test_a_degree_near_zero_has_no_discount() -> None:
    found = laws.stock_augmented(OUTCOMES, 2, STOCKS, np.sign, 0.5, degree=1e-300)
    assert found.value.max() <= 1 and np.array_equal(found.value[-1, 0], np.sign(STOCKS))


ONE = np.ones(1)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: laws.project_categorical(ONE, np.ones(2), ONE), ValueError, "project_categorical: p and x"),
    (lambda: laws.project_categorical(-ONE, ONE, ONE), ValueError, "project_categorical: p"),
    (lambda: laws.project_categorical(ONE, ONE, np.array([1.0, 0.0])), ValueError, "project_categorical: z"),
    (lambda: laws.project_categorical(ONE.astype("float32"), ONE, ONE), TypeError, "project_categorical: p"),
    (lambda: laws.project_quantile(0 * ONE, ONE, 2), ValueError, "project_quantile: p"),
    (lambda: laws.project_quantile(ONE, ONE, 0), ValueError, "project_quantile: m"),
    (lambda: laws.cvar(ONE / 2, ONE, 0.5), ValueError, "cvar: p"),
    (lambda: laws.cvar(ONE[:0], ONE[:0], 0.5), ValueError, "cvar: p"),
    (lambda: laws.cvar(ONE, ONE, 1.5), ValueError, "cvar: level"),
    (lambda: laws.best_tail([[]], 0, 2, 0.5, STOCKS), ValueError, "best_tail: outcomes[0]"),
    (lambda: laws.best_tail(OUTCOMES, 2, 3, 0.5, STOCKS), ValueError, "best_tail: start"),
    (lambda: laws.best_tail(OUTCOMES, 0, 3, 0.5, ONE), ValueError, "stock_augmented: stocks"),
    (lambda: laws.stock_augmented([[[(1, 0, 1)]]], 1, STOCKS, abs), ValueError, "stock_augmented: outcomes[0][0]"),
    (lambda: laws.stock_augmented(OUTCOMES, 1, STOCKS, abs, 1.5), ValueError, "stock_augmented: gamma"),
    (lambda: laws.stock_augmented([[[(0.5, 0, 0)]]], 1, STOCKS, abs), ValueError, "stock_augmented: outcomes[0][0]"),
    (lambda: laws.stock_augmented([*OUTCOMES, []], 1, STOCKS, abs), ValueError, "stock_augmented: outcomes[2]"),
    (lambda: laws.stock_augmented(OUTCOMES, 1, STOCKS, 3), TypeError, "stock_augmented: utility"),
    (lambda: laws.stock_augmented(OUTCOMES, 1, STOCKS, np.sum), ValueError, "stock_augmented: utility"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)
