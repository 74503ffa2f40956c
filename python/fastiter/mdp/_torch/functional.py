"""Optimal values of decision processes on tensors, differentiable in rewards, probabilities and the discount."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._check import count, positive
from ..._torch.autograd import one_by_one
from ..._torch.ops import check_tensors, checked_integers, refuse_transforms
from .ops import ChainValues, Policy, mdp_chain_values, mdp_policy

DTYPES = (torch.float32, torch.float64)


class MDPValues(NamedTuple):
    """Optimal values.

    Attributes
    ----------
    value : (S,)
        V*.
    action_values : (S, A) or (rows,)
        Q* = R + gamma P V*, in the shape of R.
    policy : (S,) int64
        The best action of each state: its number for dense P, else its row.

    See Also
    --------
    mdp_values : The function that returns it.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp_values
    >>> P, R = torch.ones(1, 2, 1), torch.tensor([[1.0, 2.0]])
    >>> mdp_values(P, R, 0.5).policy
    tensor([1])
    """

    value: Tensor
    action_values: Tensor
    policy: Tensor


def mdp_values(
    P: Tensor | tuple[Any, Any, Tensor],
    R: Tensor,
    gamma: Tensor | float,
    *,
    states: Any = None,
    tol: float = 1e-9,
    max_steps: int = 100_000,
) -> MDPValues:
    """Return V* = max_a R + gamma P V*, differentiable by one solution with the transpose of the policy's chain.

    The gradient of V*(s) with respect to the rewards is the discounted occupancy: how often the best policy takes each
    action from s on. Where several actions are equally good, it is that of the one which is taken.

    Parameters
    ----------
    P : (S, A, S), or (crow, col, values)
        The transition probabilities, float32 or float64, on the CPU: dense, or one row for each state and action as a
        CSR matrix (rows, S). Entries may not be negative, rows have to sum to 1.
    R : (S, A) or (rows,)
        The rewards; -inf leaves an action out.
    gamma : float or tensor of one number
        The discount, at least 0 and below 1.
    states : (rows,) integers
        The state of each row of a CSR matrix, in rising order.
    tol : float
        The width of the bounds within which the policy is optimal, or what rounding allows, if that is more. The values
        are those of the policy, to rounding.
    max_steps : int
        The most sweeps for the policy.

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
    fastiter.mdp.MDP : All methods, with bounds, without gradients.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp_values
    >>> P = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2)
    >>> R = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    >>> value, _, _ = mdp_values(P, R, 0.9)
    >>> value.sum().backward()
    >>> value.detach().round(decimals=6), R.grad.round(decimals=6)
    (tensor([10., 20.], dtype=torch.float64), tensor([[10.],
            [10.]], dtype=torch.float64))
    """
    function = "mdp_values"
    refuse_transforms(function)
    tol, max_steps = positive(function, "tol", tol, zero=False), count(function, "max_steps", max_steps, 1)
    discount = _discount(function, P[2] if isinstance(P, tuple) else P, gamma)
    if isinstance(P, tuple):
        return _sparse(function, P, R, discount, states, (tol, max_steps))
    if states is not None:
        raise TypeError(f"{function}: states must be None for dense P, got {type(states).__name__}")
    check_tensors(function, ("P", "R"), (P, R), DTYPES)
    if P.dim() != 3 or P.shape[0] != P.shape[2] or P.shape[0] == 0:
        raise ValueError(f"{function}: P must have shape (S, A, S), got {tuple(P.shape)}")
    S, A = P.shape[:2]
    if R.shape != (S, A):
        raise ValueError(f"{function}: R must have shape {(S, A)} to go with P, got {tuple(R.shape)}")
    whole = torch.arange(S, device="cpu")
    crow, col = torch.arange(S * A + 1, device="cpu") * S, whole.repeat(S * A)
    starts = torch.arange(S + 1, device="cpu") * A
    flat, reward = P.reshape(S * A, S), R.reshape(S * A)
    best = _policy_of((starts, crow, col, flat.reshape(-1), reward), discount, (tol, max_steps))
    weights = discount * flat[best]
    value = _ChainValues.apply(whole_rows(S), whole.repeat(S), weights.reshape(-1), reward[best], False)
    return MDPValues(value, R + discount * (P @ value), best - starts[:-1])


def whole_rows(S: int) -> Tensor:
    """Return the first entries of S rows of S entries each."""
    return torch.arange(S + 1, device="cpu") * S


def _policy_of(rows: tuple[Tensor, ...], discount: Tensor, how: tuple[float, int]) -> Tensor:
    """Return the best row of each state; nothing flows back through the choice."""
    row, crow, col, values, rewards = (x.detach() for x in rows)
    return mdp_policy(Policy(row, crow, col, values, rewards, discount.detach(), *how))


def _discount(function: str, like: Tensor, gamma: Tensor | float) -> Tensor:
    if isinstance(gamma, Tensor):
        if gamma.numel() != 1 or gamma.dtype != like.dtype or not gamma.is_cpu:
            got = f"{gamma.dtype} of shape {tuple(gamma.shape)} on {gamma.device}"
            raise ValueError(f"{function}: gamma must be a number or a tensor of one in the dtype of P, got {got}")
        discount = gamma.reshape(())
    else:
        discount = torch.tensor(positive(function, "gamma", gamma), dtype=like.dtype, device="cpu")
    if not torch.compiler.is_compiling() and not 0 <= discount.item() < 1:
        raise ValueError(f"{function}: gamma must be at least 0 and below 1, got {discount.item():g}")
    return discount


def _sparse(
    function: str, P: tuple[Any, Any, Tensor], R: Tensor, discount: Tensor, states: Any, how: tuple[float, int]
) -> MDPValues:
    if len(P) != 3:
        raise TypeError(f"{function}: P must be a tensor or (crow, col, values), got {len(P)} parts")
    crow, col = (checked_integers(function, name, x) for name, x in zip(("crow", "col"), P[:2], strict=True))
    values = P[2]
    check_tensors(function, ("values", "R"), (values, R), DTYPES)
    if states is None:
        raise TypeError(f"{function}: states must be the state of each row of P, got None")
    owner = checked_integers(function, "states", states)
    rows = crow.shape[0] - 1
    if R.shape != (rows,) or owner.shape != (rows,):
        got = f"{tuple(R.shape)} and {tuple(owner.shape)}"
        raise ValueError(f"{function}: R and states must have shape (rows,) = ({rows},) to go with P, got {got}")
    if (owner.diff() < 0).any() or rows == 0 or owner[0] < 0:
        raise ValueError(f"{function}: states must rise from 0, got others")
    if col.shape != values.shape or crow[0] != 0 or crow[-1] != len(values) or (crow.diff() < 0).any():
        raise ValueError(f"{function}: crow must rise from 0 to the number of entries of col and values, got others")
    S = int(owner[-1]) + 1
    starts = torch.cat([owner.new_zeros(1), torch.bincount(owner, minlength=S).cumsum(0)])
    if len(col) and not 0 <= int(col.min()) <= int(col.max()) < S:
        raise ValueError(f"{function}: col must be from 0 to {S - 1}, got others")
    best = _policy_of((starts, crow, col, values, R), discount, how)
    lengths = crow.diff()[best]
    first = torch.cat([crow.new_zeros(1), lengths.cumsum(0)])
    entries = torch.repeat_interleave(crow[:-1][best] - first[:-1], lengths) + torch.arange(
        int(first[-1]), device="cpu"
    )
    value = _ChainValues.apply(first, col[entries], discount * values[entries], R[best], False)
    row = torch.repeat_interleave(torch.arange(rows, device="cpu"), crow.diff())
    return MDPValues(value, R + discount * R.new_zeros(rows).index_add(0, row, values * value[col]), best)


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
        row = torch.repeat_interleave(torch.arange(len(crow) - 1, device="cpu"), crow.diff(), output_size=len(col))
        dweights = l[col] * x[row] if ctx.transpose else l[row] * x[col]
        return None, None, dweights, l, None
