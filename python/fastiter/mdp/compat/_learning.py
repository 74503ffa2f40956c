"""Q-learning, the solver of pymdptoolbox that only simulates the process."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from ..._check import count
from ._base import MDP, SOLVER, asserted, required

#: Steps between two random restarts, which are also averaged for ``mean_discrepancy``
_EPISODE = 100


@SOLVER
class QLearning(MDP):
    """Q-learning on simulated steps, which draws numpy.random's global state as pymdptoolbox does.

    Parameters
    ----------
    %(process)s
    discount : float
        From 0 to 1.
    n_iter : int
        The number of steps, at least 10000.
    %(skip_check)s

    Attributes
    ----------
    Q : (S, A)
        The learned values of the actions.
    mean_discrepancy : list of float
        The mean size of the corrections in each hundred steps.

    %(raises)s

    See Also
    --------
    ValueIteration : Exact values; the probabilities are known anyway.

    Examples
    --------
    >>> from fastiter.mdp.compat import example, mdp
    >>> solver = mdp.QLearning(*example.forest(), 0.9)
    >>> solver.run()
    >>> solver.Q.shape, len(solver.policy)
    ((3, 2), 3)
    """

    _warns_undiscounted = False

    def __init__(
        self, transitions: Any, reward: Any, discount: float, n_iter: int = 10_000, skip_check: bool = False
    ) -> None:
        required("QLearning", discount=discount)
        super().__init__(transitions, reward, discount, None, None)
        with asserted():
            self.max_iter = count("QLearning", "n_iter", n_iter, 10_000)
        self._by_action, self.R = self.R, reward
        self._has_next = not hasattr(reward, "tocsr") and np.ndim(reward[0]) == 2
        self.Q = np.zeros((self.S, self.A))
        self.mean_discrepancy: list[float] = []

    def run(self) -> None:
        """Simulate the steps."""
        began, draws = time.perf_counter(), np.random
        sizes: list[float] = []
        s = draws.randint(0, self.S)
        for n in range(1, self.max_iter + 1):
            if n % _EPISODE == 0:
                s = draws.randint(0, self.S)
            explores = draws.random() >= 1 - 1 / math.log(n + 2)
            a = draws.randint(0, self.A) if explores else int(self.Q[s].argmax())
            to = self._next(a, s, draws.random())
            error = self._reward(a, s, to) + self.discount * self.Q[to].max() - self.Q[s, a]
            correction = 1 / math.sqrt(n + 2) * error
            self.Q[s, a] += correction
            sizes.append(abs(correction))
            s = to
        whole = len(sizes) // _EPISODE * _EPISODE
        self.mean_discrepancy += np.reshape(sizes[:whole], (-1, _EPISODE)).mean(axis=1).tolist()
        self._finish(began, self.Q.max(axis=1), self.Q.argmax(axis=1), self.iter)

    def _next(self, a: int, s: int, u: float) -> int:
        """Return the next state whose cumulative probability reaches u."""
        row = self.P[a][[s], :]
        sums = np.cumsum(np.asarray(row.toarray() if hasattr(row, "toarray") else row).reshape(-1))
        return min(int(np.searchsorted(sums, u)), self.S - 1)

    def _reward(self, a: int, s: int, to: int) -> float:
        """Return the reward of a step: that of its next state, where the given rewards depend on it."""
        return float(self.R[a][s, to] if self._has_next else self._by_action[a][s])
