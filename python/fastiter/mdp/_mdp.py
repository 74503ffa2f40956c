"""Decision processes: the class that validates a process and solves it by any method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array
from .._call.iterate import Limits, Progress
from .._check import check_array, check_choice, check_flag, count
from .._solution import judged
from ._inputs import read
from ._layouts import Rows
from ._process import Process, checked
from ._result import MDPSolution
from ._solvers.auto import automatic
from ._solvers.compiled import solve_one
from ._solvers.krylov import Chain, deflated, solved
from ._solvers.options import Choice
from ._solvers.state import STOPS

Array = npt.NDArray[Any]

SENSES = ("max", "min")


class MDP:
    """A finite Markov decision process, with the Bellman operator ``(T V)(s) = max_a r(s, a) + gamma E V(s')``.

    Parameters
    ----------
    P : array, sparse matrix or tensor, or lists of these
        The transition probabilities, float32 or float64, in one of these layouts:

        - an array (S, A, S), P[s, a, s'], as QuantEcon's Q;
        - an array (A, S, S), P[a, s, s'], as pymdptoolbox's P; ``list(P)`` if A = S, where P[s, a, s'] is meant;
        - a list of A matrices (S, S), P[a][s, s']: arrays, sparse matrices or sparse CSR tensors;
        - a matrix (rows, S) with ``states``, one row for each state and action: an array, a sparse matrix or tensor. A
          CSR matrix with 32-bit columns whose rows are in the order of the states is used without a copy, as are its
          rewards (rows,), so that neither may be modified later;
        - lists P[s][a], each (next states, probabilities) or the probabilities of all S states; the numbers of actions
          may differ;
        - a dict P[s][a] of lists of (p, next state, reward, done), as ``env.unwrapped.P`` of Gymnasium's table
          environments. After a transition with ``done`` the value is 0, also if others lead to the same state. States
          in which every action is done at once and earns nothing are terminal.
    R : array, sparse matrix or tensor, or lists of these
        The rewards: (S,); (S, A), where -inf removes an action (+inf one of costs), or (rows,); lists R[s][a] for lists
        P[s][a]; or R(s, a, s') in the layout of P. None for a dict.
    gamma : float, (rows,) or None
        The discount, from 0 to 1. At 1 each state needs a path to a terminal state; absorbing states that earn nothing
        are then terminal. An array has the discount of each row of P, for semi-Markov processes. None: for
        :func:`average` and :func:`finite_horizon`, which need no discount.
    states, actions : (rows,) integers
        The state of each row of a matrix P, and the number of its action, at least 0 and once in each state: by default
        its position within the state. With ``rows`` of each pair of a state and an action.
    rows : (pairs,) integers
        The row of P of each pair, for pairs that share rows: those that lead to the same afterstate, before chance
        decides. R is then (pairs,), and the pairs are the rows of results and of all other arguments. A sweep takes the
        expectation of each row once, so that its time and the memory shrink by about pairs / rows of P.
    terminal : (S,) bool, or integers
        States whose value is 0 and whose rows are ignored.
    sense : {"max", "min"}
        "min": R are costs, and the values are minimal expected sums.
    renormalize : bool
        Divide each row by its sum. Otherwise rows that do not sum to 1 within 1e-10 (float32: 1e-6) raise an error.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names the state and the action.

    See Also
    --------
    robust : The worst probabilities of a set.
    average : The largest average reward.
    finite_horizon : A given number of steps.
    fastiter.mdp.examples : Example processes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.mdp import MDP
    >>> stay, go = np.eye(2), np.eye(2)[::-1]
    >>> found = MDP([stay, go], np.array([[0.0, 0.0], [1.0, 0.0]]), 0.9).solve()
    >>> found.value.round(3), found.policy
    (array([ 9., 10.]), array([1, 0]))
    """

    def __init__(
        self,
        P: Any,
        R: Any = None,
        gamma: float | Array | None = None,
        *,
        states: Any = None,
        actions: Any = None,
        rows: Any = None,
        terminal: Any = None,
        sense: Literal["max", "min"] = "max",
        renormalize: bool = False,
    ) -> None:
        check_choice("MDP", "sense", sense, SENSES)
        check_flag("MDP", "renormalize", renormalize)
        self._negated = sense == "min"
        read_rows = read("MDP", P, R, states, actions, rows, impossible=np.inf if self._negated else -np.inf)
        self._has_ends = read_rows.ends is not None
        if self._negated:
            read_rows = read_rows._replace(reward=-read_rows.reward)
        self._process: Process = checked("MDP", read_rows, gamma, terminal, renormalize, -1 if self._negated else 1)
        self._is_semi = isinstance(gamma, np.ndarray) and gamma.ndim > 0

    @classmethod
    def _of(cls, rows: Rows, gamma: float | None, terminal: Array | None = None, function: str = "MDP") -> MDP:
        result = cls.__new__(cls)
        result._negated, result._is_semi, result._has_ends = False, False, False
        result._process = checked(function, rows, gamma, terminal, False)
        return result

    def _like(self, process: Process) -> MDP:
        """Return another process with the sense of this one."""
        result = MDP.__new__(MDP)
        result._negated, result._is_semi, result._has_ends = self._negated, self._is_semi, self._has_ends
        result._process = process
        return result

    @property
    def S(self) -> int:
        """The number of states."""
        return self._process.states

    @property
    def rows(self) -> int:
        """The number of state-action pairs, without those of terminal states.

        Pairs may share rows of :attr:`transitions`; :attr:`pair_rows` has the row of each.
        """
        return len(self._process.rows.reward)

    @property
    def gamma(self) -> float | None:
        """The contraction factor of the operator; None without a discount."""
        discount = self._process.discount
        return None if discount is None else min(self._process.modulus(discount)[1], 1.0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of probabilities, rewards and values."""
        return self._process.dtype

    def __repr__(self) -> str:
        """Return a one-line summary without the arrays."""
        rows, discount = self._process.rows, self._process.discount
        pairs = f"{self.rows} rows" if rows.pair is None else f"{self.rows} pairs, {rows.height} rows"
        return f"MDP({self.S} states, {pairs}, {len(rows.next)} entries, gamma {discount}, {self.dtype})"

    def solve(
        self,
        method: Literal["auto", "vi", "gs", "ps", "pi", "mpi", "ipi", "anderson", "anchored", "deflated"] = "auto",
        *,
        value0: Array | None = None,
        stop: Literal["span", "sup"] = "span",
        order: Literal["ascending", "descending", "symmetric", "bfs"] | Array | None = None,
        exact_diag: bool | None = None,
        omega: float | None = None,
        policy_sweeps: int | None = None,
        alpha: float | None = None,
        window: int | None = None,
        atol: float = 1e-6,
        max_steps: int = 100_000,
        callback: Callable[[Progress], Any] | None = None,
        throw: bool = False,
    ) -> MDPSolution[Array]:
        """Return V* = T V* within atol / 2, an optimal policy, and bounds.

        Parameters
        ----------
        method : str
            "vi", value iteration; "gs", the same in place, state after state (Gauss-Seidel); "ps", prioritized
            sweeping; "pi", policy iteration; "mpi", modified policy iteration; "ipi", inexact policy iteration;
            "anderson", "anchored" and "deflated", variants of value iteration. "auto": steps of "mpi", then others if
            they promise less work; the result names the one that ended. ``docs/mdp`` compares them.
        value0 : (S,)
            The initial values, in the dtype of P; those of a similar process save sweeps. By default a lower bound on
            V*, the value of earning the minimum over states of the best reward forever; 0 if gamma is 1. In that case
            other values raise an error if a cycle earns nothing, as V = T V then has many solutions.
        stop : str
            "span": MacQueen's bounds, from the least and the largest change of a sweep. "sup": bounds from only the
            largest absolute change, which take many more sweeps.
        order : str or (S,) of integers
            For "gs" only; other methods raise an error for options that they do not take. "bfs", the default, is by
            distance to the absorbing states (ascending if there are none); "symmetric" alternates between ascending
            and descending; or an array of states.
        exact_diag : bool
            For "gs": solve for self-transitions exactly; by default True.
        omega : float
            For "gs": the relaxation factor, in (0, 2); by default 1.
        policy_sweeps : int
            For "mpi": sweeps of each policy's operator; by default 5.
        alpha : float
            For "ipi": the factor by which the residual of a policy's values has to fall, in (0, 1); by default 0.01.
        window : int
            For "anderson": the number of differences of iterates that are combined; by default 5.
        atol : float
            The width of the bounds at which it has converged; if gamma is 1, the largest change of a sweep. Rounding of
            the values and bounds alone makes these about 2e-15 max(abs(V)) wide, in float32 4e-7 max(abs(V)), so that
            float32 usually needs a larger value than the default; with a smaller one it ends as "stagnated".
        max_steps : int
            The maximum number of sweeps over all states. Backups of single states count as fractions of a sweep; sweeps
            of a policy's own chain do not count.
        callback : callable, optional
            Called at each check with a :class:`fastiter.Progress`; if it returns True, the iteration ends.
        throw : bool
            Raise an error if it does not converge, instead of a warning.

        Returns
        -------
        MDPSolution
            The midpoint of the bounds, the policy, and the bounds.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        ConvergenceError
            If ``throw`` is True and it does not converge.
        """
        limits = Limits(None, atol, max_steps, callback, throw).checked("solve", smallest_max=1, zero=False)
        check_choice("solve", "stop", stop, STOPS)
        choice = Choice(method, stop, order, exact_diag, omega, policy_sweeps, alpha, window)
        return judged("solve", self._solved("solve", choice, self._start("solve", value0), limits), limits.throw)

    def _solved(self, function: str, choice: Choice, start: Array, limits: Limits) -> MDPSolution[Array]:
        """Return a solution, whether converged or not."""
        self._discount(function)
        if choice.is_free(self._process):
            return automatic(self._process, choice, start, limits, self._negated)
        return solve_one(function, self._process, choice, start, limits, self._negated)

    def evaluate(self, policy: Any, *, rank: int | None = None) -> Array:
        """Return the values (S,) of a policy (S,) of one action for each state, to rounding.

        Parameters
        ----------
        policy : (S,) integers
            One action per state, as in ``MDPSolution.policy``; ignored in terminal states.
        rank : int or None
            None: by elimination if it is cheap, else by BiCGSTAB. Otherwise by sweeps of the policy's operator with
            this number of dominant eigenvectors of its chain deflated, so that errors shrink by gamma times the modulus
            of the next eigenvalue: for nearly decomposable chains. 0: plain sweeps. Conjugate eigenvectors are taken in
            pairs.

        Returns
        -------
        (S,)
            V = r + gamma P V for the policy's rows.

        Raises
        ------
        TypeError, ValueError
            If the policy is not as described, or gamma is not below 1.
        ConvergenceError
            If the values cannot be computed to rounding.
        """
        process = self._process
        if rank is not None:
            rank = count("evaluate", "rank", rank, 0, self.S)
        place = process.place("evaluate", policy)
        discount = self._discount("evaluate")
        if process.modulus(discount)[1] >= 1:
            raise ValueError("evaluate: gamma must be below 1, got 1")
        result = self._policy_values("evaluate", place, rank)
        return -result if self._negated else result

    def _policy_values(self, function: str, place: Array, rank: int | None = None) -> Array:
        """Return the values of a policy, given as positions within the states, for the kernels' (signed) rewards."""
        discount = self._discount(function)
        modulus, zeros = self._process.modulus(discount)[1], np.zeros(self.S, self.dtype)
        elimination = _core.mdp.Elimination() if rank is None else None
        chain = Chain(self._process.model.chain(place), discount, zeros, modulus=modulus, elimination=elimination)
        method = None if rank is None else lambda chain, v: deflated(chain, v, rank)
        return solved(function, chain, chain.residual(zeros), method)

    def action_values(self, value: Array) -> Array:
        """Return r(s, a) + gamma E value(s') of each row (rows,), by state and then by action.

        Parameters
        ----------
        value : (S,)
            Values, in the dtype of P.

        Returns
        -------
        (rows,)
            The rows of state s are those from ``row_starts[s]`` to ``row_starts[s + 1]``.

        Raises
        ------
        TypeError, ValueError
            If the values are not as described.
        """
        v = self._values("action_values", "value", value)
        result = np.empty(self.rows, self.dtype)
        self._process.model.action_values(v, result, self._discount("action_values"))
        return -result if self._negated else result

    @property
    def row_starts(self) -> Array:
        """The index of each state's first row, followed by the number of rows (S + 1,)."""
        return self._process.rows.row.copy()

    @property
    def rewards(self) -> Array:
        """The reward, or the cost, of each row (rows,)."""
        reward = self._process.rows.reward
        return -reward if self._negated else reward.copy()

    @property
    def transitions(self) -> tuple[Array, Array, Array]:
        """CSR arrays (weights, next states, row pointers) of shape (rows, S), as for scipy.sparse.csr_array.

        Where pairs share rows of P, these are the rows of P that pairs use; :attr:`pair_rows` has the one of each pair.
        """
        rows = self._process.rows
        return rows.weight.copy(), rows.next.copy(), rows.entry.copy()

    @property
    def pair_rows(self) -> Array:
        """The row of :attr:`transitions` of each state-action pair (rows,): its own unless pairs share rows."""
        return np.array(self._process.rows.at(np.arange(self.rows)), np.int64)

    def _discount(self, function: str) -> float:
        if self._process.discount is None:
            raise ValueError(f"{function}: gamma must be a number, got an MDP with gamma=None")
        return self._process.discount

    def _values(self, function: str, name: str, value: object) -> Array:
        """Return a copy of values in the form that the kernels expect: negated for costs, 0 in terminal states."""
        value = as_array(function, name, value, self.dtype)
        check_array(function, name, value, (self.dtype.name,))
        assert isinstance(value, np.ndarray)  # for the type checker: checked by check_array
        if value.shape != (self.S,):
            raise ValueError(f"{function}: {name} must have shape (S,) = ({self.S},), got {value.shape}")
        if not np.isfinite(value).all():
            s = int(np.argmin(np.isfinite(value)))
            raise ValueError(f"{function}: {name} must be finite, got {value[s]} in state {s}")
        v = np.ascontiguousarray(-value if self._negated else value.copy())
        v[np.diff(self._process.rows.row) == 0] = 0
        return v

    def _start(self, function: str, value0: object) -> Array:
        low, high = self._process.modulus(self._discount(function))
        if value0 is not None:
            values = self._values(function, "value0", value0)
            if high >= 1 and values.any() and self._process.has_free_cycle:
                expected = "0 if gamma is 1 and a cycle earns nothing, as V = T V has many solutions"
                raise ValueError(f"{function}: value0 must be {expected}, got others")
            return values
        process = self._process
        start, lowest = np.zeros(process.states, process.dtype), process.smallest_best
        if high < 1 and lowest < np.inf:
            with np.errstate(over="ignore"):
                bound = process.dtype.type(lowest / (1 - (high if lowest < 0 else low)))
            start[~process.is_terminal] = bound if np.isfinite(bound) else 0
        return start
