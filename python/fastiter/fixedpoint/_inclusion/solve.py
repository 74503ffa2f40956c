"""Shared by the methods for monotone inclusions: points, steps, the end, the result.

Points are arrays, tensors, or tuples of these; the methods use only operations that both libraries have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..._call.iterate import Limits, Record, Step, iterate
from ..._check import FLOATS, positive, type_name
from ..._plot import PlotsHistory
from ..._solution import Solution, Value, judged, plural

Array = npt.NDArray[Any]
#: An array or a tensor, or where a method says so a tuple of these
Point = TypeVar("Point")
#: (y, t) -> (I + t A)^-1 y
Resolvent: TypeAlias = Callable[[Any, float], Any]
#: x -> B x
Operator: TypeAlias = Callable[[Any], Any]

_GROWTH = 1e8  # growth of the residual from its minimum at which the iteration has diverged
_REMEDIES = {
    "max_steps": "try a larger max_steps or another step",
    "diverged": "the operators may not be monotone, or step is too large",
    "stagnated": "no step is small enough: forward must be Lipschitz and return the same for the same x, "
    "or try a larger rtol or atol: rounding errors hide the remaining residual",
    "nan": "an operator has returned NaN, or x0 has NaN",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InclusionSolution(PlotsHistory, Solution[Value]):
    """A zero of a sum of monotone operators, and how it was found.

    Attributes
    ----------
    value : array, tensor or tuple
        x; the primal and the dual point, or the blocks of x0, as a tuple.
    converged : bool
        Whether ``residual <= rtol * norm(x) + atol``.
    steps : int
        The number of steps.
    residual : float
        The norm of the last change of the iteration, divided by the step size where that is below 1.
    method : str
        The method that ran.
    reason : str
        The reason for ending: "converged", "max_steps", "stagnated", "diverged", "nan" or "callback".
    tolerance : float
        The residual at which it converges.
    evaluations : int
        The number of evaluations of single-valued operators; for a finite sum, of its components.
    step : float
        The step size at the end.
    history : (steps,) float64
        The residual of each step.

    See Also
    --------
    forward_backward : One of the methods that return it.
    fastiter.Solution : The attributes shared by the results of all solvers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import monotone, prox
    >>> target = np.array([2.0, -3.0])
    >>> found = monotone.forward_backward(lambda y, t: prox.prox_l1(y, t), lambda x: x - target, np.zeros(2), step=0.5)
    >>> found.value.round(6), found.reason
    (array([ 1., -2.]), 'converged')
    """

    converged: bool
    steps: int
    residual: float
    reason: str
    tolerance: float
    evaluations: int
    step: float
    history: Array
    _begins_before: ClassVar[bool] = False

    def _failure(self) -> str | None:
        if self.converged or self.reason == "callback":
            return None
        return (
            f"the residual must fall to {self.tolerance:.2g}, got {self.residual:.2g} after {plural(self.steps)} "
            f"({self.reason!r}); {_REMEDIES[self.reason]}"
        )


class Iterate(NamedTuple):
    """A method after a step: the current result, the residual, the totals so far, and whether it has stagnated."""

    value: Any
    residual: float
    #: The norm that rtol multiplies
    scale: float
    evaluations: int
    #: The step size
    step: float
    stagnated: bool = False


def solved(function: str, iterates: Iterator[Iterate], limits: Limits, dtype: object) -> InclusionSolution[Any]:
    """Take steps, on points of a dtype, until the method ends, and return the result."""
    limits = limits.checked(function, dtype, smallest_max=1)
    record = iterate(_checks(iterates, limits), limits, Record(_GROWTH))
    last, history = record.last, np.array(record.history)
    result = InclusionSolution(
        value=last.value(), method=function, history=history, **last.numbers(), **record.results()
    )
    return judged(function, result, limits.throw)


def _checks(iterates: Iterator[Iterate], limits: Limits) -> Iterator[Step]:
    assert limits.rtol is not None  # set by `checked`
    for steps, at in enumerate(iterates, 1):
        numbers: partial[dict[str, Any]] = partial(dict, evaluations=at.evaluations, step=at.step)
        tolerance = limits.rtol * at.scale + limits.atol
        yield Step(steps, at.residual, tolerance, partial(copied, at.value), numbers, stagnated=at.stagnated)


def point(function: str, name: str, x: Any) -> Any:
    """Return a starting point without its graph; refuse anything but arrays and tensors of float32 or float64."""
    dtype = str(getattr(x, "dtype", None)).removeprefix("torch.")
    if (
        not (isinstance(x, np.ndarray) or hasattr(x, "detach"))
        or isinstance(x, (np.matrix, np.ma.MaskedArray))
        or dtype not in FLOATS
    ):
        got = f"dtype {dtype}" if hasattr(x, "dtype") else type_name(x)
        raise TypeError(f"{function}: {name} must be an array or a tensor of float32 or float64, got {got}")
    return np.array(x, order="C") if isinstance(x, np.ndarray) else detached(x).contiguous()


def blocks(function: str, name: str, x: Any, expected: str) -> tuple[Any, ...]:
    """Return a tuple of starting points of one dtype."""
    if not isinstance(x, tuple) or not x:
        raise TypeError(f"{function}: {name} must be {expected}, got {'()' if isinstance(x, tuple) else type_name(x)}")
    parts = tuple(point(function, name, part) for part in x)
    for part in parts:
        if part.dtype != parts[0].dtype:
            raise TypeError(f"{function}: {name} must have one dtype, got {parts[0].dtype} and {part.dtype}")
    return parts


def detached(x: Any) -> Any:
    """Return a tensor without its graph, which would grow with every step, and an array unchanged."""
    return x.detach() if hasattr(x, "detach") else x


def checked_call(function: str, name: str, f: Any, like: Any) -> Callable[..., Any]:
    """Return an operator whose results are checked against a point and copied, as it may return the same memory again.

    Its arguments are read-only, because the methods still need them.
    """
    if not callable(f) or isinstance(f, type):
        raise TypeError(f"{function}: {name} must be callable and no class, got {type_name(f)}")

    def call(*args: Any) -> Any:
        before = [_version(x) for x in args]
        result = f(*map(_protected, args))
        if [_version(x) for x in args] != before:
            raise ValueError(
                f"{function}: {name} must leave its arguments as they are, got one that is changed in place"
            )
        return _result(function, name, result, like)

    return call


def _protected(x: Any) -> Any:
    """Return a point whose arrays are read-only, unlike indices; tensors cannot be."""
    if isinstance(x, tuple):
        return tuple(map(_protected, x))
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    view = x.view()
    view.flags.writeable = False
    return view


def _version(x: Any) -> Any:
    """Return the version counters of a point's tensors, which change with each modification in place."""
    if isinstance(x, tuple):
        return [_version(part) for part in x]
    return x._version if hasattr(x, "detach") and not x.is_inference() else None


