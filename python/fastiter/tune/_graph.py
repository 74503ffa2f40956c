"""Statements as a graph of terms without duplicates, and conditions on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._domains import INFINITE, LIMIT, LOWEST, saturated
from ._language import Code, Ranges, arithmetic, merged

#: A condition over conditions in postfix form: ("leaf", Leaf), ("and", count) or ("or", count).
Formula = list[tuple[str, Any]]

POSITIVE_OR_NEGATIVE: Ranges = ((-INFINITE, -1), (1, INFINITE))


class Node(NamedTuple):
    """A term: a variable; a sum of coefficient * node and a constant; a product of node ^ power; mod; pow."""

    kind: str
    parts: tuple[Any, ...]
    constant: int = 0


class Leaf(NamedTuple):
    """A condition: the value of a node is in some ranges. ``order``: the node and those below it, children first."""

    root: int
    ranges: Ranges
    order: tuple[int, ...]


@dataclass
class Linear:
    """A linear term: a constant, and nodes with coefficients; ``needs`` are the conditions for it to have a value."""

    constant: int = 0
    terms: dict[int, int] = field(default_factory=dict)
    needs: list[Formula] = field(default_factory=list)


class Graph:
    """The nodes of all statements; the first ones are the variables."""

    def __init__(self, variables: int) -> None:
        self.nodes = [Node("var", (index,)) for index in range(variables)]
        self.variables = variables
        self.index = {node: number for number, node in enumerate(self.nodes)}

    def node(self, node: Node) -> int:
        """Return the number of a node, adding it if it is new."""
        if node not in self.index:
            self.index[node] = len(self.nodes)
            self.nodes.append(node)
        return self.index[node]

    def atom(self, linear: Linear) -> int:
        """Return the number of a node equal to all of ``linear``."""
        if linear.constant == 0 and list(linear.terms.values()) == [1]:
            return next(iter(linear.terms))
        return self.node(Node("sum", tuple(sorted(linear.terms.items())), linear.constant))

    def order(self, root: int) -> tuple[int, ...]:
        """Return the nodes other than variables from the leaves up to ``root``."""
        shared, waiting = set(), [root]
        while waiting:
            number = waiting.pop()
            if number >= self.variables and number not in shared:
                shared.add(number)
                waiting.extend(self.children(number))
        return tuple(sorted(shared))

    def children(self, number: int) -> tuple[int, ...]:
        """Return the nodes directly below a node that is not a variable."""
        kind, parts, _ = self.nodes[number]
        return tuple(part[0] for part in parts) if kind in ("sum", "product") else parts

    def leaf(self, linear: Linear, ranges: Ranges) -> Formula:
        """Return the condition that ``linear`` is in ``ranges``, with common divisors removed."""
        common = math.gcd(*linear.terms.values())
        if common == 0:
            value = min(max(linear.constant, -INFINITE), INFINITE)  # beyond all bounds, only unbounded ranges matter
            holds = any(low <= value <= high for low, high in ranges)
            root = self.atom(Linear())
            return [("leaf", Leaf(root, ((0, 0),) if holds else (), self.order(root)))]
        if linear.terms[min(linear.terms)] < 0:  # a - b and b - a become one node
            common = -common
        moved = saturated([_divided(lo, hi, linear.constant, common) for lo, hi in ranges])
        root = self.atom(Linear(0, {number: c // common for number, c in linear.terms.items()}))
        return [("leaf", Leaf(root, moved, self.order(root)))]

    def add(self, left: Linear, right: Linear, sign: int = 1) -> Linear:
        """Return left + sign * right, reusing the memory of both."""
        if sign == 1 and len(left.terms) < len(right.terms):
            left, right = right, left
        left.constant += sign * right.constant
        for number, coefficient in right.terms.items():
            total = left.terms.pop(number, 0) + sign * coefficient
            if total:
                left.terms[number] = total
        left.needs.extend(right.needs)
        return left

    def multiply(self, left: Linear, right: Linear) -> Linear:
        """Return left * right; only constant factors are expanded into brackets."""
        needs = left.needs + right.needs
        if left.terms and right.terms:
            (a, first), (b, second) = self._factored(left), self._factored(right)
            powers: dict[int, int] = {}
            for number, power in (*first, *second):
                powers[number] = powers.get(number, 0) + power
            product = self.node(Node("product", tuple(sorted(powers.items()))))
            return Linear(0, {product: a * b}, needs)
        factor, other = (left.constant, right) if not left.terms else (right.constant, left)
        terms = {number: arithmetic("*", factor, c) for number, c in other.terms.items()} if factor else {}
        return Linear(arithmetic("*", factor, other.constant), terms, needs)

    def _factored(self, linear: Linear) -> tuple[int, tuple[Any, ...]]:
        """Return a constant coefficient and the factors of the remaining product."""
        if linear.constant == 0 and len(linear.terms) == 1:
            ((number, coefficient),) = linear.terms.items()
            kind, parts, _ = self.nodes[number]
            return coefficient, parts if kind == "product" else ((number, 1),)
        return 1, ((self.atom(linear), 1),)

    def modulo(self, left: Linear, right: Linear) -> Linear:
        """Return left % right, which needs right != 0."""
        needs = left.needs + right.needs
        if not right.terms and not left.terms and right.constant:
            return Linear(left.constant % right.constant, {}, needs)
        needs.append(self.leaf(right, POSITIVE_OR_NEGATIVE))
        return Linear(0, {self.node(Node("mod", (self.atom(left), self.atom(right)))): 1}, needs)

    def power(self, left: Linear, right: Linear) -> Linear:
        """Return left ^ right, which needs right >= 0."""
        needs = left.needs + right.needs
        if right.terms or right.constant < 0:
            needs.append(self.leaf(right, ((0, INFINITE),)))
            return Linear(0, {self.node(Node("pow", (self.atom(left), self.atom(right)))): 1}, needs)
        exponent = right.constant
        if not left.terms or exponent == 0:
            return Linear(arithmetic("^", left.constant, exponent) if exponent else 1, {}, needs)
        if exponent == 1:
            return left
        coefficient, factors = self._factored(left)
        product = self.node(Node("product", tuple((number, power * exponent) for number, power in factors)))
        return Linear(0, {product: arithmetic("^", coefficient, exponent)}, needs)


def _divided(low: int, high: int, constant: int, divisor: int) -> tuple[int, int]:
    """Return the range of y with low <= divisor y + constant <= high."""
    low, high = (low if low <= LOWEST else low - constant), (high if high >= LIMIT else high - constant)
    if divisor < 0:
        low, high, divisor = -high, -low, -divisor
    return (low if low <= LOWEST else -(-low // divisor)), (high if high >= LIMIT else high // divisor)


def lower(graph: Graph, code: Code) -> Any:
    """Return the term of ``code`` as Linear, or conditions whose conjunction is equivalent to the statement."""
    stack: list[Any] = []
    for name, argument in code:
        if name == "int":
            stack.append(Linear(argument))
        elif name == "set":
            stack.append(argument)
        elif name == "var":
            stack.append(Linear(0, {argument: 1}))
        elif name == "neg":
            stack.append(graph.multiply(Linear(-1), stack.pop()))
        else:
            right, left = stack.pop(), stack.pop()
            if name != "relation":
                stack.append(_combined(graph, name, left, right))
                continue
            operator, is_shared = argument
            stack.append(_relation(graph, operator, left, _copy(right) if is_shared else right))
            if is_shared:
                stack.append(right)
    return stack[0]


def _copy(linear: Any) -> Any:
    if not isinstance(linear, Linear):
        return linear
    needs = [list(formula) for formula in linear.needs]  # conditions are joined in place
    return Linear(linear.constant, dict(linear.terms), needs)


def _combined(graph: Graph, name: str, left: Any, right: Any) -> Any:
    if name == "and":
        left.extend(right)
        return left
    if name == "or":
        return [_disjunction(_conjunction(left), _conjunction(right))]
    if name in "+-":
        return graph.add(left, right, 1 if name == "+" else -1)
    return {"*": graph.multiply, "%": graph.modulo, "^": graph.power}[name](left, right)


def _conjunction(formulas: list[Formula]) -> Formula:
    """Join formulas, in place, into the first one."""
    joined = formulas[0]
    for formula in formulas[1:]:
        joined.extend(formula)
    if len(formulas) > 1:
        joined.append(("and", len(formulas)))
    return joined


def _disjunction(left: Formula, right: Formula) -> Formula:
    """Join two formulas: merge conditions on the same node, and alternatives into one list."""
    (first, one), (second, other) = left[-1], right[-1]
    if first == second == "leaf" and one.root == other.root:
        return [("leaf", one._replace(ranges=merged([*one.ranges, *other.ranges])))]
    count = 0
    for formula in (left, right):
        count += formula.pop()[1] if formula[-1][0] == "or" else 1
    left.extend(right)
    left.append(("or", count))
    return left


def _relation(graph: Graph, operator: str, left: Any, right: Any) -> list[Formula]:
    """Return the needs of both sides, and ranges as the condition on left - right, or on the side that is no list."""
    if isinstance(left, tuple):
        left, right = right, left
    if isinstance(right, tuple):
        ranges = right if operator == "==" else _complement(right)
    else:
        left = graph.add(left, right, -1)
        ranges = {
            "==": ((0, 0),),
            "!=": POSITIVE_OR_NEGATIVE,
            "<=": ((-INFINITE, 0),),
            ">=": ((0, INFINITE),),
            "<": ((-INFINITE, -1),),
            ">": ((1, INFINITE),),
        }[operator]
    return [*left.needs, graph.leaf(left, ranges)]


def _complement(ranges: Ranges) -> Ranges:
    starts = [-INFINITE, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), INFINITE]
    return merged(list(zip(starts, ends, strict=True)))
