"""Solutions of decision processes given as tensors: value iteration on a card, the CPU's solvers elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..._check import check_flag, count, positive
from ..._solution import judged
from ..._torch.ops import check_tensors, refuse_transforms
from .._mdp import MDP
from .._result import MDPSolution, alone
from . import gpu
from .ops import Policy, possible_rows
from .rows import DTYPES, discount_of, read

#: Devices whose tensors are solved by the kernels for cards
_CARDS = ("cuda",)


def mdp_solve(
    P: Tensor | tuple[Any, Any, Tensor],
    R: Tensor,
    gamma: Tensor | float,
    *,
    states: Any = None,
    tol: float = 1e-6,
    max_steps: int = 100_000,
    value0: Tensor | None = None,
    throw: bool = False,
) -> MDPSolution:
    """Return V* = max_a R + gamma P V* within tol / 2, an optimal policy and bounds, computed where the tensors are.

    On a card value iteration with MacQueen's bounds, on the CPU the automatic method of ``fastiter.mdp.MDP.solve``.
    Nothing is differentiable.

    Parameters
    ----------
    P : (S, A, S), or (crow, col, values)
        The transition probabilities, float32 or float64, on the CPU or a card: dense, or one row for each state and
        action as a CSR matrix (rows, S). Entries may not be negative, rows have to sum to 1.
    R : (S, A) or (rows,)
        The rewards; -inf leaves an action out.
    gamma : float or tensor of one number
        The discount, at least 0 and below 1.
    states : (rows,) integers
        The state of each row of a CSR matrix, in rising order.
    tol : float
        The width of the bounds at which it has converged.
    max_steps : int
        The most sweeps over all states.
    value0 : (S,)
        The first values, in the dtype of P; by default a lower bound on V*.
    throw : bool
        Raise if it does not converge, instead of a warning.

    Returns
    -------
    MDPSolution
        Its arrays are tensors on the device of P; the policy has the best action of each state: its number for dense P,
        else its row.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    mdp_values : Values with gradients.
    fastiter.mdp.MDP : All methods, on the CPU.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp_solve
    >>> found = mdp_solve(torch.ones(1, 2, 1), torch.tensor([[1.0, 2.0]]), 0.5, tol=1e-5)
    >>> found.value, found.policy
    (tensor([4.]), tensor([1]))
    """
    function = "mdp_solve"
    refuse_transforms(function)
    check_flag(function, "throw", throw)
    tol, max_steps = positive(function, "tol", tol, zero=False), count(function, "max_steps", max_steps, 1)
    values = P[2] if isinstance(P, tuple) and len(P) == 3 else P
    rows = read(function, P, R, states).detached()
    discount = discount_of(function, rows.values, gamma).detach()
    first = None if value0 is None else _first(function, values, value0, len(rows.row) - 1)
    call = Policy(*rows, discount, tol, max_steps)
    if rows.values.device.type in _CARDS:
        found = judged("solve", alone(gpu.solve(call, None if first is None else first[None])), throw)
    else:
        found = _on_the_cpu(call, first, throw)
    return found if isinstance(P, tuple) else replace(found, policy=found.policy - rows.row[:-1])


def _first(function: str, values: Any, value0: Any, S: int) -> Tensor:
    check_tensors(function, ("P", "value0"), (values, value0), DTYPES, ("cpu", "cuda"))
    if value0.shape != (S,):
        raise ValueError(f"{function}: value0 must have shape (S,) = ({S},), got {tuple(value0.shape)}")
    if not value0.isfinite().all():
        s = int(torch.nonzero(~value0.isfinite())[0])
        raise ValueError(f"{function}: value0 must be finite, got {value0[s].item()} in state {s}")
    return value0.detach().clone(memory_format=torch.contiguous_format)


def _on_the_cpu(call: Policy, first: Tensor | None, throw: bool) -> MDPSolution:
    arrays = [x.resolve_neg().numpy() for x in call[:5]]
    problem = MDP._of(possible_rows(*arrays), float(call.gamma))
    start = None if first is None else first.numpy()
    found = problem.solve(tol=call.tol, max_steps=call.max_steps, value0=start, throw=throw)
    tensors: dict[str, Any] = {
        name: torch.from_numpy(getattr(found, name)) for name in ("value", "policy", "lower", "upper")
    }
    return replace(found, **tensors | {"policy": call.row[:-1] + tensors["policy"]})
