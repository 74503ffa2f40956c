"""The base of all methods: options as fields, the samples' history, and copies for warm starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..._check import type_name
from ..._suggest import PARAMETERS, did_you_mean
from .._space import Space
from .protocol import NAN, OVERFLOW, Active

#: Parameters of all functions that take the options of a method
_OF_SOLVERS = ("method", "rtol", "atol", "max_steps", "callback", "throw")

AnyMethod = TypeVar("AnyMethod", bound="Base")


@dataclass
class Base:
    """A method: its fields are its options."""

    name: ClassVar[str]
    growth: ClassVar[float] = 1e8
    rescues: ClassVar[bool] = False
    guarded: ClassVar[tuple[int, ...]] = ()
    function: str = field(default="fixed_point", init=False, repr=False, compare=False)
    space: Any = field(default=None, init=False, repr=False, compare=False)
    samples: int = field(default=0, init=False, repr=False, compare=False)
    n: int = field(default=0, init=False, repr=False, compare=False)
    domain: Any = field(default=None, init=False, repr=False, compare=False)
    loop: Any = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def of(cls: type[AnyMethod], function: str, options: dict[str, Any]) -> AnyMethod:
        """Return the method with these options, checked."""
        result: AnyMethod = cls._checked(function, options) if options else cls._default(function)
        return result

    @classmethod
    @cache
    def _default(cls: type[AnyMethod], function: str) -> AnyMethod:
        """Return the method without options; :meth:`begun` copies it."""
        return cls._checked(function, {})

    @classmethod
    def _checked(cls: type[AnyMethod], function: str, options: dict[str, Any]) -> AnyMethod:
        if options:
            known = sorted((each.name for each in fields(cls) if each.init), key=lambda name: name == "domain")
            for name in options:
                if name not in known:
                    listed = f"only {', '.join(known)}" if known else "and none at all"
                    meant = did_you_mean(name, (*known, *_OF_SOLVERS), PARAMETERS)
                    raise TypeError(f"{function}: method {cls.name!r} takes no option {name!r}, {listed}{meant}")
        method = cls(**options)
        method.function = function
        if method.domain is not None and not callable(method.domain):
            raise TypeError(f"{function}: domain must be callable or None, got {type_name(method.domain)}")
        method.check(function)
        return method

    def check(self, function: str) -> None:
        """Check the options, and convert them to plain numbers."""

    def begun(self: AnyMethod, space: Space, samples: int, n: int) -> AnyMethod:
        """Return a copy with a history for the given number of samples of n numbers."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.space, new.samples, new.n = space, samples, n
        new.begin()
        return new

    def begin(self) -> None:
        """Allocate the history."""

    def step(self, at: Active) -> Any:
        """Return the next x of each row."""
        raise NotImplementedError

    def extrapolated(self, slots: Any) -> Any:
        """Return the mask of the samples whose last step was not a plain one."""
        return np.zeros(len(slots), bool)

    def fallback(self, slots: Any) -> Any:
        """Return plain steps from the last x of samples with a usable value, in place of their last steps."""
        raise NotImplementedError

    def resumed(self: AnyMethod, other: Any) -> AnyMethod:
        """Return this method with the history of another, which has the same options and sizes."""
        return self


@dataclass
class Accelerated(Base):
    """A method that extrapolates, and takes a plain step if that leaves the domain of f.

    A warm start may have another function ``domain``.
    """

    guarded: ClassVar[tuple[int, ...]] = (NAN, OVERFLOW)
    domain: Any = field(default=None, kw_only=True, repr=False, compare=False)

    def extrapolated(self, slots: Any) -> Any:
        return np.ones(len(slots), bool)


def number_or_rule(function: str, name: str, x: object, check: Callable[..., float]) -> Any:
    """Return a positive number, or a function of the step that returns one."""
    return x if callable(x) else check(function, name, x, zero=False)


def value_at(rule: Any, function: str, name: str, step: int) -> float:
    """Return the number of a step."""
    if not callable(rule):
        return float(rule)
    value = rule(step)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
        raise TypeError(f"{function}: {name}(step) must return a number, got {type_name(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{function}: {name}(step) must return a finite number, got {value} for step {step}")
    return float(value)


def column_mask(flags: Any) -> Any:
    """Return flags of rows as a column."""
    return np.asarray(flags, bool)[:, None]
