"""Solvers for the square systems of single parts: symmetric sweeps, or a factorisation."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...._backend import BackendError
from ..._omega.auto import ssor_omega
from ..._omega.spectrum import jacobi_spectrum
from ..._sweeps.matrix import Csr
from ..._sweeps.order import Arrangement
from ..._sweeps.prepare import Scalar
from .preconditioners import SymmetricSweep

Array = npt.NDArray[Any]


class Ssor:
    """One symmetric sweep from 0 over A in the order of the rows."""

    def __init__(self, function: str, A: Csr, omega: float | None) -> None:
        self.omega = best_omega(function, A) if omega is None else omega
        self._sweep = SymmetricSweep(A, self.omega)

    def __call__(self, r: Array) -> Array:
        """Return an approximation of A^-1 r for r (m, k), contiguous."""
        z = np.empty_like(r)
        self._sweep(r, np.empty_like(r), z)
        return z


class Exact:
    """SciPy's sparse LU factorisation (SuperLU): A^-1 up to rounding."""

    def __init__(self, function: str, A: Csr, omega: float | None) -> None:
        if importlib.util.find_spec("scipy") is None:
            raise BackendError(f"{function}: local='exact' needs the package scipy, which is not installed")
        sparse = importlib.import_module("scipy.sparse")
        solver = importlib.import_module("scipy.sparse.linalg")
        matrix = sparse.csr_array((A.value, A.column, A.start), shape=(A.n, A.n)).tocsc()
        try:
            self._factors = solver.splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        except RuntimeError as error:  # a singular matrix
            raise ValueError(f"{function}: A must have no singular part with its overlap, got one ({error})") from None

    def __call__(self, r: Array) -> Array:
        """Return A^-1 r for r (m, k)."""
        return np.ascontiguousarray(self._factors.solve(r))


def best_omega(function: str, A: Csr) -> float:
    """Return SSOR's omega from an estimate of the largest eigenvalue of I - D^-1 A; 1 if A is not definite."""
    result = jacobi_spectrum(Scalar(function, A, Arrangement(), jacobi=True))
    return 1.0 if result.is_nearly_singular or not result.is_real else max(1.0, ssor_omega(result.high))


#: The local solvers by name
LOCAL: dict[str, Callable[[str, Csr, float | None], Callable[[Array], Array]]] = {"ssor": Ssor, "exact": Exact}
