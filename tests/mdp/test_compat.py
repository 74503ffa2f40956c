"""pymdptoolbox's names: its calls and attributes, with correct values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter.mdp import reference  # noqa: E402
from fastiter.mdp.compat import example, mdp  # noqa: E402

P, R = example.forest(30, 4, 2, 0.1)
VALUE, POLICY = reference.policy_iteration(P.swapaxes(0, 1), R, 0.9)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("name", ["ValueIteration", "ValueIterationGS", "PolicyIteration", "PolicyIterationModified"])
def test_discounted_solvers(name: str, is_sparse: bool) -> None:
    transitions: Any = [sparse.csr_matrix(p) for p in P] if is_sparse else P
    more = {} if name == "PolicyIteration" else {"epsilon": 1e-6}
    solver = getattr(mdp, name)(transitions, R, 0.9, skip_check=True, **more)
    assert solver.V is None and (solver.S, solver.A) == (30, 2)
    solver.setSilent()
    solver.run()
    np.testing.assert_allclose(solver.V, VALUE, rtol=0, atol=5e-7)
    assert solver.policy == tuple(POLICY) and isinstance(solver.V, tuple)
    assert solver.iter > 0 and solver.time > 0 and not solver.verbose


def test_first_values_and_policies() -> None:
    again = mdp.ValueIteration(P, R, 0.9, 1e-6, initial_value=VALUE)
    again.run()
    assert again.iter == 1
    single = mdp.ValueIteration(P.astype(np.float32), R.astype(np.float32), 0.9, 1e-3, initial_value=list(VALUE))
    single.run()
    assert single.iter == 1
    policies = mdp.PolicyIteration(P, R, 0.9, policy0=POLICY)
    policies.run()
    assert policies.iter <= 2 and policies.policy == tuple(POLICY)
    short = mdp.ValueIteration(P, R, 0.9, 1e-6, max_iter=2)
    with pytest.warns(fastiter.ConvergenceWarning, match="after 2 steps"):
        short.run()


def test_average_rewards() -> None:
    solver = mdp.RelativeValueIteration(*example.forest(), epsilon=1e-9)
    solver.run()
    assert solver.average_reward == pytest.approx(3.24) and solver.policy == (0, 0, 0)


def test_finite_horizons() -> None:
    solver = mdp.FiniteHorizon(P, R, 0.9, 3, h=np.arange(30))
    solver.run()
    v = np.arange(30.0)
    assert solver.V.shape == (30, 4) and np.array_equal(solver.V[:, 3], v)
    for n in (2, 1, 0):
        v, policy = reference.backup(P.swapaxes(0, 1), R, 0.9, v)
        np.testing.assert_allclose(solver.V[:, n], v, rtol=0, atol=1e-12)
        assert np.array_equal(solver.policy[:, n], policy)
    undiscounted = mdp.FiniteHorizon(P, R, 1, 2)
    undiscounted.run()
    assert undiscounted.V[0, 0] == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["ValueIteration", "ValueIterationGS", "RelativeValueIteration"])
def test_a_run_that_does_not_converge_warns_by_the_names_of_this_module(name: str) -> None:
    more = {} if name == "RelativeValueIteration" else {"discount": 0.99}
    solver = getattr(mdp, name)(P, R, epsilon=1e-9, max_iter=2, **more)
    expected = rf"^{name}: the bounds must come within 1e-09, got .* after 2 steps; try a larger max_iter or epsilon$"
    with pytest.warns(fastiter.ConvergenceWarning, match=expected) as told:
        solver.run()
    assert solver.iter == 2 and len(solver.V) == len(R) and told[0].filename == __file__


def test_a_sparse_forest() -> None:
    transitions, rewards = example.forest(7, is_sparse=True)
    dense, same = example.forest(7)
    assert np.array_equal([each.toarray() for each in transitions], dense) and np.array_equal(rewards, same)
    with pytest.raises(TypeError, match="forest: is_sparse must be a bool, got int"):
        example.forest(7, is_sparse=1)  # type: ignore[arg-type]


WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: mdp.ValueIteration(P.tolist(), R, 0.9),
        TypeError,
        "ValueIteration: transitions must be an array (A, S, S)",
    ),
    (
        lambda: mdp.ValueIteration(P / 2, R, 0.9),
        ValueError,
        "ValueIteration: transitions must sum to 1, got 0.5 in state",
    ),
    (lambda: mdp.PolicyIteration(P, R, 1.5), ValueError, "PolicyIteration: discount must be from 0 to 1, got 1.5"),
    (lambda: mdp.PolicyIteration(P, R, 1.0), ValueError, "PolicyIteration: discount must be below 1, got 1"),
    (
        lambda: mdp.PolicyIteration(P, R, 0.9, R),
        TypeError,
        "PolicyIteration: policy0 must be integers, got dtype float64",
    ),
    (lambda: mdp.FiniteHorizon(P, R, 0.9, 3, h="0"), TypeError, "FiniteHorizon: h must be numbers, got dtype <U1"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_arguments(case: int) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_examples() -> None:
    small = mdp.PolicyIteration(*example.small(), 0.9)
    small.run()
    P2, R2 = example.small()
    np.testing.assert_allclose(small.V, reference.policy_iteration(P2.swapaxes(0, 1), R2, 0.9)[0], atol=1e-9)
    assert np.array_equal(P[0, 0, :2], [0.1, 0.9]) and P[1, :, 0].tolist() == [1.0] * 30 and R[-1].tolist() == [4, 2]
