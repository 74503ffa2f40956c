"""Bounds of `robust` against exact values of small processes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpmath")

import fastiter
from fastiter.mdp import MDP, robust
from tests.mdp import exact_robust


@pytest.mark.parametrize("kind", exact_robust.KINDS[:-1])
def test_bounds_contain_the_exact_values(kind: Any) -> None:
    """Up to gamma 0.999999; those that converge have bounds within the tolerance."""
    converged = 0
    irrational = kind in ("kl", "chi2")
    for seed in range(6 if irrational else 40):
        rng = np.random.default_rng([seed, exact_robust.KINDS.index(kind)])
        problem, radius, limits = random_set(rng, kind)
        zeros = np.zeros(problem.S, problem.dtype) if seed % 3 == 0 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
            given = {"limits": limits} if kind == "interval" else {"radius": radius}
            found = robust(problem, kind, **given, value0=zeros, max_steps=2000)
        exact = exact_robust.values(problem, kind, radius, limits)
        assert all(float_in(low, x, high) for low, x, high in zip(found.lower, exact, found.upper, strict=True)), seed
        assert found.residual == (found.upper - found.lower).max()
        assert found.converged == (found.residual <= 1e-6)
        converged += found.converged
    assert converged >= (3 if irrational else 20)


def float_in(low: float, x: Any, high: float) -> bool:
    return bool(type(x)(low) <= x <= type(x)(high))


def random_set(rng: np.random.Generator, kind: str) -> tuple[MDP, float, tuple[Any, Any]]:
    """Return a process, a radius, and limits around its probabilities: for "linf" those that the radius has."""
    S, A = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    P = rng.dirichlet(np.ones(S), (S, A))
    R = rng.normal(size=(S, A)) * float(rng.choice([1.0, 100.0]))
    problem = MDP(P, R, float(rng.choice([0.5, 0.9, 0.999, 0.99999, 0.999999])))
    radius = float(rng.choice([0.0, 0.01, 0.1, 0.5]))
    weight = problem.transitions[0]
    if kind == "linf":
        return problem, radius, (np.maximum(weight - radius, 0), np.minimum(weight + radius, 1))
    return problem, radius, (0.8 * weight, np.minimum(1.2 * weight + 0.05, 1))


@pytest.mark.parametrize("kind", exact_robust.KINDS)
def test_the_default_tolerance_is_reached(kind: Any) -> None:
    """At gamma 0.99999, from 0, although values are near 10^5."""
    rng = np.random.default_rng(6)
    problem = MDP(rng.dirichlet(np.ones(6), (6, 2)), rng.random((6, 2)), 0.99999)
    weight = problem.transitions[0]
    given = {"limits": (weight / 2, np.minimum(2 * weight, 1))} if kind == "interval" else {"radius": 0.1}
    found = robust(problem, kind, **given, value0=np.zeros(6))
    assert found.converged and found.residual == (found.upper - found.lower).max() <= 1e-6
