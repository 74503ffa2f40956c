"""Conjugate directions with any preconditioner, linear or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._array_like import as_array
from ..._call.iterate import Callback, Limits
from ..._check import check_array, type_name
from ..._solution import judged
from .._cupy import refuse_cupy
from .._docs import SOLVER
from .._sweeps import vectors
from .._sweeps.matrix import DTYPES, Batch, as_matrix, is_sparse, refuse
from .._sweeps.prepare import System, prepare
from .._sweeps.stencil import OfStencil, Stencil
from .accelerate import MAX_MEMORY
from .iteration import Run, solve
from .result import LinearSolution

Array = npt.NDArray[Any]

#: A d^H A d as negative as this many rounding errors of ||A|| ||d||^2 shows that A is not positive definite.
ROUNDINGS = 100


@SOLVER
def flexible_cg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    precond: Callable[[Array], Array] | Any = None,
    memory: int = 2,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
    check_every: int = 1,
) -> LinearSolution[Array]:
    """d = P(r / ||r||), A-orthogonal to the last directions; x <- x + (d^H r / d^H A d) d: flexible CG.

    P need not be linear, nor the same in each step: a neural network, a few sweeps, a solver in another precision. For
    a symmetric positive definite P two directions are enough to be orthogonal to all, and the steps are those of
    preconditioned conjugate gradients. A must be Hermitian and positive definite; ValueError is raised if it is found
    not to be.

    Parameters
    ----------
    A : (n, n) sparse matrix, NumPy array, Batch, Stencil, operator or callable
        As for :func:`sor`, or matrix-free: an object with ``shape`` and ``@`` or ``matvec``, such as those of
        scipy.sparse.linalg, or a function ``A(x)`` of an x in the shape of b, which is then one right-hand side of any
        shape.
    %(vectors)s
    precond : callable or (n, n) matrix or operator, optional
        ``precond(r)`` or ``precond @ r`` approximates A^-1 r up to a factor, for an r in the shape of b whose columns
        have norm 1; it may return another precision. By default r itself.
    memory : int
        The number of earlier directions to which a new one is made orthogonal, at most 1000; each takes the memory of
        two vectors.
    %(limits)s one direction

    %(result)s

    See Also
    --------
    ssor_cg : Conjugate gradients with SSOR, for less than half the cost of a step.
    fastiter.fixedpoint.refine : Needs only a preconditioner, for any A.
    fastiter.torch.relax.flexible_cg : On tensors, with gradients.

    References
    ----------
    Notay, Flexible Conjugate Gradients, SIAM J. Sci. Comput. 22, 2000. Kaneda et al., A Deep Conjugate Direction Method
    for Iteratively Solving Linear Systems, ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import Relaxation, flexible_cg
    >>> A = 2 * np.eye(50) - np.eye(50, k=1) - np.eye(50, k=-1)
    >>> sweep = Relaxation(A, "ssor", omega=1.5)
    >>> flexible_cg(A, np.ones(50)).steps, flexible_cg(A, np.ones(50), precond=sweep).steps
    (25, 15)
    >>> flexible_cg(A, np.ones(50), precond=lambda r: np.tanh(sweep.matvec(r))).converged
    True
    """
    function = "flexible_cg"
    limits = Limits(rtol, atol, max_steps, callback, throw, check_every)
    size = vectors.count(function, "memory", memory, 0, MAX_MEMORY)
    system = _system(function, A, b)
    own_precond = _checked_precond(function, precond, system)

    def make(own_b: Array) -> Run:
        return _directions(function, system, own_precond, own_b, size)

    return judged(function, solve(function, system, make, b, x0, limits), throw)


def _directions(function: str, system: System, own_precond: Any, own_b: Array, memory: int) -> Run:
    """Return the steps along the directions that a checked preconditioner gives."""

    def residual(x: Array) -> tuple[Array, Array]:
        if isinstance(system, OfOperator):
            r = own_b - system.product(x)
            return r, vectors.norm(r)
        r = np.empty_like(own_b)
        return r, vectors.residual(system.of(r.dtype), x, own_b, r)

    def product(d: Array) -> Array:
        if isinstance(system, OfOperator):
            return system.product(d)
        image = np.empty_like(d)
        vectors.residual(system.of(d.dtype), np.ascontiguousarray(d), np.zeros_like(d), image)
        return np.negative(image, out=image)

    def apply(r: Array) -> Array:
        if own_precond is None:
            return r
        image = applied(function, "precond", own_precond, system, r)
        if not np.isfinite(image).all() and np.isfinite(r).all():
            raise ValueError(f"{function}: precond must return finite numbers, got infinite ones or NaN")
        return image

    directions = Directions(function, np, product, apply, residual, memory)
    is_own = not isinstance(system, OfOperator)
    return Run(directions.steps, function, residual=directions.residual, overflows=is_own)


def _system(function: str, A: Any, b: Any) -> System:
    refuse_cupy(function, A)
    A = as_matrix(function, A)
    if isinstance(A, Stencil):
        return OfStencil(function, A, "natural")
    if is_sparse(A) or isinstance(A, (np.ndarray, Batch)):
        return prepare(function, A, "jacobi", "natural", None)
    is_other = type(A).__module__.partition(".")[0] == "torch" or hasattr(A, "to_numpy")
    if is_other or not (is_operator(A) or callable(A)):
        refuse(function, A)
    b = as_array(function, "b", b)
    check_array(function, "b", b, DTYPES)
    if b.ndim == 0:
        raise ValueError(f"{function}: b must have an axis, got shape ()")
    return OfOperator(function, A, b)


def _checked_precond(function: str, precond: Any, system: System) -> Any:
    """Return a preconditioner: a function, or an operator of the shape of A."""
    if precond is None:
        return precond
    if not is_operator(precond):
        if not callable(precond):
            expected = "a function or a matrix or None"
            raise TypeError(f"{function}: precond must be {expected}, got {type_name(precond)}")
        return precond
    refuse_cupy(function, precond)
    if system.grid is not None or system.batch:
        raise TypeError(f"{function}: precond must be a function if A is not a matrix, got {type_name(precond)}")
    check_operator(function, "precond", precond, system.rows)
    return precond


# ---- The directions, and matrix-free systems -------------------------------------------------------------------------


class Directions:
    """Steps along directions d = P(r / ||r||), A-orthogonal to the last ``memory`` ones, for columns (n,) or (n, k).

    Parameters
    ----------
    function : str
        The name for messages.
    xp : module
        numpy or torch; the callables take and return its arrays, vectors (n,) or (n, k).
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
        """Return d^H A d, 0 where it is only rounding error; refuse an A that is not positive definite."""
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
    """Return whether an object multiplies vectors, as SciPy's operators and matrices do."""
    return hasattr(A, "matvec") or (hasattr(A, "__matmul__") and hasattr(A, "shape"))


