"""fastiter.tune.solve against brute force, and the cases that the reference gets wrong."""

from __future__ import annotations

import itertools
import operator
import random
import re
from typing import Any

import pytest

from fastiter import tune

RELATIONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
BINDING = {"or": 1, "and": 2, **dict.fromkeys(RELATIONS, 3), "in": 3, "+": 4, "-": 4, "*": 5, "%": 5, "neg": 6, "^": 7}
Tree = Any


# random problems, written as text and valued here, by Python's own arithmetic -----------------------------------------


def random_term(rng: random.Random, names: list[str], depth: int) -> Tree:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(names) if rng.random() < 0.7 else rng.randint(0, 6)
    kind = rng.choice(["+", "+", "-", "-", "*", "*", "%", "%", "neg", "^", "power"])
    if kind == "neg":
        return ("neg", random_term(rng, names, depth - 1))
    if kind == "power":
        return ("^", random_term(rng, names, depth - 1), rng.randint(0, 3))
    right = random_term(rng, names, depth - 1 if kind != "^" else 0)
    return (kind, random_term(rng, names, depth - 1 if kind != "^" else 0), right)


def random_condition(rng: random.Random, names: list[str], depth: int) -> Tree:
    if depth and rng.random() < 0.5:
        parts = random_condition(rng, names, depth - 1), random_condition(rng, names, depth - 1)
        return (rng.choice(["and", "or", "or"]), *parts)
    if rng.random() < 0.2:
        values = [rng.randint(-5, 9) for _ in range(rng.randint(1, 4))]
        return (rng.choice(["in", "==", "!="]), random_term(rng, names, 1), values)
    if rng.random() < 0.1:
        terms = [random_term(rng, names, 1) for _ in range(3)]
        return ("chain", rng.choice(list(RELATIONS)), rng.choice(list(RELATIONS)), *terms)
    return (rng.choice([*RELATIONS, "=="]), random_term(rng, names, 2), random_term(rng, names, 2))


def written(tree: Tree, outside: int = 0) -> str:
    """Write a tree with no more brackets than its operators need."""
    if not isinstance(tree, tuple):
        return str(tree)
    kind, *parts = tree
    if kind == "chain":
        first, second, *terms = parts
        a, b, c = (written(term, BINDING["+"]) for term in terms)
        return f"{a} {first} {b} {second} {c}"
    binding = BINDING[kind]
    if kind == "neg":
        text = f"-{written(parts[0], binding)}"
    else:
        right_first = kind == "^"
        text = f"{written(parts[0], binding + right_first)} {kind} {written(parts[1], binding + (not right_first))}"
    return f"({text})" if binding < outside else text


def valued(tree: Tree, known: dict[str, int]) -> Any:
    """Return the value of a term, None where it has none; of a condition, whether it holds."""
    if isinstance(tree, str):
        return known[tree]
    if not isinstance(tree, tuple):
        return tree
    kind, *parts = tree
    if kind == "chain":
        first, second, a, b, c = parts
        return valued((first, a, b), known) and valued((second, b, c), known)
    left, right = valued(parts[0], known), valued(parts[-1], known)
    if kind in ("and", "or"):
        return (left and right) if kind == "and" else (left or right)
    if left is None or right is None:
        return None if kind not in (*RELATIONS, "in") else False
    if isinstance(right, list):
        return (left in right) == (kind != "!=")
    if kind in RELATIONS:
        return RELATIONS[kind](left, right)
    if kind == "neg":
        return -left
    if (kind == "%" and right == 0) or (kind == "^" and right < 0):
        return None
    return (
        {"+": left + right, "-": left - right, "*": left * right}.get(kind)
        if kind in "+-*"
        else (left % right if kind == "%" else left**right)
    )


def random_problem(seed: int) -> tuple[str, list[dict[str, int]], Tree]:
    """Return a text, all its solutions in order, and a term to minimise."""
    rng = random.Random(seed)
    names = ["a", "b_1", "C2"][: rng.randint(1, 3)]
    ends = [(low, low + rng.randint(0, 7)) for low in (rng.randint(-4, 4) for _ in names)]
    trees = [random_condition(rng, names, 2) for _ in range(rng.randint(1, 3))]
    bounds = [f"{lo} <= {name} <= {hi}" for name, (lo, hi) in zip(names, ends, strict=True)]
    points = itertools.product(*(range(lo, hi + 1) for lo, hi in ends))
    every = (dict(zip(names, point, strict=True)) for point in points)
    solutions = [known for known in every if all(valued(tree, known) for tree in trees)]
    return "; ".join([*bounds, *map(written, trees)]), solutions, random_term(rng, names, 2)


@pytest.mark.parametrize("block", range(8))
def test_all_solutions_of_random_problems_are_found_in_order(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        text, solutions, _ = random_problem(seed)
        assert tune.solve(text, limit=None) == solutions, text
        assert tune.solve(text, limit=2) == solutions[:2], text


@pytest.mark.parametrize("block", range(4))
def test_minimising_random_problems_gives_rising_cost(block: int) -> None:
    for seed in range(1000 + block * 50, 1000 + block * 50 + 50):
        text, solutions, cost = random_problem(seed)
        priced = [s for s in solutions if valued(cost, s) is not None]
        expected = sorted(priced, key=lambda known: valued(cost, known))  # stable: ties stay in order
        for limit in (1, 3, None):
            assert tune.solve(text, minimize=written(cost), limit=limit) == expected[:limit], (text, written(cost))


def test_exclusions_of_random_problems_are_left_out() -> None:
    for seed in range(2000, 2060):
        rng = random.Random(seed)
        text, solutions, _ = random_problem(seed)
        exclude = [{name: s[name] for name in s if rng.random() < 0.7} for s in solutions[::3]]
        exclude = [part for part in exclude if part]
        left = [s for s in solutions if not any(part.items() <= s.items() for part in exclude)]
        assert tune.solve(text, exclude=exclude, limit=None) == left, text


# what the reference gets wrong ----------------------------------------------------------------------------------------


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


def test_a_product_of_two_primes_is_taken_apart() -> None:
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
    ],
)
def test_statements(text: str, values: list[int]) -> None:
    assert tune.solve(text, limit=None) == [{"x": value} for value in values]


def test_no_statement_has_one_solution() -> None:
    assert tune.solve("") == tune.solve(" ;\n# nothing\n") == [{}]
    assert tune.solve("1 == 2") == []


def test_there_is_no_limit_of_recursion() -> None:
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


# what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["x >= 1", "x > y; y > x; x >= 0; y >= 0", "x == y", "k >= 5000; x == 2 ^ k", "x - x == 0"]
)
def test_variables_without_bounds_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"solve: text must give each variable finite bounds, .* got none for '[xk]'"):
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
        ("x <= [1, 2]", (1, 3), "'<=' cannot stand between a term and a list"),
        ("x == 1 and 2", (1, 8), "expected a condition on each side of 'and', got a term"),
        ("x == ", (1, 6), "expected a number, a name or a bracket, got the end"),
        ("x y == 1", (1, 3), "expected an operator, got 'y'"),
        ("x == " + "9" * 601, (1, 6), "a number has 601 digits, more than 600"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_where_it_stands(text: str, at: tuple[int, int], problem: str) -> None:
    message = f"solve: text must follow the grammar of docs/tune.md, at line {at[0]}, column {at[1]} {problem}"
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
