"""The loop's side of a method: the samples at a step, the kernel's verdicts on them, and the protocol of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .._space import Numbers, Rows

#: The kernel's verdicts, by their numbers
CONVERGED, NAN, OVERFLOW, GROWN, STALE, ROUNDED, VANISHING = 1, 2, 3, 4, 5, 6, 7


@dataclass
class Active:
    """The samples that have not ended, at a step: rows of buffers."""

    #: The sample of each row
    slots: Rows
    x: Any
    #: f(x)
    f: Any
    #: ||f(x) - x|| of all samples
    residuals: Numbers
    #: Mask, as bytes, of the rows whose history must be discarded; None: no row
    restart: Any
    #: The steps before this one
    steps: int
    #: Evaluates f at other points for the same rows
    evaluate: Callable[[Any], Any]
    #: (x, v) -> f'(x) v for the same rows; None if f has no derivatives
    jvp: Callable[[Any, Any], Any] | None

    @property
    def residual(self) -> Numbers:
        """||f(x) - x|| of the rows."""
        return self.residuals[self.slots]

    def rows(self, chosen: Rows) -> tuple[Any, ...]:
        """Return slots and restart of some rows."""
        return self.slots[chosen], None if self.restart is None else self.restart[chosen]


class Method(Protocol):
    """A method, with the history of all samples."""

    name: str
    #: The residual, relative to the best one, at which a sample has diverged
    growth: float
    #: Whether a sample that fails restarts from its best iterate
    rescues: bool
    #: The verdicts on an extrapolated x in whose place the method returns to a plain step
    guarded: tuple[int, ...]
    #: domain(x, *args) -> whether each x is admissible; None: every x is
    domain: Callable[..., Any] | None
    #: The numbers and arrays with which compiled code steps; None if it cannot
    loop: tuple[Any, ...] | None

    def step(self, at: Active) -> Any:
        """Return the next x of each row, in new memory."""

    def extrapolated(self, slots: Rows) -> Any:
        """Return the mask of the samples whose last step was not a plain one."""

    def fallback(self, slots: Rows) -> Any:
        """Return plain steps from the last x of samples with a usable value, in place of their last steps."""
