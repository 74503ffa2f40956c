"""Shapes and results of Hopfield networks, shared by arrays and tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .._call.iterate import Columns, Limits, Step, last_step, unbounded
from .._check import count
from .._solution import Solution, Value, span

Shape = tuple[int, ...]


#: The largest number of updates that the kernel counts
_LARGEST = 2**31 - 1


class Stopping(NamedTuple):
    """When the updates of a query end: after exactly ``steps``, or by the limits."""

    limits: Limits
    steps: int | None = None

    def checked(self, function: str) -> Stopping:
        """Return the numbers as Python's; refuse other types and values."""
        steps = None if self.steps is None else count(function, "steps", self.steps, maximum=_LARGEST)
        count(function, "max_steps", self.limits.max_steps, 1, _LARGEST)
        return Stopping(self.limits.checked(function), steps)

    @property
    def kernels(self) -> tuple[bool, float, float, int]:
        """Whether a query that converges ends, the tolerances, and the maximum number of updates, for the kernels."""
        rtol, atol, max_steps = self.limits[:3]
        assert rtol is not None  # by default it is a number
        return self.steps is None, rtol, atol, max_steps if self.steps is None else self.steps

    def ended_at(self, last: int) -> Stopping:
        """Return updates that end after ``last`` ones."""
        return Stopping(self.limits._replace(max_steps=last), None if self.steps is None else last)


def stopped(stopping: Stopping, state: Any, update: Callable[[Any], tuple[Any, Any, Any]]) -> int | None:
    """Return the number of updates after which the callback stops.

    ``update(x)`` returns the next state, and the norms of its change and of itself, as flat arrays.
    """
    stops, rtol, atol, max_steps = stopping.kernels

    def checks() -> Iterator[Step]:
        x = state
        for step in range(1, max_steps + 1):
            x, residual, norm = update(x)
            yield Step(step, residual, rtol * norm + atol, partial(_plus_zero, x), can_converge=stops)

    return last_step(checks(), stopping.limits, Columns(math.prod(state.shape[:-1])))


def _plus_zero(x: Any) -> Any:
    return x + 0


def joined(function: str, state: Shape, stored: Shape) -> Shape:
    """Return the leading axes of a call: those of state and stored, broadcast."""
    for name, shape in (("state", state), ("stored", stored)):
        if len(shape) < 2:
            expected = "(..., L, D)" if name == "state" else "(..., S, D)"
            raise ValueError(f"{function}: {name} must have shape {expected}, got {shape}")
    if state[-1] != stored[-1]:
        expected = f"(..., S, D) = (..., S, {state[-1]}) to go with state"
        raise ValueError(f"{function}: stored must have shape {expected}, got {stored}")
    try:
        return np.broadcast_shapes(state[:-2], stored[:-2])
    except ValueError:
        expected = f"leading axes that broadcast with those of state, {state[:-2]}"
        raise ValueError(f"{function}: stored must have {expected}, got {stored[:-2]}") from None


def check_spread(function: str, name: str, shape: Sequence[int], whole: Shape, axes: str) -> None:
    """Check that an argument broadcasts to the shape ``whole``, whose axes have these names."""
    if len(shape) <= len(whole) and all(
        size in (1, all_) for size, all_ in zip(reversed(shape), reversed(whole), strict=False)
    ):
        return
    raise ValueError(f"{function}: {name} must have a shape that broadcasts to {axes} = {whole}, got {tuple(shape)}")


def folded_axes(lead: Shape) -> tuple[int, int]:
    """Return the batch and the heads of problems with these leading axes: the last is that of heads."""
    return math.prod(lead[:-1]), lead[-1] if lead else 1


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HopfieldSolution(Solution[Value]):
    """The states of a Hopfield network after the updates; the axes (..., L) are the queries.

    Attributes
    ----------
    value : (..., L, D)
        The states: fixed points where the updates have converged.
    converged : (..., L) bool
        True where the last update changed the query by no more than ``atol + rtol ||x||``.
    steps : (..., L) int64
        The updates of each query.
    residual : (..., L)
        The change ``||x+ - x||`` of each query by its last update; infinite before the first.
    method : str
        ``"hopfield"``.
    reason : str or tuple of str
        ``"converged"`` or, with ``steps`` given, ``"steps"``. If not all queries converged, a tuple with one for each
        query, which may also be ``"max_steps"``, ``"callback"``, ``"nan"`` or ``"diverged"``: its change is infinite.

    See Also
    --------
    hopfield_update : The function that returns it.
    fastiter.Solution : The attributes shared by the results of all solvers.
    fastiter.ConvergenceWarning : The warning if it has not converged.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.fixedpoint import hopfield_update
    >>> found = hopfield_update(np.array([[0.9, 0.1]]), np.eye(2), beta=20.0)
    >>> found.converged, found.steps, found.reason
    (array([ True]), array([2]), 'converged')
    """

    converged: Value
    steps: Value
    residual: Value
    reason: str | tuple[str, ...]

    def _failure(self) -> str | None:
        reasons = (self.reason,) if isinstance(self.reason, str) else self.reason
        lost = sum(reason not in ("converged", "steps", "callback") for reason in reasons)
        if lost == 0:
            return None
        own: Any = self
        took = f"{span(own.steps.reshape(-1))} updates"
        return f"every query must converge, got {self._reasons()} in {lost} of {len(reasons)} after {took}"

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        own: Any = self
        value = f"value {tuple(own.value.shape)} {str(own.value.dtype).removeprefix('torch.')}"
        parts = [f"{self._reasons()} after {span(own.steps.reshape(-1))} updates"]
        parts += [f"residual {span(own.residual.reshape(-1), '.2g')}", value]
        return f"{type(self).__name__}({', '.join(parts)})"


def reasons_of(stopping: Stopping, last: int | None, converged: Any, residual: Any) -> str | tuple[str, ...]:
    """Return the reason for ending, or that of each query if not all are the same; arguments are on the CPU.

    last: the number of updates after which the callback stopped, or None.
    """
    if last is None and stopping.steps is not None:
        return "steps"
    if bool(converged.all()):
        return "converged"
    other = "max_steps" if last is None else "callback"
    flat = zip(converged.reshape(-1).tolist(), residual.reshape(-1).tolist(), strict=True)
    return tuple(
        "converged" if done else other if math.isfinite(change) else unbounded(change) for done, change in flat
    )
