"""The result of a linear solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._plot import PlotsHistory
from ..._solution import Solution, Value, plural, worst_failure

#: Suggestions for each reason of a failure
_REMEDIES = {
    "max_steps": "try a larger max_steps, omega='auto', or a faster method such as ssor_cg",
    "diverged": "try kaczmarz, or a smaller omega: the method need not converge for this A",
    "stagnated": "try a larger rtol or atol: the residual no longer falls, as happens if A x = b has no solution",
    "nan": "A or precond has returned NaN",
}
_INDEFINITE = (
    "A and the preconditioner must be symmetric and positive definite; else try a larger rtol or atol: the residual no "
    "longer falls"
)
#: Remedies for specific methods
_OF_METHOD = {
    ("jacobi", "stagnated"): "try an omega below 1, as 1 may alternate for ever, or a larger rtol or atol: the "
    "residual no longer falls, as happens if A x = b has no solution",
    ("richardson", "diverged"): "try a smaller omega, a preconditioner, or method='cg'",
    ("cg", "max_steps"): "try a larger max_steps or a preconditioner",
    ("flexible_cg", "max_steps"): "try a larger max_steps or a better precond",
    ("cg", "stagnated"): _INDEFINITE,
    ("flexible_cg", "stagnated"): _INDEFINITE,
    ("flexible_cg", "diverged"): "A must be Hermitian and positive definite, and precond finite",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LinearSolution(PlotsHistory, Solution[Value]):
    """The x of a linear system A x = b, and how it was found.

    The attributes are numbers if b is one column, otherwise arrays with one number for each column, or for each system
    of a batch: NumPy arrays, or tensors on the CPU if b is a tensor.

    Attributes
    ----------
    value : (n,), (n, k), (batch, n) or (*grid)
        x, in the dtype of b.
    converged : bool or (k,)
        True where ``||b - A x|| <= tolerance``.
    steps : int or (k,)
        The steps until it converged, or until it ended.
    residual : float or (k,)
        ``||b - A x||`` for x = ``value``, computed from A, b and x.
    method : str
        The method that ran.
    reason : str or tuple of str
        The reason for ending: "converged", "max_steps", "diverged", "stagnated", "callback", or "nan" if a function A
        has returned NaN.
    tolerance : float or (k,)
        The residual at which it would have converged, ``rtol ||b|| + atol``.
    omega : float or None
        The relaxation factor at the end, which ``"auto"`` may have changed; None for methods without one.
    history : (checks + 1,) or (checks + 1, k)
        ``||b - A x||`` before the first step and at each check. Columns that converge early are updated together with
        the others; their value and residual are those at their convergence. None from
        :func:`fastiter.torch.relax.sor`.

    See Also
    --------
    sor, ssor_cg, chebyshev, flexible_cg : Solvers that return it.
    fastiter.Progress : The state in between, for a callback.
    fastiter.ConvergenceWarning : The warning where it has not converged.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import sor
    >>> sor(np.array([[4.0, -1.0], [-2.0, 8.0]]), np.array([2.0, 12.0]), omega=1.0)
    LinearSolution(sor, 'converged' after 7 steps, residual 9.7e-08, omega 1, value (2,) float64)
    """

    tolerance: Any
    omega: float | None = None
    history: Any = None

    def _failure(self) -> str | None:
        worst = worst_failure(self, "column")
        if worst is None:
            return None
        remedy = _OF_METHOD.get((self.method, worst.reason), _REMEDIES[worst.reason])
        return (
            f"||b - A x|| must fall to {worst.tolerance:.2g}, got {worst.residual:.2g} after {plural(worst.steps)} "
            f"({worst.reason!r}){worst.where}; {remedy}"
        )

    def _details(self) -> list[str]:
        return [] if self.omega is None else [f"omega {self.omega:.4g}"]
