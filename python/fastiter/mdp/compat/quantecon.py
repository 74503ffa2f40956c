"""QuantEcon's discrete dynamic programs: ``from fastiter.mdp.compat.quantecon import DiscreteDP``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import check_entries, count, positive
from ..._public import publish
from ..._solution import attempted, plural, warn
from ._base import renamed
from ._howard import howard
from ._programs import NAMES, Program

Array = npt.NDArray[Any]

__all__ = ["ControlledChain", "DPSolveResult", "DiscreteDP", "backward_induction"]


class DPSolveResult(dict[str, Any]):
    """The result of :meth:`DiscreteDP.solve`: a dict whose items are also attributes.

    Attributes
    ----------
    v, sigma : (n,)
        The values and the policy.
    num_iter : int
        The number of iterations.
    mc : MarkovChain
        The chain of the policy, :meth:`DiscreteDP.controlled_mc`; computed when it is first read.
    method : str
        The method.
    epsilon, max_iter, k : float, int, int
        The options of the method, as far as it has them.

    See Also
    --------
    DiscreteDP.solve : Returns it.

    Examples
    --------
    >>> from fastiter.mdp.compat.quantecon import DiscreteDP
    >>> found = DiscreteDP([[1.0, 2.0]], [[[1.0], [1.0]]], 0.5).solve()
    >>> found.sigma, found["num_iter"]
    (array([1]), 1)
    """

    def __getattr__(self, name: str) -> Any:
        """Return an item as an attribute."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an item."""
        self[name] = value

    def __missing__(self, key: str) -> Any:
        """Compute the chain."""
        if key != "mc" or "_chain" not in vars(self):
            raise KeyError(key)
        self[key] = vars(self)["_chain"]()
        return self[key]


@dataclass(frozen=True, eq=False)
class ControlledChain:
    """The Markov chain of a policy, where QuantEcon's MarkovChain is not installed.

    Attributes
    ----------
    P : (n, n)
        The transition probabilities, an array or a SciPy matrix.
    state_values : (n,) or None
        None: states are numbers.

    See Also
    --------
    DiscreteDP.controlled_mc : Returns it.

    Examples
    --------
    >>> from fastiter.mdp.compat.quantecon import ControlledChain
    >>> import numpy as np
    >>> ControlledChain(np.eye(3)).n
    3
    """

    P: Any
    state_values: Any = None

    @property
    def n(self) -> int:
        """The number of states."""
        return int(self.P.shape[0])


