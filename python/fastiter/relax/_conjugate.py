"""Flexible conjugate directions on arrays or tensors, and systems whose matrix is known by its products alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._check import type_name
from . import _vectors
from ._prepare import System

Array = npt.NDArray[Any]

#: A d^H A d as negative as this many rounding errors of ||A|| ||d||^2 shows that A is not positive definite.
ROUNDINGS = 100


class Directions:
    """Steps along directions d = P(r / ||r||), A-orthogonal to the last ``memory`` ones, for columns (n,) or (n, k).

    Parameters
    ----------
    function : str
        The name for messages.
    xp : module
        numpy or torch, of whose arrays the callables take and return vectors (n,) or (n, k).
    product, precond, residual : callable
        d -> A d; r / ||r|| -> P(r / ||r||); x -> b - A x and its norms (k,) on the host.
    memory : int
        The number of earlier directions.
    """

    def __init__(
        self,
        function: str,
        xp: Any,
        product: Callable[[Any], Any],
        precond: Callable[[Any], Any],
        residual: Callable[[Any], tuple[Any, Array]],
        memory: int,
    ) -> None:
        self.function, self.xp, self.memory = function, xp, memory
        self._product, self._precond, self._residual = product, precond, residual
        self._earlier: deque[tuple[Any, Any, Any]] = deque(maxlen=memory)  # d, A d and d^H A d
        self._scale: Any = 0.0

    def residual(self, x: Any) -> Array:
        """Return the norms of b - A x, from which the next step begins."""
        self.r, norms = self._residual(x)
        return norms

    def steps(self, x: Any, count: int) -> Any:
        """Return x after ``count`` steps."""
        for _ in range(count if len(x) else 0):
            x = self._step(x)
        return x

    def _step(self, x: Any) -> Any:
        d = self._unit(self._precond(self._unit(self.r)))
        for earlier, image, energy in self._earlier:
            d = d - self._over(self._dot(image, d), energy) * earlier
        image = self._product(d)
        energy = self._energy(d, image)
        alpha = self._over(self._dot(d, self.r), energy)
        self._earlier.append((d, image, energy))
        self.r = self.r - alpha * image
        return x + alpha * d

    def _unit(self, v: Any) -> Any:
        """Return the columns divided by their norms, which neither overflow nor underflow; zeros stay zeros."""
        v = self._over(v, self.xp.amax(abs(v), 0))
        return self._over(v, self._norm(v))

    def _norm(self, v: Any) -> Any:
        return self.xp.sqrt(self._dot(v, v).real)

    def _dot(self, u: Any, v: Any) -> Any:
        return (u.conj() * v).sum(0)

    def _over(self, u: Any, v: Any) -> Any:
        """Return u / v, and 0 where v is 0."""
        return self.xp.where(v != 0, u / self.xp.where(v != 0, v, 1), 0)

    def _energy(self, d: Any, image: Any) -> Any:
        """Return d^H A d, 0 where it is but rounding; refuse an A that is not positive definite."""
        energy, square = self._dot(d, image).real, self._dot(d, d).real
        # the largest ||A d|| / ||d|| so far, a lower bound of ||A||
        self._scale = self.xp.fmax(self._over(self._norm(image), self.xp.sqrt(square)), self._scale + 0 * square)
        rounding = ROUNDINGS * float(self.xp.finfo(energy.dtype).eps) * self._scale * square
        if bool((energy < -rounding).any()):
            raise ValueError(f"{self.function}: A must be positive definite, got a direction d with d^H A d < 0")
        return self.xp.where(energy < 0, 0, energy)


class OfOperator(System):
    """A system whose matrix is a function x -> A x, or an object with ``matvec`` and ``@``."""

    def __init__(self, function: str, A: Any, b: Array) -> None:
        rows = b.size
        if is_operator(A):
            rows = check_operator(function, "A", A, None)
        super().__init__(function, rows, rows, b.dtype)
        self.grid = None if is_operator(A) else b.shape
        self._apply = A

    def product(self, x: Array) -> Array:
        """Return A x in the layout of x, (n,) or (n, k)."""
        return applied(self.function, "A", self._apply, self, x)


def is_operator(A: object) -> bool:
    """Say whether an object multiplies vectors, as SciPy's operators and matrices do."""
    return hasattr(A, "matvec") or (hasattr(A, "__matmul__") and hasattr(A, "shape"))


def check_operator(function: str, name: str, A: Any, rows: int | None) -> int:
    """Return n of an operator (n, n); refuse other shapes."""
    shape = tuple(A.shape)
    if len(shape) != 2 or shape[0] != shape[1] or (rows is not None and shape[0] != rows):
        expected = "(n, n)" if rows is None else f"({rows}, {rows}) like A"
        raise ValueError(f"{function}: {name} must have shape {expected}, got {shape}")
    return int(shape[0])


def applied(function: str, name: str, operator: Any, system: System, x: Array) -> Array:
    """Return what an operator makes of vectors in the kernels' layout, in their dtype, in that layout."""
    given = np.array(_vectors.outside(system, x), order="C")
    if not is_operator(operator):
        found = operator(given)
    else:
        found = operator @ given if hasattr(operator, "__matmul__") else operator.matvec(given)
    if not isinstance(found, np.ndarray) or found.shape != given.shape or found.dtype.kind not in "fc":
        got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type_name(found)
        raise ValueError(f"{function}: {name} must return floating-point numbers of shape {given.shape}, got {got}")
    if found.dtype.kind == "c" and x.dtype.kind != "c":
        raise TypeError(f"{function}: {name} must return real numbers like b, got {found.dtype}")
    return _vectors.inside(system, system.unknowns(found.astype(x.dtype)))
