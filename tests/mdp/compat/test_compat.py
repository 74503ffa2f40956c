"""pymdptoolbox's names: its calls and attributes, with correct values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter.mdp import reference  # noqa: E402
from fastiter.mdp.compat import error, example, mdp, util  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

P, R = example.forest(30, 4, 2, 0.1)
VALUE, POLICY = reference.policy_iteration(P.swapaxes(0, 1), R, 0.9)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("name", ["ValueIteration", "ValueIterationGS", "PolicyIteration", "PolicyIterationModified"])
def test_discounted_solvers(name: str, is_sparse: bool) -> None:
    transitions: Any = [sparse.csr_matrix(p) for p in P] if is_sparse else P
    more = {} if name == "PolicyIteration" else {"epsilon": 1e-6}
    solver = getattr(mdp, name)(transitions, R, 0.9, skip_check=True, **more)
    assert (solver.S, solver.A, solver.iter, solver.time) == (30, 2, 0, None)
    assert all(np.array_equal(r, R[:, a]) for a, r in enumerate(solver.R))
    assert all(own is given for own, given in zip(solver.P, transitions, strict=True)) or not is_sparse
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
    assert policies.iter == 1 and policies.policy == tuple(POLICY)
    short = mdp.ValueIteration(P, R, 0.9, 1e-6, max_iter=2)
    with pytest.warns(fastiter.ConvergenceWarning, match="after 2 steps"):
        short.run()


def test_average_rewards() -> None:
    solver = mdp.RelativeValueIteration(*example.forest(), epsilon=1e-9)
    solver.run()
    assert solver.average_reward == pytest.approx(3.24) and solver.policy == (0, 0, 0)
    assert solver.V[-1] == pytest.approx(solver.average_reward, abs=1e-14) and solver.discount == 1
    rough = mdp.RelativeValueIteration(P, R, epsilon=0.1)
    rough.run()
    assert rough.average_reward <= fastiter.mdp.average(fastiter.mdp.MDP(P.swapaxes(0, 1), R), atol=1e-9).gain


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


def howard(transitions: Any, rewards: Any, discount: float, policy: Any) -> tuple[Any, Any, int]:
    """Return the values, the policy and the number of evaluated policies of policy iteration, by dense elimination."""
    S, steps = len(policy), 0
    while True:
        steps += 1
        v = np.linalg.solve(np.eye(S) - discount * transitions[policy, np.arange(S)], rewards[np.arange(S), policy])
        q = rewards + discount * np.einsum("ast,t->sa", transitions, v)
        better = np.where(q.max(axis=1) > v + 1e-9, q.argmax(axis=1), policy)
        if np.array_equal(better, policy):
            return v, policy, steps
        policy = better


@pytest.mark.parametrize("seed", range(4))
def test_policy_iteration_counts_the_policies_that_it_evaluates(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    transitions, rewards = example.rand(12, 3)
    expected = (transitions * rewards).sum(axis=2).T
    solver = mdp.PolicyIteration(transitions, rewards, 0.95)
    assert np.array_equal(solver.policy, expected.argmax(axis=1)) and not solver.V.any()
    v, policy, steps = howard(transitions, expected, 0.95, solver.policy)
    solver.run()
    assert solver.iter == steps and solver.policy == tuple(policy)
    np.testing.assert_allclose(solver.V, v, rtol=1e-12)
    first = np.random.default_rng(seed).integers(0, 3, 12)
    given = mdp.PolicyIteration(transitions, rewards, 0.95, policy0=first, eval_type="matrix")
    assert np.array_equal(given.policy, first)
    given.run()
    assert given.iter == howard(transitions, expected, 0.95, first)[2]
    short = mdp.PolicyIteration(transitions, rewards, 0.95, policy0=first, max_iter=1)
    if given.iter > 1:
        with pytest.warns(fastiter.ConvergenceWarning, match="after 1 step;"):
            short.run()


@pytest.mark.parametrize("seed", range(3))
def test_value_iteration_takes_the_sweeps_of_the_span_test_and_at_most_its_bound(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    for transitions, rewards in (
        example.rand(9, 2),
        (P, R),
        (P[:, :3, :3] / P[:, :3, :3].sum(2, keepdims=True), R[:3]),
    ):
        expected = (transitions * rewards).sum(axis=2).T if np.ndim(rewards) == 3 else rewards
        v, steps, span = np.zeros(len(expected)), 0, np.inf
        while span >= 0.01 * (1 - 0.9) / 0.9:
            w = (expected + 0.9 * np.einsum("ast,t->sa", transitions, v)).max(axis=1)
            v, steps, span = w, steps + 1, np.ptp(w - v)
        solver = mdp.ValueIteration(transitions, rewards, 0.9)
        assert solver.thresh == 0.01 * (1 - 0.9) / 0.9 and not solver.V.any() and solver.policy is None
        common = transitions.min(axis=(0, 1)).sum()  # every row has at least these probabilities
        first = np.ptp(expected.max(axis=1))
        bound = np.ceil(np.log(solver.thresh / first) / np.log(0.9 * (1 - common)))
        assert solver.max_iter == min(1000, bound)
        solver.run()
        assert solver.iter == steps <= bound + 1
        limited = mdp.ValueIteration(transitions, rewards, 0.9)
        limited.max_iter = 2
        with pytest.warns(fastiter.ConvergenceWarning, match="after 2 steps"):
            limited.run()


@pytest.mark.parametrize("name", ["ValueIteration", "ValueIterationGS", "PolicyIterationModified"])
def test_a_discount_of_1_warns_and_sums_as_many_rewards_as_it_takes_sweeps(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"^{name}: discount must be below 1 for values that converge") as told:
        solver = getattr(mdp, name)(*example.small(), 1)
    assert told[0].filename == __file__
    solver.run()
    P2, R2 = example.small()
    totals = fastiter.mdp.finite_horizon(fastiter.mdp.MDP(list(P2), R2), solver.iter)
    np.testing.assert_allclose(solver.V, totals.value[0], rtol=1e-13)
    assert solver.policy == (1, 0) and 10 < solver.iter < 100
    with pytest.warns(UserWarning, match="discount must be below 1"):
        limited = getattr(mdp, name)(*example.small(), 1, max_iter=3)
    with pytest.warns(fastiter.ConvergenceWarning, match="after 3 steps"):
        limited.run()


def test_attributes_before_a_run() -> None:
    modified = mdp.PolicyIterationModified(P, R - 3, 0.9)
    assert modified.V.tolist() == [-3.0 / (1 - 0.9)] * 30 and modified.policy.tolist() == R.argmax(axis=1).tolist()
    horizon = mdp.FiniteHorizon(P, R, 0.9, 4, h=np.arange(30))
    assert horizon.V.shape == (30, 5) and horizon.V[7].tolist() == [0, 0, 0, 0, 7] and horizon.policy.shape == (30, 4)
    relative = mdp.RelativeValueIteration(P, R)
    assert not relative.V.any() and relative.average_reward is None and relative.gain == 0
    start = mdp.ValueIteration(P, R, 0.9, initial_value=list(VALUE))
    assert start.V.tolist() == VALUE.tolist()


class Constant(mdp.MDP):  # type: ignore[misc]
    """A solver that a user derives from the base."""

    def run(self) -> None:
        self.policy = (0,) * self.S


def test_layouts_of_rewards_and_the_base_class() -> None:
    rng = np.random.default_rng(3)
    full = rng.standard_normal((2, 30, 30))
    objects = np.empty(2, object)
    objects[:] = [sparse.csr_matrix(r) for r in full]
    expected = (P * full).sum(axis=2)
    for given in (full, list(full), objects, dict(enumerate(full))):
        problem = Constant(dict(enumerate(P)), given, None, None, None)
        np.testing.assert_allclose(problem.R, expected, rtol=0, atol=1e-13)
    vector = Constant(P, tuple(R[:, 1]), None, None, None)
    assert vector.R[0] is vector.R[1] and vector.R[0].tolist() == R[:, 1].tolist()
    assert np.array_equal(np.stack(Constant(P, sparse.csr_matrix(R), None, None, None).R, 1), R)
    missing = np.where(np.arange(30)[:, None] % 7 + [0, 1] == 3, -np.inf, R)
    assert np.array_equal(np.stack(Constant(P, missing, None, None, None).R, 1), missing)
    vector.run()
    assert vector.policy == (0,) * 30
    with pytest.raises(NotImplementedError, match="MDP: run must be called on a solver, got the base class"):
        mdp.MDP(P, R, None, None, None).run()


@pytest.mark.parametrize("kind", ["by state", "by action", "by next state", "sparse"])
def test_q_learning_is_that_of_its_definition(kind: str) -> None:
    rng = np.random.default_rng(8)
    transitions: Any = rng.dirichlet(np.ones(4), (2, 4))
    rewards: Any = {"by state": rng.random(4), "by action": rng.random((4, 2))}.get(kind, rng.random((2, 4, 4)))
    np.random.seed(5)  # noqa: NPY002
    draw, Q, s = np.random.RandomState(5), np.zeros((4, 2)), 0
    s = draw.randint(4)
    for n in range(1, 10_001):
        s = draw.randint(4) if n % 100 == 0 else s
        a = Q[s].argmax() if draw.rand() < 1 - 1 / np.log(n + 2) else draw.randint(2)
        to = int((transitions[a, s].cumsum() < draw.rand()).sum())
        r = {"by state": lambda: rewards[s], "by action": lambda: rewards[s, a]}.get(kind, lambda: rewards[a, s, to])()  # noqa: B023
        Q[s, a] += (r + 0.8 * Q[to].max() - Q[s, a]) / np.sqrt(n + 2)
        s = to
    if kind == "sparse":
        transitions, rewards = ([sparse.csr_matrix(x) for x in each] for each in (transitions, rewards))
    solver = mdp.QLearning(transitions, rewards, 0.8)
    solver.run()
    np.testing.assert_allclose(solver.Q, Q, rtol=1e-12)
    assert solver.policy == tuple(Q.argmax(axis=1)) and len(solver.mean_discrepancy) == 100


@pytest.mark.parametrize("is_sparse", [False, True])
def test_random_processes(is_sparse: bool) -> None:
    masks: list[Any] = [None, np.eye(5), np.zeros((5, 5)), np.random.default_rng(1).integers(0, 2, (3, 5, 5))]
    for mask in [*masks, sparse.csr_matrix(np.eye(5))]:
        np.random.seed(11)  # noqa: NPY002
        transitions, rewards = example.rand(5, 3, is_sparse=is_sparse, mask=mask)
        assert util.check(transitions, rewards) is None and all(map(sparse.issparse, transitions)) is is_sparse
        dense = np.array([each.toarray() if is_sparse else each for each in (*transitions, *rewards)]).reshape(
            2, 3, 5, 5
        )
        assert abs(dense[1]).max() < 1 and not dense[1][dense[0] == 0].any()
        if mask is not None and mask.ndim == 3:
            assert np.array_equal(dense[0][mask.any(axis=2)] > 0, mask[mask.any(axis=2)] > 0)
        np.random.seed(11)  # noqa: NPY002
        again = example.rand(5, 3, is_sparse=is_sparse, mask=mask)[0]
        assert all((abs(one - other)).max() == 0 for one, other in zip(transitions, again, strict=True))


def test_checks() -> None:
    uniform = np.full((4, 4), 0.25)
    for one in (uniform, sparse.csr_matrix(uniform), sparse.lil_matrix(uniform), uniform.tolist()):
        assert util.isSquare(one) and util.isStochastic(one) and util.isNonNegative(one)
        assert util.checkSquareStochastic(one) is None
    assert util.isStochastic(uniform.astype(np.float32) + np.float32(1e-8)) and not util.isStochastic(uniform + 1e-9)
    negative = uniform + np.array([0.5, -0.5, 0, 0])
    assert not util.isNonNegative(negative) and not util.isNonNegative(sparse.csr_matrix(negative))
    assert not util.isSquare([[1, 0], [1]]) and not util.isSquare("text") and util.getSpan(np.array([2.0, -1])) == 3
    for wrong, kind in (
        (uniform[:3], error.SquareError),
        (uniform * 2, error.StochasticError),
        (negative, error.NonNegativeError),
    ):
        with pytest.raises(kind, match=r"^checkSquareStochastic: matrix must have"):
            util.checkSquareStochastic(wrong)
        square = wrong if len(wrong) == 4 else np.ones((4, 3))
        with pytest.raises(ValueError, match=r"^(checkSquareStochastic|check): ") as raised:
            util.check([uniform, square], np.zeros(4))
        assert isinstance(raised.value, error.Error) and raised.value.message == str(raised.value)
    for P3, R3 in ((uniform, np.zeros(4)), ([uniform, uniform], np.zeros(5)), ({}, np.zeros(4)), ([1, 2], np.zeros(4))):
        with pytest.raises(error.InvalidError, match=r"^check: [PR] must have shape"):
            util.check(P3, R3)
    with pytest.raises(TypeError, match="isStochastic: matrix must be numbers"):
        util.isStochastic("text")
    assert str(error.SquareError()) == error.SquareError.default_msg and issubclass(error.Error, ValueError)


def test_wrong_probabilities_raise_the_exceptions_of_pymdptoolbox() -> None:
    negative = P.copy()
    negative[0, 3, 4:6] = [-0.5, 1.4]
    for transitions, kind in ((P / 2, error.StochasticError), (negative, error.NonNegativeError)):
        with pytest.raises(kind, match=r"^ValueIteration: transitions must .* in state"):
            mdp.ValueIteration(transitions, R, 0.9)
    with pytest.raises(error.InvalidError, match=r"^PolicyIteration: reward must have shape"):
        mdp.PolicyIteration(P, np.zeros(29), 0.9)
    for call in (lambda: mdp.ValueIteration(P, R, 1.5), lambda: example.forest(1), lambda: example.rand(3, 1)):
        with pytest.raises(AssertionError) as raised:
            call()
        assert isinstance(raised.value, ValueError)


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: mdp.ValueIteration(P.tolist(), R, 0.9), TypeError, "ValueIteration: transitions"),
    (lambda: mdp.ValueIteration(P / 2, R, 0.9), ValueError, "ValueIteration: transitions"),
    (lambda: mdp.PolicyIteration(P, R, 1.5), ValueError, "PolicyIteration: discount"),
    (lambda: mdp.PolicyIteration(P, R, 1.0), ValueError, "PolicyIteration: discount"),
    (lambda: mdp.PolicyIteration(P, R, 0.9, R), TypeError, "PolicyIteration: policy0"),
    (lambda: mdp.FiniteHorizon(P, R, 0.9, 3, h="0"), TypeError, "FiniteHorizon: h"),
    (lambda: mdp.PolicyIteration(P, R, 0.9, eval_type=3), ValueError, "PolicyIteration: eval_type"),
    (lambda: mdp.ValueIteration(P, R, None), TypeError, "ValueIteration: discount"),
    (lambda: mdp.RelativeValueIteration(P, R, None), TypeError, "RelativeValueIteration: epsilon"),
    (lambda: mdp.PolicyIteration(P, R, 0.9, None, None), TypeError, "PolicyIteration: max_iter"),
    (lambda: mdp.QLearning(P, R, None), TypeError, "QLearning: discount"),
    (lambda: mdp.QLearning(P, R, 0.9, 100), ValueError, "QLearning: n_iter"),
    (lambda: example.rand(3, 2, mask=True), TypeError, "rand: mask"),
    (lambda: example.rand(3, 2, mask=np.ones((3, 2))), ValueError, "rand: mask"),
    (lambda: example.forest(3, r2=0), ValueError, "forest: r2"),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)


def test_examples() -> None:
    small = mdp.PolicyIteration(*example.small(), 0.9)
    small.run()
    P2, R2 = example.small()
    np.testing.assert_allclose(small.V, reference.policy_iteration(P2.swapaxes(0, 1), R2, 0.9)[0], atol=1e-9)
    assert np.array_equal(P[0, 0, :2], [0.1, 0.9]) and P[1, :, 0].tolist() == [1.0] * 30 and R[-1].tolist() == [4, 2]