class DiscreteDP(Program):
    """A discounted process with QuantEcon's interface: ``v(s) = max_a R(s, a) + beta sum Q(s, a, s') v(s')``.

    Parameters
    ----------
    R : (n, m) or (L,)
        The rewards of n states and m actions, -inf for actions that a state does not have; or of L state-action pairs.
    Q : (n, m, n) or (L, n)
        The transition probabilities; those of pairs may be a SciPy matrix. Rows have to sum to 1 within 1e-10.
    beta : float
        The discount, from 0 to 1. At 1 there is a warning, and only backward induction is possible.
    s_indices, a_indices : (L,) integers
        The state and the action of each pair; they are sorted, and no pair may occur twice.

    Attributes
    ----------
    R, Q, beta, s_indices, a_indices : array, array or SciPy matrix, float, array, array
        The arguments; of pairs in the order of states and actions. Arrays may be replaced or changed in place.
    a_indptr : (n + 1,)
        The first pair of each state, and the number of pairs.
    num_states, num_sa_pairs : int
        The numbers of states, and of pairs with rewards above -inf.
    epsilon, max_iter : float, int
        The defaults of :meth:`solve`, 1e-3 and 250.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    fastiter.mdp.MDP : The same with bounds, further methods and warm starts.

    Examples
    --------
    >>> from fastiter.mdp.compat.quantecon import DiscreteDP
    >>> R = [[5, 10], [-1, -float("inf")]]
    >>> Q = [[(0.5, 0.5), (0, 1)], [(0, 1), (0.5, 0.5)]]
    >>> found = DiscreteDP(R, Q, 0.95).solve(method="policy_iteration")
    >>> found.v.round(3), found.sigma
    (array([ -8.571, -20.   ]), array([0, 0]))
    """

    def solve(
        self,
        method: str = "policy_iteration",
        v_init: Any = None,
        epsilon: float | None = None,
        max_iter: int | None = None,
        k: int = 20,
    ) -> DPSolveResult:
        """Return the optimal values and a policy; a warning says that the method did not converge.

        Parameters
        ----------
        method : str
            "value_iteration" or "vi", "policy_iteration" or "pi", "modified_policy_iteration" or "mpi",
            "linear_programming" or "lp".
        v_init : (n,), optional
            The initial values; by default the largest rewards, and for modified policy iteration a lower bound.
        epsilon : float, optional
            The values are within epsilon / 2, and the policy is epsilon-optimal.
        max_iter : int, optional
            The maximum number of iterations.
        k : int
            The sweeps of each policy's operator, for modified policy iteration.

        Returns
        -------
        DPSolveResult
            The values, the policy and the number of iterations.

        Raises
        ------
        TypeError, ValueError
            If the method is none of the listed ones. If v_init is not finite or has another shape, max_iter is no
            int of at least 1, or epsilon, for a method that takes it, is not above 0.
        NotImplementedError
            If beta is 1.
        """
        methods = {
            "value_iteration": partial(self.value_iteration, v_init, epsilon, max_iter),
            "policy_iteration": partial(self.policy_iteration, v_init, max_iter),
            "modified_policy_iteration": partial(self.modified_policy_iteration, v_init, epsilon, max_iter, k),
            "linear_programming": partial(self.linprog_simplex, v_init, max_iter),
        }
        short = dict(zip(("vi", "pi", "mpi", "lp"), methods, strict=True))
        name = short.get(method, method)
        if name not in methods:
            listed = ", ".join(map(repr, (*methods, *short)))
            raise ValueError(f"solve: method must be one of {listed}, got {method!r}")
        return methods[name]()

    def value_iteration(
        self, v_init: Any = None, epsilon: float | None = None, max_iter: int | None = None
    ) -> DPSolveResult:
        """Solve by sweeps until the largest change shows that the values are within epsilon / 2.

        Parameters
        ----------
        v_init, epsilon, max_iter : (n,), float, int
            As for :meth:`solve`.

        Returns
        -------
        DPSolveResult
            The values, the policy and the number of iterations.

        Raises
        ------
        TypeError, ValueError
            If v_init is not finite or has another shape, max_iter is no int of at least 1, or epsilon, for a method
            that takes it, is not above 0.
        NotImplementedError
            If beta is 1.
        """
        self._check_discount("value_iteration")
        start = self.s_wise_max(self.R) if v_init is None else v_init
        return self._swept("value iteration", start, epsilon, max_iter, {"stop": "sup"})

    def modified_policy_iteration(
        self, v_init: Any = None, epsilon: float | None = None, max_iter: int | None = None, k: int = 20
    ) -> DPSolveResult:
        """Solve by sweeps, each followed by k sweeps of its policy, until the bounds are epsilon wide.

        Parameters
        ----------
        v_init, epsilon, max_iter, k : (n,), float, int, int
            As for :meth:`solve`.

        Returns
        -------
        DPSolveResult
            The values, the policy and the number of iterations.

        Raises
        ------
        TypeError, ValueError
            If v_init is not finite or has another shape, max_iter is no int of at least 1, epsilon is not above 0,
            or k is no int of at least 0.
        NotImplementedError
            If beta is 1.
        """
        self._check_discount("modified_policy_iteration")
        k = count("modified_policy_iteration", "k", k)
        lowest = self.R[-np.inf < self.R].min() / (1 - self.beta)
        start = np.full(self.num_states, lowest) if v_init is None else v_init
        solution = self._swept("modified policy iteration", start, epsilon, max_iter, {"policy_sweeps": k})
        solution.k = k
        return solution

    def policy_iteration(self, v_init: Any = None, max_iter: int | None = None) -> DPSolveResult:
        """Solve by evaluating policies until no action is better.

        Parameters
        ----------
        v_init, max_iter : (n,), int
            As for :meth:`solve`.

        Returns
        -------
        DPSolveResult
            The values, the policy and the number of iterations.

        Raises
        ------
        TypeError, ValueError
            If v_init is not finite or has another shape, or max_iter is no int of at least 1.
        NotImplementedError
            If beta is 1.
        """
        self._check_discount("policy_iteration")
        return self._evaluated("policy iteration", v_init, self.max_iter if max_iter is None else max_iter)

    def linprog_simplex(self, v_init: Any = None, max_iter: int | None = None) -> DPSolveResult:
        """Solve the linear program by policy iteration: the simplex method with changes of many actions at once.

        Parameters
        ----------
        v_init, max_iter : (n,), int
            As for :meth:`solve`; the default of the latter is n times as large.

        Returns
        -------
        DPSolveResult
            The values and the policy; iterations are policies instead of changes of one action.

        Raises
        ------
        NotImplementedError
            For sparse Q, as in QuantEcon.
        """
        self._check_discount("linprog_simplex")
        if self._sparse:
            raise NotImplementedError("linprog_simplex: Q must be dense, got a sparse matrix")
        limit = self.max_iter * self.num_states if max_iter is None else max_iter
        return self._evaluated("linear programming", v_init, limit)

    def _initial(self, v_init: Any) -> Array:
        """Return checked initial values (n,)."""
        return _values("solve", "v_init", v_init, self.num_states)

    def _swept(
        self, name: str, v_init: Any, epsilon: float | None, max_iter: int | None, options: dict[str, Any]
    ) -> DPSolveResult:
        """Solve by value iteration or modified policy iteration."""
        limit = count("solve", "max_iter", self.max_iter if max_iter is None else max_iter, 1)
        tol = positive("solve", "epsilon", self.epsilon if epsilon is None else epsilon, zero=False)
        problem, method = self._process(), "mpi" if "policy_sweeps" in options else "vi"
        start = self._initial(v_init).astype(problem.dtype)
        solution: Any = attempted(problem.solve, method, value0=start, atol=tol, max_steps=limit, **options)
        if not solution.converged:
            got = f"{solution.residual:.2g} after {plural(solution.steps)}"
            warn(f"{name}: the bounds must come within {tol:g}, got {got}; try a larger max_iter or epsilon")
        return self._result(name, solution, num_iter=solution.steps, epsilon=epsilon or tol, max_iter=limit)

    def _evaluated(self, name: str, v_init: Any, max_iter: int) -> DPSolveResult:
        """Solve by policy iteration from the best actions for given values."""
        limit = count("solve", "max_iter", max_iter, 1)
        start = self.compute_greedy(self._initial(self.s_wise_max(self.R) if v_init is None else v_init))
        problem = self._process()
        with renamed("solve", NAMES):
            solution = howard("solve", problem, start, limit)
        if not solution.is_best:
            warn(f"{name}: no action must be better, got better ones after {plural(limit)}; try a larger max_iter")
        return self._result(name, solution, num_iter=solution.steps, max_iter=limit)

    def _result(self, name: str, solution: Any, **more: Any) -> DPSolveResult:
        result = DPSolveResult(v=solution.value, sigma=solution.policy, method=name, **more)
        vars(result)["_chain"] = partial(self.controlled_mc, solution.policy.copy())
        return result

    def controlled_mc(self, sigma: Any) -> Any:
        """Return a policy's Markov chain: QuantEcon's MarkovChain if it is installed, or a :class:`ControlledChain`.

        Parameters
        ----------
        sigma : (n,) integers
            The action in each state.

        Returns
        -------
        quantecon.MarkovChain or ControlledChain
            Both have ``P``, ``state_values`` and ``n``.

        Raises
        ------
        TypeError, ValueError
            If sigma is no array of integers, has another shape, or has an action that a state lacks.
        """
        P = self._of_policy("controlled_mc", sigma)[1]
        try:
            from quantecon import MarkovChain
        except ImportError:
            return ControlledChain(P)
        return MarkovChain(P)


