"""Small additions to fixed_point: iterative refinement, and warm starts over receding horizons."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._array_like import as_arrays
from ..._call.iterate import Callback, Limits
from ..._check import check_array, check_choice, count, type_name
from .._functional import run
from .._problem import Stopping
from .._result import FixedPointSolution
from .._space import DTYPES, NumPySpace

Array = npt.NDArray[Any]
METHODS = ("picard", "anderson", "broyden", "aitken")


class _Correction:
    """x + S(b - A x), and the norms of b - A x and b, from which convergence is decided."""

    def __init__(self, A: Any, S: Any, b: Any) -> None:
        self.A, self.S, self.b = A, S, b
        self.size = float(np.linalg.norm(b.ravel()))
        self.left = self.size
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        residual = self.b - _product("A", self.A, x, self.b)
        self.left = float(np.linalg.norm(residual.ravel()))
        self.calls = 0
        return x + _product("S", self.S, residual, self.b)

    def norm(self, state: Any) -> Any:
        """Return the norm of b - A x for f(x) - x, which is requested first, and that of b for f(x)."""
        self.calls += 1
        return np.array([self.left if self.calls == 1 else self.size])


def _product(name: str, operator: Any, x: Any, b: Any) -> Any:
    value = operator(x) if callable(operator) else operator @ x
    if not isinstance(value, np.ndarray) or value.shape != b.shape or value.dtype.kind not in "fc":
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type_name(value)
        raise ValueError(f"refine: {name} must return floating-point numbers of shape {b.shape} like b, got {got}")
    if value.dtype.kind == "c" and b.dtype.kind != "c":
        raise TypeError(f"refine: {name} must return real numbers like b, got {value.dtype}")
    return value.astype(b.dtype, copy=False)


def refine(
    A: Any,
    S: Any,
    b: Any,
    x0: Any = None,
    *,
    method: Literal["picard", "anderson", "broyden", "aitken"] = "picard",
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    **options: Any,
) -> FixedPointSolution[Array]:
    """x <- x + S(b - A x): iterative refinement of A x = b by any approximate solver S.

    It converges if the spectral radius of I - S A is below 1, at the rate of that radius, and the result has the
    accuracy of A and b, whatever the precision of S.

    Parameters
    ----------
    A : callable, array or sparse matrix
        ``A(x)`` or ``A @ x``.
    S : callable, array or sparse matrix
        ``S(r)`` or ``S @ r`` approximates the x with A x = r. It may return another precision, such as that of a solver
        in float32.
    b : array
        The right-hand side, of any shape, float32, float64, complex64 or complex128.
    x0 : array, optional
        The first x; by default 0, so that the next x is S(b).
    method : {"picard", "anderson", "broyden", "aitken"}
        How successive corrections are combined: ``"picard"`` adds them.
    rtol : float, optional
        Relative tolerance: by default 1e-5 in 32 bits and 1e-8 in 64.
    atol : float
        Absolute tolerance: it has converged when ``||b - A x|| <= rtol ||b|| + atol``.
    max_steps : int
        The maximum number of corrections.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` after each residual; the solver ends if it returns True.
    throw : bool
        Whether to raise :class:`fastiter.ConvergenceError` if it has not converged.
    **options : object
        Options of the method, as in :func:`fixed_point`.

    Returns
    -------
    FixedPointSolution
        x, with ``||b - A x||`` as its residual.

    Raises
    ------
    TypeError, ValueError
        If an argument, or what A or S returns, has a wrong type, dtype, shape or value.
    ConvergenceError
        If it does not converge and ``throw`` is True.

    Warns
    -----
    ConvergenceWarning
        If it does not converge; the value is the x with the smallest residual.

    See Also
    --------
    fixed_point : The iteration, for any map.
    fastiter.relax.Relaxation : Sweeps that can serve as S.

    References
    ----------
    .. [1] J. H. Wilkinson, "Rounding Errors in Algebraic Processes", 1963.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import refine
    >>> A = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> found = refine(A, np.linalg.inv(A).astype(np.float16).astype(np.float32), np.array([1.0, 2.0]), rtol=1e-14)
    >>> found.steps <= 5, bool(np.allclose(found.value, [1 / 11, 7 / 11], rtol=1e-14))
    (True, True)
    """
    stopping = Stopping(Limits(rtol, atol, max_steps, callback, throw)).checked("refine")
    check_choice("refine", "method", method, METHODS)
    b, x0 = as_arrays("refine", ("b", "x0"), (b, x0))
    check_array("refine", "b", b, DTYPES)
    start = np.zeros_like(b) if x0 is None else x0
    check_array("refine", "x0", start, DTYPES)
    if start.shape != b.shape or start.dtype != b.dtype:
        got = f"{start.dtype} {start.shape}"
        raise ValueError(f"refine: x0 must be {b.dtype} {b.shape} like b, got {got}")
    for name, operator in (("A", A), ("S", S)):
        if not callable(operator) and not hasattr(operator, "__matmul__"):
            raise TypeError(f"refine: {name} must be callable or a matrix, got {type_name(operator)}")
        shape = None if callable(operator) else getattr(operator, "shape", None)
        if shape is not None and (b.ndim == 0 or tuple(shape) != (len(b), len(b))):
            got = f"{tuple(shape)} and {b.shape}"
            raise ValueError(f"refine: {name} must have shape (n, n), and b the shape (n,) or (n, k), got {got}")
    step = _Correction(A, S, b)
    stopping = stopping._replace(norm=step.norm)
    return run("refine", step, start, NumPySpace(), stopping, method, options, batched=False, judged="||b - A x||")


def shift(x: Any, steps: int = 1, *, axis: int = 1) -> Any:
    """x without its first ``steps`` along an axis, with the last repeated: a warm start over a receding horizon.

    Parameters
    ----------
    x : array, tensor, or tuple, list or dict of these
        A plan, such as the value of the last :func:`fixed_point`; by default, axis 0 is the batch and axis 1 is time.
    steps : int
        The number of steps to shift by; at most the length of the axis.
    axis : int
        The time axis.

    Returns
    -------
    array, tensor, tuple, list or dict
        The same structure in new memory.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    See Also
    --------
    fixed_point : Takes it as x0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import shift
    >>> shift(np.array([[1, 2, 3, 4]]))
    array([[2, 3, 4, 4]])
    """
    steps = count("shift", "steps", steps)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"shift: axis must be an int, got {type_name(axis)}")
    if isinstance(x, dict):
        return {key: _shifted(f"x[{key!r}]", part, steps, int(axis)) for key, part in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(_shifted(f"x[{i}]", part, steps, int(axis)) for i, part in enumerate(x))
    return _shifted("x", x, steps, int(axis))


def _shifted(name: str, x: Any, steps: int, axis: int) -> Any:
    if not hasattr(x, "shape") or not hasattr(x, "ndim"):
        raise TypeError(f"shift: {name} must be an array or a tensor, got {type_name(x)}")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"shift: axis must be an axis of {name} with shape {tuple(x.shape)}, got {axis}")
    length = x.shape[axis]
    if steps > length:
        raise ValueError(f"shift: steps must be at most {length}, the length of axis {axis} of {name}, got {steps}")
    index = np.minimum(np.arange(length) + steps, max(length - 1, 0))
    return x[(slice(None),) * (axis % x.ndim) + (index,)]
