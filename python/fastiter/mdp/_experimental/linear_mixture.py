"""Linear mixture processes: P(s' | s, a) = sum_k theta_k phi_k(s' | s, a) with known features and unknown theta.

For values V each step is a sample of a linear function of theta,

    E V(s') = theta . x,    x_k = phi_V(s, a)_k = sum over s' of phi_k(s' | s, a) V(s')

so that theta is estimated by ridge regression of V(s') on x, weighted by the variance of V(s').
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._array_like import as_array
from ..._check import check_array, check_finite, count, positive, type_name
from .._finite import FiniteHorizon

Array = npt.NDArray[Any]


class LinearMixture:
    """Value-targeted ridge regression of theta, and planning with its confidence set (UCRL-VTR).

    Parameters
    ----------
    features : (d, S, A, S) float64
        phi_k(s' | s, a).
    horizon : int
        The steps of an episode, H.
    ridge : float
        The regularization parameter, positive.

    Attributes
    ----------
    theta : (d,)
        The estimate.
    precision : (d, d)
        ridge + the sum of x x^T / variance.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    See Also
    --------
    fastiter.mdp.finite_horizon : Planning with known probabilities.
    fastiter.mdp.extended_value_iteration : Optimism within a confidence set of any probabilities.

    References
    ----------
    A. Ayoub et al., Model-based reinforcement learning with value-targeted regression, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.experimental import LinearMixture
    >>> stay, swap = np.eye(2)[:, None], np.eye(2)[::-1][:, None]
    >>> model = LinearMixture(np.stack([stay, swap]), 5, ridge=1e-6)
    >>> for _ in range(3):
    ...     model.update(0, 0, 1, np.array([0.0, 1.0]))  # it always swaps
    >>> model.theta.round(3)
    array([-0.,  1.])
    """

    def __init__(self, features: Array, horizon: int, *, ridge: float = 1.0) -> None:
        function = "LinearMixture"
        features = as_array(function, "features", features)
        check_array(function, "features", features, ("float64",))
        if features.ndim != 4 or 0 in features.shape or features.shape[1] != features.shape[3]:
            raise ValueError(f"{function}: features must have shape (d, S, A, S), got {features.shape}")
        check_finite(function, "features", features)
        ridge = positive(function, "ridge", ridge, zero=False)
        d, self.S, self.A = features.shape[:3]
        self.horizon = count(function, "horizon", horizon, 1)
        self._rows = np.ascontiguousarray(features.transpose(1, 2, 0, 3).reshape(-1, self.S))  # (S A d, S)
        self.precision = ridge * np.eye(d)
        self._inverse, self._sum = np.eye(d) / ridge, np.zeros(d)
        self._log_det = self._log_det_at_plan = d * float(np.log(ridge))

    @property
    def theta(self) -> Array:
        """The estimate, precision^-1 times the sum of x V(s') / variance."""
        estimate: Array = self._inverse @ self._sum
        return estimate

    @property
    def has_doubled(self) -> bool:
        """Whether a new plan is due: the determinant of the precision has doubled since the last :meth:`plan`."""
        return bool(self._log_det - self._log_det_at_plan > np.log(2))

    def expectations(self, value: Array) -> Array:
        """Return the features of a value function, phi_V(s, a).

        Parameters
        ----------
        value : float64 (S,)
            V, from 0 to H.

        Returns
        -------
        float64 (S, A, d)
            The expectation of V(s') under each of the d kernels.
        """
        return self._expectations(self._values("expectations", "value", value))

    def _expectations(self, value: Array) -> Array:
        result: Array = (self._rows @ value).reshape(self.S, self.A, -1)
        return result

    def update(self, state: int, action: int, next_state: int, target: Array, variance: float = 1.0) -> None:
        """Add a step to the regression.

        Parameters
        ----------
        state, action, next_state : int
            The step.
        target : (S,) float64
            V.
        variance : float
            The variance of V(s'), positive; :meth:`variance` estimates it.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape, a state or an action out of its range, a value that is not finite, or a
            variance that is not above 0.
        """
        sizes = {"state": (state, self.S), "action": (action, self.A), "next_state": (next_state, self.S)}
        for name, (number, size) in sizes.items():
            if count("update", name, number) >= size:
                raise ValueError(f"update: {name} must be from 0 to {size - 1}, got {number}")
        value = self._values("update", "target", target)
        variance = positive("update", "variance", variance, zero=False)
        d = len(self._sum)
        first = (state * self.A + action) * d
        x = self._rows[first : first + d] @ value
        self.precision += np.outer(x, x) / variance
        along = self._inverse @ x
        growth = variance + float(x @ along)
        self._inverse -= np.outer(along, along) / growth
        self._log_det += float(np.log(growth / variance))
        self._sum += x * (value[next_state] / variance)

    def uncertainty(self, value: Array) -> Array:
        """Return the norm of phi_V(s, a) in precision^-1.

        Parameters
        ----------
        value : float64 (S,)
            V, from 0 to H.

        Returns
        -------
        float64 (S, A)
            The uncertainty of the regression about V(s').
        """
        return self._widths(self._expectations(self._values("uncertainty", "value", value)))

    def _widths(self, x: Array) -> Array:
        squares = np.einsum("sad,sad->sa", x @ self._inverse, x)
        widths: Array = np.sqrt(np.maximum(squares, 0))
        return widths

    def variance(self, value: Array, squares: LinearMixture, *, least: float, bonus: Array | float = 0.0) -> Array:
        """Return estimated variances of V(s') for the weights of the regression (UCRL-VTR+), (S, A).

        Parameters
        ----------
        value : (S,) float64
            V, from 0 to H.
        squares : LinearMixture
            The regression on targets V^2.
        least : float
            The smallest variance.
        bonus : float or (S, A)
            The term that is added for the errors of both regressions.

        Returns
        -------
        float64 (S, A)
            The variances, at least ``least``.

        Raises
        ------
        TypeError, ValueError
            If squares is no LinearMixture of the same sizes, value has a wrong dtype or shape or is not finite,
            bonus is negative or least not above 0.
        """
        v = self._values("variance", "value", value)
        if not isinstance(squares, LinearMixture):
            raise TypeError(f"variance: squares must be a LinearMixture, got {type_name(squares)}")
        sizes, expected = ((one.S, one.A, len(one._sum)) for one in (squares, self))
        if sizes != expected:
            raise ValueError(f"variance: squares must have (S, A, d) = {expected} like the model, got {sizes}")
        if isinstance(bonus, (np.ndarray, list, tuple)):
            bonus = self._pairs("variance", "bonus", bonus)
        else:
            bonus = positive("variance", "bonus", bonus)
        least, H = positive("variance", "least", least, zero=False), self.horizon
        second = np.clip(squares._expectations(v**2) @ squares.theta, 0, H * H)
        first = np.clip(self._expectations(v) @ self.theta, 0, H)
        result: Array = np.maximum(least, second - first**2 + bonus)
        return result

    def exploration_rewards(self, target: Array) -> Array:
        """Return pseudo-rewards min(1, uncertainty) / H, which are large where steps are most informative.

        Parameters
        ----------
        target : float64 (S,)
            The values, from 0 to H.

        Returns
        -------
        float64 (S, A)
            The pseudo-rewards.
        """
        rewards: Array = np.minimum(self.uncertainty(target), 1) / self.horizon
        return rewards

    def plan(self, rewards: Array, *, width: float = 0.0) -> FiniteHorizon:
        """Return Q_h = min(H, r + theta . phi_V + width |phi_V|), V_h = max_a Q_h, V = V_(h + 1), for h = H - 1 .. 0.

        Parameters
        ----------
        rewards : (S, A) float64
            The rewards.
        width : float
            The radius of the confidence set of theta, which controls optimism; 0 plans with the estimate.

        Returns
        -------
        FiniteHorizon
            The values and policies of all steps.

        Raises
        ------
        TypeError, ValueError
            If rewards have a wrong dtype or shape or are not finite, or width is negative.
        """
        rewards = self._pairs("plan", "rewards", rewards)
        width, H, theta = positive("plan", "width", width), self.horizon, self.theta
        values, policy = np.zeros((H + 1, self.S)), np.empty((H, self.S), np.int64)
        for h in range(H - 1, -1, -1):
            x = self._expectations(values[h + 1])
            q = rewards + x @ theta
            if width:
                q += width * self._widths(x)
            q = np.minimum(q, H)
            policy[h] = q.argmax(axis=1)
            values[h] = q.max(axis=1)
        self._log_det_at_plan = self._log_det
        return FiniteHorizon(values, policy)

    def _values(self, function: str, name: str, value: Any) -> Array:
        value = as_array(function, name, value)
        check_array(function, name, value, ("float64",))
        if value.shape != (self.S,) or not np.isfinite(value).all():
            raise ValueError(f"{function}: {name} must be finite, of shape (S,) = ({self.S},), got {value.shape}")
        return np.ascontiguousarray(value)

    def _pairs(self, function: str, name: str, x: Any) -> Array:
        x = as_array(function, name, x)
        check_array(function, name, x, ("float64",))
        if x.shape != (self.S, self.A):
            raise ValueError(f"{function}: {name} must have shape {(self.S, self.A)}, got {x.shape}")
        check_finite(function, name, x)
        return np.asarray(x)
