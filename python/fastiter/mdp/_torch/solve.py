"""Solutions of decision processes given as tensors: value iteration on a GPU, the CPU's solvers otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._call.iterate import Limits, Progress
from ..._solution import judged
from ..._torch.graph_break import graph_break
from ..._torch.ops import check_tensors, refuse_transforms
from .._mdp import MDP
from .._result import MDPSolution, alone, together
from .._solvers.options import Choice
from . import gpu
from .ops import Policy, possible_rows
from .rows import DTYPES, Rows, discount_of, read

#: Devices whose tensors are solved by the GPU kernels
_CARDS = ("cuda",)


def solve(
    P: Tensor | tuple[Any, Any, Tensor],
    R: Tensor,
    gamma: Tensor | float,
    *,
    states: Any = None,
    rows: Any = None,
    value0: Tensor | None = None,
    atol: float = 1e-6,
    max_steps: int = 100_000,
    callback: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> MDPSolution[Tensor]:
    """Return V* = max_a R + gamma P V* within atol / 2, an optimal policy and bounds, computed where the tensors are.

    On a GPU by value iteration with MacQueen's bounds, on the CPU by the automatic method of
    ``fastiter.mdp.MDP.solve``. The results have no gradients.

    Parameters
    ----------
    P : (S, A, S), or (crow, col, values); or for B models (B, S, A, S), or values (B, entries)
        The transition probabilities, float32 or float64, on the CPU or a GPU: dense, or one row for each state and
        action as a CSR matrix (rows, S). Entries may not be negative, rows have to sum to 1. If P or R is given for one
        model, it is shared by all; each model has its own stopping test and the same bits as when solved alone.
    R : (S, A) or (rows,); or for B models (B, S, A) or (B, rows)
        The rewards; -inf removes an action.
    gamma : float or tensor of one number
        The discount, at least 0 and below 1.
    states : (rows,) integers
        The state of each row of a CSR matrix, in increasing order. With ``rows`` of each pair of a state and an action.
    rows : (pairs,) integers
        The row of the CSR matrix of each pair, for pairs that share rows: R is then (pairs,). CPU only.
    value0 : (S,), or (B, S)
        The initial values, in the dtype of P; by default a lower bound on V*.
    atol : float
        The width of the bounds at which it has converged. float32 usually needs a larger value than the default, see
        ``fastiter.mdp.MDP.solve``; on a GPU rounding makes the bounds about 1e-7 max(abs(V)) / (1 - gamma) wide.
    max_steps : int
        The maximum number of sweeps over all states.
    callback : callable, optional
        Called at each check with a :class:`fastiter.Progress`; if it returns True, the iteration ends. For B models on
        the CPU as in ``fastiter.mdp.MDPBatch``; on a GPU once for all models, ``active`` has those that have not ended.
    throw : bool
        Raise an error if it does not converge, instead of a warning.

    Returns
    -------
    MDPSolution
        Its arrays are tensors on the device of P; the policy has the best action of each state: its number for dense P,
        otherwise its row. For B models as in ``fastiter.mdp.MDPBatch``; on a GPU they are swept together.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ConvergenceError
        If ``throw`` is True and it does not converge.

    See Also
    --------
    values : Values with gradients.
    fastiter.mdp.MDP : All methods, on the CPU.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch import mdp
    >>> found = mdp.solve(torch.ones(1, 2, 1), torch.tensor([[1.0, 2.0]]), 0.5, atol=1e-5)
    >>> found.value, found.policy
    (tensor([4.]), tensor([1]))
    """
    function = "solve"
    refuse_transforms(function, "because the number of iterations depends on the values")
    limits = Limits(None, atol, max_steps, callback, throw).checked(function, smallest_max=1, zero=False)
    return graph_break(_solved, P, R, gamma, (states, rows), limits, value0)


def _solved(P: Any, R: Any, gamma: Any, pairs: tuple[Any, Any], limits: Limits, value0: Any) -> MDPSolution[Tensor]:
    """Check the tensors and solve."""
    function = "solve"
    values = P[2] if isinstance(P, tuple) and len(P) == 3 else P
    rows = read(function, P, R, *pairs).detached()
    discount = discount_of(function, rows.values, gamma).detach()
    first = None if value0 is None else _first(function, values, value0, len(rows.row) - 1, rows.models)
    call = Policy(*rows, discount, limits.atol, limits.max_steps)
    if rows.values.device.type in _CARDS:
        both = gpu.solve(function, call, limits if rows.models is not None else limits.with_callback(_alone), first)
        solution = judged(function, alone(both) if rows.models is None else both, limits.throw)
    else:
        solution = _on_the_cpu(function, rows, call, first, limits)
    return solution if isinstance(P, tuple) else replace(solution, policy=solution.policy - rows.row[:-1])


def _first(function: str, values: Any, value0: Any, S: int, models: int | None) -> Tensor:
    """Return a copy of the initial values, as (B, S)."""
    check_tensors(function, ("P", "value0"), (values, value0), DTYPES, ("cpu", "cuda"))
    whole = (1 if models is None else models, S)
    if value0.shape not in ((S,), whole if models is not None else (S,)):
        expected = f"(S,) = ({S},)" if models is None else f"(S,) = ({S},) or (B, S) = {whole}"
        raise ValueError(f"{function}: value0 must have shape {expected}, got {tuple(value0.shape)}")
    if not value0.isfinite().all():
        *model, s = torch.nonzero(~value0.isfinite())[0].tolist()
        where = f"state {s}" if not model else f"state {s} of model {model[0]}"
        raise ValueError(f"{function}: value0 must be finite, got {value0[(*model, s)].item()} in {where}")
    return value0.detach().expand(whole).clone(memory_format=torch.contiguous_format)


def _alone(progress: Progress) -> Progress:
    """Return the progress of the only model of several."""
    residual, tolerance = float(progress.residual[0]), float(progress.tolerance[0])
    return Progress(progress.steps, residual, tolerance, _value=lambda: progress.value[0])


def _on_tensors(progress: Progress) -> Progress:
    return replace(progress, _value=lambda: torch.from_numpy(progress.value))


def _on_the_cpu(function: str, rows: Rows, call: Policy, first: Tensor | None, limits: Limits) -> MDPSolution[Tensor]:
    solutions, limits = [], limits.with_callback(_on_tensors)
    for m in range(1 if rows.models is None else rows.models):
        arrays = [None if x is None else x.resolve_neg().numpy() for x in rows.model(m)]
        problem = MDP._of(possible_rows(*arrays), float(call.gamma), function=function)
        start = problem._start(function, None if first is None else first[m].numpy())
        solutions.append(problem._solved(function, Choice(), start, limits))
    dtype = solutions[0].value.dtype if solutions else np.dtype(str(rows.values.dtype).removeprefix("torch."))
    all_of_them = together(solutions, len(rows.row) - 1, dtype, limits)
    solution = judged(function, alone(all_of_them) if rows.models is None else all_of_them, limits.throw)
    names = ("value", "policy", "lower", "upper")
    tensors: dict[str, Any] = {name: torch.from_numpy(getattr(solution, name)) for name in names}
    return replace(solution, **tensors | {"policy": call.row[:-1] + tensors["policy"]})
