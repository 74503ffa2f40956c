"""Optimism over hypotheses of average-reward processes (LOOP): any functions Q with their gains J.

The optimal Q and J satisfy Q(s, a) + J = r + E V(s'), V = max_a Q. On the steps (s, a, r, s') seen so far a hypothesis
f defines targets, for which a function Q' has the loss

    L(Q', f) = sum over the steps of (r + V_f(s') - J_f - Q'(s, a))^2

and f is believed as long as no function predicts its targets much better than its own Q: L(Q_f, f) - min over Q' of
L(Q', f) <= beta. As Q is only determined up to a constant, Q' ranges over the functions of all hypotheses plus any
constant, so that a wrong gain is also detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._array_like import as_array
from ..._check import check_array, check_finite, count, positive, type_name
from .._average import average
from .._mdp import MDP
from .._process import finite_number

Array = npt.NDArray[Any]


#: The largest magnitude of values, gains and rewards, limited because losses sum their squares
LARGEST = 1e100


def _check_size(function: str, name: str, x: float) -> None:
    if abs(x) > LARGEST:
        raise ValueError(f"{function}: {name} must be from -1e100 to 1e100, got {x:g}")


class LOOP:
    """Act by the most optimistic hypothesis that is believed, and switch it rarely.

    The hypothesis in use is kept until its excess loss exceeds ``4 beta``; then it is replaced by the one with the
    largest gain among those whose excess is at most ``beta``, or by the one with the least excess if there are none.

    Parameters
    ----------
    Q : (F, S, A) float64
        The action values of each hypothesis, up to a constant, from -1e100 to 1e100.
    J : (F,) float64
        The gain of each, the long-run average reward per step, from -1e100 to 1e100.
    beta : float
        The excess loss up to which a hypothesis is believed, positive: of the order of the variance of V(s') times the
        logarithm of F.

    Attributes
    ----------
    chosen : int
        The hypothesis in use.
    switches : int
        The number of times it has changed.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    fastiter.mdp.extended_value_iteration : Optimism within a confidence set of any probabilities.
    fastiter.experimental.LinearMixture : Optimism for mixtures of known probabilities.

    References
    ----------
    J. He, H. Zhong and Z. Yang, Sample-efficient learning of infinite-horizon average-reward MDPs with general function
    approximation, 2024.

    Examples
    --------
    A machine may pay 1 or nothing; the hypothesis that it pays is dropped after it has not:

    >>> import numpy as np
    >>> from fastiter.experimental import LOOP
    >>> learner = LOOP(np.zeros((2, 1, 1)), np.array([1.0, 0.0]), 0.5)
    >>> [learner.update(0, 0, 0.0, 0) for _ in range(4)], learner.chosen
    ([False, False, True, False], 1)
    """

    def __init__(self, Q: Array, J: Array, beta: float) -> None:
        Q, J = as_array("LOOP", "Q", Q), as_array("LOOP", "J", J)
        check_array("LOOP", "Q", Q, ("float64",))
        check_array("LOOP", "J", J, ("float64",))
        if Q.ndim != 3 or 0 in Q.shape:
            raise ValueError(f"LOOP: Q must have shape (F, S, A), none of them 0, got {Q.shape}")
        if J.shape != Q.shape[:1]:
            raise ValueError(f"LOOP: J must have shape (F,) = ({len(Q)},), got {J.shape}")
        for name, x in (("Q", Q), ("J", J)):
            check_finite("LOOP", name, x)
            _check_size("LOOP", name, float(abs(x).max()))
        self.beta = positive("LOOP", "beta", beta, zero=False)
        F, self.S, self.A = Q.shape
        self._Q, self._J = Q.reshape(F, -1).copy(), J.copy()
        self._V = Q.max(2)
        self._taken = np.zeros(self.S * self.A)
        self._errors, self._squares = np.zeros_like(self._Q), np.zeros(F)  # sums of r + V(s') - J - Q, by (s, a)
        self.switches = 0
        self._choose(int(np.argmax(J)))

    @classmethod
    def of(cls, models: Sequence[MDP], beta: float, *, atol: float = 1e-9) -> LOOP:
        """Return the learner whose hypotheses are processes, each solved by :func:`fastiter.mdp.average`.

        Parameters
        ----------
        models : sequence of MDP
            Processes with the same states and with all actions in each.
        beta : float
            As for the class.
        atol : float
            The width of the bounds of the gains.

        Raises
        ------
        TypeError, ValueError
            If models are not MDPs of one shape, with rewards, one gamma or None, and all actions in each state; if
            atol is not above 0.
        """
        if not isinstance(models, Sequence):
            raise TypeError(f"LOOP.of: models must be a sequence of MDPs, got {type_name(models)}")
        processes, atol = list(models), positive("LOOP.of", "atol", atol, zero=False)
        for i, each in enumerate(processes):
            if not isinstance(each, MDP):
                raise TypeError(f"LOOP.of: models must be MDPs, got {type_name(each)} in place {i}")
            if each._negated:
                raise ValueError(f"LOOP.of: models must have rewards, got costs (sense='min') in place {i}")
            if each._is_semi:
                raise ValueError(f"LOOP.of: models must have one gamma or None, got that of each row in place {i}")
            if not np.array_equal(each.row_starts, np.arange(each.S + 1) * (each.rows // each.S)):
                raise ValueError(f"LOOP.of: models must have all actions in each state, got another in place {i}")
            if (each.S, each.rows) != (processes[0].S, processes[0].rows):
                raise ValueError(f"LOOP.of: models must have the shape of the first, got another in place {i}")
        if not processes:
            raise ValueError("LOOP.of: models must have at least one process, got none")
        solutions = [average(each, atol=atol) for each in processes]
        q = np.empty((len(processes), processes[0].S, processes[0].rows // processes[0].S))
        for i, (each, solution) in enumerate(zip(processes, solutions, strict=True)):
            values = np.empty(each.rows, each.dtype)
            each._process.model.action_values(solution.value, values, 1.0)
            q[i] = values.reshape(each.S, -1) - solution.gain
        return cls(q, np.array([solution.gain for solution in solutions]), beta)

    @property
    def policy(self) -> Array:
        """The greedy actions (S,) of the hypothesis in use."""
        best: Array = self._Q[self.chosen].reshape(self.S, self.A).argmax(1)
        return best

    @property
    def losses(self) -> Array:
        """L(Q', f) for the Q' of each hypothesis f' (rows), plus the best constant, and each f (columns), (F, F)."""
        pairs = zip(self._Q, self._errors, strict=True)
        losses: Array = self._squares - np.stack([self._gains(self._Q - own, errors) for own, errors in pairs], 1)
        return losses

    @property
    def excess(self) -> Array:
        """L(Q_f, f) - min over Q' of L(Q', f), at least 0, (F,)."""
        pairs = zip(self._Q, self._errors, strict=True)
        return np.array([self._gains(self._Q - own, errors).max() for own, errors in pairs])

    @property
    def believed(self) -> npt.NDArray[np.bool_]:
        """Whether the excess is at most beta, (F,); if it is for no hypothesis, the steps refute all of them."""
        return self.excess <= self.beta

    def update(self, state: int, action: int, reward: float, next_state: int) -> bool:
        """Add a step, and return whether another hypothesis is in use from now on.

        Parameters
        ----------
        state, action : int
            The state and action of the step.
        reward : float
            The reward of the step, from -1e100 to 1e100.
        next_state : int
            The next state.

        Returns
        -------
        bool
            Whether another hypothesis has been chosen.

        Raises
        ------
        TypeError, ValueError
            If a state or an action is out of its range, or the reward beyond 1e100.
        """
        sizes = {"state": (state, self.S), "action": (action, self.A), "next_state": (next_state, self.S)}
        for name, (value, limit) in sizes.items():
            if count("update", name, value) >= limit:
                raise ValueError(f"update: {name} must be from 0 to {limit - 1}, got {value}")
        reward = finite_number("update", "reward", reward)
        _check_size("update", "reward", reward)
        place = state * self.A + action
        error = reward + self._V[:, next_state] - self._J - self._Q[:, place]
        self._errors[:, place] += error
        self._squares += error**2
        self._taken[place] += 1
        if self._gains(self._difference, self._errors[self.chosen]).max() <= 4 * self.beta:
            return False
        excess, before = self.excess, self.chosen
        believed = excess <= self.beta
        best = np.argmax(np.where(believed, self._J, -np.inf)) if believed.any() else np.argmin(excess)
        self._choose(int(best))
        self.switches += self.chosen != before
        return self.chosen != before

    def _choose(self, f: int) -> None:
        self.chosen, self._difference = f, self._Q - self._Q[f]

    def _gains(self, difference: Array, errors: Array) -> Array:
        """Return L(Q_f, f) - L(Q_f' + c, f) with the best constant c (F,), of Q_f' - Q_f (F, S A) and f's errors."""
        left = errors.sum() - difference @ self._taken  # sum of the errors with Q_f' subtracted instead
        gains: Array = 2 * difference @ errors - difference**2 @ self._taken + left**2 / max(self._taken.sum(), 1)
        return gains
