"""Every layout of P and R gives the same process; others are refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

scipy_sparse = pytest.importorskip("scipy.sparse")

from fastiter import mdp  # noqa: E402
from fastiter.mdp import MDP, examples, reference  # noqa: E402
from tests.mdp.cases import mdp_of, pairs, random_process  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

S, A = 11, 3
P, R = random_process(S, A, 60)
FULL_P, FULL_R = random_process(S, A, 61, unequal=False)
NEXT_R = np.random.default_rng(62).standard_normal((S, A, S))


def csr(matrix: Any) -> Any:
    return scipy_sparse.csr_array(matrix)


def nested(dense: bool) -> Any:
    def one(s: int, a: int) -> Any:
        return P[s, a].tolist() if dense else (np.flatnonzero(P[s, a]).tolist(), P[s, a][P[s, a] > 0])

    return [[one(s, a) for a in reference.actions_of(R, s)] for s in range(S)]


def by_rows(matrix: Callable[[Any], Any], shuffled: bool = False) -> Any:
    _, reward, states, actions = pairs(P, R)
    order = np.random.default_rng(63).permutation(len(states)) if shuffled else np.arange(len(states))
    rows = matrix(P[states, actions][order])
    return MDP(rows, reward[order], 0.9, states=states[order], actions=actions[order])


UNEQUAL: dict[str, Callable[[], MDP]] = {
    "array": lambda: MDP(P, R, 0.9),
    "list of arrays": lambda: MDP(list(P.swapaxes(0, 1)), R, 0.9),
    "list of CSR": lambda: MDP([csr(P[:, a]) for a in range(A)], R, 0.9),
    "list of CSC": lambda: MDP([scipy_sparse.csc_matrix(P[:, a]) for a in range(A)], R, 0.9),
    "rows": lambda: by_rows(csr),
    "rows in any order": lambda: by_rows(csr, shuffled=True),
    "dense rows in any order": lambda: by_rows(np.asarray, shuffled=True),
    "lists of (next, p)": lambda: MDP(
        nested(False), [[R[s, a] for a in reference.actions_of(R, s)] for s in range(S)], 0.9
    ),
    "lists of rows": lambda: MDP(nested(True), [R[s][reference.actions_of(R, s)] for s in range(S)], 0.9),
    "Fortran order": lambda: MDP(np.asfortranarray(P), np.asfortranarray(R), 0.9),
}


def read_only() -> MDP:
    matrix, reward, states, actions = pairs(P, R)
    for array in (matrix.data, matrix.indices, matrix.indptr, reward):
        array.setflags(write=False)
    return MDP(matrix, reward, 0.9, states=states, actions=actions)


@pytest.mark.parametrize("layout", [*UNEQUAL, "read-only"])
def test_layouts_of_unequal_actions(layout: str) -> None:
    found = (read_only() if layout == "read-only" else UNEQUAL[layout]()).solve(atol=1e-10)
    value, policy = reference.policy_iteration(P, R, 0.9)
    np.testing.assert_allclose(found.value, value, rtol=0, atol=1e-10)
    if "lists" in layout:  # actions are positions within their states
        policy = np.array([reference.actions_of(R, s).index(policy[s]) for s in range(S)])
    assert np.array_equal(found.policy, policy)


EXPECTED = (FULL_P * NEXT_R).sum(axis=2)
REWARDS: dict[str, Callable[[], tuple[MDP, Any]]] = {
    "(S,), array": lambda: (MDP(FULL_P, FULL_R[:, 0], 0.9), np.repeat(FULL_R[:, :1], A, axis=1)),
    "(S,), list": lambda: (MDP(list(FULL_P.swapaxes(0, 1)), FULL_R[:, 0], 0.9), np.repeat(FULL_R[:, :1], A, axis=1)),
    "nested numbers": lambda: (MDP(FULL_P, FULL_R.tolist(), 0.9), FULL_R),
    "(S, A, S)": lambda: (MDP(FULL_P, NEXT_R, 0.9), EXPECTED),
    "(A, S, S)": lambda: (MDP(list(FULL_P.swapaxes(0, 1)), NEXT_R.swapaxes(0, 1), 0.9), EXPECTED),
    "list of CSR": lambda: (
        MDP([csr(FULL_P[:, a]) for a in range(A)], [csr(NEXT_R[:, a]) for a in range(A)], 0.9),
        EXPECTED,
    ),
    "CSR rows": lambda: (
        MDP(csr(FULL_P.reshape(-1, S)), csr(NEXT_R.reshape(-1, S)), 0.9, states=np.repeat(np.arange(S), A)),
        EXPECTED,
    ),
}


@pytest.mark.parametrize("layout", REWARDS)
def test_layouts_of_rewards(layout: str) -> None:
    problem, expected = REWARDS[layout]()
    np.testing.assert_allclose(problem.rewards, expected.reshape(-1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(
        problem.solve(atol=1e-10).value, reference.policy_iteration(FULL_P, expected, 0.9)[0], rtol=0, atol=1e-10
    )


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    matrix, reward, states, actions = pairs(P, R)
    rows = torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data),
        size=matrix.shape,
        check_invariants=True,
    )
    value = reference.policy_iteration(P, R, 0.9)[0]
    sparse = MDP(rows, torch.from_numpy(reward), 0.9, states=states, actions=actions)
    dense = MDP([torch.from_numpy(P[:, a]) for a in range(A)], R, 0.9)
    for problem in (sparse, dense):
        np.testing.assert_allclose(problem.solve(atol=1e-10).value, value, rtol=0, atol=1e-10)


def test_rows_in_order_are_not_copied() -> None:
    matrix, reward, states, actions = pairs(P, R)
    rows = MDP(matrix, reward, 0.9, states=states, actions=actions)._process.rows
    for own, given in ((rows.weight, matrix.data), (rows.next, matrix.indices), (rows.reward, reward)):
        assert np.shares_memory(own, given)


def test_attributes_and_repr_of_an_mdp() -> None:
    problem = mdp_of(P, R, 0.9)
    weight, target, entry = problem.transitions
    matrix = csr((weight, target, entry))
    assert np.array_equal(matrix.toarray(), pairs(P, R)[0].toarray())
    assert (problem.S, problem.rows, problem.gamma) == (S, len(problem.rewards), pytest.approx(0.9))
    assert repr(problem) == f"MDP(11 states, {problem.rows} rows, {len(weight)} entries, gamma 0.9, float64)"
    assert problem.dtype == np.float64 and problem.row_starts[-1] == problem.rows


EYE = np.eye(3)
THREE = [EYE, EYE]
ONES = np.ones(3)


def changed(s: int, to: int, p: float) -> Any:
    matrix = EYE.copy()
    matrix[s, to] = p
    return [EYE, matrix]


def broken(**parts: Any) -> Any:
    matrix = csr(EYE)
    for name, value in parts.items():
        setattr(matrix, name, value)
    return [matrix]


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: MDP([[([0], [1.0])], [5]], ONES[:2], 0.9), TypeError, "P[1][0]"),
    (lambda: MDP([[([0], [1.0])], 5], ONES[:2], 0.9), TypeError, "P[1]"),
    (lambda: MDP([[([0], ["x"])]], ONES[:1], 0.9), TypeError, "P[0][0]"),
    (lambda: MDP([[([0], [1.0])]], [["x"]], 0.9), TypeError, "R[0]"),
    (lambda: MDP(ONES, ONES, 0.9), TypeError, "P"),
    (lambda: MDP(csr(EYE), ONES, 0.9), TypeError, "P"),
    (
        lambda: MDP(np.ones((2, 3, 4)), ONES, 0.9),
        ValueError,
        "P must have shape (S, A, S) or (A, S, S), got (2, 3, 4)",
    ),
    (lambda: MDP([EYE, np.eye(2)], ONES, 0.9), ValueError, "P[1]"),
    (lambda: MDP([EYE.astype("c16")], ONES, 0.9), TypeError, "P[0]"),
    (lambda: MDP([EYE, EYE.astype("f4")], ONES, 0.9), TypeError, "P[1]"),
    (lambda: MDP(THREE, np.ones(4), 0.9), ValueError, "R"),
    (lambda: MDP(THREE, [ONES, [1]], 0.9), ValueError, "R"),
    (
        lambda: MDP(changed(1, 1, -0.5), ONES, 0.9),
        ValueError,
        "P must have finite probabilities of at least 0, got -0.5 in state 1, action 1 (row 3)",
    ),
    (
        lambda: MDP(changed(1, 1, np.nan), ONES, 0.9),
        ValueError,
        "P must have finite probabilities of at least 0, got nan in state 1",
    ),
    (lambda: MDP(changed(2, 0, 0.5), ONES, 0.9), ValueError, "P"),
    (lambda: MDP(THREE, [1, np.inf, 1], 0.9), ValueError, "R"),
    (
        lambda: MDP(THREE, [[1, 1], [-np.inf] * 2, [1, 1]], 0.9),
        ValueError,
        "P",
    ),
    (
        lambda: MDP(broken(indices=np.array([0, 5, 2])), ONES, 0.9),
        ValueError,
        "P must have next states from 0 to 2, got 5 in state 1",
    ),
    (
        lambda: MDP(broken(indptr=np.array([0, 2, 1, 3])), ONES, 0.9),
        ValueError,
        "P[0] must have row pointers that rise",
    ),
    (lambda: MDP(THREE, ONES, 1.5), ValueError, "gamma"),
    (lambda: MDP(THREE, ONES, "x"), TypeError, "gamma"),
    (lambda: MDP(THREE, ONES, np.ones(5)), ValueError, "gamma"),
    (lambda: MDP(THREE, ONES, np.full(6, 2.0)), ValueError, "gamma"),
    (
        lambda: MDP(THREE, ONES, 1.0),
        ValueError,
        "P must have a path to a terminal state",
    ),
    (lambda: MDP(THREE, ONES, 0.9, terminal=[3]), ValueError, "terminal"),
    (lambda: MDP(THREE, ONES, 0.9, terminal=np.ones(4, bool)), ValueError, "terminal"),
    (lambda: MDP(THREE, ONES, 0.9, sense="least"), ValueError, "sense"),
    (lambda: MDP(THREE, ONES, 0.9, renormalize=1), TypeError, "renormalize"),
    (lambda: MDP(THREE, ONES, 0.9, actions=[0]), TypeError, "actions"),
    (lambda: MDP(EYE, ONES, 0.9, states=[0, 1]), ValueError, "states"),
    (lambda: MDP(EYE, ONES, 0.9, states=[0, 1, 3]), ValueError, "states"),
    (lambda: MDP(EYE, ONES, 0.9, states=[0, 1, 2], actions=[0]), ValueError, "actions"),
    (
        lambda: MDP(EYE[[0, 0, 1, 2]], np.ones(4), 0.9, states=[1, 1, 0, 2], actions=[2, 2, 0, 1]),
        ValueError,
        "states and actions",
    ),
    (
        lambda: MDP(EYE[[0, 2, 1, 2]], np.ones(4), 0.9, states=[2, 1, 0, 2], actions=[3, 0, 0, 3]),
        ValueError,
        "states and actions",
    ),
    (lambda: MDP(csr(EYE), ONES, 0.9, states=[0, 1, 2], actions=[0, 1, -1]), ValueError, "actions"),
    (lambda: MDP(EYE, ONES, 0.9, states=[2, 1, 0], actions=[-7, 0, 0]), ValueError, "actions"),
    (lambda: MDP(EYE), TypeError, "R"),
    (lambda: MDP(EYE, np.ones(2), 0.9, states=[0, 1, 2]), ValueError, "R"),
    (lambda: MDP([[[1.0]], []], [[1.0], []], 0.9), ValueError, "P[0][0]"),
    (lambda: MDP([[([0, 0], [1.0])]], [[1.0]], 0.9), ValueError, "P[0][0]"),
    (lambda: MDP([[([0], [1.0])]], [[1.0, 2.0]], 0.9), ValueError, "R[0]"),
    (lambda: MDP(np.ones((0, 2, 0)), np.ones((0, 2)), 0.9), ValueError, "P"),
    (lambda: MDP(THREE, np.ma.masked_array(ONES), 0.9), TypeError, "R"),
    (
        lambda: MDP(changed(1, 1, 0.0), ONES, 0.9, renormalize=True),
        ValueError,
        "P must have a positive probability in each row, got none in state 1",
    ),
]

GOOD = MDP(THREE, ONES, 0.9)
PATH = examples.gridworld(3, 1.0)
SOLVE: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: GOOD.solve("fast"), ValueError, "solve: method"),
    (lambda: GOOD.solve(atol=0), ValueError, "solve: atol"),
    (lambda: GOOD.solve(stop="no"), ValueError, "solve: stop"),
    (lambda: GOOD.solve(max_steps=0), ValueError, "solve: max_steps"),
    (lambda: GOOD.solve(callback=1), TypeError, "solve: callback"),
    (lambda: GOOD.solve(throw=1), TypeError, "solve: throw"),
    (lambda: GOOD.solve(value0=ONES.astype("f4")), TypeError, "solve: value0"),
    (lambda: GOOD.solve(value0=np.ones(2)), ValueError, "solve: value0"),
    (lambda: GOOD.solve(value0=np.array([0, np.nan, 0])), ValueError, "solve: value0"),
    (lambda: GOOD.solve("gs", order="up"), ValueError, "solve: order"),
    (lambda: GOOD.solve("gs", order=np.array([0, 0, 1])), ValueError, "solve: order"),
    (lambda: GOOD.solve("gs", omega=2), ValueError, "solve: omega"),
    (lambda: GOOD.solve("gs", exact_diag=1), TypeError, "solve: exact_diag"),
    (lambda: GOOD.solve("ipi", alpha=1.0), ValueError, "solve: alpha"),
    (lambda: GOOD.solve("mpi", policy_sweeps=-1), ValueError, "solve: policy_sweeps"),
    (lambda: GOOD.solve("anderson", window=0), ValueError, "solve: window"),
    (lambda: PATH.solve("pi"), ValueError, "solve: method"),
    (
        lambda: MDP([np.ones((3, 3)) / 3], ONES, 0.9, terminal=[0]).solve("deflated"),
        ValueError,
        "solve: method 'deflated'",
    ),
    (
        lambda: MDP(THREE, ONES, np.array([0.5, 0.9, 0.5, 0.5, 0.5, 0.5])).solve("deflated"),
        ValueError,
        "solve: method 'deflated'",
    ),
    (
        lambda: MDP([np.array([[0.7, 0.3], [0.1, 0.9 + 5e-7]], "f4")], np.ones(2), 0.99).solve("deflated"),
        ValueError,
        "solve: method 'deflated'",
    ),
    (lambda: MDP(THREE, ONES, None).solve(), ValueError, "solve: gamma"),
    (lambda: GOOD.evaluate(np.ones(3)), TypeError, "evaluate: policy"),
    (lambda: GOOD.evaluate([0, 1]), ValueError, "evaluate: policy"),
    (lambda: GOOD.evaluate([0, 1, 2]), ValueError, "evaluate: policy"),
    (lambda: mdp_of(P, R, 0.9).evaluate(R.argmin(axis=1)), ValueError, "evaluate: policy"),
    (lambda: PATH.evaluate([0] * 9), ValueError, "evaluate: gamma"),
    (lambda: examples.forest(1), ValueError, "forest: S"),
    (lambda: mdp.examples.gridworld(3, slip=2.0), ValueError, "gridworld: slip"),
]


def test_messages_quote_the_given_costs() -> None:
    with pytest.raises(ValueError, match=r"^MDP: R must be finite, got -inf in state 0, action 0 \(row 0\)$"):
        MDP(np.ones((1, 1, 1)), np.array([[-np.inf]]), 0.9, sense="min")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout", ["array", "matrices", "sparse matrices"])
def test_an_infinite_cost_removes_an_action_as_an_infinite_loss_does(seed: int, layout: str) -> None:
    P, R = random_process(S, A, 70 + seed)
    convert: Any = {"array": lambda P: P, "matrices": lambda P: list(P.swapaxes(0, 1))}.get(
        layout, lambda P: [csr(p) for p in P.swapaxes(0, 1)]
    )
    gains, costs = MDP(convert(P), R, 0.9), MDP(convert(P), -R, 0.9, sense="min")
    assert gains.rows == costs.rows == np.isfinite(R).sum() < R.size
    most, least = gains.solve(), costs.solve()
    assert np.array_equal(most.value, -least.value) and np.array_equal(most.policy, least.policy)
    with pytest.raises(ValueError, match="MDP: R must be finite, got inf in state"):
        MDP(convert(P), -R, 0.9)


def test_wrong_arguments() -> None:
    assert_named([*((call, error, f"MDP: {names}") for call, error, names in WRONG), *SOLVE])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_examples_are_processes(dtype: Any) -> None:
    made = [
        examples.forest(5, dtype=dtype),
        examples.garnet(9, 2, 3, dtype=dtype),
        examples.gridworld(4, dtype=dtype),
        examples.riverswim(6, 0.9, dtype=dtype),
        examples.inventory(6, dtype=dtype),
    ]
    for problem in made:
        assert problem.dtype == dtype and problem.solve(atol=1e-3).converged
    store = examples.inventory(6)
    assert np.diff(store.row_starts).tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert store.solve().policy[0] > 0 and store.solve().policy[-1] == 0


EXAMPLES = {
    "forest": examples.forest,
    "garnet": lambda dtype: examples.garnet(9, 2, 3, dtype=dtype),
    "gridworld": lambda dtype: examples.gridworld(4, dtype=dtype),
    "inventory": examples.inventory,
    "riverswim": examples.riverswim,
    "windy_walk": lambda dtype: examples.windy_walk(0.5, dtype=dtype),
}


@pytest.mark.parametrize("dtype", [np.int32, "float16", "number"])
def test_examples_refuse_other_dtypes(dtype: Any) -> None:
    assert set(EXAMPLES) == set(examples.__all__)
    for name, make in EXAMPLES.items():
        with pytest.raises(TypeError, match=f"^{name}: dtype must be float32 or float64, got "):
            make(dtype=dtype)
