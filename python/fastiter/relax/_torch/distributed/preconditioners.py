"""Preconditioners M of distributed solvers: z = M^-1 r from this rank's rows of r."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .... import _core
from ..._sweeps.matrix import NUMBERS, Csr
from ..._sweeps.prepare import BACKWARD, FORWARD, LOWER, UPPER
from .matrix import RowMatrix

Array = npt.NDArray[Any]


class Identity:
    """M = I."""

    #: Whether M is symmetric if A is, as conjugate gradients require
    is_symmetric = True

    def apply(self, r: Array) -> Array:
        """Return M^-1 r for r (n_local, k), contiguous; the next call overwrites it. For M = I it is r itself."""
        return r


class Jacobi(Identity):
    """M = D, the diagonal of A: no messages."""

    def __init__(self, A: RowMatrix, omega: float) -> None:
        diagonal = [diagonal_of(part.own) for part in A._parts]
        self._inverse = 1 / np.concatenate([np.zeros(0, A._numpy_dtype), *diagonal])[:, np.newaxis]
        self._result = np.empty((0, 0), A._numpy_dtype)

    def apply(self, r: Array) -> Array:
        """Return D^-1 r."""
        if self._result.shape != r.shape:
            self._result = np.empty_like(r)
        return np.multiply(self._inverse, r, out=self._result)


class BlockJacobi(Identity):
    """M is block diagonal with the SSOR of each part's block A_p = L + D + U, E = D / omega: no messages.

    M_p = (E + L) (2 E - D)^-1 (E + U): M_p^-1 r is one symmetric sweep from 0, and each half sweep reads one triangle.
    """

    def __init__(self, A: RowMatrix, omega: float) -> None:
        self._half = self._result = np.empty((0, 0), A._numpy_dtype)
        parts = [part for part in A._parts if part.own.n]
        self._sweeps = [(slice(part.first, part.last), SymmetricSweep(part.own, omega)) for part in parts]

    def apply(self, r: Array) -> Array:
        """Return M^-1 r."""
        if self._half.shape != r.shape:
            self._half, self._result = np.empty_like(r), np.empty_like(r)
        for rows, sweep in self._sweeps:
            sweep(r[rows], self._half[rows], self._result[rows])
        return self._result


class SymmetricSweep:
    """A forward and a backward sweep from 0 over A = L + D + U, each of which reads one triangle.

    With E = D / omega it is (E + U)^-1 (2 E - D) (E + L)^-1 r.
    """

    def __init__(self, A: Csr, omega: float) -> None:
        self._lower, self._upper, self._middle = triangles(A, omega)
        self._omega = np.array([omega])

    def __call__(self, r: Array, half: Array, z: Array) -> None:
        """Write the result for r (m, k) to z; all are contiguous, and ``half`` is work space."""
        k = r.shape[1]
        half.fill(0)
        z.fill(0)
        self._lower.sweep(half, r, 0, k, self._omega, 0, 1, FORWARD)
        half *= self._middle
        self._upper.sweep(z, half, 0, k, self._omega, 0, 1, BACKWARD)


def triangles(A: Csr, omega: float) -> tuple[Any, Any, Array]:
    """Return the systems for sweeps over E + L and over E + U, and 2 E - D (m, 1)."""
    numbers = NUMBERS[A.value.dtype.name, A.value.dtype.name]
    arrays = (A.start, A.column, A.value, 0, 0, 0)
    lower, upper = (_core.relax.csr(numbers, A.n, *arrays, part, 0) for part in (LOWER, UPPER))
    return lower, upper, (A.value.dtype.type(2 / omega - 1) * diagonal_of(A))[:, np.newaxis]


def diagonal_of(A: Csr) -> Array:
    """Return the diagonal of a block whose rows all have one."""
    row = np.repeat(np.arange(A.n), np.diff(A.start))
    result: Array = A.value[row == A.column]
    return result


#: The preconditioners by name, as functions of a matrix and omega
PRECONDITIONERS: dict[str, Callable[[RowMatrix, float], Identity]] = {
    "jacobi": Jacobi,
    "block_jacobi": BlockJacobi,
}


def preconditioner_of(A: RowMatrix, which: Any, omega: float) -> Identity:
    """Return the preconditioner with this name or these options, which the matrix caches."""
    if which is None:
        return Identity()
    key = (which, omega if isinstance(which, str) else None)
    if key not in A._cache:
        A._cache[key] = PRECONDITIONERS[which](A, omega) if isinstance(which, str) else which._prepared(A)
    result: Identity = A._cache[key]
    return result
