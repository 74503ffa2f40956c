"""fastiter.tune.solve: its language, cases in which the reference is wrong, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastiter import tune

# errors of the reference ---------------------------------------------------------------------------------------------


def test_brackets_are_honoured() -> None:
    assert tune.solve("(A + 1) * 2 == 10", limit=None) == [{"A": 4}]


def test_several_solutions_are_distinct() -> None:
    assert tune.solve("A * B == 6; A >= 1", limit=3) == [{"A": 1, "B": 6}, {"A": 2, "B": 3}, {"A": 3, "B": 2}]


def test_exclusion_ends() -> None:
    found: list[dict[str, int]] = []
    while new := tune.solve("A == [1, 3]; B == [2, 4]; A < B", exclude=found):
        found += new
    assert found == [{"A": 1, "B": 2}, {"A": 1, "B": 4}, {"A": 3, "B": 4}]
    assert tune.solve("A == [1, 3]", exclude=[{}]) == []


def test_a_divisor_from_a_list_is_found() -> None:
    assert tune.solve("A % B == 0; A == 12; B == [1, 5];", limit=None) == [{"A": 12, "B": 1}]


def test_a_product_of_two_primes_is_factorised() -> None:
    text = "A*B == 9991; 1 <= A; A <= 5000; 1 <= B; B <= 5000"
    assert tune.solve(text, limit=None) == [{"A": 97, "B": 103}, {"A": 103, "B": 97}]
    assert tune.solve("A * B == 91; A > 1; B > 1", limit=None) == [{"A": 7, "B": 13}, {"A": 13, "B": 7}]


def test_remainder_binds_as_tightly_as_product() -> None:
    known = "X == 7; A == 4; B == 2"
    assert tune.solve(f"{known}; R == X % A * B") == [{"X": 7, "A": 4, "B": 2, "R": 6}]
    assert tune.solve(f"{known}; R == X % (A * B)") == [{"X": 7, "A": 4, "B": 2, "R": 7}]


def test_a_width_of_100_is_tiled() -> None:
    found = tune.solve("tiles * 4 == 100; tiles == warps * loops; warps in [1, 5, 25]", limit=None)
    assert [s["warps"] for s in found] == [1, 5, 25]


# the language ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ("-2 ^ 2", -4),
        ("2 ^ 3 ^ 2", 512),
        ("-7 % 3", 2),
        ("7 % -3", -2),
        ("2 + 3 * 4 - 10 - 1", 3),
        ("20 % 7 * 2", 12),
        ("2 * -3", -6),
        ("0 ^ 0", 1),
        ("--3 + +2", 5),
        ("2 ^ (1 + 1) ^ 2 % 7", 2),
        ("2 ^ 200", 2**200),
    ],
)
def test_precedence(term: str, value: int) -> None:
    assert tune.solve(f"x == {term}", limit=None) == [{"x": value}]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x in 1..3", [1, 2, 3]),
        ("x == [8, 1..2, -4]", [-4, 1, 2, 8]),
        ("[8, 16] == x", [8, 16]),
        ("2 * x in [8, 9, 16]", [4, 8]),
        ("x in -3..-2 # comment; x == 7", [-3, -2]),
        ("x in 1..9; x != [1, 3..8]", [2, 9]),
        ("1 <= x < 4", [1, 2, 3]),
        ("x == 1 or x == 5 and x > 2 | x == 7", [1, 5, 7]),
        ("(x == 1 or x == 5) and x > 2", [5]),
        ("x == 1\n  or x == 2\n\nx ==\n 2;;", [2]),
        ("x == (1 +\n 1)", [2]),
        ("x in 0..4; 6 % x == 0", [1, 2, 3]),
        ("x in 0..4; (6 % x == 0 or x == 0)", [0, 1, 2, 3]),
        ("x in 0..4; x == 0 or 0 <= 6 % x <= 1", [0, 1, 2, 3]),
        ("x in -2..2; 2 ^ x <= 2", [0, 1]),
        ("x == 3 or (x == 1..2 and x != 1)", [2, 3]),
        ("x * x == 49; x in -100..100", [-7, 7]),
        ("x in 0..10; x % 0 == 0", []),
        ("x in 5..4", []),
        ("1 <= x in [0, 3, 7]", [3, 7]),
        ("4 > x != [0, 2] != 1 < 3; x in 0..9", [1, 3]),
        ("[1, 2] == x <= 1", [1]),
        ("[3, 5] == x in 4..9", [5]),
    ],
)
def test_statements(text: str, values: list[int]) -> None:
    assert tune.solve(text, limit=None) == [{"x": value} for value in values]


def test_no_statement_has_one_solution() -> None:
    assert tune.solve("") == tune.solve(" ;\n# nothing\n") == [{}]
    assert tune.solve("1 == 2") == []


def test_expressions_may_be_nested_deeply() -> None:
    assert tune.solve("(" * 5000 + "x" + ")" * 5000 + " == 3") == [{"x": 3}]
    assert tune.solve("-" * 5001 + "x == 3") == [{"x": -3}]
    assert tune.solve(" + ".join(["x"] * 5000) + " == 10000") == [{"x": 2}]
    assert tune.solve("x" + " + (x" * 2000 + ")" * 2000 + " == 4002") == [{"x": 2}]
    assert tune.solve(" * ".join(["x"] * 200) + " == 2 ^ 200; x > 0") == [{"x": 2}]
    assert len(tune.solve(" or ".join(f"x == {i}" for i in range(300)), limit=None)) == 300


def test_integers_are_exact() -> None:
    big = 10**40 + 1
    assert tune.solve(f"x * 3 == {3 * big}") == [{"x": big}]
    assert tune.solve(f"x ^ 2 == {big**2}; x >= 0") == [{"x": big}]
    assert tune.solve(f"x ^ 2 == {big**2 + 1}; x >= 0") == []
    assert tune.solve("2 ^ k == 2 ^ 1000; k >= 0") == [{"k": 1000}]
    assert tune.solve(f"x % {big} == {big - 1}; 0 <= x < {2 * big}", limit=None) == [{"x": big - 1}, {"x": 2 * big - 1}]


def test_numbers_beyond_the_bounds_are_exact() -> None:
    """Bounds of 2^2048 or more are treated as none and are 2^8192 internally; numbers in the text may exceed both."""
    for bits in (2047, 2048, 2049, 5000, 8191, 8192, 8193, 30000):
        huge = f"2 ^ {bits}"
        for true in (
            f"{huge} > 5",
            f"5 != {huge}",
            f"-{huge} < {huge}",
            f"{huge} % 2 == 0",
            f"{huge} - {huge} + 1 == 1",
        ):
            assert tune.solve(true) == [{}], true
        for false in (f"{huge} < 5", f"5 == {huge}", f"{huge} in 1..9", f"{huge} == {huge} + 1"):
            assert tune.solve(false) == [], false
        bounded = "x in -4..9; y in 1..9;"
        assert tune.solve(f"{bounded} x * {huge} + y == 3 * {huge} + 2", limit=None) == [{"x": 3, "y": 2}]
        assert tune.solve(f"{bounded} x % {huge} == 3; x < {huge}; y == 1 or y > {huge}") == [{"x": 3, "y": 1}]
        assert tune.solve(f"{bounded} x * {huge} > y * {huge} + 7 * {huge}") == [{"x": 9, "y": 1}]
        assert tune.solve(f"{bounded} y == 1; x - {huge} == -{huge} - 4") == [{"x": -4, "y": 1}]
        assert tune.solve(f"{bounded} y == 2; {huge} % x == y", limit=None) == [
            {"x": x, "y": 2} for x in range(1, 10) if 2**bits % x == 2
        ]


def test_wide_ranges_cost_no_more_than_their_solutions() -> None:
    first = next(x for x in range(1001) if (x % 7, x % 11, x % 13) == (3, 5, 1))
    congruences = "x in 1..1000000000000; x % 7 == 3; x % 11 == 5; x % 13 == 1"
    assert tune.solve(congruences, limit=2) == [{"x": first}, {"x": first + 1001}]
    assert tune.solve("x % 2 == 1; x % 4 == 0; x in 1..1000000000000") == []
    assert tune.solve("x in 1..1000000000000; y in 1..1000000000000; x * y == 999999000001; x <= y", limit=None)
    assert len(tune.solve("x in 1..1000000000000", limit=3)) == 3
    wide = " in 1..1000000000000; ".join("xyz") + " in 1..1000000000000"
    assert tune.solve(f"{wide}; 4 * x + 6 * y == z; z % 2 == 1") == []
    assert tune.solve(f"{wide}; 3 * x == 16 * y; 5 * y == 7 * z") == [{"x": 112, "y": 21, "z": 15}]


def all_different(count: int, values: str, relation: str = "v{} != v{}") -> str:
    pairs = [relation.format(i, j) for i in range(count) for j in range(i)]
    return "; ".join([*(f"v{i} in {values}" for i in range(count)), *pairs])


@pytest.mark.parametrize("relation", ["v{} != v{}", "v{0} < v{1} or v{1} < v{0}", "v{} - v{} != [0, 70]"])
@pytest.mark.parametrize("values", ["1..29", "[1, 4..30, 77]"])
def test_too_many_distinct_numbers_are_refuted_at_once(relation: str, values: str) -> None:
    """Bisection alone would try 29! cases."""
    assert tune.solve(all_different(30, values, relation)) == []
    assert len(tune.solve(all_different(29, values, relation))) == 1


def test_all_different_groups_are_counted_in_parts_and_with_offsets() -> None:
    three = "; ".join(f"v{i} in [4, 9]" for i in range(3))
    assert tune.solve(f"{all_different(20, '1..90')}; {three}") == []
    two = "; v0 in [4, 9]; v1 in [9, 4]; v2 in 4..9; v3 in [4, 5, 9]; v2 != 8"
    assert tune.solve(f"{all_different(12, '1..12')}{two}")[0]["v3"] == 5
    queens = [f"q{i} - q{j} != [0, {i - j}, {j - i}]" for i in range(6) for j in range(i)]
    found = tune.solve("; ".join([*(f"q{i} in 1..6" for i in range(6)), *queens]), limit=None)
    assert [tuple(s.values()) for s in found] == [
        (2, 4, 6, 1, 3, 5), (3, 6, 2, 5, 1, 4), (4, 1, 5, 2, 6, 3), (5, 3, 1, 6, 4, 2)
    ]  # fmt: skip


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["x >= 1", "x > y; y > x; x >= 0; y >= 0", "x == y", "k >= 5000; x == 2 ^ k", "x - x == 0"]
)
def test_variables_without_bounds_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"solve: text must give each variable finite bounds, .* got none for '[xk]'"):
        tune.solve(text)


@pytest.mark.parametrize(
    "text", ["x == 2 ^ 3000", "x >= 2^9000", "y in 1..3; 0 > x + y + 2 ^ 2048", "x == -(2 ^ 20000)"]
)
def test_variables_beyond_the_bounds_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r", of magnitudes below 2\^2048, as in 1 <= x <= 64, got 'x' beyond 2\^2048$"):
        tune.solve(text)


@pytest.mark.parametrize(
    ("text", "at", "problem"),
    [
        ("x / 3 == 1", (1, 3), "got '/': there is no division, write a * b == c"),
        ("x == 1;\nx = 3", (2, 3), "got '=': equality is =="),
        ("x == 3 == (y == 4)", (1, 8), "'==' cannot stand between a term and a condition"),
        ("(x == 3", (1, 1), "a bracket is never closed"),
        ("x == 3)", (1, 7), "a bracket is closed that was never opened"),
        ("x in [1, 2", (1, 6), "a list must be of integers and ranges, as in [8, 16..32]"),
        ("x in [1, y]", (1, 10), "a list must be of integers and ranges, as in [8, 16..32], got 'y'"),
        ("x in y", (1, 3), "'in' must be followed by a list or a range, got a term"),
        ("x + 1", (1, 1), "expected a condition, got a term"),
        ("x == [1] + 2", (1, 10), "expected a term on each side of '+', got a list"),
        ("x in [8, 16, 32] <= 20", (1, 18), "'<=' cannot stand between a list and a term"),
        ("1 < y == [1, 2] > x", (1, 17), "'>' cannot stand between a list and a term"),
        ("x != [1, 2] in 1..64", (1, 13), "'in' cannot stand between a list and a list"),
        ("x in 1..3 in 2..4", (1, 11), "'in' cannot stand between a list and a list"),
        ("(x in [1, 2] == [1])", (1, 14), "'==' cannot stand between a list and a list"),
        ("y == 1 or x != [1] != [2]", (1, 20), "'!=' cannot stand between a list and a list"),
        ("x in [1, 2] in y", (1, 13), "'in' must be followed by a list or a range, got a term"),
        ("x not in [1, 2]", (1, 3), "expected an operator, got 'not': what is in no list is x != [8, 16]"),
        ("x <= [1, 2]", (1, 3), "'<=' cannot stand between a term and a list"),
        ("x == 1 and 2", (1, 8), "expected a condition on each side of 'and', got a term"),
        ("x == ", (1, 6), "expected a number, a name or a bracket, got the end"),
        ("x y == 1", (1, 3), "expected an operator, got 'y'"),
        ("x == " + "9" * 601, (1, 6), "a number has 601 digits, more than 600"),
    ],
)
def test_syntax_errors_name_their_position(text: str, at: tuple[int, int], problem: str) -> None:
    message = f"solve: text must follow the grammar of docs/tune/index.md, at line {at[0]}, column {at[1]} {problem}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tune.solve(text)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": 3}, TypeError, "solve: text must be a str, got int"),
        ({"minimize": 3}, TypeError, "solve: minimize must be a str, got int"),
        ({"minimize": "y"}, ValueError, "solve: minimize must be a term of the variables of text, got 'y'"),
        ({"limit": 0}, ValueError, "solve: limit must be at least 1, got 0"),
        ({"limit": 1.0}, TypeError, "solve: limit must be an int or None, got float"),
        ({"exclude": {"x": 1}}, TypeError, "solve: exclude must be a sequence of dicts, got dict"),
        ({"exclude": [3]}, TypeError, "solve: exclude must be a sequence of dicts, got one of int"),
        ({"exclude": [{"y": 1}]}, ValueError, "solve: exclude must name variables of text, got 'y'"),
        ({"exclude": [{"x": 1.5}]}, TypeError, "solve: exclude must have integers as values, got float for 'x'"),
        (
            {"text": "x == 9 ^ 9 ^ 9"},
            ValueError,
            "solve: numbers must have at most 1000000 bits, got one of about 1549681956",
        ),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tune.solve(**{"text": "x == 1", **arguments})
