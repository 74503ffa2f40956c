"""Backups, solutions and values of decision processes by the Triton kernel, interpreted or compiled on a GPU."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("scipy")

import fastiter  # noqa: E402
from fastiter.mdp import MDP, reference  # noqa: E402
from fastiter.mdp._result import alone  # noqa: E402
from fastiter.mdp._torch import functional, gpu, ops, solve  # noqa: E402
from fastiter.torch import mdp as tensor_mdp  # noqa: E402
from tests.mdp import exact_bounds  # noqa: E402
from tests.mdp.cases import linear_program, mdp_of, pairs, random_process  # noqa: E402


@pytest.fixture(autouse=True)
def card(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a GPU if the kernels are interpreted."""
    if device == "cpu":
        monkeypatch.setattr(solve, "_CARDS", ("cpu",))
        monkeypatch.setattr(functional, "mdp_policy", gpu.policy)
        monkeypatch.setattr(functional, "mdp_chain_values", gpu.chain_values)


def parts(P: Any, R: Any, dtype: str, device: str) -> tuple[Any, Any, Any]:
    matrix, reward, states, _ = pairs(P, R, dtype)
    arrays = matrix.indptr, matrix.indices.astype(np.int64), matrix.data, reward, states
    crow, col, values, rewards, owner = (torch.from_numpy(x).to(device) for x in arrays)
    return (crow, col, values), rewards, owner


def model_of(P: Any, R: Any, dtype: str, device: str) -> gpu.CardModel:
    (crow, col, values), rewards, owner = parts(P, R, dtype, device)
    row = torch.cat([owner.new_zeros(1), torch.bincount(owner, minlength=len(P)).cumsum(0)])
    return gpu.CardModel(row, crow, col, values, rewards)


def sweep(model: gpu.CardModel, v: Any, gamma: float, chosen: Any = None) -> tuple[Any, Any, Any]:
    w, action = torch.full_like(v, 7.0), torch.full(v.shape, -7, dtype=torch.int32, device=v.device)
    low, high = model.sweep(v, w, action, torch.full((1,), gamma, dtype=torch.float64, device=v.device), None, chosen)
    return w.cpu().numpy(), action.cpu().numpy(), np.stack([low.amin(1).cpu(), high.amax(1).cpu()])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("S", [1, 37, 100])
def test_a_sweep_equals_the_specification(S: int, dtype: str, device: str) -> None:
    P, R = random_process(S, 3, 140)
    if S == 37:  # terminal states have no rows; rows of one entry, and of none
        R[[0, 36]] = -np.inf
        P[5, :, :] = np.eye(S)[7]
        P[6, :, :] = 0
    v = np.random.default_rng(141).standard_normal(S).astype(dtype)
    w, action, change = sweep(model_of(P, R, dtype, device), torch.from_numpy(v)[None].to(device), 0.9)
    expected, actions = reference.backup(P.astype(dtype), R.astype(dtype), 0.9, v)
    np.testing.assert_allclose(w[0], expected, rtol=0, atol=8 * np.finfo(dtype).eps * max(1, abs(expected).max()))
    places = [np.flatnonzero(np.isfinite(R[s]))[a] if a >= 0 else -1 for s, a in enumerate(action[0])]
    if dtype == "float64":
        assert np.array_equal(places, actions)
    else:  # the rounded operands may tie
        values = [reference.action_value(P, R, 0.9, v, s, a) if a >= 0 else 0 for s, a in enumerate(places)]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    acts = np.isfinite(R).any(axis=1)
    difference = w[0].astype(float)[acts] - v[acts]
    assert np.array_equal(change[:, 0], [difference.min(), difference.max()])


def test_ties_not_a_number_and_extreme_values(device: str) -> None:
    """The lowest row wins a tie, a row that is not a number never wins, denormal values are not flushed."""
    P, R = np.full((2, 4, 2), 0.5), np.zeros((2, 4))
    R[0] = [1.0, 2.0, 2.0, np.nan]
    R[1] = [-1e308, -1e308, np.nan, -np.inf]
    (crow, col, values), _, owner = parts(P, np.zeros((2, 4)), "float64", device)
    row = torch.tensor([0, 4, 8], device=device)
    model = gpu.CardModel(row, crow, col, values, torch.from_numpy(R).reshape(-1).to(device))
    w, action, _ = sweep(model, torch.zeros(1, 2, dtype=torch.float64, device=device), 0.5)
    assert w.tolist() == [[2.0, -1e308]] and action.tolist() == [[1, 0]] and len(owner) == 8
    tiny = gpu.CardModel(row, crow, col, values, torch.zeros(8, dtype=torch.float64, device=device))
    w, action, _ = sweep(tiny, torch.full((1, 2), 1e-323, dtype=torch.float64, device=device), 1.0)
    assert w.tolist() == [[1e-323, 1e-323]] and action.tolist() == [[0, 0]]
    w, _, change = sweep(tiny, torch.tensor([[1e308, 1e308]], dtype=torch.float64, device=device), 1.0)
    assert w.tolist() == [[1e308, 1e308]] and change.tolist() == [[0.0], [0.0]]


