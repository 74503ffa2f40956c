"""QuantEcon's names: both forms of a process, the operators, and solutions against policy iteration in NumPy."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest

sparse = pytest.importorskip("scipy.sparse")

import fastiter  # noqa: E402
from fastiter.mdp import reference  # noqa: E402
from fastiter.mdp.compat.quantecon import ControlledChain, DiscreteDP, backward_induction  # noqa: E402
from tests.mdp.cases import random_process  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

N, M = 9, 3
Q, R = random_process(N, M, 63)
R[4] *= 30  # for which policy iteration needs several policies
BETA = 0.93
VALUE, POLICY = reference.policy_iteration(Q, R, BETA)
FORMS = ["product", "Fortran", "pairs", "sparse pairs", "shuffled pairs", "pairs with -inf"]


def program(form: str, beta: float = BETA) -> DiscreteDP:
    if form in ("product", "Fortran"):
        return DiscreteDP(R.tolist(), np.asfortranarray(Q) if form == "Fortran" else Q.tolist(), beta)
    s, a = np.nonzero(-np.inf < R) if form != "pairs with -inf" else np.nonzero(np.inf > R)
    order = np.random.default_rng(2).permutation(len(s)) if form == "shuffled pairs" else np.arange(len(s))
    s, a = s[order], a[order]
    rows: Any = sparse.lil_matrix(Q[s, a]) if form == "sparse pairs" else Q[s, a]
    return DiscreteDP(R[s, a], rows, beta, s.tolist(), a.tolist())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "method", ["value_iteration", "vi", "policy_iteration", "pi", "modified_policy_iteration", "mpi"]
)
def test_solutions(form: str, method: str) -> None:
    found = program(form).solve(method=method, epsilon=1e-8, max_iter=2000)
    atol = 1e-12 if method in ("pi", "policy_iteration") else 5e-9
    np.testing.assert_allclose(found.v, VALUE, rtol=0, atol=atol)
    assert found.sigma.tolist() == POLICY.tolist() and found["num_iter"] == found.num_iter > 1
    again = program(form).solve(method=method, v_init=found.v, epsilon=1e-8)
    assert again.num_iter == 1 and found.max_iter == 2000


@pytest.mark.parametrize("form", FORMS)
def test_linear_programs(form: str) -> None:
    problem = program(form)
    if form == "sparse pairs":
        with pytest.raises(NotImplementedError, match="linprog_simplex: Q must be dense, got a sparse matrix"):
            problem.solve("lp")
        return
    found = problem.solve("linear_programming")
    np.testing.assert_allclose(found.v, VALUE, rtol=0, atol=1e-12)
    assert (found.method, found.max_iter) == ("linear programming", 250 * N)


def backup(v: np.ndarray, beta: float = BETA) -> tuple[np.ndarray, np.ndarray]:
    q = R + beta * Q @ v
    return q.max(axis=1), q.argmax(axis=1)


@pytest.mark.parametrize("form", FORMS)
def test_operators(form: str) -> None:
    problem, v = program(form), np.random.default_rng(1).standard_normal(N)
    expected, best = backup(v)
    Tv, sigma = np.empty(N), np.empty(N, int)
    assert problem.bellman_operator(v.tolist(), Tv, sigma) is Tv
    np.testing.assert_allclose(Tv, expected, rtol=0, atol=1e-14)
    assert sigma.tolist() == best.tolist() == problem.compute_greedy(v).tolist()
    own, chosen = problem.RQ_sigma(best), (np.arange(N), best)
    assert np.array_equal(own[0], R[chosen]) and sparse.issparse(own[1]) is (form == "sparse pairs")
    assert np.array_equal(own[1].toarray() if sparse.issparse(own[1]) else own[1], Q[chosen])
    np.testing.assert_allclose(problem.T_sigma(best)(v), expected, rtol=0, atol=1e-14)
    values = np.linalg.solve(np.eye(N) - BETA * Q[chosen], R[chosen])
    np.testing.assert_allclose(problem.evaluate_policy(best), values, rtol=0, atol=1e-12)
    if form != "pairs with -inf":  # there, the pair exists
        impossible = best.copy()
        s = int(np.argmax((-np.inf == R).any(axis=1)))
        impossible[s] = np.argmin(R[s])
        if "pairs" in form:
            with pytest.raises(
                ValueError, match=f"RQ_sigma: sigma must have an action of each state, got .* in state {s}"
            ):
                problem.RQ_sigma(impossible)


def test_iterations_are_those_of_the_textbook() -> None:
    v, tol, steps = R.max(axis=1), 1e-4 * (1 - BETA) / (2 * BETA), 0
    while True:
        w, steps = backup(v)[0], steps + 1
        change, v = abs(w - v).max(), w
        if change < tol:
            break
    assert program("product").solve("vi", epsilon=1e-4).num_iter == steps
    v, steps = np.full(N, R[-np.inf < R].min() / (1 - BETA)), 0
    while True:
        (w, policy), steps = backup(v), steps + 1
        if np.ptp(w - v) < 2 * tol:
            break
        for _ in range(7):
            w = R[np.arange(N), policy] + BETA * Q[np.arange(N), policy] @ w
        v = w
    found = program("sparse pairs").solve("mpi", epsilon=1e-4, k=7)
    assert (found.num_iter, found.k, found.epsilon) == (steps, 7, 1e-4)
    policy, steps = R.argmax(axis=1), 1
    policy = backup(R.max(axis=1))[1]
    while True:
        values = np.linalg.solve(np.eye(N) - BETA * Q[np.arange(N), policy], R[np.arange(N), policy])
        better = backup(values)[1]
        if np.array_equal(better, policy):
            break
        policy, steps = better, steps + 1
    assert program("pairs").solve().num_iter == steps


def test_operator_iteration_and_limits() -> None:
    problem, v = program("product"), np.zeros(N)
    assert problem.operator_iteration(problem.bellman_operator, v, 0) == 0 and not v.any()
    assert problem.operator_iteration(problem.bellman_operator, v, 2) == 2
    assert np.allclose(v, backup(backup(np.zeros(N))[0])[0], rtol=1e-14)
    assert 2 < problem.operator_iteration(problem.bellman_operator, v, 999, tol=1e-3) < 999
    problem.max_iter = 3
    with pytest.warns(
        fastiter.ConvergenceWarning, match="^value iteration: the bounds must come within 0.001, got .* after 3 steps"
    ):
        assert problem.solve("vi").num_iter == 3
    with pytest.warns(
        fastiter.ConvergenceWarning, match="^policy iteration: no action must be better, got better ones after 1"
    ):
        problem.solve("pi", max_iter=1, v_init=-1e3 * np.arange(N))


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_converted(form: str) -> None:
    problem = program(form)
    assert (problem.num_states, problem.beta) == (N, BETA)
    s, a = np.nonzero(-np.inf < R)
    for is_sparse in (False, True):
        pairs = program("product").to_sa_pair_form(sparse=is_sparse)
        assert np.array_equal(pairs.s_indices, s) and np.array_equal(pairs.a_indices, a)
        assert np.array_equal(np.diff(pairs.a_indptr), (-np.inf < R).sum(axis=1)) and np.array_equal(pairs.R, R[s, a])
        assert pairs.num_sa_pairs == len(s) == program("product").num_sa_pairs
        assert sparse.issparse(pairs.Q) is is_sparse and pairs.to_sa_pair_form() is pairs
    back = problem.to_product_form()
    assert np.array_equal(back.R, R) and np.array_equal(back.Q[s, a], Q[s, a]) and back.to_product_form() is back
    other = pickle.loads(pickle.dumps(problem))
    assert np.array_equal(other.solve().v, problem.solve().v)
    again = pickle.loads(pickle.dumps(problem.solve()))
    assert again.sigma.tolist() == POLICY.tolist() and np.array_equal(again.mc.n, N)


def test_arrays_may_be_replaced_and_changed_in_place() -> None:
    problem, other = DiscreteDP(R, Q.copy(), BETA), random_process(N, M, 41, unequal=False)[0]
    problem.solve()
    problem.Q = other
    v = np.arange(N, dtype=float)
    np.testing.assert_allclose(problem.bellman_operator(v), (R + BETA * other @ v).max(axis=1), rtol=1e-14)
    np.testing.assert_allclose(problem.solve().v, reference.policy_iteration(other, R, BETA)[0], rtol=0, atol=1e-12)
    other[:] = Q
    np.testing.assert_allclose(problem.solve("mpi", epsilon=1e-9).v, VALUE, rtol=0, atol=5e-10)


def test_periods_and_a_discount_of_1() -> None:
    with pytest.warns(UserWarning, match="DiscreteDP: beta must be below 1 for other methods than backward") as told:
        problems = [program(form, 1) for form in FORMS]
    assert told[0].filename == __file__
    last = np.random.default_rng(5).standard_normal(N)
    for problem in problems:
        values, policies = backward_induction(problem, 3, last)
        v = last
        for t in (2, 1, 0):
            v, best = backup(v, 1.0)
            np.testing.assert_allclose(values[t], v, rtol=0, atol=1e-13)
            assert policies[t].tolist() == best.tolist()
        for name in ("value_iteration", "policy_iteration", "modified_policy_iteration", "linprog_simplex"):
            with pytest.raises(NotImplementedError, match=f"{name}: beta must be below 1, got 1"):
                getattr(problem, name)()
        with pytest.raises(NotImplementedError, match="evaluate_policy: beta must be below 1, got 1"):
            problem.evaluate_policy(POLICY)
    assert not backward_induction(problems[0], 0)[0].any()


def test_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    found = program("product").solve()
    assert "mc" not in found and not hasattr(found, "other")
    monkeypatch.setitem(sys.modules, "quantecon", None)  # as if it were not installed
    assert isinstance(found.mc, ControlledChain) and found["mc"] is found.mc
    assert np.array_equal(found.mc.P, Q[np.arange(N), POLICY]) and (found.mc.n, found.mc.state_values) == (N, None)


def test_chains_are_those_of_quantecon_if_it_is_installed() -> None:
    quantecon = pytest.importorskip("quantecon")
    for form in ("product", "sparse pairs"):
        chain = program(form).controlled_mc(POLICY)
        assert isinstance(chain, quantecon.MarkovChain) and chain.n == N


TWO: Any = [[(0.5, 0.5), (0, 1)], [(0, 1), (0.5, 0.5)]]
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: DiscreteDP(R, Q, 1.5), ValueError, "DiscreteDP: beta"),
    (lambda: DiscreteDP(R, Q, "x"), TypeError, "DiscreteDP: beta"),
    (lambda: DiscreteDP(R[:-1], Q, 0.5), ValueError, "DiscreteDP: R and Q"),
    (lambda: DiscreteDP(R, Q[0, 0], 0.5), ValueError, "DiscreteDP: R and Q"),
    (lambda: DiscreteDP(R[0], Q[0], 0.5), ValueError, "DiscreteDP: s_indices and a_indices"),
    (lambda: DiscreteDP([1, 2], TWO[0], 0.5, [0], [0]), ValueError, "DiscreteDP: s_indices"),
    (lambda: DiscreteDP([1, 2], TWO[0], 0.5, [0, 2], [0, 0]), ValueError, "DiscreteDP: s_indices"),
    (lambda: DiscreteDP([1, 2], TWO[0], 0.5, [-1, 1], [0, 0]), ValueError, "DiscreteDP: s_indices"),
    (lambda: DiscreteDP([1, 2], TWO[0], 0.5, [0, 1], [0, -3]), ValueError, "DiscreteDP: a_indices"),
    (
        lambda: DiscreteDP([1, 2, 3], [*TWO[0], (1, 0)], 0.5, [1, 0, 1], [4, 0, 4]),
        ValueError,
        "DiscreteDP: s_indices and a_indices",
    ),
    (lambda: DiscreteDP([1, 2], TWO[0], 0.5, [0, 0], [0, 1]), ValueError, "DiscreteDP: s_indices"),
    (lambda: DiscreteDP([[1, 2], [-np.inf, -np.inf]], TWO, 0.5), ValueError, "DiscreteDP: R"),
    (lambda: DiscreteDP([[1, 2], [3, 4]], np.array(TWO) / 2, 0.5).solve(), ValueError, "solve: Q"),
    (lambda: program("product").solve("fast"), ValueError, "solve: method"),
    (lambda: program("product").solve(max_iter=0), ValueError, "solve: max_iter"),
    (lambda: program("product").solve("vi", epsilon=0.0), ValueError, "solve: epsilon"),
    (lambda: program("product").solve(v_init=[1, 2]), ValueError, "solve: v_init"),
    (lambda: program("product").solve("mpi", k=-1), ValueError, "modified_policy_iteration: k"),
    (lambda: backward_induction(program("product"), 3, [1, 2]), ValueError, "backward_induction: v_term"),
    (lambda: backward_induction(program("product"), 3, np.full(N, np.nan)), ValueError, "backward_induction: v_term"),
    *(
        (lambda call=call, form=form, sigma=sigma: getattr(program(form), call)(sigma), error, f"{call}: sigma")
        for call in ("RQ_sigma", "T_sigma", "evaluate_policy", "controlled_mc")
        for form in ("product", "sparse pairs")
        for sigma, error in (
            ([0] * (N - 1), ValueError),
            ([0] * (N - 1) + [M], ValueError),
            ([0] * (N - 1) + [-1], ValueError),
            ([0.5] * N, TypeError),
            (3, ValueError),
        )
    ),
]


def test_wrong_arguments() -> None:
    assert_named(WRONG)