def backward_induction(ddp: DiscreteDP, T: int, v_term: Any = None) -> tuple[Array, Array]:
    """Return the values and the policies of T periods.

    Parameters
    ----------
    ddp : DiscreteDP
        The process; its discount may be 1.
    T : int
        The number of periods.
    v_term : (n,), optional
        The values after the last period, 0 by default.

    Returns
    -------
    vs, sigmas : (T + 1, n), (T, n)
        The values and the best actions of each period.

    Raises
    ------
    TypeError, ValueError
        If T is no int of at least 0, or v_term not finite or of another shape.

    See Also
    --------
    fastiter.mdp.finite_horizon : The same, also for time-dependent processes.

    Examples
    --------
    >>> from fastiter.mdp.compat.quantecon import DiscreteDP, backward_induction
    >>> values, policies = backward_induction(DiscreteDP([[1.0, 2.0]], [[[1.0], [1.0]]], 0.5), 2)
    >>> values.tolist(), policies.tolist()
    ([[3.0], [2.0], [0.0]], [[1], [1]])
    """
    T, n = count("backward_induction", "T", T), ddp.num_states
    vs, sigmas = np.zeros((T + 1, n)), np.empty((T, n), np.int64)
    if v_term is not None:
        vs[T] = _values("backward_induction", "v_term", v_term, n)
    for t in range(T, 0, -1):
        ddp.bellman_operator(vs[t], Tv=vs[t - 1], sigma=sigmas[t - 1])
    return vs, sigmas


def _values(function: str, name: str, given: Any, n: int) -> Array:
    """Return checked values (n,) of all states."""
    values = np.asarray(given)
    if values.dtype.kind not in "biuf" or values.shape != (n,):
        got = f"dtype {values.dtype} and shape {values.shape}"
        raise ValueError(f"{function}: {name} must be numbers of shape ({n},), got {got}")
    check_entries(function, name, values, np.isfinite(values), "be finite")
    return values


publish(globals())