def check_operator(function: str, name: str, A: Any, rows: int | None) -> int:
    """Return n of an operator (n, n); refuse other shapes."""
    shape = tuple(A.shape)
    if len(shape) != 2 or shape[0] != shape[1] or (rows is not None and shape[0] != rows):
        expected = "(n, n)" if rows is None else f"({rows}, {rows}) like A"
        raise ValueError(f"{function}: {name} must have shape {expected}, got {shape}")
    return int(shape[0])


def applied(function: str, name: str, operator: Any, system: System, x: Array) -> Array:
    """Apply an operator to vectors in the kernels' layout; the result has the same layout and dtype."""
    outer = np.array(vectors.outside(system, x), order="C")
    if not is_operator(operator):
        result = operator(outer)
    else:
        result = operator @ outer if hasattr(operator, "__matmul__") else operator.matvec(outer)
    if not isinstance(result, np.ndarray) or result.shape != outer.shape or result.dtype.kind not in "fc":
        got = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type_name(result)
        raise ValueError(f"{function}: {name} must return floating-point numbers of shape {outer.shape}, got {got}")
    if result.dtype.kind == "c" and x.dtype.kind != "c":
        raise TypeError(f"{function}: {name} must return real numbers like b, got {result.dtype}")
    return vectors.inside(system, system.unknowns(result.astype(x.dtype)))
