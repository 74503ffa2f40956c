"""fastiter.tune.solve against brute force by Python's own arithmetic, on random problems of its whole grammar."""

from __future__ import annotations

import itertools
import operator
import random
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
BINDING = {"or": 1, "and": 2, "chain": 3, "+": 4, "-": 4, "*": 5, "%": 5, "neg": 6, "^": 7}
#: Values around and beyond the bound that the search treats as infinite
HUGE = [2047, 2048, 2049, 8191, 8193]
Tree = Any


# problems as trees: a term is a name, a number or (operator, terms...); a list of integers is ("list", ranges) --------


def random_term(rng: random.Random, names: list[str], depth: int, huge: bool = False) -> Tree:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(names) if rng.random() < 0.7 else rng.randint(0, 6)
    if huge and rng.random() < 0.2:
        return ("^", 2, rng.choice(HUGE))
    kind = rng.choice(["+", "+", "-", "-", "*", "*", "%", "%", "neg", "^", "power"])
    if kind == "neg":
        return ("neg", random_term(rng, names, depth - 1, huge))
    if kind == "power":
        return ("^", random_term(rng, names, depth - 1, huge), rng.randint(0, 3))
    depth = 0 if kind == "^" else depth - 1
    return (kind, random_term(rng, names, depth, huge), random_term(rng, names, depth, huge))


def random_list(rng: random.Random) -> Tree:
    lows = [rng.randint(-5, 9) for _ in range(rng.randint(1, 4))]
    return ("list", [(low, low + rng.choice([0, 0, 1, 5, -1])) for low in lows])


def random_chain(rng: random.Random, names: list[str], huge: bool) -> Tree:
    """Return a chain of relations; a list stands between terms, next to == != in."""
    length = rng.choice([2, 2, 2, 3, 4])
    lists = [False]
    while len(lists) <= length:
        lists.append(not lists[-1] and rng.random() < 0.2)
    lists = lists[1:]
    sides = [random_list(rng) if its else random_term(rng, names, 2 if length == 2 else 1, huge) for its in lists]
    relations = []
    for left, right in itertools.pairwise(lists):
        known = ["==", "!=", "in", "in"] if right else ["==", "!="] if left else [*RELATIONS, "=="]
        relations.append(rng.choice(known))
    return ("chain", relations, *sides)


def random_condition(rng: random.Random, names: list[str], depth: int, huge: bool = False) -> Tree:
    if depth and rng.random() < 0.5:
        parts = [random_condition(rng, names, depth - 1, huge) for _ in range(2)]
        return (rng.choice(["and", "or", "or"]), *parts)
    return random_chain(rng, names, huge)


# text and value ------------------------------------------------------------------------------------------------------


def written(tree: Tree, outside: int = 0) -> str:
    """Format a tree with only the necessary brackets."""
    if not isinstance(tree, tuple):
        return str(tree)
    kind, *parts = tree
    if kind == "list":
        ranges = [f"{lo}..{hi}" if lo != hi else str(lo) for lo, hi in parts[0]]
        return ranges[0] if len(ranges) == 1 and ".." in ranges[0] else f"[{', '.join(ranges)}]"
    binding = BINDING[kind]
    if kind == "chain":
        relations, *sides = parts
        text = written(sides[0], binding + 1)
        for relation, side in zip(relations, sides[1:], strict=True):
            text += f" {relation} {written(side, binding + 1)}"
    elif kind == "neg":
        text = f"-{written(parts[0], binding)}"
    else:
        right_first = kind == "^"
        text = f"{written(parts[0], binding + right_first)} {kind} {written(parts[1], binding + (not right_first))}"
    return f"({text})" if binding < outside else text


def scattered(rng: random.Random, statements: list[str]) -> str:
    """Join statements in various styles: on separate lines, with comments, with ``|`` for or."""
    text = ""
    for statement in statements:
        for word in ("or", "and", "==", "<=", "*", "in"):
            if rng.random() < 0.1:
                statement = statement.replace(
                    f" {word} ", rng.choice([f"\n {word} ", f" {word}  # here\n", f" {word}\t"])
                )
        text += statement + rng.choice(["; ", ";", "\n", " # x == 1; y\n", ";;\n\n"])
    return text.replace(" or ", " | ") if rng.random() < 0.3 else text


