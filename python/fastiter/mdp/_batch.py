"""Several decision processes with one sparsity pattern: the same states, actions and next states, different numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._array_like import as_array
from .._call.iterate import Limits, Progress
from .._check import check_array, check_choice, integers, type_name
from .._solution import judged
from ._mdp import MDP
from ._process import like
from ._result import MDPSolution, alone, together
from ._solvers.auto import automatic, opening_of
from ._solvers.compiled import loops_of_each, solve_each
from ._solvers.options import Choice
from ._solvers.state import STOPS

Array = npt.NDArray[Any]


class MDPBatch:
    """Several Markov decision processes that share the sparsity pattern, discount and terminal states of one process.

    Parameters
    ----------
    problem : MDP
        The process whose states, actions and next states all models have.
    P : (B, entries)
        The probabilities of each model on the entries of ``problem.transitions``, in their order and dtype; by default
        those of ``problem``. Each row has to sum to 1; semi-Markov processes are not supported. Contiguous arrays are
        used without a copy, as are rewards, so that neither may be modified later.
    R : (B, rows)
        The rewards, or the costs, of each model, by state and then by action; by default those of ``problem``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names the model, the state and the action.

    See Also
    --------
    MDP : A single process, in any layout.
    fastiter.torch.mdp.solve : The same on tensors, and on GPUs for all models at once.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter import mdp
    >>> forest = mdp.examples.forest(3, 0.9)
    >>> batch = mdp.MDPBatch(forest, R=np.stack([forest.rewards, 2 * forest.rewards]))
    >>> batch.solve().value.round(2)
    array([[26.24, 29.48, 33.48],
           [52.49, 58.97, 66.97]])
    """

    def __init__(self, problem: MDP, P: Array | None = None, R: Array | None = None) -> None:
        if not isinstance(problem, MDP):
            raise TypeError(f"MDPBatch: problem must be an MDP, got {type_name(problem)}")
        if P is None and R is None:
            raise TypeError("MDPBatch: P or R must be the numbers of several models, got neither")
        rows, dtype = problem._process.rows, problem.dtype
        P, R = (as_array("MDPBatch", name, x, dtype) for name, x in (("P", P), ("R", R)))
        parts = [("P", P, "entries", len(rows.weight)), ("R", R, "rows", len(rows.reward))]
        for name, x, axis, length in parts:
            if x is None:
                continue
            check_array("MDPBatch", name, x, (problem.dtype.name,))
            if x.ndim != 2 or x.shape[1] != length:
                raise ValueError(f"MDPBatch: {name} must have shape (B, {axis}) = (B, {length}), got {x.shape}")
        if P is not None and R is not None and len(P) != len(R):
            raise ValueError(f"MDPBatch: R must have as many models as P, {len(P)}, got {len(R)}")
        if P is not None and problem._is_semi:
            raise ValueError("MDPBatch: P must be None for a semi-Markov process, got probabilities")
        if P is not None and problem._has_ends:
            raise ValueError("MDPBatch: P must be None for a process with done transitions, got probabilities")
        models = len(P) if P is not None else len(R) if R is not None else 0
        weights = None if P is None else np.ascontiguousarray(P)
        rewards = None if R is None else np.ascontiguousarray(-R if problem._negated else R)
        self._problem = problem
        self._models: list[MDP] = [_model(problem, m, weights, rewards) for m in range(models)]

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self._models)

    def __getitem__(self, m: int) -> MDP:
        """Return one of the models, which shares the sparsity pattern."""
        return self._models[m]

    def __repr__(self) -> str:
        """Return a one-line summary without the arrays."""
        return f"MDPBatch({len(self)} models like {self._problem!r})"

    def solve(
        self,
        method: Literal["auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated"] = "auto",
        *,
        value0: Array | None = None,
        stop: Literal["span", "sup"] = "span",
        atol: float = 1e-6,
        max_steps: int = 100_000,
        callback: Callable[[Progress], Any] | None = None,
        throw: bool = False,
        **options: Any,
    ) -> MDPSolution[Array]:
        """Return V* = T V* of each model, each with its own stopping test and the same bits as when solved alone.

        Parameters
        ----------
        method : str
            As for :meth:`MDP.solve`.
        value0 : (S,) or (B, S)
            The initial values, for all models or for each.
        stop : str
            As for :meth:`MDP.solve`.
        atol : float
            As for :meth:`MDP.solve`, for each model.
        max_steps : int
            Likewise.
        callback : callable, optional
            Called at each check of each model, one model after the other; if it returns True, this model's iteration
            ends.
        throw : bool
            Raise an error if one does not converge, instead of a warning.
        **options
            Further options of :meth:`MDP.solve`, such as ``order`` or ``policy_sweeps``.

        Returns
        -------
        MDPSolution
            Values, policies and bounds (B, S); ``converged``, ``steps``, ``residual`` and ``reason`` have one entry per
            model, and ``history`` is (B, checks), NaN after the last check of a model.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        ConvergenceError
            If ``throw`` is True and a model does not converge.
        """
        limits = Limits(None, atol, max_steps, callback, throw).checked("solve", smallest_max=1, zero=False)
        unknown = sorted(set(options) - set(Choice._fields))
        if unknown:
            raise TypeError(f"solve: options must be those of MDP.solve, got {unknown[0]!r}")
        check_choice("solve", "stop", stop, STOPS)
        choice = Choice(method, stop, **options)
        problem = self._problem
        problem._discount("solve")
        choice.new_method("solve", problem._process, limits)
        starts, solution = self._starts(value0), None
        if callback is None and self._models:
            solution = self._by_kernels(choice, None if value0 is None else np.stack(self._firsts(starts)), limits)
        if solution is None:
            pairs = zip(self._models, self._firsts(starts), strict=True)
            solutions = [model._solved("solve", choice, v, limits) for model, v in pairs]
            solution = together(solutions, problem.S, problem.dtype, limits)
        return judged("solve", solution, limits.throw)

    def _by_kernels(self, choice: Choice, starts: Array | None, limits: Limits) -> MDPSolution[Array] | None:
        """Return all solutions by one call of the kernels, as far as it goes; None if it does not apply."""
        problem, processes = self._problem, [model._process for model in self._models]
        free = [choice.is_free(each) for each in processes]
        if not any(free):
            return solve_each("solve", processes, choice, starts, limits, problem._negated)
        if not all(free):
            return None
        begins = [model._start("solve", None) for model in self._models] if starts is None else list(starts.copy())
        opening, when = choice._replace(method="mpi"), opening_of(processes[0]).judgement
        first = loops_of_each("solve", processes, opening, starts, limits, problem._negated, when)
        if first is None:
            return None
        solutions = [alone(first, m) for m in range(len(processes))]
        solutions = [
            replace(each, history=each.history[: each.steps]) for each in solutions
        ]  # without the NaN at the end
        for m, each in enumerate(solutions):
            if each.reason != "converged":
                solutions[m] = automatic(processes[m], choice, begins[m], limits, problem._negated, each)
        return together(solutions, problem.S, problem.dtype, limits)

    def _firsts(self, starts: Sequence[Array | None]) -> list[Array]:
        """Return the initial values of each model in the form that the kernels expect."""
        return [model._start("solve", v) for model, v in zip(self._models, starts, strict=True)]

    def _starts(self, value0: Any) -> Sequence[Array | None]:
        if value0 is None:
            return [None] * len(self)
        value0 = as_array("solve", "value0", value0, self._problem.dtype)
        check_array("solve", "value0", value0, (self._problem.dtype.name,))
        S = self._problem.S
        if value0.shape == (S,):
            return [value0] * len(self)
        if value0.shape != (len(self), S):
            expected = f"(S,) = ({S},) or (B, S) = ({len(self)}, {S})"
            raise ValueError(f"solve: value0 must have shape {expected}, got {value0.shape}")
        return list(value0)

    def evaluate(self, policy: Any, *, rank: int | None = None) -> Array:
        """Return the values (B, S) of one policy in each model, or of one policy per model, to rounding.

        Parameters
        ----------
        policy : (S,) or (B, S) integers
            One action per state, as in ``MDPSolution.policy``.
        rank : int or None
            As for :meth:`MDP.evaluate`.

        Returns
        -------
        (B, S)
            V = r + gamma P V for the policy's rows.

        Raises
        ------
        TypeError, ValueError
            If the policy is not as described, or gamma is not below 1.
        ConvergenceError
            If the values cannot be computed to rounding.
        """
        actions = integers("evaluate", "policy", policy)
        S = self._problem.S
        if actions.shape not in ((S,), (len(self), S)):
            expected = f"(S,) = ({S},) or (B, S) = ({len(self)}, {S})"
            raise ValueError(f"evaluate: policy must have shape {expected}, got {actions.shape}")
        values = np.empty((len(self), S), self._problem.dtype)
        for m, model in enumerate(self._models):
            values[m] = model.evaluate(actions if actions.ndim == 1 else actions[m], rank=rank)
        return values


def _model(problem: MDP, m: int, weights: Array | None, rewards: Array | None) -> MDP:
    weight = None if weights is None else weights[m]
    reward = None if rewards is None else rewards[m]
    sign = -1 if problem._negated else 1
    try:
        return problem._like(like("MDPBatch", problem._process, weight, reward, sign))
    except ValueError as error:
        raise ValueError(f"{error} of model {m}") from None
