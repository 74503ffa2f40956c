"""Entropic optimal transport by Sinkhorn's iteration in the log domain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, cast

import numpy as np
import numpy.typing as npt

from ... import _core
from ..._array_like import as_arrays
from ..._call.iterate import Callback, Columns, Limits, Record, Step, last_step
from ..._check import check_arrays, positive
from ..._solution import Solution, Value, judged, plural, worst_failure

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SinkhornSolution(Solution[tuple[Value, Value]], Generic[Value]):
    """The potentials of an entropic transport problem, or of each problem of a batch, and the state of convergence.

    Attributes
    ----------
    value : tuple of (n,) and (m,), or of (B, n) and (B, m)
        The potentials f and g, in the dtype and units of the costs; -inf where there is no mass.
    converged : bool or (B,)
        True where the residual is within the tolerance.
    steps : int or (B,)
        The updates of f.
    residual : float or (B,)
        ``sum_i |sum_j P_ij - a_i|`` of the plan; its sums over i equal b_j up to rounding.
    method, reason : str
        "sinkhorn", and the reason for ending, for a batch one for each problem: "converged", "max_steps", "nan" or
        "callback".
    epsilon : float
        The strength of the entropy, in units of the costs.
    tolerance : float or (B,)
        The residual at which it converges.

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
    tolerance: Any
    #: C, a and b
    _problem: Any

    @property
    def plan(self) -> Value:
        """The plan P = exp((f + g - C) / epsilon), (n, m) or (B, n, m), made on access."""
        own: Any = self
        (f, g), C = own.value, self._problem[0]
        exponent = (f[..., :, None] + g[..., None, :] - C) / self.epsilon
        return cast(Value, np.exp(exponent) if isinstance(exponent, np.ndarray) else exponent.exp())

    @property
    def cost(self) -> Any:
        """The cost sum P C of the plan: a number, or (B,)."""
        own: Any = self
        return (own.plan * self._problem[0]).sum((-2, -1))

    @property
    def dual(self) -> Any:
        """The value f.a + g.b of the dual problem, without the constant epsilon sum P: a number, or (B,)."""
        own: Any = self
        (f, g), (_, a, b) = own.value, self._problem
        return _products(f, a).sum(-1) + _products(g, b).sum(-1)

    def _failure(self) -> str | None:
        failure = worst_failure(self, "problem")
        if failure is None:
            return None
        return (
            f"the sums of the plan must come within {failure.tolerance:.2g} of a, got {failure.residual:.2g} after "
            f"{plural(failure.steps)}{failure.where}; try a larger max_steps or epsilon"
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
    x0: tuple[Array, Array] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 10_000,
    callback: Callback | None = None,
    throw: bool = False,
) -> SinkhornSolution[Array]:
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
    x0 : tuple of two arrays, optional
        The first f and g, such as the value of an earlier solution; by default 0; entries without mass are always set
        to -inf. The first update is that of g.
    rtol, atol : float, optional
        A problem has converged when ``sum_i |sum_j P_ij - a_i| <= rtol sum_i a_i + atol``; rtol is 1e-4 by default in
        float32 and 1e-9 in float64.
    max_steps : int
        The maximum number of updates of f.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each update of g; the solver ends if it returns True. With a
        callback it takes three times as long.
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
    limits = Limits(rtol, atol, max_steps, callback, throw).checked("sinkhorn")
    epsilon, tolerance = positive("sinkhorn", "epsilon", epsilon, zero=False), tolerances(limits, total, C.dtype)
    f, g = _start(C, x0, (*batch, n), (*batch, m))
    f[a == 0] = -np.inf
    with np.errstate(divide="ignore"):
        problem = (np.ascontiguousarray(C), np.log(a), np.log(b))

    def update(f: Array, g: Array, limit: int) -> tuple[Any, ...]:
        samples = len(tolerance)
        steps, residual, ended = np.zeros(samples, np.int64), np.zeros(samples), np.zeros(samples, np.uint8)
        bits, sizes = 8 * C.dtype.itemsize, (samples, n, m)
        _core.fixedpoint.sinkhorn(bits, sizes, (*problem, f, g), (epsilon, tolerance, limit), (steps, residual, ended))
        return ended.astype(bool), steps, residual

    last = stopped(limits, tolerance if batch else tolerance.item(), update, (f.copy(), g.copy()))
    numbers = update(f, g, limits.max_steps if last is None else last)
    result = solution_of((f, g), numbers, bool(batch), (epsilon, tolerance, last), (C, a, b))
    return judged("sinkhorn", result, limits.throw)


def stopped(limits: Limits, tolerance: Any, update: Callable[..., Any], potentials: tuple[Any, Any]) -> int | None:
    """Return the number of steps after which the callback stops; ``update(f, g, k)`` makes up to k, in place."""

    def checks() -> Iterator[Step]:
        for step in itertools.count():
            residual: Any = np.asarray(update(*potentials, min(step, 1))[2])
            residual = residual if is_batch else float(residual[0])
            yield Step(step, residual, tolerance, lambda: tuple(x + 0 for x in potentials))

    is_batch = np.ndim(tolerance) > 0
    return last_step(checks(), limits, Columns(len(tolerance)) if is_batch else Record())


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


def tolerances(limits: Limits, total: Any, dtype: object) -> Array:
    """Return the residual at which each problem converges; total: its mass."""
    rtol = limits.rtol if limits.rtol is not None else 1e-4 if str(dtype).endswith("float32") else 1e-9
    return np.asarray(rtol * np.reshape(total, (-1,)) + limits.atol, np.float64)


def solution_of(
    value: tuple[Any, Any],
    numbers: tuple[Any, Any, Any],
    is_batch: bool,
    limits: tuple[float, Any, int | None],
    problem: tuple[Any, Any, Any],
) -> SinkhornSolution[Any]:
    """Return the solution.

    numbers: whether each problem converged, its steps and its residual; limits: epsilon, the tolerances, and the steps
    after which the callback stopped, or None.
    """
    epsilon, tolerance, last = limits
    other = "max_steps" if last is None else "callback"
    rows = zip(numbers[0].tolist(), numbers[2].tolist(), strict=True)
    reasons = ["converged" if end else "nan" if r != r else other for end, r in rows]
    each = (*numbers, tolerance)
    converged, steps, residual, tolerance = each if is_batch else (x[0].item() for x in each)
    return SinkhornSolution(
        value=value,
        converged=converged,
        steps=steps,
        residual=residual,
        method="sinkhorn",
        reason=tuple(reasons) if is_batch else reasons[0],
        epsilon=epsilon,
        tolerance=tolerance,
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
