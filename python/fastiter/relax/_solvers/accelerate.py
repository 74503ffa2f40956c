"""Acceleration of sweeps: Chebyshev polynomials, and Anderson mixing of the last steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._backend import Backends, Cuda, choose, is_cuda
from ..._call.iterate import Callback, Limits
from ..._check import type_name
from ..._solution import judged
from .._cupy import parts_of
from .._docs import SOLVER
from .._omega import spectrum
from .._omega.adaptive import GO_ON, factor
from .._omega.auto import MARGIN, jacobi_of
from .._sweeps import vectors
from .._sweeps.pieces import pieces
from .._sweeps.prepare import JACOBI, System, prepare
from .._sweeps.stencil import OfStencil, Stencil
from .iteration import Run, solve
from .methods import METHODS
from .mixture import Mixture
from .relaxation import Relaxation
from .result import LinearSolution

Array = npt.NDArray[Any]

#: Maximum number of differences in Anderson mixing: a step solves a system of this size for each column.
MAX_MEMORY = 1000


class Recurrence:
    """The factors of d <- momentum d + omega z, x <- x + d for eigenvalues in [low, high], step after step.

    After k steps the error along an eigenvector with eigenvalue t is multiplied by
    T_k((high + low - 2 t) / (high - low)) / T_k((high + low) / (high - low)). An estimated low may exceed the smallest
    eigenvalue t, as on a fine grid; the error along its eigenvector is then the last to vanish. Its factor per step
    tends to g(t) / g(0) with g + 1 / g = 2 (high + low - 2 t) / (high - low), which yields t, and the recurrence
    restarts with this t as low (Hageman and Young).
    """

    def __init__(self, low: float, high: float, *, adapts: bool = False) -> None:
        self.high, self.adapts = high, adapts
        self._begin(low)

    def _begin(self, low: float) -> None:
        self.centre, self.half = (self.high + low) / 2, max((self.high - low) / 2, 1e-12 * self.high)
        self.rho, self._last = 0.0, 0.0
        self._start: tuple[int, float] | None = None

    def observe(self, steps: int, residual: float) -> int:
        """Record the residual after ``steps`` steps; return GO_ON, as no copy of x is ever saved or restored."""
        now, centre = (steps, residual), self.centre / self.half
        growth = centre + math.sqrt(centre * centre - 1)
        if self._start is None:
            self._start = now
        if not self.adapts or steps - self._start[0] < max(20, 2 / math.log(growth)):
            return GO_ON
        lam, last = factor(self._start, now), self._last
        self._start, self._last = now, lam
        is_steady = 0 < lam < 1 and abs(lam - last) < 0.1 * (1 - lam)
        if is_steady and math.log(lam) > -0.7 * math.log(growth):
            slow = lam * growth
            low = self.centre - self.half * (slow + 1 / slow) / 2
            if low > 0:
                self._begin(0.95 * low)
        return GO_ON

    def next(self) -> tuple[float, float]:
        """Return omega and momentum of the next step."""
        if self.rho == 0:
            self.rho = self.half / self.centre
            return 1 / self.centre, 0.0
        before, self.rho = self.rho, 1 / (2 * self.centre / self.half - self.rho)
        return 2 * self.rho / self.half, self.rho * before


def checked_bounds(function: str, bounds: object) -> tuple[float, float]:
    """Return bounds as two positive numbers."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{function}: bounds must be (low, high) or None, got {type_name(bounds)}")
    low, high = (vectors.positive(function, "bounds", bound, zero=False) for bound in bounds)
    if low > high:
        raise ValueError(f"{function}: bounds must be (low, high) with low <= high, got {(low, high)}")
    return low, high


