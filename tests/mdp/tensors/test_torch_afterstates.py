"""Tensors of pairs that share rows of P: values and gradients of a row for each pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from fastiter.torch import mdp as tensor_mdp  # noqa: E402
from tests.mdp.processes.test_afterstates import parts  # noqa: E402


def tensors() -> tuple[Any, ...]:
    """Return the CSR matrix of the shared rows and of those of each pair, the rewards, and both arguments of pairs."""
    given = parts(7, 5, 4)
    csr = [torch.from_numpy(x).to_sparse_csr() for x in (given.P, given.P[given.rows])]
    shared, expanded = ((x.crow_indices(), x.col_indices(), x.values()) for x in csr)
    states, rows = torch.from_numpy(given.states), torch.from_numpy(given.rows)
    return shared, expanded, torch.from_numpy(given.R), {"states": states, "rows": rows}, {"states": states}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_values_and_gradients() -> None:
    shared, expanded, R, pairs, states = tensors()
    found, expected = (tensor_mdp.values(P, R, 0.9, **x) for P, x in ((shared, pairs), (expanded, states)))
    for name in ("value", "action_values", "policy"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    one, other = (tensor_mdp.solve(P, R, 0.9, **x) for P, x in ((shared, pairs), (expanded, states)))
    assert torch.equal(one.value, other.value) and torch.equal(one.policy, other.policy)
    both = torch.stack([R, -R])
    batch = tensor_mdp.solve(shared, both, 0.9, **pairs)
    assert torch.equal(batch.value[0], one.value) and not torch.equal(batch.value[1], one.value)
    row = torch.repeat_interleave(torch.arange(5), shared[0].diff())

    def values(weights: Any, rewards: Any) -> Any:
        sums = torch.zeros(5, dtype=torch.float64).index_add(0, row, weights)
        return tensor_mdp.values((*shared[:2], weights / sums[row]), rewards, 0.9, atol=1e-11, **pairs)[:2]

    inputs = [shared[2].clone().requires_grad_(), R.clone().requires_grad_()]
    assert torch.autograd.gradcheck(values, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(values, inputs, fast_mode=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_errors() -> None:
    shared, _, R, pairs, states = tensors()
    for function in (tensor_mdp.values, tensor_mdp.solve):
        name = function.__name__
        with pytest.raises(ValueError, match=f"{name}: rows must be rows of P, from 0 to 4, got 5 in state 0"):
            function(shared, R, 0.9, **states, rows=pairs["rows"] + 5 - pairs["rows"][0])
        with pytest.raises(ValueError, match=f"{name}: rows must have the shape of states"):
            function(shared, R, 0.9, **states, rows=pairs["rows"][1:])
        with pytest.raises(TypeError, match=f"{name}: rows must be None for dense P, got Tensor"):
            function(torch.ones(1, 1, 1), torch.ones(1, 1), 0.9, rows=pairs["rows"])
    assert np.isfinite(R.numpy()).all()
