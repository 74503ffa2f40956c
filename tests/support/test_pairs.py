"""Thinned parametrizations keep every pair of values, the names of the cases, and their marks."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.pairs import covering, pairs


@pytest.mark.parametrize("sizes", [(2, 2, 2), (5, 2, 2, 2), (3, 1, 4), (2, 2, 2, 2, 2, 2), (7, 3, 2, 5)])
def test_every_pair_occurs_in_few_cases(sizes: tuple[int, ...]) -> None:
    found = covering(sizes)
    for (i, one), (j, other) in itertools.combinations(enumerate(sizes), 2):
        assert {(case[i], case[j]) for case in found} == set(itertools.product(range(one), range(other)))
    largest, second = sorted(sizes)[-1], sorted(sizes)[-2]
    assert len(found) == len(set(found)) <= 2 * largest * second and found == covering(sizes)


def test_cases_have_the_names_and_marks_of_their_values() -> None:
    @pairs
    @pytest.mark.parametrize("a", [1, pytest.param(2, marks=pytest.mark.gpu)])
    @pytest.mark.skip(reason="stays")
    @pytest.mark.parametrize(("b", "c"), [("x", None), ("y", True)], ids=["first", "second"])
    @pytest.mark.parametrize("d", [float, (1, 2)])
    def test(a: int, b: str, c: Any, d: Any) -> None:
        raise AssertionError

    kept, made = test.pytestmark
    names, cases = made.args
    assert kept.name == "skip" and names == ["d", "b", "c", "a"]
    every = itertools.product(("float", "d1"), ("first", "second"), "12")
    assert {case.id for case in cases} < set(map("-".join, every))
    for case in cases:
        d, b, c, a = case.values
        assert case.id == "-".join((("d1", "float")[d is float], ("first", "second")[c is True], str(a)))
        assert b == ("y" if c else "x") and [mark.name for mark in case.marks] == ["gpu"] * (a == 2)


def test_two_parametrizations_are_not_thinned() -> None:
    with pytest.raises(AssertionError, match="the pairs of two parametrizations are all combinations"):

        @pairs
        @pytest.mark.parametrize("a", [1, 2])
        @pytest.mark.parametrize("b", [3, 4])
        def test(a: int, b: int) -> None:
            raise AssertionError
