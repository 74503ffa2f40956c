"""Mirror prox with an entropy: the equations, the rate of theory, quantal responses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastiter import ConvergenceWarning
from fastiter.fixedpoint import monotone, reference
from tests.support.cases import Array

from .test_monotone import GAME, game


def preferences(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Return probabilities with which one of n choices is preferred to another, and a law of choices."""
    rng = np.random.default_rng(seed)
    A = rng.uniform(-1, 1, (n, n))
    A = (A - A.T) / 2
    law = np.exp(0.5 * rng.standard_normal(n))
    return 0.5 + 0.5 * A / np.abs(A).max(), law / law.sum()


@pytest.mark.parametrize("beta", [0.0, 0.05, 1.0])
def test_steps_of_mirror_prox(beta: float) -> None:
    """With beta = 0 the value is z, with beta the next x."""
    P, x0 = preferences(6)
    r = preferences(6, seed=1)[1] if beta else x0
    x = x0
    for steps in range(1, 4):
        z, x = reference.mirror_prox_step(x, r, lambda y: -(P @ y), 1.5, beta)
        with pytest.warns(ConvergenceWarning, match="max_steps"):
            found = monotone.mirror_prox(
                lambda y: (-(P @ y[0]),),
                (x0,),
                step=1.5,
                beta=beta,
                reference=(r,) if beta else None,
                max_steps=steps,
            )
        np.testing.assert_allclose(found.value[0], x if beta else z, rtol=1e-14)
        assert found.evaluations == 2 * steps + (beta > 0)


@pytest.mark.parametrize("n", [2, 10, 100])
@pytest.mark.parametrize("beta", [0.01, 0.2])
def test_the_entropy_contracts_at_the_rate_of_theory(n: int, beta: float) -> None:
    """KL(solution | x) falls at least by 1 / (1 + 2 beta) in a step of 2, and the solution is its own best response."""
    P, r = preferences(n)
    points = [r]
    found = monotone.mirror_prox(
        lambda x: (-(P @ x[0]),),
        (r,),
        lipschitz=0.5,
        beta=beta,
        rtol=0,
        atol=1e-16,
        max_steps=3000,
        callback=lambda progress: points.append(progress.value[0]),
    )
    solution = found.value[0]
    response = r * np.exp((P @ solution - 1) / beta)
    off = np.sqrt(1e-16 / beta)  # beta KL(equilibrium | solution) and beta KL(solution | response) are at most 1e-16
    assert np.abs(solution - response / response.sum()).sum() <= 2 * off
    divergence = np.array([max((solution * np.log(solution / x) - solution + x).sum(), 0.0) for x in points])
    bound = divergence[0] * (1 + 2 * beta) ** -np.arange(len(points), dtype=float)
    assert found.converged and found.step == 2
    assert (np.sqrt(divergence) <= np.sqrt(bound) * (1 + 1e-9) + 2 * off).all()


def test_the_entropy_in_a_game_of_two_against_a_quantal_response() -> None:
    """Each player's law is proportional to its reference times exp(payoff / beta); the mean of all z comes near it."""
    start = np.full(7, 1 / 7), np.full(5, 1 / 5)
    r = preferences(7)[1], preferences(5)[1]
    how: dict[str, Any] = {"lipschitz": float(np.abs(GAME).max()), "beta": 0.3, "reference": r, "rtol": 0}
    found = monotone.mirror_prox(game, start, **how, atol=1e-13)
    x, y = found.value
    for law, payoff, anchor in ((x, -(GAME @ y), r[0]), (y, x @ GAME, r[1])):
        response = anchor * np.exp((payoff - payoff.max()) / 0.3)
        np.testing.assert_allclose(law, response / response.sum(), rtol=1e-5)
    mean = monotone.mirror_prox(game, start, **how, atol=1e-3, average=True)
    assert mean.converged and mean.steps > 10
    np.testing.assert_allclose(mean.value[0], x, atol=0.1)  # KL(x | u) <= 1e-3 / 0.3 bounds |x - u| by Pinsker


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_laws_below_the_range_of_floats(dtype: str) -> None:
    """A small beta makes bad choices as improbable as exp(-1 / beta); they come back when the payoffs turn."""
    calls = 0

    def turning(x: tuple[Array]) -> tuple[Array]:
        nonlocal calls
        calls += 1
        return (np.array([1, 0] if calls <= 2 else [0, 1], dtype),)

    found = monotone.mirror_prox(turning, (np.full(2, 0.5, dtype),), step=1e6, beta=1e-3)
    assert found.converged and found.steps == 2
    np.testing.assert_array_equal(found.value[0], np.array([1, 0], dtype))


def test_tensors_agree_with_arrays() -> None:
    torch = pytest.importorskip("torch")
    P, r = preferences(10)
    towards = torch.from_numpy(P)
    both = [
        monotone.mirror_prox(f, (x,), step=2.0, beta=0.05, average=average, rtol=0, atol=1e-3)
        for average in (False, True)
        for f, x in ((lambda x: (-(P @ x[0]),), r), (lambda x: (-(towards @ x[0]),), torch.from_numpy(r)))
    ]
    for array, tensor in (both[:2], both[2:]):
        assert array.steps == tensor.steps
        np.testing.assert_allclose(tensor.value[0].numpy(), array.value[0], rtol=1e-12)
