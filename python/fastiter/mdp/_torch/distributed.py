"""Decision processes whose states are divided over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits, Progress
from ..._check import check_array
from ..._solution import judged
from ..._torch.distributed.collectives import Ranks
from .._layouts import Rows
from .._result import MDPSolution
from .._solvers.state import Method
from .._solvers.steps import quietly
from .arguments import agreed, chain_rows, described, method_of, read, shard_of
from .shards import Shard, ShardWork, with_every_callback

Array = npt.NDArray[Any]


class MDP:
    """A Markov decision process whose states are divided over ranks, with the operator ``max_a r(s, a) + gamma P V``.

    Each rank has the transition probabilities and the rewards of its own states, and gets their values and actions.
    All ranks have to construct the process, and call its methods, in the same order.

    Parameters
    ----------
    P : array, sparse matrix or tensor, or list of these
        The transition probabilities of this rank's n states to all S states, float32 or float64:

        - an array (n, A, S), P[s, a, s'];
        - a list of A matrices (n, S), P[a][s, s']: arrays, sparse matrices or sparse CSR tensors;
        - a matrix (rows, S) with ``states``, one row for each state and action: an array, a sparse matrix or tensor.
    R : array
        The rewards: (n,); (n, A), where -inf removes an action (+inf one of costs); (rows,); or R(s, a, s') in the
        layout of P.
    gamma : float or (rows,)
        The discount, from 0 to below 1, the same on every rank. An array has the discount of each of this rank's rows,
        by state and then by action, for semi-Markov processes.
    states, actions : (rows,) integers
        The state, from 0 to S - 1, of each row of a matrix P, and the number of its action: by default its position
        within the state.
    rows : (pairs,) integers, optional
        The row of this rank's P that each of its pairs of a state and an action has, as in :class:`fastiter.mdp.MDP`.
    owned : int, (n,) integers, or None
        The number n of this rank's states: the first rank has the first states, and so on. Or the numbers of its
        states, in increasing order. None: n is that of P, where P has it.
    terminal : (n,) bool, or integers
        States of this rank whose value is 0 and whose rows are ignored.
    sense : {"max", "min"}
        "min": R are costs, and the values are minimal expected sums.
    renormalize : bool
        Divide each row by its sum. Otherwise rows that do not sum to 1 within 1e-10 (float32: 1e-6) raise an error.
    exchange : {"auto", "halo", "gather"}
        How values are exchanged before each sweep. "halo": each rank sends every other rank the values that it reads.
        "gather": all values to all ranks. "auto" uses the halo, unless it has more than three quarters of the values.
    group : ProcessGroup or DeviceMesh, optional
        The ranks; a mesh has one axis. The default group if None.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described on any rank; raised on every rank.
    CommunicationError
        If a rank does not answer.

    See Also
    --------
    fastiter.mdp.MDP : The same in one process, with more methods.

    Examples
    --------
    >>> import numpy as np, fastiter.torch
    >>> def solve(P, R):  # on each rank, with its states, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.MDP(P, R, 0.9).solve(atol=1e-9)
    """

    def __init__(
        self,
        P: Any,
        R: Any,
        gamma: float | Array,
        *,
        states: Any = None,
        actions: Any = None,
        rows: Any = None,
        owned: Any = None,
        terminal: Any = None,
        sense: Literal["max", "min"] = "max",
        renormalize: bool = False,
        exchange: Literal["auto", "halo", "gather"] = "auto",
        group: Any = None,
    ) -> None:
        self._ranks = Ranks("MDP", group)
        choices = {"sense": sense, "renormalize": renormalize, "exchange": exchange}
        arguments, counts = read(self._ranks, (P, R, gamma, (states, actions, rows), owned), choices)
        self._negated = sense == "min"
        self._shard, self._owned = shard_of(self._ranks, arguments, counts, (terminal, renormalize, sense, exchange))

    @property
    def S(self) -> int:
        """The number of states of all ranks."""
        return sum(self._shard.exchange.counts)

    @property
    def owned(self) -> Array:
        """The numbers of this rank's states (n,)."""
        return self._owned.copy()

    @property
    def gamma(self) -> float:
        """The contraction factor of the operator."""
        return self._shard.process.modulus(self._shard.discount)[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of probabilities, rewards and values."""
        return self._shard.process.dtype

    def __repr__(self) -> str:
        """Return a one-line summary without the arrays."""
        own, ranks = len(self._owned), self._ranks
        return f"MDP(rank {ranks.rank} of {ranks.size}: {own} of {self.S} states, gamma {self.gamma:g}, {self.dtype})"

    def solve(
        self,
        method: Literal["mpi", "vi", "pi"] = "mpi",
        *,
        value0: Array | None = None,
        stop: Literal["span", "sup"] = "span",
        policy_sweeps: int | None = None,
        alpha: float | None = None,
        atol: float = 1e-6,
        max_steps: int = 100_000,
        callback: Callable[[Progress], Any] | None = None,
        throw: bool = False,
    ) -> MDPSolution[Array]:
        """Return V* = T V* within atol / 2 at this rank's states, an optimal policy, and bounds.

        Parameters
        ----------
        method : {"mpi", "vi", "pi"}
            "vi", value iteration, and "mpi", modified policy iteration, have the same bits and sweeps as
            :meth:`fastiter.mdp.MDP.solve`. "pi", policy iteration: each policy's values are computed by sweeps until
            the bounds on them are ``alpha`` times as wide as those on V*.
        value0 : (n,)
            The initial values of this rank's states, in the dtype of P; given on all ranks or on none. By default a
            lower bound on V*.
        stop : {"span", "sup"}
            "span": MacQueen's bounds, from the least and the largest change of a sweep. "sup": bounds from only the
            largest absolute change, which take many more sweeps.
        policy_sweeps : int
            For "mpi": sweeps of each policy's operator; by default 5. For "pi": sweeps between two checks of the
            bounds.
        alpha : float
            For "pi": in (0, 1); by default 0.01.
        atol : float
            The width of the bounds at which it has converged.
        max_steps : int
            The maximum number of sweeps over all states; sweeps of a policy's own chain do not count.
        callback : callable, optional
            Called at each check with a :class:`fastiter.Progress`, on all ranks or on none; the iteration ends
            if it returns True on any rank.
        throw : bool
            Raise an error if it does not converge, instead of a warning.

        Returns
        -------
        fastiter.mdp.MDPSolution
            With arrays for this rank's n states; everything else is the same on every rank.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described on any rank; raised on every rank.
        ConvergenceError
            If ``throw`` is True and it does not converge.
        CommunicationError
            If a rank does not answer.
        """

        def prepare() -> tuple[Method, Limits, Array | None]:
            limits = Limits(None, atol, max_steps, callback, throw).checked("solve", smallest_max=1, zero=False)
            chosen = method_of("solve", method, stop, (policy_sweeps, alpha), limits)
            return chosen, limits, self._start("solve", value0)

        options: dict[str, object] = {"method": method, "policy_sweeps": policy_sweeps, "alpha": alpha}
        options |= {"atol": atol, "stop": stop, "max_steps": max_steps, "throw": throw}
        said = described(options, {"value0": value0, "callback": callback})
        chosen, limits, start = agreed(self._named("solve"), prepare, said)
        return self._run("solve", self._shard, start, chosen, limits)

    def evaluate(
        self,
        policy: Any,
        *,
        value0: Array | None = None,
        stop: Literal["span", "sup"] = "span",
        atol: float = 1e-6,
        max_steps: int = 100_000,
        callback: Callable[[Progress], Any] | None = None,
        throw: bool = False,
    ) -> MDPSolution[Array]:
        """Return the values of a policy within atol / 2 at this rank's states, by sweeps of its operator, and bounds.

        Parameters
        ----------
        policy : (n,) integers
            One action for each of this rank's states, as in ``MDPSolution.policy``; ignored in terminal states.
        value0 : (n,)
            The initial values, as in :meth:`solve`.
        stop : {"span", "sup"}
            The bounds, as in :meth:`solve`.
        atol : float
            The width of the bounds at which it has converged.
        max_steps : int
            The maximum number of sweeps.
        callback : callable, optional
            As in :meth:`solve`.
        throw : bool
            Raise an error if it does not converge, instead of a warning.

        Returns
        -------
        fastiter.mdp.MDPSolution
            The values, the policy, and bounds.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described on any rank; raised on every rank.
        ConvergenceError
            If ``throw`` is True and it does not converge.
        CommunicationError
            If a rank does not answer.
        """
        process = self._shard.process

        def prepare() -> tuple[Rows, Method, Limits, Array | None]:
            limits = Limits(None, atol, max_steps, callback, throw).checked("evaluate", smallest_max=1, zero=False)
            chosen = method_of("evaluate", "vi", stop, (None, None), limits)
            rows = chain_rows(process.rows, process.place("evaluate", policy))
            return rows, chosen, limits, self._start("evaluate", value0)

        options = {"atol": atol, "stop": stop, "max_steps": max_steps, "throw": throw}
        said = described(options, {"value0": value0, "callback": callback})
        rows, chosen, limits, start = agreed(self._named("evaluate"), prepare, said)
        return self._run("evaluate", self._shard.with_rows(rows), start, chosen, limits)

    def _named(self, function: str) -> Ranks:
        """Return the ranks, after setting the function that their error messages name."""
        self._ranks.function = function
        return self._ranks

    def _run(
        self, function: str, shard: Shard, start: Array | None, chosen: Method, limits: Limits
    ) -> MDPSolution[Array]:
        work = ShardWork(shard, shard.start() if start is None else start)
        solution = quietly(work, chosen, with_every_callback(self._ranks, limits), self._negated)
        return judged(function, solution, limits.throw)

    def _start(self, function: str, value: object) -> Array | None:
        """Return values in the form that the kernels expect: negated for costs, 0 in terminal states."""
        if value is None:
            return None
        check_array(function, "value0", value, (self.dtype.name,))
        assert isinstance(value, np.ndarray)  # for the type checker: checked by check_array
        n = len(self._owned)
        if value.shape != (n,):
            raise ValueError(f"{function}: value0 must have shape (n,) = ({n},), got {value.shape}")
        if not np.isfinite(value).all():
            at = int(np.argmin(np.isfinite(value)))
            raise ValueError(f"{function}: value0 must be finite, got {value[at]} in state {self._owned[at]}")
        v = np.ascontiguousarray(-value if self._negated else value.copy())
        v[self._shard.process.is_terminal] = 0
        return v
