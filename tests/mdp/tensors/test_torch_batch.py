"""Batches of decision processes as tensors: the bits of each model alone, gradients, GPUs, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from fastiter.mdp._torch import functional, gpu, ops, solve  # noqa: E402
from fastiter.torch import mdp as tensor_mdp  # noqa: E402
from tests.mdp.cases import pairs, random_process  # noqa: E402
from tests.support.error_cases import assert_named  # noqa: E402

B, S, A = 3, 6, 2


def dense(dtype: str = "float64", *, unequal: bool = True) -> tuple[Any, Any]:
    """Return P (B, S, A, S) and R (B, S, A) with the zeros of one process."""
    P, R = random_process(S, A, 170, unequal=unequal)
    rng = np.random.default_rng(171)
    several = P * rng.uniform(0.5, 1.5, (B, *P.shape))
    several /= several.sum(axis=-1, keepdims=True)
    return torch.from_numpy(several.astype(dtype)), torch.from_numpy((R + rng.random((B, S, A))).astype(dtype))


def sparse() -> tuple[Any, Any, Any]:
    """Return (crow, col, values (B, entries)), R (B, rows) and states."""
    P, R = dense()
    found = [pairs(P[m].numpy(), R[m].numpy()) for m in range(B)]
    matrix, _, states, _ = found[0]
    values = torch.from_numpy(np.stack([one.data for one, *_ in found]))
    rewards = torch.from_numpy(np.stack([reward for _, reward, *_ in found]))
    crow, col = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices.astype(np.int64))
    return (crow, col, values), rewards, torch.from_numpy(states)


def same(found: Any, expected: list[Any], names: tuple[str, ...]) -> None:
    for m, one in enumerate(expected):
        for name in names:
            ours, alone = getattr(found, name)[m], getattr(one, name)
            assert torch.equal(ours, alone) if isinstance(ours, torch.Tensor) else ours == alone, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_has_the_bits_of_separate_models(dtype: str) -> None:
    P, R = dense(dtype)
    names = ("value", "action_values", "policy")
    same(tensor_mdp.values(P, R, 0.9), [tensor_mdp.values(P[m], R[m], 0.9) for m in range(B)], names)
    same(tensor_mdp.values(P[0], R, 0.9), [tensor_mdp.values(P[0], R[m], 0.9) for m in range(B)], names)
    same(
        tensor_mdp.values(P.movedim(0, 3).contiguous().movedim(3, 0), R[0], 0.9),
        [tensor_mdp.values(P[m], R[0], 0.9) for m in range(B)],
        names,
    )
    (crow, col, values), rewards, states = sparse()
    found = tensor_mdp.values((crow, col, values), rewards, 0.9, states=states)
    same(found, [tensor_mdp.values((crow, col, values[m]), rewards[m], 0.9, states=states) for m in range(B)], names)
    more = ("value", "policy", "lower", "upper", "steps", "residual", "converged")
    how = {"atol": 1e-3 if dtype == "float32" else 1e-9}
    same(tensor_mdp.solve(P, R, 0.9, **how), [tensor_mdp.solve(P[m], R[m], 0.9, **how) for m in range(B)], more)
    assert tensor_mdp.values(P[:0], R[0], 0.9).action_values.shape == (0, S, A)
    assert tensor_mdp.values((crow, col, values[:0]), rewards[0], 0.9, states=states).value.shape == (0, S)


def test_gradients() -> None:
    P, R = dense(unequal=False)

    def call(P: Any, R: Any, gamma: Any) -> Any:
        return tensor_mdp.values(P / P.sum(dim=-1, keepdim=True), R, gamma)[:2]

    gamma = torch.tensor(0.8, dtype=torch.float64)
    for given in ((P + 0.01, R, gamma), (P[0] + 0.01, R, gamma), (P + 0.01, R[0], gamma)):
        leaves = [x.clone().requires_grad_() for x in given]
        assert torch.autograd.gradcheck(call, leaves, atol=1e-6, fast_mode=True)
    (crow, col, values), rewards, states = sparse()
    owner = torch.repeat_interleave(torch.arange(rewards.shape[1]), crow.diff())

    def rows(values: Any, rewards: Any) -> Any:
        sums = torch.zeros_like(rewards).index_add(1, owner, values)
        return tensor_mdp.values((crow, col, values / sums[:, owner]), rewards, 0.8, states=states)[:2]

    leaves = [x.clone().requires_grad_() for x in (values, rewards)]
    assert torch.autograd.gradcheck(rows, leaves, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda r: rows(values, r)[0], leaves[1:], atol=1e-5, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in tracing
def test_ops() -> None:
    (crow, col, values), rewards, states = sparse()
    row = torch.cat([states.new_zeros(1), torch.bincount(states).cumsum(0)])
    call = ops.Policy(row, crow, col, values, rewards[0], None, torch.tensor(0.9, dtype=torch.float64), 1e-9, 100)
    quick = ("test_schema", "test_faketensor")  # it has no gradient
    torch.library.opcheck(torch.ops.fastiter._mdp_policy.default, tuple(call), test_utils=quick)
    P, R = dense()
    compiled = torch.compile(lambda P, R: tensor_mdp.values(P, R, 0.9).value, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(P, R), tensor_mdp.values(P, R, 0.9).value)


def test_a_callback_on_the_cpu_sees_tensors() -> None:
    P, R = dense()
    seen: list[Any] = []
    ended = tensor_mdp.solve(P[0], R[0], 0.9, callback=lambda p: seen.append(p.value) or p.steps >= 2)
    assert ended.reason == "callback" and ended.steps == 2 and len(seen) == 2
    assert seen[-1].dtype == P.dtype and seen[-1].shape == (S,) and not torch.equal(*seen)


def test_models_on_a_gpu_are_swept_together(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All models are swept together, each until its own stopping test, with the same bits as alone."""
    pytest.importorskip("triton")
    (crow, col, values), rewards, states = sparse()
    rewards[1] = 0.25  # the bounds of equal rewards meet at once
    expected = tensor_mdp.values((crow, col, values), rewards, 0.5, states=states)
    if device == "cpu":
        monkeypatch.setattr(solve, "_CARDS", ("cpu",))
        monkeypatch.setattr(functional, "mdp_policy", gpu.policy)
        monkeypatch.setattr(functional, "mdp_chain_values", gpu.chain_values)
    given = [x.to(device) for x in (crow, col, values, rewards, states)]
    (crow, col, values), rewards, states = tuple(given[:3]), given[3], given[4]
    how: dict[str, Any] = {"gamma": 0.5, "states": states, "atol": 1e-4}
    found = tensor_mdp.solve((crow, col, values), rewards, **how)
    one_by_one = [tensor_mdp.solve((crow, col, values[m]), rewards[m], **how) for m in range(B)]
    same(found, one_by_one, ("value", "policy", "lower", "upper", "steps", "residual", "converged"))
    assert found.steps[1] < found.steps[0] and np.isnan(found.history[1, found.steps[1] :]).all()
    np.testing.assert_allclose(found.value.cpu(), expected.value, rtol=0, atol=1e-4)
    shared = tensor_mdp.solve((crow, col, values[0]), rewards, **how)
    assert torch.equal(shared.value[0], found.value[0]) and shared.value.shape == (B, S)
    again = tensor_mdp.solve((crow, col, values), rewards, value0=found.value, **how)
    assert (again.steps < found.steps).sum() >= 2
    assert tensor_mdp.solve((crow, col, values[:0]), rewards[0], **how).value.shape == (0, S)
    seen: list[Any] = []
    ended = tensor_mdp.solve(
        (crow, col, values),
        rewards,
        **how,
        callback=lambda p: seen.append((p.active.tolist(), p.value)) or p.steps == 2,
    )
    assert ended.reason == ("callback", "converged", "callback") and ended.steps.tolist() == [2, 1, 2]
    assert [active for active, _ in seen] == [[0, 2], [0, 2]] and seen[-1][1].shape == (B, S)
    one = tensor_mdp.solve(
        (crow, col, values[0]), rewards[0], **how, callback=lambda p: seen.append((p.residual, p.value)) or p.steps == 2
    )
    assert one.reason == "callback" and seen[-1][0] == one.history[-1] and torch.equal(seen[-1][1], seen[1][1][0])
    derived = tensor_mdp.values((crow, col, values), rewards, 0.5, states=states)
    np.testing.assert_allclose(derived.value.cpu(), expected.value, rtol=0, atol=1e-10)
    assert torch.equal(derived.policy.cpu()[[0, 2]], expected.policy[[0, 2]])


