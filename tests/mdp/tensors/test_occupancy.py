"""Occupancies of stochastic policies: against the specification, dense equations and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import mdp
from fastiter.mdp import MDP, reference
from tests.mdp.cases import pairs, random_process
from tests.mdp.processes.test_afterstates import Parts, parts

torch = pytest.importorskip("torch")
from fastiter.torch import mdp as tensor_mdp  # noqa: E402

HORIZONS = (1, 2, 9, 26, None)


def shares(states: Any, seed: int = 0) -> Any:
    """Return a random policy of pairs with the given states, some of whose probabilities are 0."""
    rng = np.random.default_rng(seed)
    x = rng.random(len(states)) * (rng.random(len(states)) < 0.7)
    x[np.diff(states, prepend=-1) > 0] += 0.1
    return x / np.bincount(states, weights=x)[states]


def distribution(S: int) -> Any:
    x = np.random.default_rng(S).random(S)
    return x / x.sum()


def close(dtype: str, horizon: int | None, gamma: float) -> float:
    """The error allowed relative to the sum of all visits: of a sum over entries in each step."""
    steps = horizon or 4 / (1 - gamma)
    return float(64 * steps * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_arrays(horizon: int | None, dtype: str) -> None:
    P, R = random_process(9, 3, 300)
    matrix, reward, states, actions = pairs(P, R, dtype)
    problem = MDP(matrix, reward, 0.9, states=states, actions=actions)
    policy, start = shares(states).astype(dtype), distribution(9).astype(dtype)
    table = np.zeros((9, 3))
    table[states, actions] = policy
    found = mdp.occupancy(problem, policy, start, horizon=horizon)
    visits, taken = reference.occupancy(P, table, start, 0.9, horizon)
    allowed = close(dtype, horizon, 0.9) * visits.sum()
    np.testing.assert_allclose(found.state, visits, rtol=0, atol=allowed)
    np.testing.assert_allclose(found.pair, taken[states, actions], rtol=0, atol=allowed)
    assert found.state.dtype == dtype


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("size", [(6, 9, 4), (25, 8, 5), (20, 60, 3)])
def test_shared_rows(size: tuple[int, int, int], horizon: int | None) -> None:
    given = parts(*size)
    policy, start = shares(given.states), distribution(size[0])
    found, expected = (
        mdp.occupancy(one, policy, start, horizon=horizon) for one in (given.shared(0.9), given.expanded(0.9))
    )
    for name in ("state", "pair"):
        x, y = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(x, y, rtol=0, atol=close("float64", horizon, 0.9) * expected.state.sum())


def test_values_are_occupancies_times_rewards() -> None:
    given = parts(30, 40, 4)
    ended = np.arange(30) % 7 == 3
    for problem in (given.shared(0.99), given.expanded(0.99, terminal=ended), given.shared(0.99, terminal=ended)):
        policy, first = problem.solve().policy, int(np.flatnonzero(~ended)[4])
        taken = mdp.occupancy(problem, policy, first).pair
        assert taken @ problem.rewards == pytest.approx(problem.evaluate(policy)[first], rel=1e-8)
        counts = mdp.occupancy(problem, policy, first, horizon=5)
        assert counts.pair.sum() <= sum(0.99**t for t in range(5)) + 1e-12
    lake = MDP({0: {0: [(0.5, 0, 0.0, False), (0.5, 1, 1.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}, gamma=1.0)
    assert mdp.occupancy(lake, [0, -1], 0, horizon=60).state.tolist() == [2.0, 0.0]
    assert mdp.occupancy(mdp.examples.riverswim(4), np.full((4, 2), 0.5), 0, horizon=8).state.sum() == pytest.approx(8)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_threads_do_not_change_bits() -> None:
    given = parts(300, 500, 6, density=0.4)
    policy, before, every = shares(given.states), fastiter.get_num_threads(), []
    start = torch.from_numpy(distribution(300))
    for threads in (1, 2):
        fastiter.set_num_threads(threads)
        for one in (given, Parts(given.P[given.rows], given.R, given.states, np.arange(len(given.R)))):
            csr = torch.from_numpy(one.P).to_sparse_csr()
            P = csr.crow_indices(), csr.col_indices(), csr.values().requires_grad_()
            x = torch.from_numpy(policy).requires_grad_()
            rows = None if len(one.P) == len(one.R) else torch.from_numpy(one.rows)
            states = torch.from_numpy(one.states)
            found = tensor_mdp.occupancy(P, x, start, 0.9, states=states, rows=rows, horizon=4)
            every.append((found.state, *torch.autograd.grad((found.state**2).sum(), [x, P[2]])))
    fastiter.set_num_threads(before)
    for first, second in zip(every[:2], every[2:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def normalised(x: Any, owner: Any, count: int) -> Any:
    return x / x.new_zeros(count).index_add(0, owner, x)[owner]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("horizon", [1, 2, 9, 20, None])
def test_gradients_of_rows(horizon: int | None, shared: bool) -> None:
    given = parts(6, 5, 3)
    csr = torch.from_numpy(given.P if shared else given.P[given.rows]).to_sparse_csr()
    crow, col, count = csr.crow_indices(), csr.col_indices(), len(csr.crow_indices()) - 1
    row, states = torch.repeat_interleave(torch.arange(count), crow.diff()), torch.from_numpy(given.states)
    rows = torch.from_numpy(given.rows) if shared else None

    def visits(weights: Any, policy: Any, start: Any, gamma: Any) -> Any:
        P = crow, col, normalised(weights, row, count)
        chosen = normalised(policy, states, 6)
        return tensor_mdp.occupancy(P, chosen, start / start.sum(), gamma, states=states, rows=rows, horizon=horizon)

    rng = np.random.default_rng(1)
    inputs = [
        csr.values().clone(),
        torch.from_numpy(shares(given.states, 2) + 0.05),
        torch.from_numpy(rng.random(6) + 0.1),
    ]
    inputs = [x.requires_grad_() for x in (*inputs, torch.tensor(0.8, dtype=torch.float64))]
    assert torch.autograd.gradcheck(visits, inputs, fast_mode=True)
    if horizon is None:
        assert torch.autograd.gradgradcheck(visits, inputs, fast_mode=True)
        return
    first = torch.autograd.grad(visits(*inputs).state.square().sum(), inputs, create_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="occupancy: the gradient has no derivative, as kernels cannot be"):
        first[1].sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dense(dtype: Any) -> None:
    P, _ = random_process(7, 3, 8, unequal=False)
    table = shares(np.repeat(np.arange(7), 3)).reshape(7, 3)
    start = distribution(7)
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (P, table, start)]
    for horizon in HORIZONS:
        found = tensor_mdp.occupancy(*tensors, 0.9, horizon=horizon)
        visits, taken = reference.occupancy(P, table, start, 0.9, horizon)
        allowed = close(str(dtype).removeprefix("torch."), horizon, 0.9) * visits.sum()
        np.testing.assert_allclose(found.state.detach().numpy(), visits, rtol=0, atol=allowed)
        np.testing.assert_allclose(found.pair.detach().numpy(), taken, rtol=0, atol=allowed)
        gradients = torch.autograd.grad(found.pair.square().sum(), tensors)
        chain = torch.einsum("sa,sat->st", tensors[1].double(), tensors[0].double())
        if horizon is None:
            slow = torch.linalg.solve(torch.eye(7) - 0.9 * chain.T, tensors[2].double())
        else:
            now = slow = tensors[2].double()
            for _ in range(horizon - 1):
                now = 0.9 * now @ chain
                slow = slow + now
        whole = (tensors[1].double() * slow[:, None]).square().sum() + 0 * tensors[0].double().sum()
        others = torch.autograd.grad(whole, tensors)
        for x, y in zip(gradients, others, strict=True):
            size = 10 * allowed * float(y.abs().max()) + 10 * allowed
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=0, atol=size)


def test_errors() -> None:
    problem = mdp.examples.riverswim(3, 0.9)
    even, first = np.full((3, 2), 0.5), np.array([1.0, 0.0, 0.0])
    wrong: list[tuple[type[Exception], str, tuple[Any, ...], Any]] = [
        (TypeError, "problem must be an MDP, got int", (3, even, 0), None),
        (
            ValueError,
            r"policy must have shape \(rows,\) = \(6,\) or \(S, A\) = \(3, 2\), got",
            (problem, even[:2], 0),
            None,
        ),
        (ValueError, "policy must sum to 1 in each state, got 1.5 in state 0", (problem, even + 0.25, 0), None),
        (
            ValueError,
            "policy must have probabilities from 0 to 1, got -1 in state 0, action 0",
            (problem, even * -2, 0),
            None,
        ),
        (ValueError, "start must sum to 1, got 2", (problem, even, 2 * first), None),
        (ValueError, "start must be a state from 0 to 2, got 3", (problem, even, 3), None),
        (ValueError, r"start must have shape \(S,\) = \(3,\), got \(2,\)", (problem, even, first[:2]), None),
        (
            ValueError,
            "gamma must be a number, got an MDP with gamma=None",
            (mdp.examples.riverswim(3, None), even, 0),
            None,
        ),
        (ValueError, "horizon must be at least 1, got 0", (problem, even, 0), 0),
    ]
    for kind, message, arguments, horizon in wrong:
        with pytest.raises(kind, match=f"occupancy: {message}"):
            mdp.occupancy(*arguments, horizon=horizon)
    ending = MDP(np.eye(3)[[1, 2, 2]][:, None], np.array([[-1.0], [-1.0], [0.0]]), 1.0)
    with pytest.raises(ValueError, match="occupancy: horizon must be a number of steps if gamma is 1, got None"):
        mdp.occupancy(ending, [0, 0, -1], 0)
    P, policy, start = torch.ones(2, 1, 2) / 2, torch.ones(2, 1), torch.tensor([1.0, 0.0])
    for kind, message, given in (
        (ValueError, "policy must have shape", (P, policy[:1], start)),
        (ValueError, "policy must sum to 1 in each state, got 2 in state 0", (P, 2 * policy, start)),
        (ValueError, "P must sum to 1 .* got 2 in state 0, action 0", (2 * P, policy, start)),
        (ValueError, "start must sum to 1, got 2", (P, policy, 2 * start)),
        (ValueError, r"start must have shape \(S,\) = \(2,\), got \(1,\)", (P, policy, start[:1])),
        (ValueError, "gamma must be at least 0 and below 1, got 1", (P, policy, start, 1.0)),
        (ValueError, "P and policy must be those of one process, got 2", (torch.stack([P, P]), policy, start, 0.5)),
    ):
        with pytest.raises(kind, match=f"occupancy: {message}"):
            tensor_mdp.occupancy(*given, **({} if len(given) == 4 else {"gamma": 0.5}))
