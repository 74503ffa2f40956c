"""Optimal values on tensors: gradients by finite differences and as occupancies, ops, compilation, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from fastiter.mdp import reference  # noqa: E402
from fastiter.mdp._torch import ops  # noqa: E402
from fastiter.torch import mdp as tensor_mdp  # noqa: E402
from tests.mdp.cases import mdp_of, pairs, random_process  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

P, R = random_process(7, 3, 110)


def tensors(dtype: str = "float64") -> tuple[Any, Any]:
    return torch.from_numpy(P.astype(dtype)), torch.from_numpy(R.astype(dtype))


def parts(dtype: str = "float64") -> tuple[Any, Any, Any]:
    matrix, reward, states, _ = pairs(P, R, dtype)
    arrays = matrix.indptr, matrix.indices.astype(np.int64), matrix.data, reward, states
    crow, col, values, rewards, owner = (torch.from_numpy(x) for x in arrays)
    return (crow, col, values), rewards, owner


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(dtype: str) -> None:
    value, policy = reference.policy_iteration(P, R, 0.9)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    dense = tensor_mdp.values(*tensors(dtype), 0.9, atol=1e-9 if dtype == "float64" else 1e-4)
    matrix, rewards, states = parts(dtype)
    sparse = tensor_mdp.values(matrix, rewards, 0.9, states=states, atol=1e-9 if dtype == "float64" else 1e-4)
    for found in (dense, sparse):
        np.testing.assert_allclose(found.value.numpy(), value, rtol=0, atol=tolerance)
    assert np.array_equal(dense.policy.numpy(), policy)
    np.testing.assert_allclose(dense.action_values.numpy(), R + 0.9 * P @ value, rtol=0, atol=10 * tolerance)
    s, a = np.nonzero(np.isfinite(R))
    assert np.array_equal(s[sparse.policy], np.arange(7)) and np.array_equal(a[sparse.policy], policy)
    np.testing.assert_allclose(sparse.action_values.numpy(), (R + 0.9 * P @ value)[s, a], rtol=0, atol=10 * tolerance)


def shifted(values: Any, crow: Any) -> Any:
    """Return normalised probabilities from numbers near them, so that finite differences keep the sums of rows at 1."""
    row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
    return values / torch.zeros(len(crow) - 1, dtype=values.dtype).index_add(0, row, values)[row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "scale"), [(0.9, 1.0), (0.999, 1e4)])
def test_a_tolerance_below_rounding_is_no_failure(dtype: Any, gamma: float, scale: float) -> None:
    """Warnings are errors here: the default tolerance is below the rounding of float32, and of large values."""
    P, R = random_process(20, 3, 60, unequal=False)
    found = tensor_mdp.values(torch.tensor(P, dtype=dtype), scale * torch.tensor(R, dtype=dtype), gamma)
    best = mdp_of(P, scale * R, gamma).solve("pi", atol=1e-5 * scale).value
    np.testing.assert_allclose(found.value.numpy(), best, rtol=1e-3 if dtype == torch.float32 else 1e-9)


def test_gradients() -> None:
    small_P, small_R = random_process(4, 2, 112)
    matrix, rewards, states, _ = pairs(small_P, small_R)
    crow, col = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices.astype(np.int64))

    def sparse(values: Any, rewards: Any, gamma: Any) -> Any:
        return tensor_mdp.values((crow, col, shifted(values, crow)), rewards, gamma, states=torch.from_numpy(states))[
            :2
        ]

    arrays = matrix.data, rewards, np.array(0.9)
    given = [torch.from_numpy(np.array(x)).requires_grad_() for x in arrays]
    assert torch.autograd.gradcheck(sparse, given, atol=1e-6)
    fixed = given[0].detach()
    assert torch.autograd.gradgradcheck(lambda r, g: sparse(fixed, r, g)[0], given[1:], atol=1e-5, fast_mode=True)

    full, reward = random_process(3, 2, 111, unequal=False)

    def dense(P: Any, R: Any, gamma: Any) -> Any:
        return tensor_mdp.values(P / P.sum(dim=2, keepdim=True), R, gamma)[:2]

    given = [torch.from_numpy(x).requires_grad_() for x in (full + 0.01, reward, np.array(0.8))]
    assert torch.autograd.gradcheck(dense, given, atol=1e-6, fast_mode=True)


def test_the_gradient_of_rewards_is_the_occupancy() -> None:
    P_, R_ = tensors()
    R_.requires_grad_()
    found = tensor_mdp.values(P_, R_, 0.9)
    policy = found.policy.numpy()
    chain = P[np.arange(7), policy]
    occupancy = np.linalg.inv(np.eye(7) - 0.9 * chain)
    for s in range(7):
        (gradient,) = torch.autograd.grad(found.value[s], R_, retain_graph=True)
        expected = np.zeros_like(R)
        expected[np.arange(7), policy] = occupancy[s]
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-10)


def test_ops() -> None:
    (crow, col, values), rewards, states = parts()
    row = torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(states))]))
    gamma = torch.tensor(0.9, dtype=torch.float64)
    call = ops.Policy(row, crow, col, values, rewards, None, gamma, 1e-9, 100)
    quick = ("test_schema", "test_faketensor")  # it has no gradient
    torch.library.opcheck(torch.ops.fastiter._mdp_policy.default, tuple(call), test_utils=quick)
    chain = torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.tensor([0.5, 0.25]), torch.tensor([1.0, 2.0])
    torch.library.opcheck(torch.ops.fastiter._mdp_chain_values.default, (*chain, True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
def test_compilation() -> None:
    P_, R_ = (x.clone().requires_grad_() for x in tensors())
    compiled = torch.compile(lambda P, R: tensor_mdp.values(P, R, 0.9).value, fullgraph=True, backend="aot_eager")
    found, expected = compiled(P_, R_), tensor_mdp.values(P_, R_, 0.9).value
    assert torch.equal(found, expected)
    (one,), (other,) = (torch.autograd.grad(x.sum(), [R_]) for x in (found, expected))
    assert torch.equal(one, other)


def wrong() -> list[tuple[Any, type[Exception], str]]:
    P_, R_ = tensors()
    matrix, rewards, states = parts()
    return [
        (lambda: tensor_mdp.values(P_[0], R_, 0.9), ValueError, "P"),
        (lambda: tensor_mdp.values(P_, R_[:, :2], 0.9), ValueError, "R"),
        (lambda: tensor_mdp.values(P_, R_.float(), 0.9), TypeError, "R"),
        (lambda: tensor_mdp.values(P_, R_, 1.0), ValueError, "gamma"),
        (lambda: tensor_mdp.values(P_, R_, torch.ones(2)), ValueError, "gamma"),
        (lambda: tensor_mdp.values(P_, R_, 0.9, states=states), TypeError, "states"),
        (lambda: tensor_mdp.values(matrix, rewards, 0.9), TypeError, "states"),
        (lambda: tensor_mdp.values(matrix, rewards[:2], 0.9, states=states), ValueError, "R and states"),
        (lambda: tensor_mdp.values(matrix, rewards, 0.9, states=states.flip(0)), ValueError, "states"),
        (lambda: tensor_mdp.values((*matrix[:2], matrix[2][:3]), rewards, 0.9, states=states), ValueError, "crow"),
        (
            lambda: tensor_mdp.values((matrix[0], matrix[1] + 7, matrix[2]), rewards, 0.9, states=states),
            ValueError,
            "col",
        ),
        (lambda: tensor_mdp.values(P_, R_, 0.9, atol=0.0), ValueError, "atol"),
    ]


def test_wrong_arguments() -> None:
    assert_named((call, error, f"values: {names}") for call, error, names in wrong())
    with pytest.raises(ValueError, match=r"^values: P must sum to 1 .* in state 0, action 0 \(row 0\)$"):
        tensor_mdp.values(2 * tensors()[0], torch.zeros(7, 3, dtype=torch.float64), 0.9)
