"""The loop of the solvers: steps until convergence, failure, a callback's True, or the maximum number of steps.

A solver writes its method as a generator that yields a :class:`Step` at each check, and passes it to :func:`iterate`,
which alone decides when it ends. :class:`Record` follows one problem, :class:`Columns` several, such as the columns of
a right-hand side or the samples of a batch; the generator may read it to omit or save those that have ended. It should
get the record as an argument: the record has the last step, so that an object whose methods are in steps and that has
the record as an attribute is part of a cycle, and its arrays stay in memory until Python looks for cycles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .._check import check_flag, count, positive, type_name
from .._solution import is_true

Array = npt.NDArray[Any]

#: Why a solver has ended. "stagnated": further steps of the method do not help; "diverged": the values have grown
#: without bound; "nan": a NaN has appeared, as from the user's function.
Reason: TypeAlias = Literal["converged", "max_steps", "stagnated", "diverged", "nan", "callback"]


@dataclass(frozen=True, eq=False)
class Progress:
    """The state of a solver at a check, the argument of ``callback``.

    The numbers that only some methods have, such as the relaxation factor ``omega`` or the ``objective``, are further
    attributes. The callback is called at each check after which the solver would continue; if it returns True, the
    solver ends with the reason "callback".

    Attributes
    ----------
    steps : int
        The steps so far.
    residual : float, or array of float
        The norm that the convergence test uses; one for each column or sample if there are several, and for one that
        has ended the norm at its end.
    tolerance : float, or array of float
        The residual at which it converges.
    active : array of int, or None
        The indices of the columns or samples that have not ended; None if there is only one.
    numbers : dict
        The numbers of the method, by name.

    See Also
    --------
    Solution : The result at the end.
    fastiter.relax.sor, fastiter.fixedpoint.fixed_point : Take a ``callback``, as all solvers do.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.relax import sor
    >>> A = np.array([[4.0, -1.0], [-2.0, 8.0]])
    >>> sor(A, np.ones(2), omega=1.0, callback=lambda progress: progress.steps == 3).reason
    'callback'
    >>> omegas = []
    >>> found = sor(A, np.ones(2), omega=1.1, callback=lambda progress: omegas.append(progress.omega))
    >>> omegas[-1]
    1.1
    """

    steps: int
    residual: Any
    tolerance: Any
    active: Any = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    _value: Callable[[], Any] = field(default=lambda: None, repr=False)

    @property
    def value(self) -> Any:
        """A copy of the iterate in the form of the result, made on access."""
        return self._value()

    def __getattr__(self, name: str) -> Any:
        """Return one of ``numbers``."""
        numbers = self.__dict__.get("numbers", {})  # absent while a copy is being built
        if name not in numbers:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return numbers[name]

    def _converted(self, array: Callable[[Any], Any], value: Callable[[Any], Any]) -> Progress:
        """Return this progress with its arrays and its value converted, for another library."""

        def read(x: Any) -> Any:
            return array(x) if hasattr(x, "shape") else x

        names = ("residual", "tolerance", "active")
        numbers = {name: read(x) for name, x in self.numbers.items()}
        arrays = {name: read(getattr(self, name)) for name in names}
        return replace(self, **arrays, numbers=numbers, _value=lambda: value(self._value()))


Callback: TypeAlias = Callable[[Progress], Any]


class Limits(NamedTuple):
    """The arguments that the solvers have in common: when a solver ends, and whether it then raises an error."""

    rtol: float | None = None
    atol: float = 0.0
    max_steps: int = 1000
    callback: Callback | None = None
    throw: bool = False
    #: The number of steps between two checks, for the solvers with such an argument
    check_every: int = 1

    def checked(self, function: str, dtype: object = None, *, smallest_max: int = 0, zero: bool = True) -> Limits:
        """Return the limits as numbers; refuse other types and values, and a max_steps below ``smallest_max``.

        ``zero``: whether atol may be 0.
        Without rtol, it becomes that of the dtype, if one is passed.
        """
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"{function}: callback must be callable or None, got {type_name(self.callback)}")
        check_flag(function, "throw", self.throw)
        rtol = None if self.rtol is None else positive(function, "rtol", self.rtol)
        return Limits(
            default_rtol(dtype) if rtol is None and dtype is not None else rtol,
            positive(function, "atol", self.atol, zero=zero),
            count(function, "max_steps", self.max_steps, smallest_max),
            self.callback,
            self.throw,
            count(function, "check_every", self.check_every, 1),
        )

    def relative(self, dtype: object) -> float:
        """Return rtol, by default that of a dtype."""
        return default_rtol(dtype) if self.rtol is None else self.rtol

    def stops(self, progress: Callable[[], Progress]) -> bool:
        """Call the callback, if there is one, and return whether it ends the solver."""
        return self.callback is not None and is_true(self.callback(progress()))

    def with_callback(self, convert: Callable[[Progress], Progress]) -> Limits:
        """Return limits whose callback receives a converted progress."""
        callback = self.callback
        return self if callback is None else self._replace(callback=lambda progress: callback(convert(progress)))


@cache
def default_rtol(dtype: object) -> float:
    """Return a relative tolerance that numbers of an array's or a tensor's dtype can mostly reach."""
    return 1e-5 if str(dtype).endswith(("float32", "complex64")) else 1e-8


class Step(NamedTuple):
    """A method at a check: numbers for one problem, arrays (k,) for k of them."""

    #: The steps so far
    steps: int
    residual: Any
    #: It converges with a residual of at most this.
    tolerance: Any
    #: Returns a copy of the iterate, or an iterate that will not change, in the form of the result.
    value: Callable[[], Any]
    #: Returns further numbers for the callback.
    numbers: Callable[[], Mapping[str, Any]] = dict
    #: Whether a small residual is enough to converge
    can_converge: Any = True
    #: Whether further steps of the method do not help
    stagnated: Any = False
    #: Whether values of the method other than the residual have grown without bound
    diverged: Any = False


def unbounded(number: float) -> Reason:
    """Return the reason for ending at a number that is not finite."""
    return "nan" if math.isnan(number) else "diverged"


class Record:
    """The residuals at the checks of one problem, and when and why it ended.

    Parameters
    ----------
    growth : float
        The growth of the residual at which the iteration has diverged.
    from_first : bool
        Whether this growth is relative to the first residual instead of the smallest one.
    overflows : bool
        Whether a NaN means divergence, as where all operations are finite unless they overflow.
    """

    def __init__(self, growth: float = math.inf, *, from_first: bool = False, overflows: bool = False) -> None:
        self.history: list[Any] = []
        self._growth, self._from_first, self._overflows = growth, from_first, overflows
        self._smallest, self._scale = math.inf, 0.0
        self.reason: Any = None
        self.last: Step

    @property
    def is_active(self) -> bool:
        """Whether the problem has not ended."""
        return self.reason is None

    def check(self, step: Step) -> bool:
        """Record a check; return whether it is the last one."""
        residual, tolerance = step.residual, step.tolerance
        if residual < self._smallest and not (self._from_first and self.history):
            self._smallest = residual
        self._scale = self._scale or tolerance
        self.history.append(residual)
        self.last = step
        if not (math.isfinite(residual) and math.isfinite(tolerance)):
            self.reason = "diverged" if self._overflows else unbounded(residual + tolerance)
        elif residual <= tolerance and step.can_converge:
            self.reason = "converged"
        elif step.diverged or residual > self._growth * max(self._smallest, self._scale):
            self.reason = "diverged"
        elif step.stagnated:
            self.reason = "stagnated"
        return self.reason is not None

    def stop(self, reason: Reason) -> None:
        """End everything that has not ended."""
        self.reason = reason

    def progress(self, step: Step) -> Progress:
        """Return the argument of the callback."""
        return Progress(step.steps, step.residual, step.tolerance, None, step.numbers(), step.value)

    def results(self) -> dict[str, Any]:
        """Return the fields of a Solution that every solver has, except its value and method, and the tolerance."""
        step = self.last
        return {
            "converged": self.reason == "converged",
            "steps": step.steps,
            "residual": step.residual,
            "tolerance": step.tolerance,
            "reason": self.reason,
        }


#: The reasons by their numbers in Columns
_REASONS: tuple[Reason, ...] = ("max_steps", "converged", "diverged", "stagnated", "nan", "callback")
_CONVERGED, _DIVERGED, _STAGNATED, _NAN = 1, 2, 3, 4


class Columns(Record):
    """The residuals (k,) at the checks of k problems that share their steps, and when and why each ended.

    Problems that have ended take part in further steps, so that their residuals may grow again: ``residual``,
    ``tolerance`` and ``steps`` are those at the end.
    """

    def __init__(self, k: int, growth: float = math.inf, *, from_first: bool = False, overflows: bool = False) -> None:
        super().__init__(growth, from_first=from_first, overflows=overflows)
        self.active = np.ones(k, bool)
        #: Those that ended at the last check
        self.closed = self._none = np.zeros(k, bool)
        self.residual, self.tolerance = np.empty((2, k))
        self.steps, self._codes = np.zeros(k, np.int64), np.zeros(k, np.int8)

    @property
    def is_active(self) -> bool:
        """Whether any problem has not ended."""
        return bool(self.active.any())

    @property
    def converged(self) -> Array:
        """Mask (k,) of the problems that have converged."""
        mask: Array = self._codes == _CONVERGED
        return mask

    def check(self, step: Step) -> bool:
        """Record a check; return whether it is the last one."""
        residual, tolerance, active = step.residual, step.tolerance, self.active
        if not self.history:
            self._smallest, self._scale = residual, tolerance
        elif not self._from_first:
            self._smallest = np.fmin(self._smallest, residual)
        self.history.append(residual)
        self.last = step
        with np.errstate(over="ignore", invalid="ignore"):
            is_finite = np.isfinite(residual + tolerance)
            is_good = (residual <= tolerance) & is_finite
            is_lost = (residual > self._growth * np.maximum(self._smallest, self._scale)) | ~is_finite
        if step.can_converge is not True:
            is_good &= step.can_converge
        if step.diverged is not False:
            is_lost |= step.diverged
        ended = is_good | is_lost
        if step.stagnated is not False:
            ended |= step.stagnated
        ended &= active
        self.closed = self._none
        if not ended.any():
            return len(active) == 0
        codes = np.where(is_good, _CONVERGED, np.where(is_lost, _DIVERGED, _STAGNATED))
        if not self._overflows:
            codes[np.isnan(residual) | np.isnan(tolerance)] = _NAN
        self._end(ended, codes)
        return not active.any()

    def _end(self, ended: Array, codes: Any) -> None:
        step = self.last
        np.copyto(self._codes, codes, "unsafe", ended)
        np.copyto(self.steps, step.steps, "unsafe", ended)
        np.copyto(self.residual, step.residual, "unsafe", ended)
        np.copyto(self.tolerance, step.tolerance, "unsafe", ended)
        self.active &= ~ended
        self.closed = self.closed | ended

    def stop(self, reason: Reason) -> None:
        """End everything that has not ended."""
        self._end(self.active.copy(), _REASONS.index(reason))

    def progress(self, step: Step) -> Progress:
        """Return the argument of the callback."""
        residual = np.where(self.active, step.residual, self.residual)
        tolerance = np.where(self.active, step.tolerance, self.tolerance)
        return Progress(step.steps, residual, tolerance, np.flatnonzero(self.active), step.numbers(), step.value)

    def results(self) -> dict[str, Any]:
        """Return the fields of a Solution that every solver has, except its value and method, and the tolerance."""
        return {
            "converged": self.converged,
            "steps": self.steps,
            "residual": self.residual,
            "tolerance": self.tolerance,
            "reason": tuple([_REASONS[code] for code in self._codes.tolist()]),
        }


class Recording(Protocol):
    """The part of a :class:`Record` that the loop needs, for a solver with a record of its own."""

    def check(self, step: Step) -> bool: ...
    def stop(self, reason: Reason) -> None: ...
    def progress(self, step: Step) -> Progress: ...


AnyRecord = TypeVar("AnyRecord", bound=Recording)


def iterate(steps: Iterable[Step], limits: Limits, record: AnyRecord) -> AnyRecord:
    """Take steps until they end; return the record.

    The callback is called at each check after which they would continue. A method without further steps has reached
    its maximum.
    """
    for step in steps:
        if record.check(step):
            break
        if limits.callback is not None and limits.stops(partial(record.progress, step)):
            record.stop("callback")
            break
        if step.steps >= limits.max_steps:
            record.stop("max_steps")
            break
    else:
        record.stop("max_steps")
    return record


def last_step(steps: Iterable[Step], limits: Limits, record: Record) -> int | None:
    """Return the step after which the callback stops; None if it does not.

    A solver whose loop is compiled makes its steps twice if there is a callback: one by one here, then at once.
    """
    if limits.callback is None:
        return None
    iterate(steps, limits, record)
    return record.last.steps if "callback" in record.results()["reason"] else None
