"""omega="auto": the choice of omega from an estimate of the spectral radius, for each method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._sweeps.matrix import read_csr
from .._sweeps.order import Arrangement
from .._sweeps.prepare import OfBlocks, Projections, Scalar, System
from .._sweeps.stencil import OfStencil
from . import spectrum

Array = npt.NDArray[Any]

#: Safety factor: the largest eigenvalue of D^-1 A may exceed its estimate by this much
MARGIN = 1.02

#: Candidate omegas for projections, SSOR in blocks and SSOR where Jacobi diverges, which have no formula; the number
#: of sweeps before the trials, and the number with each candidate
CANDIDATES, FIRST_SWEEPS, TRIAL_SWEEPS = (1.0, 1.3, 1.5, 1.7, 1.8, 1.9, 1.95), 200, 20


class Choice(NamedTuple):
    """An omega, and whether the theory behind it appears to hold."""

    omega: float
    is_sure: bool


def is_measured(sweep: str, symmetric: bool, system: System) -> bool:
    """Return whether a sweep has no formula for omega, so that each candidate is measured."""
    return sweep == "kaczmarz" or (symmetric and isinstance(system, OfBlocks) and not system.is_coloured)


def choice_of(
    function: str, sweep: str, symmetric: bool, system: System, apply: Callable[[Array, float], Array]
) -> Choice:
    """Return omega for a sweep, "jacobi", "sor" or "kaczmarz"; ``apply`` does one sweep with an omega for b = 0."""
    if symmetric and system.is_coloured:
        return Choice(1.0, True)  # the optimum: in such an order SSOR gains nothing from an omega
    if is_measured(sweep, symmetric, system):
        return Choice(_of_smallest_growth(system, apply), True)
    result = spectrum.jacobi_spectrum(jacobi_of(function, system))
    if symmetric and sweep == "sor" and result.low <= -1:
        return Choice(_of_smallest_growth(system, apply), False)
    return by_formula(result, sweep, symmetric)


def by_formula(result: spectrum.Spectrum, sweep: str, symmetric: bool) -> Choice:
    """Return omega for a sweep, "jacobi" or "sor", from the spectrum of I - D^-1 A."""
    if sweep == "jacobi":
        return Choice(jacobi_omega(result.low, result.high), result.is_real)
    if symmetric:
        return Choice(ssor_omega(result.high), result.is_real)
    return Choice(spectrum.young(result.beta), result.is_real and result.low > -1.01)


def jacobi_omega(low: float, high: float) -> float:
    """The optimum for eigenvalues of I - D^-1 A in [low, high], made safe: Jacobi diverges if low is a little lower.

    Lanczos estimates lie inside the spectrum, and their error may exceed the margin 1 - high. Power iterations estimate
    low = -rho and high = rho, for which the optimum is 1.
    """
    if high >= 1:
        return 1.0
    return 1.0 if low == -high else 2 / (MARGIN * (1 - low) + 1 - high)


def ssor_omega(high: float) -> float:
    """An omega near SSOR's optimum, to which SSOR is far less sensitive than SOR to its own.

    `high` is the largest eigenvalue of I - D^-1 A, below 1 if A is positive definite; the smallest is arbitrary. At 1
    and beyond the formula gives 2, with which a sweep has no effect.
    """
    return 2 / (1 + math.sqrt(2 * (1 - high))) if high < 1 else 1.0


def jacobi_of(function: str, system: Any) -> System:
    """Return the system of Jacobi's method for the same A and the same blocks."""
    if isinstance(system, OfStencil):
        return system
    if isinstance(system, OfBlocks):
        return OfBlocks(function, system.A, Arrangement(), jacobi=True)
    if isinstance(system, Scalar) and system.jacobi:
        return system
    csr = system.A if isinstance(system, Scalar) else read_csr(function, system.A)
    return Scalar(function, csr, Arrangement(), jacobi=True)


def _of_smallest_growth(system: System, apply: Callable[[Array, float], Array]) -> float:
    """Return the omega with the smallest asymptotic error reduction factor, measured on a vector of slow modes."""
    slow, middle = system.random(), CANDIDATES[2]
    if not isinstance(system, Projections):  # projections' random vectors have no component that sweeps do not change
        slow = slow - apply(slow, middle)
    smallest = float(np.linalg.norm(slow)) * float(np.finfo(slow.dtype).eps) ** 0.5  # below: rounding error
    for _ in range(FIRST_SWEEPS):
        swept = apply(slow, middle)
        if not np.linalg.norm(swept) > smallest:
            break
        slow = swept

    def growth(omega: float) -> float:
        return spectrum.power(lambda x: apply(x, omega), slow, TRIAL_SWEEPS)

    result = {omega: growth(omega) for omega in CANDIDATES}
    smallest = min(result, key=lambda omega: result[omega])
    return smallest if result[smallest] < 0.99 * result[1.0] else 1.0
