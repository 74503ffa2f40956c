"""Options of methods are refused by other methods; every method respects the limit of sweeps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter.mdp import MDP, MDPBatch, examples
from fastiter.mdp._solvers.options import METHODS, OPTIONS

GIVEN: dict[str, Any] = {
    "order": "symmetric",
    "exact_diag": False,
    "omega": 0.9,
    "policy_sweeps": 3,
    "alpha": 0.1,
    "window": 2,
}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_options_are_accepted_only_by_their_method(option: str) -> None:
    problem, value = examples.garnet(9, 2, 3, 0.9), GIVEN[option]
    batch, own = MDPBatch(problem, R=problem.rewards[None]), OPTIONS[option][1]
    assert set(GIVEN) == set(OPTIONS)
    for method in METHODS:
        name = "'mpi', which 'auto' has chosen" if method == "auto" else repr(method)
        message = f"solve: {option} must be None for {name}, as only {own!r} takes it, got {value!r}"
        for call in (problem.solve, batch.solve):
            how: dict[str, Any] = {option: value}
            if own in (method, "mpi" if method == "auto" else None):
                assert np.all(call(method, **how).converged)
                continue
            with pytest.raises(ValueError, match=r"^solve: ") as raised:
                call(method, **how)
            assert str(raised.value) == message


def test_messages_name_the_types_of_options_that_are_not_numbers() -> None:
    problem = examples.forest(4, 0.999)
    with pytest.raises(ValueError, match=r"^solve: order must be None for 'vi', .*, got 'numpy.ndarray'$"):
        problem.solve("vi", order=np.arange(4))
    with pytest.raises(ValueError, match=r"^solve: alpha must be None for 'mpi', which 'auto' has chosen, "):
        problem.solve(alpha=0.1)
    with pytest.raises(ValueError, match=r"^solve: policy_sweeps must be None for 'gs', which 'auto' has chosen, "):
        examples.gridworld(3, 1.0).solve(policy_sweeps=4)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_exceeds_the_limit_of_sweeps(method: Any) -> None:
    """Also with windows, where one pass may be sixty sweeps, and with heaps, whose pieces may have thousands."""
    problems: list[MDP] = [examples.garnet(40, 3, 4, 0.99), examples.gridworld(6, 0.98)]
    if method in ("gs", "ps", "auto"):
        problems += [examples.gridworld(32, 1.0), examples.gridworld(32, 0.99)]
    for problem in problems:
        value0 = None if problem.gamma == 1.0 else np.linspace(-3, 5, problem.S)
        exact = problem.solve("auto" if problem.gamma == 1.0 else "pi", atol=1e-8).value
        for most in (1, 2, 3, 7, 40):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
                found = problem.solve(method, atol=1e-8, max_steps=most, value0=value0)
            assert 1 <= found.steps <= most
            assert found.converged or found.reason == "max_steps"
            assert (found.lower <= exact + 1e-7).all() and (exact - 1e-7 <= found.upper).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_limit_of_sweeps_may_be_any_integer(method: Any) -> None:
    """Also more than fits into 64 bits, with which kernels count."""
    problem = examples.forest(3, 0.9)
    found = problem.solve(method, max_steps=10**30)
    assert found.converged and found.steps == problem.solve(method).steps
    assert MDPBatch(problem, R=problem.rewards[None]).solve(method, max_steps=10**30).converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_overflow_of_bounds_gives_no_other_warning(method: Any) -> None:
    """The initial values are 1e308, from which only prioritized sweeping converges."""
    problem = examples.garnet(20, 3, 4, 0.9)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = problem.solve(method, value0=np.full(20, 1e308))
    assert [each.category for each in seen] == [fastiter.ConvergenceWarning] * (not found.converged)
    assert found.converged == (method == "ps")
