"""The result of a linear solver, its progress, and the arguments that determine when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._check import check_flag, type_name
from .._solution import Solution, all_of, is_true, plural
from . import _vectors

#: Suggestions for each reason of a failure
_REMEDIES = {
    "max_steps": "try a larger max_steps, omega='auto', or a faster method such as ssor_cg",
    "diverged": "try kaczmarz, or a smaller omega: the method need not converge for this A",
    "stagnated": "try a larger rtol or atol: the residual no longer falls, as happens if A x = b has no solution",
    "indefinite": "A and the preconditioner must be symmetric and positive definite for conjugate gradients",
}
#: Remedies for specific methods
_OF_METHOD = {
    ("jacobi", "stagnated"): "try an omega below 1, as 1 may alternate for ever, or a larger rtol or atol: the "
    "residual no longer falls, as happens if A x = b has no solution",
    ("richardson", "diverged"): "try a smaller omega, a preconditioner, or method='cg'",
    ("cg", "max_steps"): "try a larger max_steps or a preconditioner",
    ("flexible_cg", "max_steps"): "try a larger max_steps or a better precond",
    ("flexible_cg", "diverged"): "A must be Hermitian and positive definite, and precond finite",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LinearSolution(Solution):
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
        The reason for ending: "converged", "max_steps", "diverged", "stagnated" or "callback"; and "indefinite" from
        :func:`fastiter.torch.distributed.solve`.
    tolerance : float or (k,)
        The residual at which it would have converged, ``rtol ||b|| + atol``.
    omega : float or None
        The relaxation factor at the end, which ``"auto"`` may have changed; None for methods without one.
    history : (checks + 1,) or (checks + 1, k)
        ``||b - A x||`` before the first step and at each check. Columns that converge early are updated together with
        the others; their value and residual are those at their convergence. None from
        :func:`fastiter.torch.relax_solve`.

    See Also
    --------
    sor, ssor_cg, chebyshev, flexible_cg : Solvers that return it.
    Progress : The state in between, for a callback.
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
        if bool(all_of(self.converged)):
            return None
        single = isinstance(self.reason, str)
        reasons, steps, residual, tolerance = (
            [x] if single else list(x) for x in (self.reason, self.steps, self.residual, self.tolerance)
        )
        failed = [k for k, reason in enumerate(reasons) if reason not in ("converged", "callback")]
        if not failed:
            return None
        k = max(failed, key=lambda k: float(residual[k]) / max(float(tolerance[k]), 1e-300))
        after = plural(int(steps[k]))
        which = "" if single else f" in column {k}, the worst of {len(failed)} out of {len(reasons)} that failed"
        return (
            f"||b - A x|| must fall to {float(tolerance[k]):.2g}, got {float(residual[k]):.2g} after {after} "
            f"({reasons[k]!r}){which}; {_OF_METHOD.get((self.method, reasons[k]), _REMEDIES[reasons[k]])}"
        )

    def _details(self) -> list[str]:
        return [] if self.omega is None else [f"omega {self.omega:.4g}"]


@dataclass(frozen=True, eq=False)
class Progress:
    """The state of a solver at a check, the argument of ``callback``.

    Attributes
    ----------
    steps : int
        The steps so far.
    residual : float or (k,)
        ``||b - A x||``; one for each of several columns, and for a finished column the one at its end.
    tolerance : float or (k,)
        The residual at which it converges.
    omega : float or None
        The relaxation factor of the next step; None for methods without one.

    See Also
    --------
    sor : Takes a ``callback``, as all solvers do.
    LinearSolution : The result at the end.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import sor
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> print(sor(A, np.ones(2), omega=1.0, callback=lambda progress: progress.steps == 3).reason)
    callback
    """

    steps: int
    residual: Any
    tolerance: Any
    omega: float | None
    _value: Callable[[], Any] = field(repr=False)

    @property
    def value(self) -> Any:
        """A copy of x in the shape of the solution, made on access."""
        return self._value()


Callback = Callable[[Progress], Any]


class Limits(NamedTuple):
    """The arguments that all solvers have in common: when a solver ends, and whether it then raises an error."""

    rtol: float | None = None
    atol: float = 0.0
    max_steps: int = 10_000
    check_every: int = 1
    callback: Callback | None = None
    throw: bool = False

    def checked(self, function: str) -> Limits:
        """Return the limits as numbers; refuse other types and values."""
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"{function}: callback must be callable or None, got {type_name(self.callback)}")
        check_flag(function, "throw", self.throw)
        return Limits(
            None if self.rtol is None else _vectors.positive(function, "rtol", self.rtol),
            _vectors.positive(function, "atol", self.atol),
            _vectors.count(function, "max_steps", self.max_steps),
            _vectors.count(function, "check_every", self.check_every, 1),
            self.callback,
            self.throw,
        )

    def relative(self, dtype: object) -> float:
        """Return rtol; by default one that vectors of this dtype can mostly reach, as rounded as they are."""
        usual = 1e-5 if str(dtype).endswith("float32") else 1e-8
        return usual if self.rtol is None else self.rtol

    def stops(self, progress: Callable[[], Progress]) -> bool:
        """Call the callback, if there is one, and return whether it ends the solution."""
        return self.callback is not None and is_true(self.callback(progress()))
