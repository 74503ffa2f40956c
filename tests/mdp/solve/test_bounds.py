"""Bounds against exact rationals: `exact_bounds.py` checks many more problems in the same way."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.mdp import MDP
from tests.mdp import exact_bounds
from tests.support.pairs import pairs


@pytest.mark.parametrize("method", exact_bounds.METHODS)
def test_bounds_contain_the_exact_values(method: str) -> None:
    """In every layout and sense, from any start, up to gamma 0.9999999, and convergence is never claimed wrongly."""
    reasons = set()
    for seed in range(40):
        rng = np.random.default_rng([seed, exact_bounds.METHODS.index(method)])
        problem = exact_bounds.random_problem(rng, method)
        wrong, found = exact_bounds.check(problem, seed % 5 == 0)
        assert not wrong, (seed, wrong, problem.words, found)
        reasons.add(None if found is None else found.reason)
    assert {"converged", "stagnated"} <= reasons


def chain(S: int, gamma: float, dtype: Any = np.float64) -> MDP:
    """Return a process with values near 1 / (1 - gamma) that differ by less than 10."""
    rng = np.random.default_rng(S)
    return MDP(
        rng.dirichlet(np.ones(S), (S, 3)).astype(dtype), rng.random((S, 3)).astype(dtype), gamma, renormalize=True
    )


@pairs
@pytest.mark.parametrize("start", ["default", "zeros"])
@pytest.mark.parametrize("gamma", [0.9999, 0.999999, 0.9999999])
@pytest.mark.parametrize("method", ["auto", "vi", "pi", "mpi", "ipi", "anderson", "deflated"])
def test_the_default_tolerance_is_reached(method: Any, gamma: float, start: str) -> None:
    """Although rounding errors of a sweep, divided by 1 - gamma, are much larger, and without useless sweeps."""
    problem = chain(12, gamma)
    value0 = np.zeros(12) if start == "zeros" else None
    found = problem.solve(method, value0=value0)
    assert found.converged and found.residual == (found.upper - found.lower).max() <= 1e-6
    assert found.steps <= 200
    value = exact_bounds.exact(chain(4, gamma))
    small = chain(4, gamma).solve(method, value0=None if value0 is None else value0[:4])
    assert all(low <= x <= high for low, x, high in zip(small.lower, value, small.upper, strict=True))


@pytest.mark.parametrize("method", ["vi", "gs", "ps", "pi", "mpi", "ipi", "anderson"])
def test_stagnation_is_recognised_promptly(method: Any) -> None:
    """A tolerance below the rounding of the values themselves."""
    for dtype in (np.float32, np.float64):
        problem = chain(12, 0.9 if method in ("gs", "ps") else 0.999, dtype)
        with pytest.warns(UserWarning, match="'stagnated'.*rounding"):
            found = problem.solve(method, atol=1e-30)
        assert found.steps <= (3000 if method == "ps" else 300)
        assert found.residual == (found.upper - found.lower).max() <= 64 * np.finfo(dtype).eps * found.value.max()


@pytest.mark.parametrize("method", ["vi", "pi"])
def test_policies_are_as_good_as_the_lower_bound(method: Any) -> None:
    for seed in range(30):
        process = exact_bounds.random_problem(np.random.default_rng(seed), method).process
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
            found = process.solve(method, max_steps=1 + seed)
        rows, rewards = exact_bounds.fractions_of(process)
        own = exact_bounds.value_exactly(rows, rewards, found.policy.tolist())
        if process._negated:
            assert all(x <= high for high, x in zip(found.upper, own, strict=True))
        else:
            assert all(low <= x for low, x in zip(found.lower, own, strict=True))


@pytest.mark.parametrize("method", ["auto", "vi", "gs", "ps", "mpi", "anderson"])
def test_infinite_bounds_are_told(method: Any) -> None:
    """Without a discount, steps that earn nothing leave infinite bounds; a cost of each step makes them finite."""
    walk = np.array([[[0, 1.0, 0], [0.5, 0, 0.5], [0, 0, 1.0]]])
    reward, cost = np.array([[0.0], [0.5], [0.0]]), np.array([[-1.0], [-1.0], [0.0]])
    free, costly = (MDP(walk, R, 1.0, terminal=[2]).solve(method) for R in (reward, cost))
    assert not np.isfinite(np.r_[free.lower, free.upper]).all() and "not all bounds are finite" in repr(free)
    assert np.isfinite(np.r_[costly.lower, costly.upper]).all() and "bounds" not in repr(costly)
