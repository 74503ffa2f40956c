"""All-different constraints: their groups, and the values that they exclude, found by counting and matching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ._domains import Conflict, clip, listed, members
from ._graph import Formula, Graph, Leaf

#: Pairs of a variable and an offset; the sums variable + offset of a group are pairwise different.
Group = tuple[tuple[int, int], ...]


def groups(graph: Graph, conditions: Sequence[Formula]) -> list[Group]:
    """Return groups of at least three terms that the conditions make pairwise different, grown from ungrouped pairs."""
    pairs = dict.fromkeys(pair for (_, leaf), *others in conditions if not others for pair in _differing(graph, leaf))
    beside: dict[int, list[tuple[int, int]]] = {}
    for a, b, added in pairs:
        beside.setdefault(a, []).append((b, added))
    left, result = dict(pairs), []
    while left:
        a, b, added = next(iter(left))
        group = [(a, 0), (b, added)]
        for other, its in beside[a]:
            if all((one, other, its - of_one) in pairs for one, of_one in group):
                group.append((other, its))
        for one, of_one in group:
            for other, its in group:
                left.pop((one, other, its - of_one), None)
        if len(group) > 2:
            result.append(tuple(group))
    return result


def _differing(graph: Graph, leaf: Leaf) -> Iterator[tuple[int, int, int]]:
    """Yield (a, b, c), in both directions, for each a != b + c that a condition on a - b implies."""
    kind, parts, _ = graph.nodes[leaf.root]
    if kind != "sum" or [c for _, c in parts] != [1, -1] or parts[1][0] >= graph.variables:
        return
    (a, _), (b, _) = parts
    gaps = [high + 1 for (_, high), (low, _) in zip(leaf.ranges, leaf.ranges[1:], strict=False) if low == high + 2]
    if not any(low <= 0 <= high for low, high in leaf.ranges) and 0 not in gaps:
        gaps.append(0)
    for added in gaps:
        yield a, b, added
        yield b, a, -added


def narrow_group(group: Group, box: list[Any]) -> None:
    """Remove from ``box`` the values with which the sums of the group cannot all differ.

    Only a set of k variables with at most k values in total excludes values from others, so variables with more values
    than the group has members can be ignored in this step. All others are matched with values. A value of a variable is
    then possible if it can be exchanged along a cycle of the matching, or along a path to a free value (Regin, 1994).
    """
    narrow = [(variable, added) for variable, added in group if box[variable].size <= len(group)]
    if not narrow:
        return
    values = [[x + added for x in members(box[variable])] for variable, added in narrow]
    matching = _matching(values)
    owner = {value: number for number, value in enumerate(matching)}
    closed = _closed(values, matching, owner)
    component = _components({one: [owner[value] for value in values[one]] for one in closed})
    for one, (variable, added) in enumerate(narrow):
        if one in component:
            allowed = [value for value in values[one] if component[owner[value]] == component[one]]
        else:
            allowed = [value for value in values[one] if owner.get(value) not in component]
        if len(allowed) < len(values[one]):
            box[variable] = listed([value - added for value in allowed])
    taken = {matching[one] for one in closed}
    for variable, added in group:
        if taken and box[variable].size > len(group):
            box[variable] = _without(box[variable], {value - added for value in taken})


def _matching(values: list[list[int]]) -> list[int]:
    """Return a value for each list, all different; raise Conflict if that is impossible."""
    owner: dict[int, int] = {}
    matching: list[Any] = [None] * len(values)
    for start in range(len(values)):
        requested: dict[int, int] = {}  # maps a value to the list that requests it from its owner
        waiting = [start]
        free = _free(values, owner, requested, waiting)
        if free is None:
            raise Conflict
        while free is not None:  # along the path, each list takes the value that it requested and frees its old one
            number = requested[free]
            owner[free] = number
            matching[number], free = free, matching[number]
    return matching


def _free(values: list[list[int]], owner: dict[int, int], requested: dict[int, int], waiting: list[int]) -> int | None:
    """Return a value without an owner, found by breadth-first search for an augmenting path."""
    for number in waiting:
        for value in values[number]:
            if value not in requested:
                requested[value] = number
                if value in owner:
                    waiting.append(owner[value])
                else:
                    return value
    return None


def _closed(values: list[list[int]], matching: list[int], owner: dict[int, int]) -> list[int]:
    """Return the numbers of the lists from which no exchange leads to a free value."""
    asking: list[list[int]] = [[] for _ in values]
    for number, its in enumerate(values):
        for value in its:
            if value in owner:
                asking[owner[value]].append(number)
    waiting = [number for number, its in enumerate(values) if any(value not in owner for value in its)]
    reached = set(waiting)
    for number in waiting:
        new = [other for other in asking[number] if other not in reached]
        reached.update(new)
        waiting.extend(dict.fromkeys(new))
    return [number for number in range(len(matching)) if number not in reached]


def _components(after: dict[int, list[int]]) -> dict[int, int]:
    """Map each node of a graph to a representative of its strongly connected component, by two depth-first searches."""
    order, visited = [], set()
    before: dict[int, list[int]] = {node: [] for node in after}
    for start in after:
        stack = [] if start in visited else [(start, iter(after[start]))]
        visited.add(start)
        while stack:
            node, rest = stack[-1]
            for other in rest:
                before[other].append(node)
                if other not in visited:
                    visited.add(other)
                    stack.append((other, iter(after[other])))
                    break
            else:
                order.append(stack.pop()[0])
    component: dict[int, int] = {}
    for start in reversed(order):
        waiting = [start] if start not in component else []
        component.setdefault(start, start)
        for node in waiting:
            new = [other for other in dict.fromkeys(before[node]) if other not in component]
            component.update(dict.fromkeys(new, start))
            waiting.extend(new)
    return component


def _without(domain: Any, taken: set[int]) -> Any:
    """Return a domain without some of its values (not all of them), if they are listed or at the domain's ends."""
    if domain.values is not None:
        rest = [value for value in domain.values if value not in taken]
        return domain if len(rest) == len(domain.values) else listed(rest)
    lo, hi = domain.lo, domain.hi
    while lo in taken:
        lo += domain.step
    while hi in taken:
        hi -= domain.step
    return clip(domain, lo, hi)
