"""Occupancies on tensors, differentiable in the policy, the probabilities, the first state and the discount."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import _core
from ..._check import count
from ..._torch.autograd import differentiable_once
from ..._torch.graph_break import graph_break
from ..._torch.ops import check_tensors, contiguous, refuse_transforms
from .._layouts import Rows as ArrayRows
from .._occupancy import Occupancy, check_shares, check_start
from .._process import prepared
from .functional import chain_values
from .rows import DTYPES, Rows, discount_of, read


def occupancy(
    P: Tensor | tuple[Any, Any, Tensor],
    policy: Tensor,
    start: Tensor,
    gamma: Tensor | float = 1.0,
    *,
    states: Any = None,
    rows: Any = None,
    horizon: int | None = None,
) -> Occupancy:
    """Return the sum over t of gamma^t times the probabilities of each state, and of each action, at step t.

    Parameters
    ----------
    P : (S, A, S), or (crow, col, values)
        The transition probabilities, float32 or float64, on the CPU: dense, or one row for each state and action as a
        CSR matrix (rows, S). Entries may not be negative, rows have to sum to 1.
    policy : (S, A) or (rows,)
        The probability of each action; those of each state sum to 1.
    start : (S,)
        The probabilities of the first state.
    gamma : float or tensor of one number
        The discount, at least 0 and below 1, with a horizon at most 1.
    states : (rows,) integers
        The state of each row of a CSR matrix, in increasing order. With ``rows`` of each pair of a state and an action.
    rows : (pairs,) integers
        The row of the CSR matrix of each pair, for pairs that share rows.
    horizon : int
        The number of steps t = 0 .. horizon - 1; None: all steps.

    Returns
    -------
    Occupancy
        The visits of states (S,), and of actions in the shape of the policy; differentiable in P, policy, start and
        gamma: with a horizon once, a second derivative raises an error, otherwise to any order.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    values : The values of the best policy.
    fastiter.mdp.occupancy : The same on arrays, for all processes of :class:`fastiter.mdp.MDP`.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp
    >>> P = torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]])
    >>> mdp.occupancy(P, torch.ones(2, 1), torch.tensor([1.0, 0.0]), horizon=3).state
    tensor([1.7500, 1.2500])
    """
    refuse_transforms("occupancy")
    return graph_break(_occupancy, P, policy, start, gamma, (states, rows), horizon)


def _occupancy(P: Any, policy: Any, start: Any, gamma: Any, pairs: tuple[Any, Any], horizon: int | None) -> Occupancy:
    function = "occupancy"
    given = read(function, P, policy, *pairs, name="policy")
    if given.models is not None:
        raise ValueError(f"{function}: P and policy must be those of one process, got {given.models}")
    check_tensors(function, ("P", "start"), (given.values, start), DTYPES, ("cpu",))
    discount = discount_of(function, given.values, gamma, closed=horizon is not None)
    _check(function, given, start)
    if horizon is None:
        state = _discounted(given, discount, start)
    else:
        steps = count(function, "horizon", horizon, 1)
        state = _Visits.apply(_Pattern.of(given, steps), given.values, given.rewards, start, discount)
    pair = given.rewards * torch.repeat_interleave(state, given.row.diff())
    return Occupancy(state, pair.reshape(policy.shape))


def _check(function: str, given: Rows, start: Tensor) -> None:
    """Refuse numbers that are not probabilities, by the checks of arrays."""
    row, crow, col, values, shares = (x.detach().numpy() for x in given[:5] if x is not None)
    if start.shape != (len(row) - 1,):
        raise ValueError(f"{function}: start must have shape (S,) = ({len(row) - 1},), got {tuple(start.shape)}")
    pair = None if given.pair is None else given.pair.numpy().astype(np.int32)
    whole = ArrayRows(row, crow, col.astype(np.int32), values, np.zeros_like(shares), pair=pair)
    prepared(function, whole, 0.0, None, False)
    check_shares(function, whole, contiguous(given.rewards.detach()).numpy())
    check_start(function, contiguous(start.detach()).numpy())


def _discounted(given: Rows, discount: Tensor, start: Tensor) -> Tensor:
    """Return m = start + W^T m; pairs that share rows are a chain of states and rows, so that P is not expanded."""
    row, crow, col, values, shares, pair = given
    S = len(row) - 1
    if pair is None:
        weights = discount * values * torch.repeat_interleave(shares, crow.diff())
        return chain_values(crow[row], col, weights, start, True)
    both = torch.cat([row, row[-1] + crow[1:]]), torch.cat([S + pair, col])
    weights = torch.cat([shares, discount * values])
    return chain_values(*both, weights, torch.cat([start, start.new_zeros(len(crow) - 1)]), True)[:S]


class _Pattern(NamedTuple):
    """The arguments of the kernels without numbers."""

    row: Any
    crow: Any
    col: Any
    pair: Any
    horizon: int

    @classmethod
    def of(cls, given: Rows, horizon: int) -> _Pattern:
        pair = None if given.pair is None else given.pair.to(torch.int32).numpy()
        row, crow, col = (contiguous(x).numpy() for x in (given.row, given.crow, given.col.to(torch.int32)))
        return cls(row, crow, col, pair, horizon)

    def head(self, values: Any, shares: Any, discount: Tensor) -> tuple[int, int, tuple[Any, ...], float, int]:
        own = (self.row, self.crow, self.col, values, shares)
        arrays = own if self.pair is None else (*own, self.pair, len(self.crow) - 1)
        return values.itemsize * 8, len(self.row) - 1, arrays, float(discount), self.horizon


def _arrays(*tensors: Tensor) -> list[Any]:
    return [contiguous(x.detach()).numpy() for x in tensors]


class _Visits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: _Pattern, values: Tensor, shares: Tensor, start: Tensor, discount: Tensor) -> Tensor:
        weights, policy, first = _arrays(values, shares, start)
        total = torch.empty(start.shape, dtype=start.dtype, device="cpu")
        history = total.new_empty((pattern.horizon, len(total)) if any(ctx.needs_input_grad) else (0, len(total)))
        kept = history.numpy() if len(history) else None
        head = pattern.head(weights, policy, discount)
        _core.mdp.visits(*head, (policy, first), (total.numpy(), kept))
        ctx.pattern = pattern
        ctx.save_for_backward(values, shares, start, discount, history)
        return total

    @staticmethod
    @differentiable_once("occupancy")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, shares, _, discount, history = ctx.saved_tensors
        weights, policy, visits, gradient = _arrays(values, shares, history, g)
        dstart, dshares = torch.empty_like(g), torch.empty_like(shares)
        dvalues = torch.empty_like(values) if ctx.needs_input_grad[1] else None
        out = dstart.numpy(), dshares.numpy(), None if dvalues is None else dvalues.numpy()
        head = _Pattern(*ctx.pattern).head(weights, policy, discount)
        _core.mdp.visit_gradients(*head, (policy, visits, gradient), out)
        ddiscount = (shares * dshares).sum() if ctx.needs_input_grad[4] else None
        dvalues = None if dvalues is None else discount * dvalues
        return None, dvalues, discount * dshares, dstart, ddiscount
