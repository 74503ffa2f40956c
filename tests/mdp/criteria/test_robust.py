"""Robust operators against linear and nonlinear programs, robust values, and the search for the worst model."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

optimize = pytest.importorskip("scipy.optimize")

import fastiter  # noqa: E402
from fastiter import experimental, mdp  # noqa: E402
from fastiter.mdp import MDP, examples, robust  # noqa: E402
from tests.mdp.cases import random_process  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

BALLS = ("l1", "linf", "kl", "chi2", "contamination")


def once(P: np.ndarray, v: np.ndarray, kind: Any, radius: Any = None, **more: Any) -> np.ndarray:
    """Return the worst expectation of v for each row of P (S, A, S), by one step of the solver at gamma 1 / 2."""
    problem = MDP(P, np.zeros(P.shape[:2]), 0.5)
    process = problem._process
    found = mdp._robust.ambiguity(
        "f", process, kind, radius, more.pop("limits", None), more.pop("support", True), more.pop("optimistic", False)
    )
    values = np.empty(P.shape[:2])
    for a in range(P.shape[1]):
        own, chosen = mdp._robust.restricted(process, found, np.full(len(P), a, np.int32))
        w = np.empty(len(P))
        mdp._robust.operator(own, chosen)(v, w, np.empty(len(P), np.int32))
        values[:, a] = 2 * w
    return values


def program(p: np.ndarray, v: np.ndarray, kind: str, radius: float, support: bool = True) -> float:
    """Return the least expectation by scipy: a linear program, or a nonlinear one from several starts."""
    n = len(p)
    allowed = (0, None)
    tops = [allowed if (x > 0 or not support) else (0, 0) for x in p]
    if kind in ("kl", "chi2"):
        near = {
            "kl": lambda q: radius - np.sum(q * np.log(np.maximum(q, 1e-300) / p)),
            "chi2": lambda q: radius - np.sum((q - p) ** 2 / p),
        }[kind]
        rules = [{"type": "eq", "fun": lambda q: q.sum() - 1}, {"type": "ineq", "fun": near}]
        found = optimize.minimize(
            lambda q: q @ v,
            p,
            bounds=[(0, 1)] * n,
            constraints=rules,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        return float(found.fun)
    if kind == "contamination":
        return float((1 - radius) * p @ v + radius * (v[p > 0].min() if support else v.min()))
    if kind == "linf":
        limits = [(max(x - radius, 0), min(x + radius, 1) if x > 0 else 0) for x in p]
        return float(optimize.linprog(v, A_eq=np.ones((1, n)), b_eq=[1], bounds=limits).fun)
    # the constraints |q - p| <= t and sum t <= radius
    eye = np.eye(n)
    A = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
    b = np.concatenate([p, -p, [radius]])
    equal = np.concatenate([np.ones(n), np.zeros(n)])[None]
    found = optimize.linprog(
        np.concatenate([v, np.zeros(n)]), A_ub=A, b_ub=b, A_eq=equal, b_eq=[1], bounds=[*tops, *[(0, None)] * n]
    )
    return float(found.fun)


@pytest.mark.parametrize("kind", BALLS)
def test_worst_expectations_against_programs(kind: Any) -> None:
    rng = np.random.default_rng(70)
    P = rng.dirichlet(np.ones(6), (6, 1))
    for radius in (0.0, 0.05, 0.3, 1.0) if kind == "contamination" else (0.0, 0.03, 0.4, 3.0):
        v = rng.standard_normal(6)
        v[3] = v[1]  # a tie
        found = once(P, v, kind, radius)
        expected = [[program(p, v, kind, radius) for p in rows] for rows in P]
        tolerance = 2e-6 if kind in ("kl", "chi2") else 1e-9  # SLSQP's accuracy
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        best = once(P, v, kind, radius, optimistic=True)
        assert np.allclose(best, -once(P, -v, kind, radius), atol=1e-13) and (best >= found - 1e-13).all()


def test_masses_below_rounding_count_by_their_root() -> None:
    """chi2 with the probability e of 0, else 1: E - sqrt(radius Var) with the variance e (1 - e)."""
    for e in (1e-12, 1e-16, 1e-20):
        P = np.array([e, 0.3, 0.3, 0.4 - e])[None, None].repeat(4, axis=0)
        expected = 1 - e - np.sqrt(0.1 * e * (1 - e))
        np.testing.assert_allclose(once(P, np.array([0.0, 1, 1, 1]), "chi2", 0.1), expected, rtol=0, atol=3e-16)


@pytest.mark.parametrize("kind", ["l1", "contamination"])
def test_mass_may_move_to_any_state(kind: Any) -> None:
    rng = np.random.default_rng(71)
    P, v = np.zeros((5, 1, 5)), rng.standard_normal(5)
    P[:, 0, :2] = rng.dirichlet(np.ones(2), 5)
    for radius in (0.1, 0.9):
        expected = [program(P[s, 0], v, kind, radius, support=False) for s in range(5)]
        np.testing.assert_allclose(once(P, v, kind, radius, support=False)[:, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ends", [False, True])
def test_linf_may_move_mass_to_any_state(ends: bool) -> None:
    """Against linear programs; also with a terminal state, entries twice, and the best probabilities."""
    rng = np.random.default_rng(72)
    P = np.zeros((5, 2, 5))
    P[:, :, :2] = rng.dirichlet(np.ones(2), (5, 2))
    P[:, :, 4], P[:, :, 1] = P[:, :, 1] / 2, P[:, :, 1] / 2
    R = rng.standard_normal((5, 2))
    problem = MDP(P, R, 0.8, terminal=[4] if ends else None)
    for radius, optimistic in ((0.1, False), (0.6, False), (2.0, False), (0.15, True)):
        found = robust(problem, "linf", radius, support=False, optimistic=optimistic, atol=1e-10)
        v, sign = found.value, -1 if optimistic else 1
        for s in range(4 if ends else 5):
            q = []
            for a in range(2):
                limits = [(max(x - radius, 0), min(x + radius, 1)) for x in P[s, a]]
                worst = optimize.linprog(sign * v, A_eq=np.ones((1, 5)), b_eq=[1], bounds=limits).fun
                q.append(R[s, a] + 0.8 * sign * worst)
            assert max(q) == pytest.approx(v[s], abs=1e-8)
            assert q[found.policy[s]] == pytest.approx(v[s], abs=1e-8)
    kept = robust(problem, "linf", 0.1, atol=1e-10).value
    assert (robust(problem, "linf", 0.1, support=False, atol=1e-10).value < kept + 1e-9).all()
    nominal = problem.solve(atol=1e-10).value
    assert robust(problem, "linf", 0.0, support=False, atol=1e-10).value == pytest.approx(nominal, abs=1e-9)


@pytest.mark.parametrize("kind", [*BALLS, "s-l1"])
def test_entries_with_the_same_next_state_count_together(kind: Any) -> None:
    twice = examples.garnet(6, 2, 5, 0.8)
    weight, target, entry = twice.transitions
    P = np.zeros((12, 6))
    np.add.at(P, (np.repeat(np.arange(12), np.diff(entry)), target), weight)
    once_each = MDP(P.reshape(6, 2, 6), twice.rewards.reshape(6, 2), 0.8)
    assert len(once_each.transitions[0]) < len(weight)
    found = [robust(problem, kind, 0.3, atol=1e-10).value for problem in (twice, once_each)]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-10)


def test_intervals_and_a_radius_for_each_row() -> None:
    rng = np.random.default_rng(72)
    P, v = rng.dirichlet(np.ones(4), (4, 1)), rng.standard_normal(4)
    low, high = (P * rng.uniform(0, 1, P.shape)).reshape(-1), np.minimum(P * rng.uniform(1, 3, P.shape), 1).reshape(-1)
    found = once(P, v, "interval", limits=(low, high))
    for s in range(4):
        bounds = list(zip(low[4 * s : 4 * s + 4], high[4 * s : 4 * s + 4], strict=True))
        expected = optimize.linprog(v, A_eq=np.ones((1, 4)), b_eq=[1], bounds=bounds).fun
        assert found[s, 0] == pytest.approx(expected, abs=1e-9)
    radii = np.array([0.0, 0.1, 0.2, 0.5])
    each = [once(P, v, "l1", float(r))[s, 0] for s, r in enumerate(radii)]
    np.testing.assert_array_equal(once(P, v, "l1", radii)[:, 0], each)


def test_a_known_example() -> None:
    P, v = np.tile([0.5, 0.3, 0.2], (3, 1, 1)), np.array([1.0, 2.0, 4.0])
    cases = [("l1", 0.0, 1.9), ("l1", 0.4, 1.3), ("linf", 0.1, 1.6), ("kl", 0.1, 1.4388268), ("chi2", 0.1, 1.5408343)]
    for kind, radius, expected in [*cases, ("kl", 1.0, 1.0), ("chi2", 2.0, 1.0)]:
        assert once(P, v, kind, radius)[0, 0] == pytest.approx(expected, abs=5e-8)


FOREST = {
    "l1": (0.2, [20.736, 23.616, 27.616]),
    "linf": (0.1, [20.736, 23.616, 27.616]),
    "kl": (0.05, [20.388641, 23.244417, 27.244417]),
    "chi2": (0.05, [22.477575, 25.476080, 29.476080]),
}


@pytest.mark.parametrize("kind", FOREST)
def test_robust_values_of_the_forest(kind: Any) -> None:
    radius, expected = FOREST[kind]
    found = robust(examples.forest(3, 0.9), kind, radius, atol=1e-8)
    np.testing.assert_allclose(found.value, expected, atol=2e-6)
    assert found.policy.tolist() == [0, 0, 0] and (found.lower <= found.upper).all()


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("threads", [1, 2])
def test_policies_are_worth_their_lower_bound(kind: Any, threads: int) -> None:
    fastiter.set_num_threads(threads)
    problem = examples.garnet(500, 2, 4, 0.8, seed=1)
    found = robust(problem, kind, 0.2, atol=1e-7)
    worst = robust(problem, kind, 0.2, policy=found.policy, atol=1e-9)
    assert (worst.value >= found.lower - 1e-8).all() and (worst.value <= found.upper + 1e-8).all()
    assert (found.upper <= problem.solve(atol=1e-7).upper + 1e-6).all()
    fastiter.set_num_threads(1)
    assert np.array_equal(robust(problem, kind, 0.2, atol=1e-7).value, found.value)


def shared_program(P: np.ndarray, r: np.ndarray, gamma: float, v: np.ndarray, budget: float, d: Any = None) -> float:
    """Return min over a shared budget of max over a of r + gamma p v; or of the mixture d instead of the maximum."""
    A, n = P.shape
    size = 2 * A * n + 1  # p, t >= |p - P|, u
    eye, none = np.eye(A * n), np.zeros((A * n, 1))
    rows = [np.hstack([eye, -eye, none]), np.hstack([-eye, -eye, none])]
    rows.append(np.concatenate([np.zeros(A * n), np.ones(A * n), [0]])[None])
    b = [P.reshape(-1), -P.reshape(-1), [budget]]
    values = np.kron(np.eye(A), gamma * v)
    if d is None:
        rows.append(np.hstack([values, np.zeros((A, A * n)), -np.ones((A, 1))]))
        b.append(-r)
        cost = np.eye(size)[-1]
    else:
        cost = np.concatenate([d @ values, np.zeros(A * n + 1)])
    equal = np.hstack([np.kron(np.eye(A), np.ones(n)), np.zeros((A, A * n + 1))])
    bounds = [(0, None if p > 0 else 0) for p in P.reshape(-1)] + [(0, None)] * (A * n) + [(None, None)]
    found = optimize.linprog(cost, np.vstack(rows), np.concatenate(b), equal, np.ones(A), bounds)
    return float(found.fun + (0 if d is None else d @ r))


def test_actions_that_share_a_budget() -> None:
    for seed in range(6):
        P, R = random_process(4, 3, 80 + seed, unequal=False)
        problem, rng = MDP(P, R, 0.8), np.random.default_rng(seed)
        radius = rng.uniform(0, 1.5, 4)
        found = robust(problem, "s-l1", radius, atol=1e-11)
        for s in range(4):
            mixture = found.policy[3 * s : 3 * s + 3]
            assert mixture.sum() == pytest.approx(1) and (mixture >= 0).all()
            best = shared_program(P[s], R[s], 0.8, found.value, radius[s])
            assert best == pytest.approx(found.value[s], abs=1e-8)
            assert shared_program(P[s], R[s], 0.8, found.value, radius[s], mixture) == pytest.approx(best, abs=1e-7)
        assert (found.value <= robust(problem, "l1", radius.repeat(3) / 3, atol=1e-11).value + 1e-9).all()


def test_the_adversary_leads_to_terminal_states() -> None:
    """The worst probabilities lead to the terminal state although the nominal ones hardly do; bounds allow for it."""
    P = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0, 1.0], [0, 1.0]]])
    problem = MDP(P, np.ones((2, 2)), 0.9, terminal=[1])
    found = robust(problem, "l1", 0.4, atol=1e-10)
    assert found.value[0] == pytest.approx(1 / (1 - 0.9 * 0.7), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
        early = robust(problem, "l1", 0.4, max_steps=2)
    assert early.lower[0] <= found.value[0] <= early.upper[0]


def test_the_worst_model_of_a_set() -> None:
    """If each row may come from another model, the result is that of the robust Bellman operator."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        P, R = rng.dirichlet(np.full(6, 0.5), (6, 3, 3)), rng.random((6, 3))
        models = [MDP(np.ascontiguousarray(P[:, :, m]), R, 0.9) for m in range(3)]
        found = experimental.iwocs(models, 0, rectangular=True, atol=1e-10)
        v = np.zeros(6)
        for _ in range(400):
            v = (R + 0.9 * (P @ v).min(axis=2)).max(axis=1)
        assert found.value[0] == pytest.approx(v[0], abs=1e-9) and found.steps <= 5
        assert found.worst.shape == (found.steps + 1, 18)


