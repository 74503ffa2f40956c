"""Modern Hopfield networks on arrays: updates x <- X softmax(beta X^T x) of many queries, and their energy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._array_like import as_array, as_arrays
from .._backend import Backend, Backends, choose
from .._call.iterate import Callback, Limits
from .._check import check_array, check_arrays, empty, positive, refuse_mask, unit_stride
from .._solution import judged
from ._hopfield_shapes import (
    HopfieldSolution,
    Stopping,
    check_spread,
    folded_axes,
    joined,
    reasons_of,
    stopped,
)

Array: TypeAlias = npt.NDArray[Any]


class _Problem(NamedTuple):
    """Arguments with the leading axes (batch, head): state, stored, beta (batch, head) and bias, or None."""

    state: Array
    stored: Array
    beta: Array
    bias: Array | None


class _Result(NamedTuple):
    """Results with the same axes."""

    value: Array
    converged: Array
    steps: Array
    residual: Array


def hopfield_update(
    state: npt.ArrayLike,
    stored: npt.ArrayLike,
    *,
    beta: npt.ArrayLike = 1.0,
    steps: int | None = None,
    mask: npt.ArrayLike | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    max_steps: int = 1000,
    callback: Callback | None = None,
    throw: bool = False,
    backend: Backend | None = None,
) -> HopfieldSolution[Array]:
    """x <- X softmax(beta X^T x): retrieve stored patterns, the columns of X, until each x is a fixed point.

    One update is attention with the patterns as keys and as values. Each query stops separately, once an update changes
    it by no more than ``atol + rtol ||x||``, and then costs nothing more.

    Parameters
    ----------
    state : ndarray (..., L, D), float32 or float64
        The queries x. Leading axes are problems: a batch, or a batch and heads; they broadcast with those of stored.
    stored : ndarray (..., S, D)
        The patterns, the columns of X. Patterns shared by several problems are not copied.
    beta : float or ndarray (...)
        The inverse temperature, above 0: large values retrieve one pattern, small ones averages. An array broadcasts
        to the leading axes, so that (H,) is one for each head of (B, H, L, D).
    steps : int, optional
        Make exactly this number of updates; by default each query is updated until it converges.
    mask : bool or float ndarray, optional
        It broadcasts to (..., L, S). A bool is True where a query may retrieve a pattern; a float is added to
        ``beta X^T x``. A query that may retrieve no pattern becomes 0.
    rtol, atol : float
        A query has converged when ``||x+ - x|| <= atol + rtol ||x+||``.
    max_steps : int
        The maximum number of updates of a query, unless ``steps`` is given.
    callback : callable, optional
        Called with a :class:`fastiter.Progress` of all queries after each update; the updates end if it returns True.
        With a callback they are made twice.
    throw : bool
        Raise ConvergenceError if a query does not converge, instead of a warning.
    backend : {"cpu", "reference"}, optional
        "reference" runs the specification in plain NumPy.

    Returns
    -------
    HopfieldSolution
        The states, and for each query whether it converged, its updates and its last change.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.
    ConvergenceError
        With ``throw``, if a query does not converge.

    Warns
    -----
    ConvergenceWarning
        If a query does not converge.

    See Also
    --------
    hopfield_energy : The energy that no update increases.
    fastiter.torch.fixedpoint.hopfield_update : The same on tensors, with gradients.

    References
    ----------
    Ramsauer et al., Hopfield networks is all you need, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import hopfield_update
    >>> patterns = np.sign(np.random.default_rng(0).standard_normal((100, 64)))
    >>> noisy = patterns[:3].copy()
    >>> noisy[:, :16] = 0  # a quarter is lost
    >>> found = hopfield_update(noisy, patterns, beta=1.0)
    >>> bool(np.allclose(found.value, patterns[:3])), found.steps
    (True, array([2, 2, 2]))
    """
    function = "hopfield_update"
    run = choose(function, _BACKENDS, backend)
    stopping = Stopping(Limits(rtol, atol, max_steps, callback, throw), steps).checked(function)
    problem, lead = _problem(function, state, stored, beta, mask)
    L, D = problem.state.shape[-2:]

    def update(x: Array) -> tuple[Array, Array, Array]:
        result = run(problem._replace(state=x.reshape(problem.state.shape)), stopping._replace(steps=1))
        return result.value.reshape(*lead, L, D), result.residual.ravel(), np.linalg.norm(result.value, axis=-1).ravel()

    last = stopped(stopping, problem.state.reshape(*lead, L, D), update) if callback is not None else None
    result = run(problem, stopping if last is None else stopping.ended_at(last))
    value = result.value.reshape(*lead, L, D)
    converged, count, residual = (x.reshape(*lead, L) for x in result[1:])
    reason = reasons_of(stopping, last, converged, residual)
    solution = HopfieldSolution(
        value=value, converged=converged, steps=count, residual=residual, method="hopfield", reason=reason
    )
    return judged(function, solution, throw)


def hopfield_energy(
    state: npt.ArrayLike,
    stored: npt.ArrayLike,
    *,
    beta: npt.ArrayLike = 1.0,
    mask: npt.ArrayLike | None = None,
) -> Array:
    """E(x) = -logsumexp(beta X^T x) / beta + x x / 2 + log(S) / beta + M^2 / 2, which no update of x increases.

    M is the largest norm of the patterns of a problem; E is then at least 0.

    Parameters
    ----------
    state : ndarray (..., L, D), float32 or float64
        The queries x.
    stored : ndarray (..., S, D)
        The patterns, the columns of X; at least one.
    beta : float or ndarray (...)
        The inverse temperature, above 0; an array broadcasts to the leading axes.
    mask : bool or float ndarray, optional
        As for :func:`hopfield_update`; E is infinite for a query that may retrieve no pattern.

    Returns
    -------
    ndarray (..., L)
        The energy of each query.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    hopfield_update : The updates.
    fastiter.torch.fixedpoint.hopfield_energy : The same on tensors.

    References
    ----------
    Ramsauer et al., Hopfield networks is all you need, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import hopfield_energy, hopfield_update
    >>> x, patterns = np.array([[0.6, 0.1]]), np.eye(2)
    >>> states = [hopfield_update(x, patterns, beta=4.0, steps=n).value for n in range(4)]
    >>> np.round([hopfield_energy(state, patterns, beta=4.0)[0] for state in states], 4)
    array([0.2266, 0.1759, 0.1688, 0.1684])
    """
    function = "hopfield_energy"
    (x, patterns, beta_, bias), lead = _problem(function, state, stored, beta, mask)
    S = patterns.shape[-2]
    if S == 0:
        raise ValueError(f"{function}: stored must have at least one pattern, got shape {np.shape(stored)}")
    b = beta_[..., None]
    z = b[..., None] * (x @ patterns.swapaxes(-1, -2))
    z = z if bias is None else z + bias
    top = z.max(axis=-1)
    top[np.isneginf(top)] = 0
    with np.errstate(divide="ignore"):  # for a query that may retrieve no pattern
        total = top + np.log(np.exp(z - top[..., None]).sum(axis=-1))
    largest = np.square(patterns).sum(axis=-1).max(axis=-1, initial=0)[..., None]
    energy: Array = (math.log(S) - total) / b + (np.square(x).sum(axis=-1) + largest) / 2
    return energy.astype(x.dtype, copy=False).reshape(*lead, x.shape[-2])


def _problem(function: str, state: Any, stored: Any, beta: Any, mask: Any) -> tuple[_Problem, tuple[int, ...]]:
    """Return the checked arguments with the leading axes (batch, head), and their original leading axes."""
    state, stored = as_arrays(function, ("state", "stored"), (state, stored))
    check_arrays(function, ("state", "stored"), (state, stored))
    lead = joined(function, state.shape, stored.shape)
    axes = folded_axes(lead)

    def folded(x: Array) -> Array:
        inner = x.shape[-2:]
        return np.broadcast_to(x, (*lead, *inner)).reshape(*axes, *inner)

    inverse = np.broadcast_to(_beta(function, beta, state.dtype, lead), lead).reshape(axes)
    bias = _bias(function, mask, state.dtype, (*lead, state.shape[-2], stored.shape[-2]))
    return _Problem(folded(state), folded(stored), inverse, None if bias is None else folded(bias)), lead


def _beta(function: str, beta: Any, dtype: Any, lead: tuple[int, ...]) -> Array:
    """Return the inverse temperatures in ``dtype``, in a shape that broadcasts to the leading axes."""
    if not isinstance(beta, (np.ndarray, list, tuple)):
        return np.asarray(positive(function, "beta", beta, zero=False), dtype)
    array = as_array(function, "beta", beta, dtype)
    check_array(function, "beta", array)
    if array.dtype != dtype:
        raise TypeError(f"{function}: beta must have dtype {dtype} like state, got {array.dtype}")
    check_spread(function, "beta", array.shape, lead, "the leading axes")
    if not bool(np.all((array > 0) & np.isfinite(array))):
        raise ValueError(
            f"{function}: beta must be finite and above 0, got {array[~((array > 0) & (array < np.inf))][0]}"
        )
    result: Array = array
    return result


def _bias(function: str, mask: Any, dtype: Any, whole: tuple[int, ...]) -> Array | None:
    """Return the bias that is added to the scaled products, (..., L, S), or None."""
    if mask is None:
        return None
    refuse_mask(function, "mask", mask)
    array = np.asarray(mask) if isinstance(mask, (list, tuple)) else mask
    if not isinstance(array, np.ndarray) or array.dtype not in (np.bool_, dtype):
        got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(mask).__name__
        raise TypeError(f"{function}: mask must be an array of bool or {dtype}, got {got}")
    check_spread(function, "mask", array.shape, whole, "(..., L, S)")
    bias = np.where(array, dtype.type(0), dtype.type(-np.inf)) if array.dtype == np.bool_ else array
    return (
        np.broadcast_to(bias, (*bias.shape[:-2], *whole[-2:])) if bias.ndim >= 2 else np.broadcast_to(bias, whole[-2:])
    )


def _cpu(problem: _Problem, stopping: Stopping) -> _Result:
    state, stored, beta, bias = problem
    dtype, shape = state.dtype, state.shape
    value, queries = empty(shape, dtype), shape[:-1]
    converged, count = np.zeros(queries, np.bool_), np.zeros(queries, np.int64)
    residual = np.full(queries, np.inf, dtype)
    sizes = (*queries, stored.shape[2], shape[3])
    arrays = (unit_stride(stored), np.ascontiguousarray(beta), bias)
    results, saved = (value, converged, count, residual), (None, None, None)
    bits = 8 * dtype.itemsize
    _core.fixedpoint.hopfield_update(bits, sizes, arrays, unit_stride(state), stopping.kernels, results, saved)
    return _Result(value, converged, count, residual)


def _reference(problem: _Problem, stopping: Stopping) -> _Result:
    from . import reference_hopfield as reference

    state, stored, beta, bias = problem
    whole = (*state.shape[:-1], stored.shape[-2])
    added = np.broadcast_to(state.dtype.type(0) if bias is None else bias, whole)
    numbers: dict[str, Any] = dict(zip(("stops", "rtol", "atol", "max_steps"), stopping.kernels, strict=True))
    return _Result(*reference.hopfield_update(state, stored, beta, added, **numbers))


_BACKENDS: Backends[_Result] = {"cpu": _cpu, "reference": _reference}
