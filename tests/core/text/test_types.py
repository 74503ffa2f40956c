"""The types that the programs of ``tests/core/types`` state, and type checkers verify, are those of the values."""

from __future__ import annotations

import importlib
import pkgutil
import types
from typing import Any, Union, get_args, get_origin

import pytest

from tests.core import types as programs

NAMES = [each.name for each in pkgutil.iter_modules(programs.__path__)]
#: The functions of a program, and the package that each needs
PARTS = {"arrays": "numpy", "estimators": "sklearn", "tensors": "torch"}


def has_type(value: object, expected: Any) -> bool:
    """Return whether a value has a type, as far as values show their types."""
    origin, arguments = get_origin(expected) or expected, get_args(expected)
    if origin in (Union, types.UnionType):
        return any(has_type(value, each) for each in arguments)
    if origin is tuple and isinstance(value, tuple):
        every = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(every) == len(value) and all(map(has_type, value, every))
    return isinstance(value, (float, int) if origin is float else origin)  # as an int may be given for a float


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", PARTS)
def test_values_have_the_stated_types(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = importlib.import_module(f"{programs.__name__}.{name}")
    run = getattr(program, part, None)
    if run is None:
        pytest.skip(f"no {part}")
    pytest.importorskip(PARTS[part])
    stated, wrong = [], []

    def compared(value: object, expected: Any) -> None:
        stated.append(expected)
        if not has_type(value, expected):
            wrong.append((value, expected))

    monkeypatch.setattr(program, "assert_type", compared)
    run()
    assert wrong == []
    assert len(stated) > 2


@pytest.mark.parametrize(
    ("value", "expected"), [(1.0, int), ((1, 2), tuple[int]), ((1, "a"), tuple[int, ...]), ("a", float | None)]
)
def test_other_types_are_refused(value: object, expected: Any) -> None:
    assert not has_type(value, expected)
