"""omega="auto": what an estimate of a spectral radius says for each method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _spectrum
from ._matrix import read_csr
from ._order import Arrangement
from ._prepare import OfBlocks, Scalar, System
from .stencil import OfStencil

Array = npt.NDArray[Any]

#: By how much the largest eigenvalue of D^-1 A may exceed its estimate
MARGIN = 1.02

#: Among these projections, SSOR in blocks and SSOR where Jacobi diverges look for theirs, as no formula gives it: so
#: many sweeps to begin with, and so many with each.
CANDIDATES, FIRST_SWEEPS, TRIAL_SWEEPS = (1.0, 1.3, 1.5, 1.7, 1.8, 1.9, 1.95), 200, 20


def omega_of(
    function: str, A: Any, sweep: str, symmetric: bool, system: System, apply: Callable[[Array, float], Array]
) -> float:
    """Return omega for a sweep, "jacobi", "sor" or "kaczmarz"; ``apply`` is one, with this omega, for b = 0."""
    if symmetric and system.is_coloured:
        return 1.0  # the best there is: in such an order SSOR gains nothing from an omega
    if sweep == "kaczmarz" or (symmetric and isinstance(system, OfBlocks)):
        return _of_least_growth(system, apply)
    low, high = _spectrum.jacobi_range(jacobi_of(function, A, system))
    if sweep == "jacobi":
        return jacobi_omega(low, high)
    if symmetric:
        return ssor_omega(high) if low > -1 else _of_least_growth(system, apply)
    return _spectrum.young(max(-low, high))


def jacobi_omega(low: float, high: float) -> float:
    """The best for eigenvalues of I - D^-1 A from low to high, but safe: Jacobi diverges where low is a little lower.

    Lanczos' estimates come from inside and may be off by more than the 1 - high that there is room for. Powers give
    -rho and rho, and so 1.
    """
    if high >= 1:
        return 1.0
    return 1.0 if low == -high else 2 / (MARGIN * (1 - low) + 1 - high)


def ssor_omega(high: float) -> float:
    """Near SSOR's best, to which it is far less sensitive than SOR to its own.

    `high` is the largest eigenvalue of I - D^-1 A, which is below 1 where A is positive definite; the least may be
    anything. At 1 and beyond the formula says 2, with which no sweep does anything.
    """
    return 2 / (1 + math.sqrt(2 * (1 - high))) if high < 1 else 1.0


def jacobi_of(function: str, A: Any, system: System) -> System:
    """Return the system of Jacobi's method for the same A, and the same blocks."""
    if isinstance(system, OfStencil):
        return system
    if isinstance(system, OfBlocks):
        return OfBlocks(function, system.A, Arrangement(), jacobi=True)
    if isinstance(system, Scalar) and system.jacobi:
        return system
    csr = system.A if isinstance(system, Scalar) else read_csr(function, A)
    return Scalar(function, csr, Arrangement(), jacobi=True)


def _of_least_growth(system: System, apply: Callable[[Array, float], Array]) -> float:
    """The candidate whose sweeps shrink a vector most in which sweeps have left only what is slow."""
    slow, middle = system.random(), CANDIDATES[2]
    least = float(np.linalg.norm(slow)) * float(np.finfo(slow.dtype).eps) ** 0.5  # below, rounding is what is left
    for _ in range(FIRST_SWEEPS):
        swept = apply(slow, middle)
        if not np.linalg.norm(swept) > least:
            break
        slow = swept

    def growth(omega: float) -> float:
        return _spectrum.power(lambda x: apply(x, omega), slow, TRIAL_SWEEPS)

    return min(CANDIDATES, key=growth)
