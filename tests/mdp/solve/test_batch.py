"""Batches of decision processes with one pattern: the bits of each model alone, stops, gradients, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

import fastiter
from fastiter.mdp import MDP, MDPBatch, examples
from tests.mdp.cases import linear_program, mdp_of, random_process
from tests.support.error_cases import assert_named

S, A, B = 11, 3, 4


def models(dtype: str = "float64", **more: Any) -> tuple[MDP, Any, Any, Any]:
    """Return a process, probabilities (B, entries) and rewards (B, rows), and the dense P of each model."""
    P, R = random_process(S, A, 160)
    problem = mdp_of(P, R, 0.9, dtype, **more)
    rng = np.random.default_rng(161)
    entry = problem.transitions[2]
    owner = np.repeat(np.arange(problem.rows), np.diff(entry))
    weights = rng.random((B, len(owner)))
    weights /= np.stack([np.bincount(owner, row) for row in weights])[:, owner]
    weights = weights.astype(dtype)
    dense = np.zeros((B, S, A, S))
    s, a = np.nonzero(np.isfinite(R))
    for m in range(B):
        np.add.at(dense[m], (s[owner], a[owner], problem.transitions[1]), weights[m])
    return problem, weights, rng.standard_normal((B, problem.rows)).astype(dtype), dense


def alone(problem: MDP, weight: Any, reward: Any, **more: Any) -> MDP:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_array((weight, *problem.transitions[1:]), shape=(problem.rows, problem.S))
    states = np.repeat(np.arange(problem.S), np.diff(problem.row_starts))
    actions = np.nonzero(np.isfinite(random_process(S, A, 160)[1]))[1]
    return MDP(matrix, reward, 0.9, states=states, actions=actions, **more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["auto", "vi", "gs", "ps", "pi", "ipi", "anderson", "anchored", "deflated"])
def test_a_batch_has_the_bits_of_separate_models(method: Any, dtype: str) -> None:
    problem, P, R, _ = models(dtype)
    tol = 1e-8 if dtype == "float64" else 1e-3
    found = MDPBatch(problem, P, R).solve(method, atol=tol)
    assert found.converged.all() and found.value.shape == (B, S) and found.value.dtype == dtype
    for m in range(B):
        one = alone(problem, P[m], R[m]).solve(method, atol=tol)
        for name in ("value", "lower", "upper", "policy", "steps", "residual", "reason"):
            assert np.array_equal(getattr(found, name)[m], getattr(one, name)), name
        history = found.history[m]
        assert np.array_equal(history[: len(one.history)], one.history) and np.isnan(history[len(one.history) :]).all()
    assert dtype == "float32" or len(set(found.steps.tolist())) > 1 or method in ("pi", "ipi", "auto")


@pytest.mark.parametrize("sense", ["max", "min"])
def test_values_of_several_models(sense: Any) -> None:
    problem, P, R, dense = models(sense=sense)
    sign = 1 if sense == "max" else -1
    batch = MDPBatch(problem, P, R)
    found = batch.solve(atol=1e-9)
    table = np.full((B, S, A), -np.inf)
    s, a = np.nonzero(np.isfinite(random_process(S, A, 160)[1]))
    table[:, s, a] = sign * R
    for m in range(B):
        np.testing.assert_allclose(sign * found.value[m], linear_program(dense[m], table[m], 0.9), rtol=0, atol=1e-8)
        assert batch[m].evaluate(found.policy[m]) == pytest.approx(found.value[m], abs=1e-9)
    np.testing.assert_allclose(batch.evaluate(found.policy), found.value, rtol=0, atol=1e-9)
    same = batch.evaluate(found.policy[1])
    assert np.array_equal(same[1], batch[1].evaluate(found.policy[1])) and same.shape == (B, S)
    assert batch.solve(value0=found.value, atol=1e-6).steps.sum() < batch.solve(atol=1e-6).steps.sum()
    assert batch.solve(value0=found.value[0], atol=1e-9).value == pytest.approx(found.value, abs=1e-9)


def test_probabilities_or_rewards_may_be_shared() -> None:
    problem, P, R, _ = models()
    transposed = np.asfortranarray(R)
    for batch, parts in (
        (MDPBatch(problem, R=transposed), [(problem.transitions[0], r) for r in R]),
        (MDPBatch(problem, P[:, ::-1][:, ::-1]), [(p, problem.rewards) for p in P]),
    ):
        found = batch.solve(atol=1e-9)
        for m, (p, r) in enumerate(parts):
            assert np.array_equal(found.value[m], alone(problem, p, r).solve(atol=1e-9).value)
    fixed = P.copy()
    fixed.flags.writeable = False
    assert MDPBatch(problem, fixed).solve().converged.all() and len(MDPBatch(problem, fixed)) == B


def test_terminal_states_and_no_discount() -> None:
    grid = examples.gridworld(5, 1.0)
    R = -np.random.default_rng(162).uniform(0.5, 2, (3, grid.rows))
    found = MDPBatch(grid, R=R).solve(atol=1e-9)
    assert found.method == "gs" and (found.value[:, -1] == 0).all() and (found.policy[:, -1] == -1).all()
    steps = MDPBatch(grid, R=np.stack([grid.rewards, 3 * grid.rewards])).solve(atol=1e-9).value
    np.testing.assert_allclose(steps[1], 3 * steps[0], rtol=1e-9)
    weight, target, entry = grid.transitions
    stuck = np.stack([weight, weight])
    for j in range(4):  # walls let each action stay in the first state
        at = slice(entry[j], entry[j + 1])
        stuck[1, at] = (target[at] == 0) / (target[at] == 0).sum()
    with pytest.raises(
        ValueError, match=r"^MDPBatch: P must have a path to a terminal state .* from state 0 of model 1$"
    ):
        MDPBatch(grid, stuck)


def test_failures_to_converge_are_reported() -> None:
    problem, P, R, _ = models()
    batch = MDPBatch(problem, P, R)
    text = r"^solve: the bounds must come within 1e-09, got .* in model 0 and 3 others after 2 steps \('max_steps'\)"
    with pytest.warns(fastiter.ConvergenceWarning, match=text):
        found = batch.solve("vi", atol=1e-9, max_steps=2)
    assert not found.converged.any() and (found.steps == 2).all() and found.reason == ("max_steps",) * B
    exact = batch.solve(atol=1e-10).value
    assert (found.lower <= exact).all() and (exact <= found.upper).all()
    warm = exact.copy()
    warm[2] = 0
    with pytest.raises(fastiter.ConvergenceError, match=r"in model 2 after 1 step \('max_steps'\)"):
        batch.solve("vi", atol=1e-6, max_steps=1, value0=warm, throw=True)
    seen: list[int] = []
    stopped = batch.solve("vi", atol=1e-9, callback=lambda progress: seen.append(progress.steps) or progress.steps == 3)
    assert stopped.reason == ("callback",) * B and seen == [1, 2, 3] * B


def test_no_models() -> None:
    problem, P, R, _ = models()
    found = MDPBatch(problem, P[:0], R[:0]).solve()
    assert found.value.shape == found.policy.shape == (0, S) and found.steps.shape == (0,) and found.reason == ()
    assert MDPBatch(problem, P[:0]).evaluate(np.zeros(S, np.int64)).shape == (0, S)


def test_wrong_numbers_are_named_with_their_model() -> None:
    problem, P, R, _ = models()
    P[2, 0] += 0.5
    with pytest.raises(
        ValueError, match=r"^MDPBatch: P must sum to 1 in each row, got .* in state 0, action \d \(row 0\) of model 2$"
    ):
        MDPBatch(problem, P, R)


def wrong() -> list[tuple[Any, type[Exception], str]]:
    problem, P, R, _ = models()
    bad, many = P.copy(), R.copy()
    bad[2, 0] += 0.5
    many[1, 4] = np.nan
    forest = examples.forest(3, None)
    batch = MDPBatch(problem, P, R)
    semi = MDP(np.ones((1, 1, 1)), np.ones((1, 1)), np.array([0.5]))
    return [
        (lambda: MDPBatch(P, P), TypeError, "MDPBatch: problem"),
        (lambda: MDPBatch(problem), TypeError, "MDPBatch: P or R"),
        (
            lambda: MDPBatch(problem, P[0]),
            ValueError,
            f"MDPBatch: P must have shape (B, entries) = (B, {P.shape[1]}), got",
        ),
        (
            lambda: MDPBatch(problem, R=R[:, 1:]),
            ValueError,
            f"MDPBatch: R must have shape (B, rows) = (B, {R.shape[1]})",
        ),
        (lambda: MDPBatch(problem, P, R[:2]), ValueError, "MDPBatch: R"),
        (lambda: MDPBatch(problem, P.astype(np.float32)), TypeError, "MDPBatch: P"),
        (lambda: MDPBatch(problem, bad), ValueError, "MDPBatch: P"),
        (lambda: MDPBatch(problem, R=many), ValueError, "MDPBatch: R"),
        (lambda: MDPBatch(semi, np.ones((2, 1))), ValueError, "MDPBatch: P"),
        (lambda: MDPBatch(forest, R=np.zeros((1, 6))).solve(), ValueError, "solve: gamma"),
        (lambda: batch.solve("fast"), ValueError, "solve: method"),  # type: ignore[arg-type]
        (lambda: batch.solve(sweeps=3), TypeError, "solve: options"),
        (lambda: batch.solve("gs", omega=2.5), ValueError, "solve: omega"),
        (lambda: batch.solve(value0=np.zeros(3)), ValueError, "solve: value0"),
        (lambda: batch.evaluate(np.zeros((2, S), np.int64)), ValueError, "evaluate: policy"),
    ]


def test_wrong_arguments() -> None:
    assert_named(wrong())
