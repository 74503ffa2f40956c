"""Optimal values of decision processes on tensors, differentiable in rewards, probabilities and the discount."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._check import count, positive
from ..._torch.autograd import one_by_one
from ..._torch.ops import refuse_transforms
from . import gpu
from .ops import ChainValues, Policy, mdp_chain_values, mdp_policy
from .rows import Rows, discount_of, read


class MDPValues(NamedTuple):
    """Optimal values.

    Attributes
    ----------
    value : (S,) or (B, S)
        V*.
    action_values : (S, A) or (rows,), or (B, S, A) or (B, rows)
        Q* = R + gamma P V*.
    policy : (S,) or (B, S) int64
        The best action of each state: its number for dense P, otherwise its row.

    See Also
    --------
    values : The function that returns it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp
    >>> P, R = torch.ones(1, 2, 1), torch.tensor([[1.0, 2.0]])
    >>> mdp.values(P, R, 0.5).policy
    tensor([1])
    """

    value: Tensor
    action_values: Tensor
    policy: Tensor


def values(
    P: Tensor | tuple[Any, Any, Tensor],
    R: Tensor,
    gamma: Tensor | float,
    *,
    states: Any = None,
    rows: Any = None,
    atol: float = 1e-9,
    max_steps: int = 100_000,
) -> MDPValues:
    """Return V* = max_a R + gamma P V*, differentiable by one solution with the transpose of the policy's chain.

    The gradient of V*(s) with respect to the rewards is the discounted occupancy: the discounted number of times that
    the best policy takes each action from s on. If several actions are equally good, the gradient is that of the chosen
    one.

    Parameters
    ----------
    P : (S, A, S), or (crow, col, values); or for B models (B, S, A, S), or values (B, entries)
        The transition probabilities, float32 or float64, on the CPU or a GPU: dense, or one row for each state and
        action as a CSR matrix (rows, S). Entries may not be negative, rows have to sum to 1.
    R : (S, A) or (rows,); or for B models (B, S, A) or (B, rows)
        The rewards; -inf removes an action.
    gamma : float or tensor of one number
        The discount, at least 0 and below 1.
    states : (rows,) integers
        The state of each row of a CSR matrix, in increasing order. With ``rows`` of each pair of a state and an action.
    rows : (pairs,) integers
        The row of the CSR matrix of each pair, for pairs that share rows: R is then (pairs,), and so is Q. CPU only.
    atol : float
        The policy is optimal within this width of the bounds, or within the rounding error if that is larger. The
        values are those of the policy, to rounding.
    max_steps : int
        The maximum number of sweeps to find the policy.

    Returns
    -------
    MDPValues
        V*, Q* and the policy; the first two are differentiable to any order in P, R and gamma.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    solve : Without gradients, with bounds.
    fastiter.mdp.MDP : All methods, with bounds and without gradients.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp
    >>> P = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2)
    >>> R = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    >>> value, _, _ = mdp.values(P, R, 0.9)
    >>> value.sum().backward()
    >>> value.detach().round(decimals=6), R.grad.round(decimals=6)
    (tensor([10., 20.], dtype=torch.float64), tensor([[10.],
            [10.]], dtype=torch.float64))
    """
    function = "values"
    refuse_transforms(function)
    atol, max_steps = positive(function, "atol", atol, zero=False), count(function, "max_steps", max_steps, 1)
    given = read(function, P, R, states, rows)  # first, as it checks P
    discount = discount_of(function, given.values, gamma)
    best = mdp_policy(Policy(*given.detached(), discount.detach(), atol, max_steps))
    one = _sparse if isinstance(P, tuple) else _dense
    if given.models is None:
        return MDPValues(*one(given, discount, best))
    parts = [one(given.model(m), discount, best[m]) for m in range(given.models)]
    if not parts:
        return MDPValues(
            given.rewards.new_zeros(best.shape), R.new_zeros((0, *R.shape[-2 + isinstance(P, tuple) :])), best
        )
    return MDPValues(*(torch.stack(x) for x in zip(*parts, strict=True)))


def _dense(rows: Rows, discount: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    S, P = len(best), rows.values.reshape(len(rows.rewards), -1)
    whole = rows.col[:S]
    first = torch.arange(S + 1, device=P.device) * S
    value = _ChainValues.apply(first, whole.repeat(S), (discount * P[best]).reshape(-1), rows.rewards[best], False)
    return value, (rows.rewards + discount * (P @ value)).reshape(S, -1), best - rows.row[:-1]


def _sparse(rows: Rows, discount: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, crow, col, values, rewards, _ = rows
    chosen = rows.at(best)
    lengths = crow.diff()[chosen]
    first = torch.cat([crow.new_zeros(1), lengths.cumsum(0)])
    places = torch.arange(int(first[-1]), device=crow.device)
    entries = torch.repeat_interleave(crow[:-1][chosen] - first[:-1], lengths) + places
    value = _ChainValues.apply(first, col[entries], discount * values[entries], rewards[best], False)
    row = torch.repeat_interleave(torch.arange(len(crow) - 1, device=crow.device), crow.diff())
    expected = rewards.new_zeros(len(crow) - 1).index_add(0, row, values * value[col])
    return value, rewards + discount * (expected if rows.pair is None else expected[rows.pair]), best


class _ChainValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, crow: Tensor, col: Tensor, weights: Tensor, b: Tensor, transpose: bool) -> Tensor:
        x = mdp_chain_values(ChainValues(crow, col, weights, b, transpose))
        ctx.save_for_backward(crow, col, weights, x)
        ctx.transpose = transpose
        return x

    @staticmethod
    @one_by_one
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        crow, col, weights, x = ctx.saved_tensors
        l = _ChainValues.apply(crow, col, weights, g, not ctx.transpose)
        row = torch.repeat_interleave(
            torch.arange(len(crow) - 1, device=crow.device), crow.diff(), output_size=len(col)
        )
        dweights = l[col] * x[row] if ctx.transpose else l[row] * x[col]
        return None, None, dweights, l, None


def chain_values(crow: Tensor, col: Tensor, weights: Tensor, b: Tensor, transpose: bool) -> Tensor:
    """Return x = b + W x, or b + W^T x, differentiable to any order in the weights of W and in b."""
    x: Tensor = _ChainValues.apply(crow, col, weights, b, transpose)
    return x


mdp_policy.on_cuda(gpu.policy)
mdp_chain_values.on_cuda(gpu.chain_values)