@SOLVER
def chebyshev(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """x <- x + d, d <- momentum d + omega D^-1 (b - A x): Jacobi accelerated by Chebyshev polynomials.

    The only inner product is for the check of the residual, and all rows are relaxed in parallel.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    bounds : (float, float), optional
        The smallest and the largest eigenvalue of D^-1 A, which must be positive. By default they are Lanczos
        estimates, for a Hermitian positive definite A; the smallest is lowered if the residual falls more slowly than
        it implies. A batch has the same bounds for all its matrices.
    %(limits)s one sweep

    %(result)s

    See Also
    --------
    Chebyshev : The acceleration of other symmetric sweeps.
    ssor_cg : Needs no bounds of the spectrum, but two inner products per step.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import chebyshev, jacobi
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> jacobi(A, np.ones(50)).steps, chebyshev(A, np.ones(50)).steps
    (9653, 311)
    """
    run = choose("chebyshev", _BACKENDS, None, A, b, x0)
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    result = run("chebyshev", parts_of(A) if is_cuda(run) else A, b, x0, limits, bounds=bounds)
    return judged("chebyshev", result, throw)


def solve_chebyshev(
    function: str, A: Any, b: Array, x0: Array | None, limits: Limits, bounds: tuple[float, float] | None
) -> LinearSolution[Array]:
    """:func:`chebyshev`, which neither warns nor raises if it has not converged."""
    stencil = isinstance(A, Stencil)
    system = OfStencil(function, A, "natural") if stencil else prepare(function, A, "jacobi", "natural", None)
    if bounds is None:
        low, high = _estimated(function, system)
    else:
        low, high = checked_bounds(function, bounds)
    recurrence, directions = Recurrence(low, high, adapts=bounds is None), [np.empty(0)]

    def make(own_b: Array) -> Run:
        def step(x: Array, count: int) -> Array:
            if directions[0].shape != x.shape:
                directions[0] = np.zeros_like(x)
            k = vectors.width(x)
            for piece in pieces(count if x.size else 0, k * system.entries):
                omega, momentum = np.array([recurrence.next() for _ in range(piece)]).T.copy()
                system.of(x.dtype).sweep(x, own_b, directions[0], k, omega, momentum, piece, JACOBI)
            return x

        return Run(step, function, observe=recurrence.observe)

    return solve(function, system, make, b, x0, limits)


_BACKENDS: Backends[LinearSolution[Array]] = {
    "cpu": solve_chebyshev,
    "cuda": Cuda("fastiter.relax._torch.cupy", "solve"),
}


def _estimated(function: str, system: System) -> tuple[float, float]:
    jacobi = jacobi_of(function, system)
    result = spectrum.lanczos(jacobi) if spectrum.is_definite(jacobi) else None
    if result is None:
        raise ValueError(f"{function}: bounds must be given if A is not Hermitian and positive definite, got None")
    smallest, largest = result.low, result.high
    if largest >= 1:
        raise ValueError(f"{function}: bounds must be given if A is not positive definite, got None")
    # The estimates lie inside the spectrum: a larger high costs little, but the mode of an eigenvalue beyond it would
    # grow.
    return 0.95 * (1 - largest), MARGIN * (1 - smallest)


def bounds_of(function: str, rho: float, is_jacobi: bool) -> tuple[float, float]:
    """Return the bounds of M^-1 A for a sweep whose iteration matrix has this spectral radius."""
    if rho >= 1:
        raise ValueError(f"{function}: bounds must be given if the sweep alone does not converge, got rho {rho}")
    return 0.95 * (1 - rho), MARGIN * (1 + rho) if is_jacobi else 1.0


class Chebyshev:
    """x <- x + d, d <- momentum d + omega (sweep(x) - x): any symmetric sweep, accelerated.

    Parameters
    ----------
    relaxation : Relaxation
        A relaxation with a symmetric sweep: Jacobi, SSOR, or ``symmetric=True``. For others the eigenvalues of M^-1 A
        are not real in general, and ValueError is raised.
    bounds : (float, float), optional
        The smallest and the largest eigenvalue of M^-1 A, which is I minus the sweep's iteration matrix. By default
        they are estimated by power iterations, and :meth:`solve` lowers the smallest if necessary.

    Raises
    ------
    TypeError
        If relaxation is no Relaxation, or bounds no pair.
    ValueError
        If the method of the relaxation has no symmetric sweep; if bounds are not low <= high; if they are None, and
        no bounds are known: A is not Hermitian and positive definite, or the sweep alone does not converge.

    See Also
    --------
    chebyshev : The same for Jacobi, as one function.
    Anderson : For sweeps that are not symmetric.
    fastiter.torch.relax.Chebyshev : On tensors.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import Chebyshev, Relaxation
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> ssor = Relaxation(A, "ssor", omega=1.5)
    >>> bool(Chebyshev(ssor).solve(np.ones(50)).steps < ssor.solve(np.ones(50)).steps / 5)
    True
    """

    def __init__(self, relaxation: Relaxation, bounds: tuple[float, float] | None = None) -> None:
        _check_relaxation("Chebyshev", relaxation)
        is_jacobi = METHODS[relaxation.method][0] == "jacobi"
        if not is_jacobi and not relaxation.symmetric:
            raise ValueError(f"Chebyshev: relaxation must have a symmetric sweep, got method {relaxation.method}")
        self.adapts = bounds is None
        if bounds is None:
            apply, start = relaxation._homogeneous, relaxation._system.random()
            # For a singular A, the difference has no component that sweeps leave unchanged.
            rho = spectrum.power(apply, start - apply(start))
            bounds = bounds_of("Chebyshev", rho, is_jacobi)
        self.relaxation, self.bounds = relaxation, checked_bounds("Chebyshev", bounds)

    def __repr__(self) -> str:
        """Return one line."""
        low, high = self.bounds
        return f"Chebyshev({self.relaxation!r}, bounds=({low:.4g}, {high:.4g}))"

    @SOLVER
    def solve(
        self,
        b: Array,
        x0: Array | None = None,
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        max_steps: int = 10_000,
        callback: Callback | None = None,
        throw: bool = False,
        check_every: int = 1,
    ) -> LinearSolution[Array]:
        """Solve A x = b by accelerated sweeps, like :meth:`Relaxation.solve`.

        Parameters
        ----------
        %(vectors)s
        %(limits)s one sweep

        %(result)s
        """
        limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
        return judged("Chebyshev.solve", self._solve("Chebyshev.solve", b, x0, limits), throw)

    def _solve(self, function: str, b: object, x0: object, limits: Limits) -> LinearSolution[Array]:
        recurrence, directions = Recurrence(*self.bounds, adapts=self.adapts), [np.empty(0)]

        def step(x: Array, swept: Array) -> Array:
            if directions[0].shape != x.shape:
                directions[0] = np.zeros_like(x)
            omega, momentum = (x.real.dtype.type(factor) for factor in recurrence.next())
            swept -= x
            swept *= omega
            directions[0] *= momentum
            directions[0] += swept
            x += directions[0]
            return x

        return _solve(function, self.relaxation, ("chebyshev", step, recurrence.observe), b, x0, limits)


class Anderson:
    """x <- the mixture of the last sweeps that minimises sweep(x) - x: Anderson acceleration of any sweep.

    Parameters
    ----------
    relaxation : Relaxation
        A relaxation with any method.
    memory : int
        Number of differences of steps that are kept, at most 1000; each takes the memory of two vectors.

    Raises
    ------
    TypeError, ValueError
        If relaxation is no Relaxation, or memory no int in its range.

    See Also
    --------
    Chebyshev : Without inner products, for symmetric sweeps.
    ssor_cg : For a Hermitian positive definite A.

    References
    ----------
    Anderson, Iterative Procedures for Nonlinear Integral Equations, 1965. Walker and Ni, SIAM J. Numer. Anal. 49, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import Anderson, Relaxation
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> sweep = Relaxation(A, "gauss_seidel")
    >>> bool(Anderson(sweep, memory=10).solve(np.ones(50)).steps < sweep.solve(np.ones(50)).steps / 10)
    True
    """

    def __init__(self, relaxation: Relaxation, memory: int = 5) -> None:
        _check_relaxation("Anderson", relaxation)
        self.relaxation, self.memory = relaxation, vectors.count("Anderson", "memory", memory, 1, MAX_MEMORY)

    def __repr__(self) -> str:
        """Return one line."""
        return f"Anderson({self.relaxation!r}, memory={self.memory})"

    @SOLVER
    def solve(
        self,
        b: Array,
        x0: Array | None = None,
        *,
        rtol: float | None = None,
        atol: float = 0.0,
        max_steps: int = 10_000,
        callback: Callback | None = None,
        throw: bool = False,
        check_every: int = 1,
    ) -> LinearSolution[Array]:
        """Solve A x = b by mixed sweeps, like :meth:`Relaxation.solve`; each column is mixed separately.

        Parameters
        ----------
        %(vectors)s
        %(limits)s one sweep

        %(result)s
        """
        function, limits = "Anderson.solve", Limits(rtol, atol, max_steps, callback, throw, check_every)
        mixtures: list[Mixture] = []

        def step(x: Array, swept: Array) -> Array:
            if not mixtures:
                mixtures.append(Mixture(self.memory, x))
            return mixtures[0].next(x, swept)

        return judged(function, _solve(function, self.relaxation, ("anderson", step, None), b, x0, limits), throw)


def _check_relaxation(function: str, relaxation: object) -> None:
    if not isinstance(relaxation, Relaxation):
        raise TypeError(f"{function}: relaxation must be a Relaxation, got {type_name(relaxation)}")


#: The name of an acceleration, its function of x and the sweep from it, and what observes the residuals
Acceleration = tuple[str, Callable[[Array, Array], Array], Callable[[int, float], int] | None]


def _solve(
    function: str, relaxation: Relaxation, acceleration: Acceleration, b: object, x0: object, limits: Limits
) -> LinearSolution[Array]:
    name, accelerate, observe = acceleration

    def make(own_b: Array) -> Run:
        def step(x: Array, count: int) -> Array:
            for _ in range(count):
                swept = np.array(x)
                relaxation._sweep(swept, 1, own_b)
                x = np.ascontiguousarray(accelerate(x, swept))
            return x

        return Run(step, name, lambda: relaxation.omega, observe)

    return solve(function, relaxation._system, make, b, x0, limits)
