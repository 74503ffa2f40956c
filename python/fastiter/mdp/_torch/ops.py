"""The private ops of decision processes on tensors: an optimal policy, and the values of a chain.

With W = gamma P of the policy's rows, V = r + W V, so that for the cotangent g of V

    l = g + W^T l;   dr = l;   dW = l V^T on the sparsity pattern

l is the discounted occupancy of the states from the distribution g.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import _core
from ..._call.iterate import Limits
from ..._solution import judged
from ..._torch.op import Op
from ..._torch.ops import contiguous
from .._layouts import Rows
from .._mdp import MDP
from .._solvers.krylov import Chain, solved
from .._solvers.options import Choice


class Policy(NamedTuple):
    """Arguments of the op that returns the best row of each state: (S,), or (B, S) for batches."""

    row: Tensor
    crow: Tensor
    col: Tensor
    values: Tensor
    rewards: Tensor
    pair: Tensor | None
    gamma: Tensor
    atol: float
    max_steps: int


class ChainValues(NamedTuple):
    """Arguments of the op that returns x = b + W x, or b + W^T x, with W (S, S) as crow, col and weights."""

    crow: Tensor
    col: Tensor
    weights: Tensor
    b: Tensor
    transpose: bool


def _array(x: Tensor) -> Any:
    return contiguous(x.detach()).numpy()


def possible_rows(row: Any, crow: Any, col: Any, values: Any, rewards: Any, pair: Any = None) -> Rows:
    """Return the rows whose reward is not -inf; their labels are their positions among all rows of their state."""
    place = np.arange(len(rewards)) - np.repeat(row[:-1], np.diff(row))
    pair = None if pair is None else pair.astype(np.int32)
    return Rows(row, crow, col.astype(np.int32), values, rewards, place, pair=pair).kept(rewards != -np.inf)


def _policy(call: Policy) -> Tensor:
    row, crow, col = (_array(x) for x in call[:3])
    pair = None if call.pair is None else _array(call.pair)
    gamma, models = float(call.gamma), _models(call)
    best = torch.empty((1 if models is None else models, len(row) - 1), dtype=torch.int64, device="cpu")
    for m in range(len(best)):
        values, rewards = (_array(x[m] if x.dim() == 2 else x) for x in (call.values, call.rewards))
        problem = MDP._of(possible_rows(row, crow, col, values, rewards, pair), gamma, function="values")
        reachable = 2 * problem._process.accuracy(gamma).reachable()
        limits = Limits(atol=max(call.atol, reachable), max_steps=call.max_steps)
        solution = problem._solved("values", Choice(), problem._start("values", None), limits)
        best[m] = torch.from_numpy(row[:-1] + judged("values", solution, False).policy)
    return best[0] if models is None else best


def _models(call: Policy) -> int | None:
    """Return the number of models; None for a single process."""
    return next((x.shape[0] for x in (call.values, call.rewards) if x.dim() == 2), None)


def _policy_fake(call: Policy) -> Tensor:
    models, states = _models(call), call.row.shape[0] - 1
    return call.row.new_empty((states,) if models is None else (models, states))


def _chain_values(call: ChainValues) -> Tensor:
    crow, col, weights, b = (_array(x) for x in call[:4])
    arrays = None, crow, col.astype(np.int32), weights, np.zeros(len(b), b.dtype)
    model = _core.mdp.model(b.itemsize * 8, len(b), arrays)
    sums = 1 - Chain(model, 1.0, b).multiply(np.ones_like(b))
    transposed = model.transposed() if call.transpose else model
    chain = Chain(transposed, 1.0, b, b, float(sums.max(initial=0)))
    return torch.from_numpy(solved("values", chain, b))


def _chain_values_fake(call: ChainValues) -> Tensor:
    return call.b.new_empty(call.b.shape)


mdp_policy = Op("_mdp_policy", Policy, _policy, _policy_fake)
mdp_chain_values = Op("_mdp_chain_values", ChainValues, _chain_values, _chain_values_fake)
