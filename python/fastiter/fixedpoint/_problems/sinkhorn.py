"""Entropic optimal transport by Sinkhorn's iteration in the log domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_arrays
from ..._check import check_arrays, check_flag, count, positive
from ..._solution import Solution, all_of, judged, plural

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SinkhornSolution(Solution):
    """The potentials of an entropic transport problem, or of each problem of a batch, and the state of convergence.

    Attributes
    ----------
    value : tuple of (n,) and (m,), or of (B, n) and (B, m)
        The potentials f and g, in the dtype and units of the costs; -inf where there is no mass.
    converged : bool or (B,)
        True where the residual is within ``tol``.
    steps : int or (B,)
        The updates of f.
    residual : float or (B,)
        ``sum_i |sum_j P_ij - a_i|`` of the plan; its sums over i equal b_j up to rounding.
    method, reason : str
        "sinkhorn", and the reason for ending, for a batch one for each problem: "converged", "max_steps" or "nan".
    epsilon, tolerance : float
        The strength of the entropy, in units of the costs, and the residual at which it converges.

    See Also
    --------
    sinkhorn : Returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import sinkhorn
    >>> found = sinkhorn(np.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.5)
    >>> found.plan.round(3)
    array([[0.44, 0.06],
           [0.06, 0.44]])
    """

    epsilon: float
    tolerance: float
    #: C, a and b
    _problem: Any

    @property
    def plan(self) -> Any:
        """The plan P = exp((f + g - C) / epsilon), (n, m) or (B, n, m), made on access."""
        (f, g), C = self.value, self._problem[0]
        exponent = (f[..., :, None] + g[..., None, :] - C) / self.epsilon
        return np.exp(exponent) if isinstance(exponent, np.ndarray) else exponent.exp()

    @property
    def cost(self) -> Any:
        """The cost sum P C of the plan: a number, or (B,)."""
        return (self.plan * self._problem[0]).sum((-2, -1))

    @property
    def dual(self) -> Any:
        """The value f.a + g.b of the dual problem, without the constant epsilon sum P: a number, or (B,)."""
        (f, g), (_, a, b) = self.value, self._problem
        return _products(f, a).sum(-1) + _products(g, b).sum(-1)

    def _failure(self) -> str | None:
        if bool(all_of(self.converged)):
            return None
        single = isinstance(self.reason, str)
        residual, steps = ([x] if single else x.tolist() for x in (self.residual, self.steps))
        k = max(range(len(residual)), key=lambda k: np.inf if residual[k] != residual[k] else residual[k])
        which = "" if single else f" in problem {k}"
        return (
            f"the sums of the plan must come within {self.tolerance:.2g} of a, got {residual[k]:.2g} after "
            f"{plural(int(steps[k]))}{which}; try a larger max_steps or epsilon"
        )


def _products(potentials: Any, masses: Any) -> Any:
    """Return potentials times masses: 0 where there is no mass, although the potential is -inf."""
    if isinstance(masses, np.ndarray):
        return np.where(masses > 0, potentials, 0) * masses
    return potentials.where(masses > 0, potentials.new_zeros(())) * masses


def sinkhorn(
    C: Array,
    a: Array | None = None,
    b: Array | None = None,
    *,
    epsilon: float = 1.0,
    tol: float | None = None,
    max_steps: int = 10_000,
    x0: tuple[Array, Array] | None = None,
    throw: bool = False,
) -> SinkhornSolution:
    """f <- epsilon (log a - log sum_j exp((g - C) / epsilon)), and g likewise: entropic optimal transport.

    The plan P = exp((f + g - C) / epsilon) minimises ``sum P C + epsilon sum P (log P - 1)`` among those with the row
    sums a and the column sums b.

    Parameters
    ----------
    C : (n, m) or (B, n, m)
        The costs, float32 or float64, finite.
    a : (n,) or (B, n), optional
        The masses of the rows, not negative, with a sum above 0; by default ``1 / n``. A row without mass has the
        potential -inf, and zeros in the plan.
    b : (m,) or (B, m), optional
        The masses of the columns, likewise, with the sum of a; by default ``sum(a) / m``.
    epsilon : float
        The strength of the entropy, in units of the costs.
    tol : float, optional
        A problem has converged when ``sum_i |sum_j P_ij - a_i| <= tol``: by default 1e-4 of the mass in float32,
        1e-9 in float64.
    max_steps : int
        The maximum number of updates of f.
    x0 : tuple of two arrays, optional
        The first f and g, such as the value of an earlier solution; by default 0; entries without mass are always set
        to -inf. The first update is that of g.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if it has not converged.

    Returns
    -------
    SinkhornSolution
        The potentials, with the plan and its cost.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype, shape or value.
    ConvergenceError
        If a problem does not converge and ``throw`` is True.

    Warns
    -----
    ConvergenceWarning
        If a problem does not converge; its value is the last iterate.

    See Also
    --------
    fixed_point : Iterations for any map.

    References
    ----------
    .. [1] M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013.
    .. [2] G. Peyre and M. Cuturi, "Computational optimal transport", 2019, section 4.4.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import sinkhorn
    >>> x, y = np.linspace(0, 1, 5), np.linspace(0, 1, 4)
    >>> found = sinkhorn((x[:, None] - y) ** 2, epsilon=0.05)
    >>> found.converged, bool(np.allclose(found.plan.sum(axis=0), 0.25))
    (True, True)
    """
    C, a, b = as_arrays("sinkhorn", ("C", "a", "b"), (C, a, b))
    check_arrays("sinkhorn", ("C",), (C,))
    check_costs(C.shape, bool(np.isfinite(C).all()))
    *batch, n, m = C.shape
    a = np.full((*batch, n), 1 / n, C.dtype) if a is None else _masses("a", a, C, (*batch, n))
    total = a.sum(axis=-1, dtype=np.float64)
    even = np.repeat((total[..., None] / m).astype(C.dtype), m, axis=-1)
    b = even if b is None else _masses("b", b, C, (*batch, m))
    check_sums(total, b.sum(axis=-1, dtype=np.float64), float(np.finfo(C.dtype).eps))
    limits = limits_of(C.dtype.itemsize, float(total.max(initial=0)), epsilon, tol, max_steps, throw)
    f, g = _start(C, x0, (*batch, n), (*batch, m))
    f[a == 0] = -np.inf
    samples = batch[0] if batch else 1
    steps, residual, ended = np.zeros(samples, np.int64), np.zeros(samples), np.zeros(samples, np.uint8)
    with np.errstate(divide="ignore"):
        arrays = (np.ascontiguousarray(C), np.log(a), np.log(b), f, g)
    _core.fixedpoint.sinkhorn(8 * C.dtype.itemsize, (samples, n, m), arrays, limits, (steps, residual, ended))
    numbers = (ended.astype(bool), steps, residual)
    return judged("sinkhorn", solution_of((f, g), numbers, bool(batch), limits, (C, a, b)), throw)


def check_costs(shape: tuple[int, ...], is_finite: bool) -> None:
    """Check the shape of the costs, and that they are finite."""
    if len(shape) not in (2, 3):
        raise ValueError(f"sinkhorn: C must have shape (n, m) or (B, n, m), got {tuple(shape)}")
    if 0 in shape[-2:]:
        raise ValueError(f"sinkhorn: C must have rows and columns, got shape {tuple(shape)}")
    if not is_finite:
        raise ValueError("sinkhorn: C must be finite, got NaN or infinite elements")


def check_sums(total: Any, other: Any, eps: float) -> None:
    """Check that the masses of rows and columns have the same sum, up to rounding, and that it is not 0."""
    if (total == 0).any():
        raise ValueError("sinkhorn: a must have a sum above 0, got 0")
    if (np.abs(total - other) > 1e3 * eps * total).any():
        k = int(np.abs(total - other).argmax())
        raise ValueError(f"sinkhorn: b must have the sum of a, {np.ravel(total)[k]:g}, got {np.ravel(other)[k]:g}")


def limits_of(
    itemsize: int, largest: float, epsilon: Any, tol: Any, max_steps: Any, throw: Any
) -> tuple[float, float, int]:
    """Return epsilon, the tolerance for masses of at most ``largest``, and the maximum number of steps, checked."""
    epsilon = positive("sinkhorn", "epsilon", epsilon, zero=False)
    default = largest * (1e-4 if itemsize == 4 else 1e-9)
    tolerance = default if tol is None else positive("sinkhorn", "tol", tol)
    max_steps = count("sinkhorn", "max_steps", max_steps)
    check_flag("sinkhorn", "throw", throw)
    return epsilon, tolerance, max_steps


def solution_of(
    value: tuple[Any, Any],
    numbers: tuple[Any, Any, Any],
    is_batch: bool,
    limits: tuple[float, float, int],
    problem: tuple[Any, Any, Any],
) -> SinkhornSolution:
    """Return the solution; numbers: whether each problem converged, its steps and its residual."""
    rows = zip(numbers[0].tolist(), numbers[2].tolist(), strict=True)
    reasons = ["converged" if end else "nan" if r != r else "max_steps" for end, r in rows]
    converged, steps, residual = numbers if is_batch else (each[0].item() for each in numbers)
    return SinkhornSolution(
        value=value,
        converged=converged,
        steps=steps,
        residual=residual,
        method="sinkhorn",
        reason=tuple(reasons) if is_batch else reasons[0],
        epsilon=limits[0],
        tolerance=limits[1],
        _problem=problem,
    )


def _masses(name: str, x: Any, C: Array, shape: tuple[int, ...]) -> Array:
    """Return masses as a contiguous array."""
    check_arrays("sinkhorn", ("C", name), (C, x))
    if x.shape != shape:
        raise ValueError(f"sinkhorn: {name} must have shape {shape} to go with C, got {x.shape}")
    if not ((x >= 0) & np.isfinite(x)).all():
        worst = x[~((x >= 0) & np.isfinite(x))].ravel()[0]
        raise ValueError(f"sinkhorn: {name} must be finite and at least 0, got {worst:g}")
    return np.ascontiguousarray(x)


def _start(C: Array, x0: Any, *shapes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return copies of the first f and g."""
    if x0 is None:
        f, g = (np.zeros(shape, C.dtype) for shape in shapes)
        return f, g
    if not isinstance(x0, tuple) or len(x0) != 2:
        raise TypeError(f"sinkhorn: x0 must be two arrays (f, g) or None, got {type(x0).__name__}")
    check_arrays("sinkhorn", ("C", "x0[0]", "x0[1]"), (C, *x0))
    for i, (x, shape) in enumerate(zip(x0, shapes, strict=True)):
        if x.shape != shape:
            raise ValueError(f"sinkhorn: x0[{i}] must have shape {shape} to go with C, got {x.shape}")
    return np.array(x0[0], order="C"), np.array(x0[1], order="C")
