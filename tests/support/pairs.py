"""Tests over several parametrizations run each pair of their values, not each combination of all of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])


def pairs(test: Test) -> Test:
    """Keep cases of a test's three or more parametrizations in which each two values of two of them occur.

    It is written above the parametrizations. Four of them with two values each have 16 combinations, but six cases
    contain every pair.
    """
    marks: list[pytest.Mark] = test.pytestmark  # type: ignore[attr-defined]
    axes = [mark for mark in marks if mark.name == "parametrize"]
    assert len(axes) > 2, "the pairs of two parametrizations are all combinations"
    lines = [list(_cases(axis)) for axis in axes]
    cases = []
    for case in covering([len(line) for line in lines]):
        parts = [line[at] for line, at in zip(lines, case, strict=True)]
        values = itertools.chain.from_iterable(values for values, _, _ in parts)
        own = [mark for _, marks_of_value, _ in parts for mark in marks_of_value]
        cases.append(pytest.param(*values, marks=own, id="-".join(name for _, _, name in parts)))
    test.pytestmark = [mark for mark in marks if mark.name != "parametrize"]  # type: ignore[attr-defined]
    thinned: Test = pytest.mark.parametrize([name for axis in axes for name in _names(axis)], cases)(test)
    return thinned


def covering(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return tuples of an index below each size, in which each two indices of two places occur; always the same ones.

    Each tuple contains a pair that is missing so far; it is the one with most missing pairs of a few that are drawn.
    """
    draw, places = random.Random(0), list(itertools.combinations(range(len(sizes)), 2))

    def pairs_of(case: Sequence[int]) -> set[tuple[int, int, int, int]]:
        return {(i, case[i], j, case[j]) for i, j in places}

    missing = {(i, a, j, b) for i, j in places for a in range(sizes[i]) for b in range(sizes[j])}
    found = []
    for i, a, j, b in sorted(missing):
        if (i, a, j, b) in missing:
            drawn = [[draw.randrange(size) for size in sizes] for _ in range(40)]
            for case in drawn:
                case[i], case[j] = a, b
            best = max(drawn, key=lambda case: len(missing & pairs_of(case)))
            missing -= pairs_of(best)
            found.append(tuple(best))
    return sorted(found)


def _names(axis: pytest.Mark) -> list[str]:
    names = axis.args[0]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _cases(axis: pytest.Mark) -> Iterator[tuple[tuple[Any, ...], Iterable[Any], str]]:
    """Yield the values, the marks and the name of each case of a parametrization."""
    names, ids = _names(axis), axis.kwargs.get("ids")
    given = iter(ids) if ids is not None and not callable(ids) else itertools.repeat(None)
    for k, case in enumerate(axis.args[1]):
        if hasattr(case, "values") and hasattr(case, "marks"):  # made by pytest.param
            values, marks, own = tuple(case.values), case.marks, case.id
        else:
            values, marks, own = (case,) if len(names) == 1 else tuple(case), (), None
        own = next(given) or own or "-".join(map(_name, values, [f"{name}{k}" for name in names], [ids] * len(names)))
        yield values, marks, own


def _name(value: Any, otherwise: str, ids: Any) -> str:
    """Return the name that pytest gives a value."""
    if callable(ids) and (own := ids(value)) is not None:
        return str(own)
    known = value is None or isinstance(value, (str, int, float))
    return str(value) if known else getattr(value, "__name__", otherwise)