def test_the_windy_walk() -> None:
    models = [examples.windy_walk(alpha / 100) for alpha in range(51)]
    found = experimental.iwocs(models, 0, atol=1e-8)
    best = [model.solve(atol=1e-10).value[0] for model in models]
    assert found.steps == 2 and found.value[0] == pytest.approx(min(best), abs=1e-6)
    assert found.value[0] == pytest.approx(-9.3171009, abs=1e-7)
    nominal = models[0].solve().policy
    assert min(model.evaluate(nominal)[0] for model in models) == pytest.approx(-16.4347, abs=1e-4)
    assert min(model.evaluate(found.policy)[0] for model in models) == pytest.approx(found.value[0], abs=1e-7)
    with pytest.warns(fastiter.ConvergenceWarning, match=r"^iwocs: the worst model must be found, got a worse one by"):
        experimental.iwocs(models, 0, max_steps=1)
    ended = experimental.iwocs(models, 0, callback=lambda progress: progress.residual > progress.tolerance)
    assert ended.reason == "callback" and ended.steps == 1 and len(ended.worst) == 2


GOOD = examples.forest(3, 0.9)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: robust(GOOD, "l2", 0.1), ValueError, "robust: kind"),
    (lambda: robust(1, "l1", 0.1), TypeError, "robust: problem"),
    (lambda: robust(GOOD, "l1", -0.1), ValueError, "robust: radius"),
    (lambda: robust(GOOD, "l1", np.nan), ValueError, "robust: radius"),
    (lambda: robust(GOOD, "contamination", 1.1), ValueError, "robust: radius"),
    (lambda: robust(GOOD, "l1", np.ones(3)), ValueError, "robust: radius"),
    (lambda: robust(GOOD, "s-l1", np.ones(6)), ValueError, "robust: radius"),
    (lambda: robust(GOOD, "l1", None), TypeError, "robust: radius"),
    (lambda: robust(GOOD, "interval", 0.1), TypeError, "robust: radius"),
    (lambda: robust(GOOD, "interval"), TypeError, "robust: limits"),
    (lambda: robust(GOOD, "interval", limits=(np.ones(9), np.zeros(9))), ValueError, "robust: limits"),
    (
        lambda: robust(GOOD, "interval", limits=(np.ones(2), np.ones(9))),
        ValueError,
        "robust: limits, low, must have shape",
    ),
    (lambda: robust(GOOD, "lp", 0.1), ValueError, "robust: kind"),
    (lambda: robust(GOOD, "l1.5", 0.1), ValueError, "robust: kind"),
    (lambda: robust(GOOD, "kl", 0.1, support=False), ValueError, "robust: support"),
    (lambda: robust(GOOD, "s-l1", 0.1, optimistic=True), ValueError, "robust: optimistic"),
    (lambda: robust(examples.gridworld(3, 1.0), "l1", 0.1), ValueError, "robust: gamma"),
    (lambda: robust(GOOD, "l1", 0.1, limits=1), TypeError, "robust: limits"),
    (lambda: experimental.iwocs([], 0), TypeError, "iwocs: models"),
    (lambda: experimental.iwocs([GOOD, examples.forest(4)], 0), ValueError, "iwocs: models"),
    (lambda: experimental.iwocs([MDP(np.ones((1, 1, 1)), np.ones(1), np.array([0.5]))], 0), ValueError, "iwocs: gamma"),
    (lambda: experimental.iwocs([GOOD], 3), ValueError, "iwocs: start"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)