def test_models_that_share_a_pattern(device: str) -> None:
    """Each has the same bits as alone, whether or not all are swept; the others are unchanged."""
    P, R = random_process(37, 3, 142, unequal=False)
    (crow, col, values), rewards, owner = parts(P, R, "float64", device)
    row = torch.cat([owner.new_zeros(1), torch.bincount(owner).cumsum(0)])
    several = torch.stack([values, values.flip(0), values.roll(3)])
    v = torch.from_numpy(np.random.default_rng(143).standard_normal((3, 37))).to(device)
    for r in (rewards, torch.stack([rewards, -rewards, 2 * rewards])):
        rewards_of = [r if r.dim() == 1 else r[m] for m in range(3)]
        alone = [sweep(gpu.CardModel(row, crow, col, several[m], rewards_of[m]), v[[m]], 0.9) for m in range(3)]
        together = sweep(gpu.CardModel(row, crow, col, several, r), v, 0.9)
        for at, axis in enumerate((0, 0, 1)):
            assert np.array_equal(together[at], np.concatenate([x[at] for x in alone], axis))
        chosen = torch.tensor([2, 0], device=device)
        w, action, change = sweep(gpu.CardModel(row, crow, col, several, r), v, 0.9, chosen)
        assert np.array_equal(w[[2, 0]], together[0][[2, 0]]) and (w[1] == 7).all() and (action[1] == -7).all()
        assert np.array_equal(change, together[2][:, [2, 0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solutions(dtype: str, device: str) -> None:
    P, R = random_process(17, 3, 144)
    tol = 1e-9 if dtype == "float64" else 1e-4
    value = linear_program(P, R, 0.9)
    dense = tensor_mdp.solve(
        torch.from_numpy(P.astype(dtype)).to(device), torch.from_numpy(R.astype(dtype)).to(device), 0.9, atol=tol
    )
    matrix, rewards, states = parts(P, R, dtype, device)
    rows = tensor_mdp.solve(matrix, rewards, 0.9, states=states, atol=tol, value0=dense.value)
    noise = 1e-8 if dtype == "float64" else 2e-5  # the error of the linear program, and of the rounded probabilities
    for found in (dense, rows):
        assert found.converged and found.method == "vi" and found.residual < tol and found.value.device.type == device
        assert (found.lower.cpu().numpy() <= value + noise).all() and (value - noise <= found.upper.cpu().numpy()).all()
        np.testing.assert_allclose(found.value.cpu(), value, rtol=0, atol=tol / 2 + noise)
    assert rows.steps < dense.steps and len(dense.history) == dense.steps
    on_cpu = mdp_of(P, R, 0.9, dtype)
    policy = dense.policy.cpu().numpy()
    np.testing.assert_allclose(on_cpu.evaluate(policy), value, rtol=0, atol=tol + noise)
    s, a = np.nonzero(np.isfinite(R))
    place = rows.policy.cpu().numpy()
    assert np.array_equal(s[place], np.arange(17))
    np.testing.assert_allclose(on_cpu.evaluate(a[place]), value, rtol=0, atol=tol + noise)


def test_as_many_sweeps_as_on_the_cpu(device: str) -> None:
    P, R = random_process(12, 3, 145)
    given = torch.from_numpy(P).to(device), torch.from_numpy(R).to(device)
    expected, found = mdp_of(P, R, 0.8).solve("vi"), tensor_mdp.solve(*given, 0.8)
    assert abs(found.steps - expected.steps) <= 1 and found.reason == expected.reason
    np.testing.assert_allclose(found.value.cpu(), expected.value, rtol=0, atol=1e-6)
    with pytest.warns(
        fastiter.ConvergenceWarning, match=r"^solve: the bounds must come within 1e-06, got .* after 3 steps"
    ):
        found = tensor_mdp.solve(*given, 0.8, max_steps=3)
    assert found.steps == 3 and not found.converged and found.reason == "max_steps"
    assert (found.lower.cpu().numpy() <= expected.upper).all() and (expected.lower <= found.upper.cpu().numpy()).all()
    with pytest.raises(fastiter.ConvergenceError, match="stagnated"):
        tensor_mdp.solve(*given, 0.8, atol=1e-30, throw=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_contain_the_exact_values(dtype: str, device: str) -> None:
    """Rows are off by rounding, up to gamma 0.9999999; convergence is never claimed wrongly."""
    rng = np.random.default_rng(153)
    for gamma in (0.5, 0.99, 0.9999, 0.999999, 0.9999999):
        P, R = rng.dirichlet(np.ones(3), (4, 3, 2)).astype(dtype), rng.normal(size=(4, 3, 2)).astype(dtype)
        start = np.zeros(3, dtype) if gamma > 0.99 else None
        given = torch.from_numpy(P).to(device), torch.from_numpy(R).to(device)
        first = None if start is None else torch.from_numpy(start).to(device)
        tol = 1e-6 if dtype == "float64" else 1e-4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fastiter.ConvergenceWarning)
            found = tensor_mdp.solve(*given, gamma, atol=tol, value0=first, max_steps=30)
        for m in range(4):
            process = MDP(P[m], R[m], float(torch.tensor(gamma, dtype=given[0].dtype)))
            one = alone(found, m)
            arrays = {name: getattr(one, name).cpu().numpy() for name in ("value", "lower", "upper")}
            wrong = exact_bounds.faults(process, replace(one, **arrays), tol, exact_bounds.exact(process))
            assert not wrong, (gamma, m, wrong)
        assert found.converged.all() or gamma > 0.9


def gradients(given: list[Any], crow: Any, col: Any, states: Any) -> list[Any]:
    """Return the values and their derivatives in probabilities, rewards and the discount."""
    given = [x.detach().clone().requires_grad_() for x in given]
    value, q, _ = tensor_mdp.values((crow, col, given[0]), given[1], given[2], states=states)
    first = torch.autograd.grad((value * value).sum() + (q * q).sum(), given)
    return [x.detach().cpu().numpy() for x in (value, q, *first)]


def test_values_and_their_gradients(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU, where finite differences confirm them."""
    small_P, small_R = random_process(5, 2, 146)
    (crow, col, values), rewards, states = parts(small_P, small_R, "float64", device)
    given = [values, rewards, torch.tensor(0.8, dtype=torch.float64, device=device)]
    found = gradients(given, crow, col, states)
    with monkeypatch.context() as patch:
        patch.setattr(functional, "mdp_policy", ops.mdp_policy)
        patch.setattr(functional, "mdp_chain_values", ops.mdp_chain_values)
        expected = gradients([x.cpu() for x in given], crow.cpu(), col.cpu(), states.cpu())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


WRONG: list[tuple[Any, str]] = [
    (lambda P, R: (2 * P, R), "P must sum to 1 in each row, got 2 in state 0, action 0 (row 0)"),
    (lambda P, R: (P.where(P.ne(P[1, 0, 0]), -P), R), "P must have finite probabilities of at least 0, got -"),
    (lambda P, R: (P, R.where(R.ne(R[1, 0]), np.inf)), "R must be finite, got inf in state 1, action 0 (row 3)"),
    (lambda P, R: (P, R.where(R.ne(R[1, 0]), np.nan)), "R must be finite, got nan in state 1, action 0 (row 3)"),
    (
        lambda P, R: (P[:, :0], R[:, :0]),
        "P must have an action for each state that is not terminal, got none in state 0",
    ),
    (lambda P, R: (P, R - np.inf), "P must have an action for each state that is not terminal, got none in state 0"),
]


@pytest.mark.parametrize("on_card", [True, False])
@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_processes(case: int, on_card: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentences are those of the CPU, which checks the inputs that a GPU found to be wrong."""
    if not on_card:
        monkeypatch.undo()
    P, R = (torch.from_numpy(x).to(device if on_card else "cpu") for x in random_process(5, 3, 147, unequal=False))
    change, message = WRONG[case]
    for function in (tensor_mdp.solve, tensor_mdp.values):
        with pytest.raises(ValueError, match=f"^{function.__name__}: {re.escape(message)}"):
            function(*change(P, R), gamma=0.9)


def test_rows_that_are_left_out_may_be_anything(device: str) -> None:
    P, R = random_process(5, 3, 148, unequal=False)
    R[2, 1] = -np.inf
    expected = MDP(P, R, 0.9).solve(atol=1e-9).value
    P[2, 1] = np.nan
    found = tensor_mdp.solve(torch.from_numpy(P).to(device), torch.from_numpy(R).to(device), 0.9, atol=1e-9)
    np.testing.assert_allclose(found.value.cpu(), expected, rtol=0, atol=1e-9)