def wrong() -> list[tuple[Any, str]]:
    P, R = dense()
    matrix, rewards, states = sparse()
    bad = P.clone()
    bad[1] *= 2
    starts = torch.zeros(2, S, dtype=torch.float64)
    return [
        (lambda: tensor_mdp.solve(P[None], R, 0.9), "solve: P"),
        (lambda: tensor_mdp.solve(P, R[:2], 0.9), "solve: R"),
        (lambda: tensor_mdp.solve(matrix, rewards[:2], 0.9, states=states), "solve: R"),
        (lambda: tensor_mdp.solve(bad, R, 0.9), "solve: P"),
        (lambda: tensor_mdp.solve(P, R, 0.9, value0=starts), "solve: value0"),
        (lambda: tensor_mdp.solve(P[0], R[0], 0.9, value0=starts[0] + np.nan), "solve: value0"),
        (lambda: tensor_mdp.solve(P[0], R[0], 0.9, value0=starts), "solve: value0"),
        (lambda: tensor_mdp.solve(P[0], R[0], 1.0), "solve: gamma"),
        (lambda: tensor_mdp.solve(P[0], R[0], 0.9, max_steps=0), "solve: max_steps"),
    ]


def test_wrong_arguments() -> None:
    assert_named((call, ValueError, names) for call, names in wrong())