def _result(function: str, name: str, value: Any, like: Any) -> Any:
    if isinstance(like, tuple):
        if not isinstance(value, tuple) or len(value) != len(like):
            got = f"{len(value)} parts" if isinstance(value, tuple) else type_name(value)
            raise TypeError(f"{function}: {name} must return a tuple of {len(like)} parts like x0, got {got}")
        return tuple(_result(function, name, a, b) for a, b in zip(value, like, strict=True))
    if getattr(value, "dtype", None) != like.dtype or tuple(getattr(value, "shape", ())) != tuple(like.shape):
        got = f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "dtype") else type_name(value)
        raise TypeError(f"{function}: {name} must return {tuple(like.shape)} {like.dtype} like x0, got {got}")
    return copied(value)


def copied(x: Any) -> Any:
    """Return a copy of a point, without its graph."""
    if isinstance(x, tuple):
        return tuple(map(copied, x))
    return x.detach().clone() if hasattr(x, "detach") else x.copy()


def norm(x: Any) -> float:
    """Return the Euclidean norm of a point, over all its parts."""
    if isinstance(x, tuple):
        return math.hypot(*(norm(part) for part in x))
    return math.sqrt(float((x * x).sum()))


def inner(x: Any, y: Any) -> float:
    """Return the inner product of two points."""
    return float((x * y).sum())


def step_size(function: str, step: Any, lipschitz: Any, largest: float) -> tuple[float, bool]:
    """Return the first step (requested, or ``largest`` / lipschitz, or a guess), and whether it is searched for."""
    if step is not None and lipschitz is not None:
        raise TypeError(f"{function}: lipschitz must be None if step is given, got both")
    if step is not None:
        return positive(function, "step", step, zero=False), False
    if lipschitz is not None:
        return largest / positive(function, "lipschitz", lipschitz, zero=False), False
    return 1.0, True


def relaxed(function: str, relaxation: Any, largest: float = 2.0) -> float:
    """Return the relaxation factor, after checking that it is between 0 and ``largest``."""
    value = positive(function, "relaxation", relaxation, zero=False)
    if value >= largest:
        raise ValueError(f"{function}: relaxation must be below {largest:g}, got {value:g}")
    return value