def valued(tree: Tree, known: dict[str, int]) -> Any:
    """Return the value of a term (None if undefined), whether a condition holds, or the values of a list."""
    if isinstance(tree, str):
        return known[tree]
    if not isinstance(tree, tuple):
        return tree
    kind, *parts = tree
    if kind == "list":
        return [value for lo, hi in parts[0] for value in range(lo, hi + 1)]
    if kind == "chain":
        values = [valued(side, known) for side in parts[1:]]
        return all(itertools.starmap(related, zip(parts[0], values, values[1:], strict=False)))
    left, right = valued(parts[0], known), valued(parts[-1], known)
    if kind in ("and", "or"):
        return (left and right) if kind == "and" else (left or right)
    if left is None or right is None:
        return None
    if kind == "neg":
        return -left
    if (kind == "%" and right == 0) or (kind == "^" and right < 0):
        return None
    if kind in "+-*":
        return {"+": left + right, "-": left - right, "*": left * right}[kind]
    return left % right if kind == "%" else left**right


def related(relation: str, left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    if isinstance(left, list):
        left, right = right, left
    if isinstance(right, list):
        return (left in right) == (relation != "!=")
    return RELATIONS[relation](left, right)


def random_problem(seed: int, huge: bool = False) -> tuple[str, list[dict[str, int]], Tree]:
    """Return a text, all its solutions in order, and a term to minimise."""
    rng = random.Random(seed)
    names = ["a", "b_1", "C2"][: rng.randint(1, 3)]
    ends = [(low, low + rng.randint(0, 7)) for low in (rng.randint(-4, 4) for _ in names)]
    trees = [random_condition(rng, names, 2, huge) for _ in range(rng.randint(1, 3))]
    bounds = [f"{lo} <= {name} <= {hi}" for name, (lo, hi) in zip(names, ends, strict=True)]
    points = itertools.product(*(range(lo, hi + 1) for lo, hi in ends))
    every = (dict(zip(names, point, strict=True)) for point in points)
    solutions = [known for known in every if all(valued(tree, known) for tree in trees)]
    return scattered(rng, [*bounds, *map(written, trees)]), solutions, random_term(rng, names, 2, huge)


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("block", range(8))
def test_all_solutions_of_random_problems_are_found_in_order(block: int, huge: bool) -> None:
    for seed in range(block * 50, block * 50 + 50):
        text, solutions, _ = random_problem(seed, huge)
        assert tune.solve(text, limit=None) == solutions, text
        assert tune.solve(text, limit=2) == solutions[:2], text


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize("block", range(4))
def test_minimising_random_problems_gives_rising_cost(block: int, huge: bool) -> None:
    for seed in range(1000 + block * 50, 1000 + block * 50 + 50):
        text, solutions, cost = random_problem(seed, huge)
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


def random_differences(seed: int) -> tuple[str, list[dict[str, int]]]:
    """Return variables with few values, and variously written constraints x != y + c on most pairs."""
    rng = random.Random(seed)
    names = list("abcde")[: rng.randint(3, 5)]
    values = {name: sorted(rng.sample(range(-3, 5), rng.randint(1, len(names)))) for name in names}
    wide = rng.choice(names)
    values[wide] = list(range(-6, 9)) if rng.random() < 0.3 else values[wide]
    statements = [f"{name} in {its}" for name, its in values.items()]
    apart = []
    for a, b in itertools.combinations(names, 2):
        for difference in rng.sample((0, 0, 1, -2), rng.choice([0, 1, 1, 2])):
            apart.append((a, b, difference))
            ways = [f"{a} - {b} != {difference}", f"{b} + {difference} != {a}"]
            ways.append(f"{a} < {b} + {difference} or {b} < {a} - {difference}")
            statements.append(rng.choice(ways))
    rng.shuffle(statements)
    order = sorted(names, key=" ".join(statements).index)
    every = (dict(zip(order, point, strict=True)) for point in itertools.product(*(values[name] for name in order)))
    return "; ".join(statements), [known for known in every if all(known[a] - known[b] != d for a, b, d in apart)]


@pytest.mark.parametrize("block", range(4))
def test_all_different_solutions_are_found_in_order(block: int) -> None:
    """Counting values narrows groups of all-different variables with offsets; no solution may be lost."""
    for seed in range(3000 + block * 50, 3000 + block * 50 + 50):
        text, solutions = random_differences(seed)
        assert tune.solve(text, limit=None) == solutions, text
