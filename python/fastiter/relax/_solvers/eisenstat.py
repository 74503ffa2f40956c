"""Conjugate gradients with an SSOR preconditioner, at the cost of one product with A per step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Callback, Limits
from ..._solution import judged
from .._cupy import refuse_cupy
from .._docs import SOLVER
from .._omega import spectrum
from .._omega.auto import jacobi_of, ssor_omega
from .._sweeps import vectors
from .._sweeps.matrix import read_csr, square
from .._sweeps.order import Arrangement, Order, arrange
from .._sweeps.prepare import BACKWARD, FORWARD, LOWER, UPPER, Scalar, System, by_values
from .._sweeps.stencil import OfStencil, Stencil
from .iteration import Run
from .iteration import solve as iterated
from .methods import check_omega
from .result import LinearSolution

Array = npt.NDArray[Any]


@SOLVER
def ssor_cg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    omega: float | Literal["auto"] = 1.0,
    order: Order = "natural",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 5,
) -> LinearSolution[Array]:
    """CG on (E + L)^-1 A (E + U)^-1, E = D / omega, which is CG preconditioned by SSOR (Eisenstat's trick).

    As A = (E + L) + (E + U) - (2 E - D), a product with this matrix takes one solve with E + L and one with E + U, as
    much work as a product with A alone: t = (E + U)^-1 p, (E + L)^-1 A t = t + (E + L)^-1 (p - (2 E - D) t).

    A must be Hermitian and positive definite; ValueError is raised if it is found not to be. The systems of a batch
    each take their own number of steps. With a coloured order the triangular solves run on all threads. As the check of
    the residual costs about as much as a step, ``check_every`` is 5 by default.

    Parameters
    ----------
    %(A)s
    %(vectors)s
    %(fixed_omega)s in (0, 2), by default 1, as the estimate takes about as long as some tens of steps
    %(order)s
    %(limits)s one of CG

    %(result)s

    See Also
    --------
    ssor : The preconditioner as a separate method.
    chebyshev : Without inner products.

    References
    ----------
    Eisenstat, Efficient Implementation of a Class of Preconditioned Conjugate Gradient Methods, SIAM J. Sci. Stat.
    Comput. 2, 1981.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import ssor_cg
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> ssor_cg(A, np.ones(50), omega=1.5).steps
    15
    """
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    return judged("ssor_cg", solve("ssor_cg", A, b, x0, limits, omega=omega, order=order), throw)


def solve(
    function: str, A: Any, b: Array, x0: Array | None, limits: Limits, *, omega: object, order: object
) -> LinearSolution[Array]:
    """:func:`ssor_cg`, which neither warns nor raises if it has not converged."""
    refuse_cupy(function, A)
    check_omega(function, "ssor", omega)
    split = _split_stencil(function, A, order) if isinstance(A, Stencil) else _split_rows(function, A, order)
    factor = _auto(function, split, order) if isinstance(omega, str) else float(omega)  # type: ignore[arg-type]

    def make(own_b: Array) -> Run:
        return Run(_Cg(function, split, factor, own_b).steps, "ssor_cg", lambda: factor)

    return iterated(function, split.system, make, b, x0, limits)


@dataclass(frozen=True)
class _Split:
    """A, the systems for sweeps over D / omega + L and D / omega + U, and D (n,) or (n, batch), 0 where x is given."""

    system: System
    lower: System
    upper: System
    diagonal: Array
    is_coloured: bool


def _split_rows(function: str, A: Any, order: Any) -> _Split:
    A = square(function, A)
    csr = by_values(A, read_csr(function, A), order)
    system, arrangement = Scalar(function, csr, Arrangement()), arrange(function, csr, order)
    lower, upper = (Scalar(function, csr, arrangement, part=part) for part in (LOWER, UPPER))
    row = np.repeat(np.arange(csr.n), np.diff(csr.start))
    return _Split(system, lower, upper, csr.value[..., row == csr.column].T, arrangement.is_coloured)


def _split_stencil(function: str, A: Stencil, order: Any) -> _Split:
    """Use all of A for both triangles: a sweep from 0 reads zeros where the other triangle's unknowns would be."""
    system = OfStencil(function, A, order)
    return _Split(system, system, system, system.diagonal, system.is_coloured)


#: SSOR's theoretical bound 1/4 roughly holds if the spectral radius of D^-1 L D^-1 U, by this many powers, is below
#: this.
MAX_RADIUS, POWERS = 0.4, 20

#: CG needs less over-relaxation than SSOR alone: this fraction of omega - 1 is as good or better.
OF_CG = 0.75


def _auto(function: str, split: _Split, order: object) -> float:
    if split.is_coloured or not _has_theory(split, order):
        return 1.0  # the optimum: SSOR gains nothing from an omega there
    result = spectrum.jacobi_spectrum(jacobi_of(function, split.system))
    if result.is_nearly_singular:
        return 1.0  # its effect depends on b
    best = ssor_omega(result.high)
    return 1 + OF_CG * max(best - 1, 0.0)


def _has_theory(split: _Split, order: object) -> bool:
    """Return whether D^-1 L D^-1 U is small enough for SSOR to gain from an omega."""
    if split.lower is split.upper:  # a stencil: small enough, in the orders that go from neighbour to neighbour
        return isinstance(order, str)
    d = split.diagonal

    def apply(x: Array) -> Array:
        x = (split.upper.times(x) - d * x) / d
        result: Array = (split.lower.times(x) - d * x) / d
        return result

    if not d.all():
        return False
    return spectrum.power(apply, split.system.random(), POWERS) <= MAX_RADIUS


class _Cg:
    """The state of CG: r and p of the preconditioned system, and x of the original one."""

    def __init__(self, function: str, split: _Split, omega: float, b: Array) -> None:
        self.function, self.omega, self.b, self.split = function, omega, b, split
        d = split.diagonal.astype(b.dtype)
        self.d = d.reshape(d.shape + (1,) * (b.ndim - d.ndim))
        self.is_begun = False

    def _lower(self, r: Array) -> Array:
        return self._solved(self.split.lower, r, FORWARD)

    def _upper(self, r: Array) -> Array:
        return self._solved(self.split.upper, r, BACKWARD)

    def _solved(self, triangle: System, r: Array, kind: int) -> Array:
        """(E + L)^-1 r or (E + U)^-1 r: a sweep from 0 over a triangle."""
        x = np.zeros_like(r)
        omega = np.array([self.omega])
        triangle.of(r.dtype).sweep(x, np.ascontiguousarray(r), 0, vectors.width(r), omega, 0, 1, kind)
        return x

    def _begin(self, x: Array) -> None:
        r = np.empty_like(self.b)
        vectors.residual(self.split.system.of(r.dtype), x, self.b, r)
        self.r = self._lower(r)
        self.p = self.d / self.omega * self.r
        self.energy = self._dot(self.r, self.p)
        self.is_begun = True

    def _dot(self, u: Array, v: Array) -> Array:
        product: Array = np.sum(np.conj(u) * v, axis=0).real
        return product

    def steps(self, x: Array, count: int) -> Array:
        """Return x after `count` steps."""
        if x.size == 0:
            return x
        if not self.is_begun:
            self._begin(x)
        e = self.d / self.omega
        for _ in range(count):
            t = self._upper(self.p)
            w = t + self._lower(self.p - (2 * e - self.d) * t)
            curvature = self._dot(self.p, w)
            if (curvature < 0).any():
                raise ValueError(f"{self.function}: A must be positive definite, got a direction p with p^H A p < 0")
            alpha = np.where(curvature > 0, self.energy / np.where(curvature > 0, curvature, 1), 0)
            alpha = np.where(np.isnan(curvature), np.nan, alpha).astype(x.real.dtype)
            x = x + alpha * t
            self.r = self.r - alpha * w
            z = e * self.r
            energy = self._dot(self.r, z)
            beta = np.where(self.energy > 0, energy / np.where(self.energy > 0, self.energy, 1), 0).astype(x.real.dtype)
            self.energy, self.p = energy, z + beta * self.p
        return x
