"""The automatic choice: methods that collapse are left, by counted work, and with the same bits in every run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

pytest.importorskip("torch")  # bench imports it

import fastiter
from bench.mdp.shapes import blown_cycle
from fastiter.mdp import MDP, examples
from fastiter.mdp._solvers.auto import steps_left
from fastiter.mdp._solvers.state import Judgement

RATE = Judgement(first=4, overhead=1.0, needed=6.0, rate=0.06)


def chain(S: int, gamma: float) -> MDP:
    """Steps to the right or to the left, which may fail; the best rewards are at the right end."""
    every = np.arange(S)
    ahead, back = np.minimum(every + 1, S - 1), np.maximum(every - 1, 0)
    rows = np.tile(np.repeat(every, 2), 3) * 2 + np.tile(np.array([0, 1]), 3 * S)
    to = np.concatenate([np.stack([ahead, back], 1), np.stack([every, every], 1), np.stack([back, ahead], 1)])
    P = sparse.csr_array((np.repeat([0.8, 0.1, 0.1], 2 * S), (rows, to.reshape(-1))), shape=(2 * S, S))
    P.sum_duplicates()
    rewards = np.zeros((S, 2))
    rewards[-1], rewards[0] = 1, 0.005
    return MDP(P, rewards.reshape(-1), gamma, states=np.repeat(every, 2))


@pytest.mark.parametrize(("S", "gamma"), [(1000, 0.999), (1500, 0.999), (2500, 0.9995)])
def test_chains_take_few_steps(S: int, gamma: float) -> None:
    """Inexact policy iteration takes thousands; elimination makes each policy's values cheap."""
    problem = chain(S, gamma)
    found = problem.solve(atol=1e-5)
    assert found.converged and found.method == "pi" and found.steps <= 120
    assert len(found.history) == found.steps
    exact = problem.evaluate(found.policy)
    assert (found.lower - 1e-8 <= exact).all() and (exact <= found.upper + 1e-8).all()


@pytest.mark.parametrize("gamma", [0.999, 0.9995])
def test_other_methods_are_tried_after_a_prediction_that_was_too_small(gamma: float) -> None:
    """Residuals of mpi fall fast, then slowly; its prediction alone would never give elimination another trial."""
    found = blown_cycle(1500, gamma).solve(atol=1e-6)
    assert found.converged and found.method == "pi" and found.steps <= 700


@pytest.mark.parametrize("make", [lambda: blown_cycle(500, 0.99), lambda: chain(300, 0.99), lambda: chain(700, 0.999)])
def test_a_tolerance_below_all_rounding_errors_ends(make: object) -> None:
    """The tolerance of corrections is then negative, so that no number of steps can be predicted."""
    with pytest.warns(fastiter.ConvergenceWarning, match="'stagnated'"):
        found = make().solve(atol=1e-300)  # type: ignore[operator]
    assert found.residual <= 1e-10 and (found.lower <= found.value).all()


def test_progress_foretells_the_steps_that_are_left() -> None:
    falling = 100 * 0.5 ** np.arange(12)
    assert steps_left(falling, falling[-1] * 0.5**7) == pytest.approx(7)
    spreading = 1000.0 - 10 * np.arange(12)
    assert steps_left(spreading, 1e-6) == pytest.approx(2 * spreading[-1] / 10)
    assert steps_left(falling[::-1], 1e-6) == np.inf and steps_left(falling[:2], 1e-6) == np.inf


def test_the_discount_limits_the_steps_that_are_predicted() -> None:
    """The prediction is infinite while residuals rise, and no more than the discount's rate where it is judged."""
    rising = np.arange(1.0, 20)
    assert steps_left(rising, 1e-6) == np.inf
    assert steps_left(rising, 1e-6, RATE) == pytest.approx(np.log(19e6) / 0.06)
    falling = 100 * 0.5 ** np.arange(12)
    assert steps_left(falling, falling[-1] / 2**7, RATE) == pytest.approx(7)
    assert steps_left(np.zeros(0), 1e-6, RATE) == np.inf


@pytest.mark.parametrize("states", [20, 300, 3000])
def test_steps_that_progress_are_those_of_the_method_alone(states: int) -> None:
    problem = examples.garnet(states, 4, 5, 0.99)
    found, alone = problem.solve(), problem.solve("mpi")
    assert np.array_equal(found.value, alone.value) and np.array_equal(found.history, alone.history)


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(700, 0.999),
        lambda: chain(60, 0.9),
        lambda: examples.gridworld(40, 0.99),
        lambda: examples.garnet(300, 4, 5, 0.99),
        lambda: examples.forest(1000, 0.96),
    ],
)
def test_a_callback_changes_no_bit(make: object) -> None:
    problem = make()  # type: ignore[operator]
    found, seen = problem.solve(), problem.solve(callback=lambda _: False)
    assert np.array_equal(found.value, seen.value) and np.array_equal(found.history, seen.history)
    assert (found.method, found.steps) == (seen.method, seen.steps)


@pytest.mark.parametrize("make", [lambda: chain(700, 0.999), lambda: examples.gridworld(40, 0.99)])
def test_the_same_bits_with_any_number_of_threads(make: object) -> None:
    before, found = fastiter.get_num_threads(), []
    for threads in (1, 2, 1):
        fastiter.set_num_threads(threads)
        found.append(make().solve(atol=1e-5))  # type: ignore[operator]
    fastiter.set_num_threads(before)
    for one in found[1:]:
        assert np.array_equal(one.value, found[0].value) and np.array_equal(one.history, found[0].history)
        assert (one.method, one.steps) == (found[0].method, found[0].steps)


def test_the_limit_of_steps_and_callbacks_cover_all_methods() -> None:
    problem, seen = chain(1000, 0.999), []
    with pytest.warns(fastiter.ConvergenceWarning, match="'max_steps'"):
        assert problem.solve(max_steps=2).steps == 2
    found = problem.solve(atol=1e-5, callback=lambda progress: seen.append(progress.steps))
    assert found.converged and seen == sorted(seen) and seen[-1] <= found.steps
    ended = problem.solve(callback=lambda progress: progress.steps >= 2)
    assert ended.reason == "callback" and ended.steps == 2
