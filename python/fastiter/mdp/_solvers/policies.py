"""Policy iteration, exact and inexact, and Anderson's acceleration of value iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._call.iterate import Limits
from .krylov import Chain, exponent_of, norm, solve
from .state import Method, Work

Array = npt.NDArray[Any]

#: The relative improvement above which an action counts as better
_BETTER = 1e-12
#: Sweeps of a policy's operator if the Bellman residual has increased
_SWEEPS = 20
#: Relative ridge of Anderson's least squares
_RIDGE = 1e-10


class PolicyIteration(Method):
    """v <- the values of the policy, then actions are replaced by better ones: Howard's method.

    Parameters
    ----------
    most : int or None
        The maximum number of operations of an elimination; if it takes more, the method gives up. None: values are
        then computed by BiCGSTAB.
    elimination : _core.mdp.Elimination, optional
        That of earlier policies, whose order of elimination may suit again.
    """

    name = "pi"
    patience = 5
    has_given_up = False

    def __init__(self, budget: int | None = None, elimination: Any = None) -> None:
        self._budget, self.elimination = budget, elimination or _core.mdp.Elimination()
        self._action: Array | None = None

    def step(self, work: Work) -> bool:
        if not work.steps:
            work.backup()
            return True
        old = self._action if self._action is not None else work.action.copy()
        model = work.model.chain(old)
        chain = Chain(model, work.discount, work.v, modulus=work.modulus[1], elimination=self.elimination)
        values = self._values(chain, work.w)
        if values is None:
            self.has_given_up = True
            work.advance()
            work.backup()
            return True
        work.v[...] = values
        work.backup()
        noise = 2 * float(np.abs(chain.residual(work.v)).max(initial=0))
        threshold = _BETTER * np.maximum(np.abs(work.w), work.process.largest_reward)
        better = work.w - work.v > np.maximum(threshold, noise)
        self._action = np.where(better, work.action, old)  # the solution's policy is greedy
        self.moved = bool(better.any())
        return True

    def _values(self, chain: Chain, guess: Array) -> Array | None:
        if self._budget is None:
            return solve(chain, guess, 0.0)
        return chain.values if chain.is_eliminated_within(self._budget) else None


class InexactPolicyIteration(Method):
    """v <- values near those of the greedy policy, by a Krylov method.

    It starts at w = T v and stops once the 2-norm of the residual of (1 - gamma P) v = r is ``alpha`` times that of w.
    If the Bellman residual has not decreased, sweeps of the policy's operator follow.

    Parameters
    ----------
    alpha : float
        The factor.
    most : int or None
        The maximum number of operations of the Krylov method in a step.
    """

    name = "ipi"
    has_given_up = False

    def __init__(self, alpha: float, budget: int | None = None) -> None:
        self._alpha, self._before, self._budget = alpha, np.inf, budget
        self.operations = 0

    def step(self, work: Work) -> bool:
        if work.steps:
            chain = Chain(work.chain(), work.discount, work.v)
            if self._budget is not None:
                chain.max_iterations = min(chain.max_iterations, max(self._budget // chain.operations(), 1))
            values = solve(chain, work.w, self._alpha * norm(chain.residual(work.w)), 1)
            self.operations += chain.iterations * chain.operations()
            if work.error() > self._before:
                values = chain.sweep(values, _SWEEPS)
            self._before = work.error()
            work.v[...] = values
        work.backup()
        return True


class AndersonIteration(Method):
    """Anderson acceleration of v <- T v, by a least-squares combination of the last iterates.

    Parameters
    ----------
    window : int
        The maximum number of earlier iterates that are combined.
    limits : Limits
        Provides ``max_steps``: the last step, which may be one sweep, is a plain one.

    Notes
    -----
    A combination whose Bellman residual is larger than the last one is replaced by T v, and the history is discarded.
    """

    name = "anderson"

    def __init__(self, window: int, limits: Limits) -> None:
        self._window, self._max_steps = window, limits.max_steps
        self._values: list[Array] = []
        self._errors: list[Array] = []

    def step(self, work: Work) -> bool:
        if not work.steps:
            work.backup()
            return True
        before, plain = work.error(), work.w.copy()
        self._values, self._errors = (
            [*self._values, plain][-self._window - 1 :],
            [*self._errors, plain.astype(np.float64) - work.v][-self._window - 1 :],
        )
        mixed = len(self._values) > 1 and work.steps + 2 <= self._max_steps
        work.v[...] = self._mixture() if mixed else plain
        work.backup()
        if mixed and not work.error() <= before:
            self._values, self._errors = [], []
            work.v[...] = plain
            work.backup()
        return True

    def _mixture(self) -> Array:
        """Return sum of alpha_i T v_i, where the alpha sum to 1 and minimize |sum of alpha_i (T v_i - v_i)|."""
        errors = np.stack(self._errors)
        if by := exponent_of(float(np.abs(errors).max(initial=0))):  # squares would overflow or underflow
            errors = np.ldexp(errors, -by)
        steps, last = errors[1:] - errors[:-1], errors[-1]
        gram = steps @ steps.T
        gram += _RIDGE * np.trace(gram) * np.eye(len(gram))
        try:
            theta = np.linalg.solve(gram, steps @ last)
        except np.linalg.LinAlgError:  # the iterates repeat
            theta = np.zeros(len(gram))
        values = np.stack(self._values)
        mixture: Array = values[-1] - theta @ (values[1:] - values[:-1])
        return mixture
