"""The data of QuantEcon's discrete dynamic programs in both forms, and their operators."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._check import integers, positive
from ..._solution import outside
from .._mdp import MDP
from ._base import renamed

Array = npt.NDArray[Any]

#: This module's argument names, by the corresponding ones of :class:`MDP` and its methods
NAMES = {"P": "Q", "gamma": "beta", "states": "s_indices", "actions": "a_indices", "policy": "sigma"}


class Program:
    """Rewards and probabilities of all actions in all states, or of state-action pairs."""

    def __init__(self, R: Any, Q: Any, beta: float, s_indices: Any = None, a_indices: Any = None) -> None:
        self.beta = positive("DiscreteDP", "beta", beta)
        if self.beta > 1:
            raise ValueError(f"DiscreteDP: beta must be from 0 to 1, got {beta:g}")
        self._sparse = hasattr(Q, "tocsr")
        self.Q: Any
        self.R, self.Q = np.asarray(R), Q.tocsr() if self._sparse else np.asarray(Q)
        self._sa_pair = len(self.Q.shape) == 2
        self.s_indices: Any = None
        self.a_indices: Any = None
        shape = self.Q.shape[:-1]
        if len(shape) not in (1, 2) or self.R.shape != shape or (len(shape) == 2 and self.Q.shape[2] != shape[0]):
            expected = "shapes (n, m) and (n, m, n), or (L,) and (L, n)"
            raise ValueError(f"DiscreteDP: R and Q must have {expected}, got {self.R.shape} and {self.Q.shape}")
        self.num_states = int(self.Q.shape[-1])
        if self._sa_pair:
            self._set_pairs(s_indices, a_indices)
        self.num_sa_pairs = len(self.R) if self._sa_pair else int((-np.inf < self.R).sum())
        best = self.s_wise_max(self.R)
        if (best == -np.inf).any():
            s = int(np.argmax(best == -np.inf))
            raise ValueError(f"DiscreteDP: R must be above -inf for an action of each state, got none in state {s}")
        self.epsilon, self.max_iter = 1e-3, 250
        if self.beta == 1:
            text = "DiscreteDP: beta must be below 1 for other methods than backward induction, got 1"
            warnings.warn(text, UserWarning, stacklevel=outside())

    def _set_pairs(self, s_indices: Any, a_indices: Any) -> None:
        """Check the pairs, and sort them with their rewards and probabilities."""
        function, n = "DiscreteDP", self.num_states
        if s_indices is None or a_indices is None:
            raise ValueError(f"{function}: s_indices and a_indices must be those of the rows of Q, got None")
        s, a = integers(function, "s_indices", s_indices), integers(function, "a_indices", a_indices)
        for name, indices, limit in (("s_indices", s, n - 1), ("a_indices", a, None)):
            if indices.shape != self.R.shape:
                raise ValueError(f"{function}: {name} must have shape {self.R.shape} like R, got {indices.shape}")
            wrong = (indices < 0) | (indices > (np.inf if limit is None else limit))
            if wrong.any():
                expected = "at least 0" if limit is None else f"from 0 to {limit}"
                raise ValueError(f"{function}: {name} must be {expected}, got {indices[wrong][0]}")
        by = np.lexsort((a, s))
        if (np.diff(by) != 1).any():
            s, a, self.R, self.Q = s[by], a[by], self.R[by], self.Q[by]
        twins = (np.diff(s) == 0) & (np.diff(a) == 0)
        if twins.any():
            at = int(np.argmax(twins))
            raise ValueError(
                f"{function}: s_indices and a_indices must be different pairs, got ({s[at]}, {a[at]}) twice"
            )
        counts = np.bincount(s, minlength=n)
        if (counts == 0).any():
            none = int(np.argmin(counts))
            raise ValueError(f"{function}: s_indices must have an action for each state, got none for state {none}")
        self.s_indices, self.a_indices = s, a
        self.a_indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def s_wise_max(self, vals: Array, out: Array | None = None, out_argmax: Array | None = None) -> Array:
        """Return the largest value of each state, and its action.

        Parameters
        ----------
        vals : (n, m) or (L,)
            A value for each action.
        out, out_argmax : (n,), optional
            Where to write the values, and the actions.

        Returns
        -------
        (n,)
            The largest values, ``out`` if it is given.
        """
        out = np.empty(self.num_states) if out is None else out
        if not self._sa_pair:
            out[:] = vals.max(axis=1)
            if out_argmax is not None:
                out_argmax[:] = vals.argmax(axis=1)
            return out
        out[:] = np.maximum.reduceat(vals, self.a_indptr[:-1])
        if out_argmax is not None:
            best = np.repeat(out, np.diff(self.a_indptr))
            (at,) = np.nonzero((vals == best) | np.isnan(best))
            out_argmax[:] = self.a_indices[at[np.searchsorted(at, self.a_indptr[:-1])]]
        return out

    def to_sa_pair_form(self, sparse: bool = True) -> Any:
        """Return the process with a row of Q for each state-action pair; or itself.

        Parameters
        ----------
        sparse : bool
            Whether Q is a SciPy CSR matrix.

        Returns
        -------
        DiscreteDP
            The process.
        """
        if self._sa_pair:
            return self
        s, a = np.nonzero(-np.inf < self.R)
        rows: Any = self.Q[s, a]
        if sparse:
            from scipy.sparse import csr_matrix

            rows = csr_matrix(rows)
        return type(self)(self.R[s, a], rows, self.beta, s, a)

    def to_product_form(self) -> Any:
        """Return the process with all actions in all states, impossible ones with -inf and 0; or itself.

        Returns
        -------
        DiscreteDP
            The process.
        """
        if not self._sa_pair:
            return self
        n, m = self.num_states, int(self.a_indices.max()) + 1
        R, Q = np.full((n, m), -np.inf), np.zeros((n, m, n))
        R[self.s_indices, self.a_indices] = self.R
        Q[self.s_indices, self.a_indices] = self.Q.toarray() if self._sparse else self.Q
        return type(self)(R, Q, self.beta)

    def RQ_sigma(self, sigma: Any) -> tuple[Array, Any]:
        """Return the rewards (n,) and the transition probabilities (n, n) of a policy.

        Parameters
        ----------
        sigma : (n,) integers
            The action in each state.

        Returns
        -------
        R_sigma, Q_sigma : (n,), (n, n)
            The second is sparse if Q is.

        Raises
        ------
        TypeError, ValueError
            If sigma is no array of integers, has another shape, or has an action that a state lacks.
        """
        return self._of_policy("RQ_sigma", sigma)

    def _of_policy(self, function: str, sigma: Any) -> tuple[Array, Any]:
        """Return the rewards and the transition probabilities of a checked policy."""
        n = self.num_states
        states, actions = np.arange(n), integers(function, "sigma", sigma)
        if actions.shape != (n,):
            raise ValueError(f"{function}: sigma must have shape ({n},), an action for each state, got {actions.shape}")
        size = int(self.a_indices.max()) + 1 if self._sa_pair else self.R.shape[1]
        wrong = (actions < 0) | (actions >= size)
        if self._sa_pair:
            pairs, wanted = self.s_indices * size + self.a_indices, states * size + actions
            at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
            wrong |= pairs[at] != wanted
        if wrong.any():
            s = int(np.argmax(wrong))
            raise ValueError(f"{function}: sigma must have an action of each state, got {actions[s]} in state {s}")
        chosen = at if self._sa_pair else (states, actions)
        return self.R[chosen], self.Q[chosen]

    def bellman_operator(self, v: Any, Tv: Array | None = None, sigma: Array | None = None) -> Array:
        """Return max_a R + beta Q v.

        Parameters
        ----------
        v : (n,)
            The values.
        Tv, sigma : (n,), optional
            Where to write the new values, and the best actions.

        Returns
        -------
        (n,)
            The new values, ``Tv`` if it is given.
        """
        v, n = np.asarray(v), self.num_states
        in_order = not self._sa_pair and self.Q.flags.c_contiguous  # one product with a matrix is the fastest
        expected = (self.Q.reshape(-1, n) @ v).reshape(self.R.shape) if in_order else self.Q @ v
        return self.s_wise_max(self.R + self.beta * expected, Tv, sigma)

    def T_sigma(self, sigma: Any) -> Callable[[Array], Array]:
        """Return the operator v -> R_sigma + beta Q_sigma v of a policy.

        Parameters
        ----------
        sigma : (n,) integers
            The action in each state.

        Returns
        -------
        callable
            The operator.

        Raises
        ------
        TypeError, ValueError
            If sigma is no array of integers, has another shape, or has an action that a state lacks.
        """
        R_sigma, Q_sigma = self._of_policy("T_sigma", sigma)
        return lambda v: R_sigma + self.beta * (Q_sigma @ v)

    def compute_greedy(self, v: Any, sigma: Array | None = None) -> Array:
        """Return the best actions for given values of the next states.

        Parameters
        ----------
        v : (n,)
            The values.
        sigma : (n,), optional
            Where to write the actions.

        Returns
        -------
        (n,) integers
            The actions, ``sigma`` if it is given.
        """
        sigma = np.empty(self.num_states, np.int64) if sigma is None else sigma
        self.bellman_operator(v, sigma=sigma)
        return sigma

    def evaluate_policy(self, sigma: Any) -> Array:
        """Return the values of a policy, to rounding.

        Parameters
        ----------
        sigma : (n,) integers
            The action in each state.

        Returns
        -------
        (n,)
            v = R_sigma + beta Q_sigma v.

        Raises
        ------
        TypeError, ValueError
            If sigma is no array of integers, has another shape, or has an action that a state lacks.
        NotImplementedError
            If beta is 1.
        """
        self._check_discount("evaluate_policy")
        R_sigma, Q_sigma = self._of_policy("evaluate_policy", sigma)
        with renamed("evaluate_policy", NAMES):
            chain = MDP(Q_sigma, R_sigma, self.beta, states=np.arange(self.num_states))
        return chain.evaluate(np.zeros(self.num_states, np.int64))

    def operator_iteration(
        self, T: Callable[..., Array], v: Array, max_iter: int, tol: float | None = None, *args: Any, **kwargs: Any
    ) -> int:
        """Replace v by T(v) until it changes by less than a tolerance, and return the number of iterations.

        Parameters
        ----------
        T : callable
            The operator.
        v : (n,)
            The values, changed in place.
        max_iter : int
            The maximum number of iterations.
        tol : float, optional
            The tolerance of the largest change.
        *args, **kwargs : Any
            Further arguments of T.

        Returns
        -------
        int
            The number of iterations.
        """
        for i in range(max_iter):
            new = T(v, *args, **kwargs)
            change = np.inf if tol is None else np.abs(new - v).max()
            v[:] = new
            if tol is not None and change < tol:
                return i + 1
        return max(max_iter, 0)

    def _check_discount(self, function: str) -> None:
        if self.beta == 1:
            raise NotImplementedError(f"{function}: beta must be below 1, got 1")

    def _process(self) -> MDP:
        """Return the process without impossible actions; it is read anew, as R and Q may have changed."""
        with renamed("solve", NAMES):
            if not self._sa_pair:
                return MDP(self.Q, self.R, self.beta)
            (at,) = np.nonzero(-np.inf < self.R)
            if len(at) == len(self.R):
                return MDP(self.Q, self.R, self.beta, states=self.s_indices, actions=self.a_indices)
            return MDP(self.Q[at], self.R[at], self.beta, states=self.s_indices[at], actions=self.a_indices[at])
