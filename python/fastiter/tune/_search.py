"""All solutions in order, found by bisecting the domain of the first open variable and propagating to the others."""

from __future__ import annotations

import operator
from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from ._different import groups, narrow_group
from ._domains import ANYTHING, INFINITE, LIMIT, LOWEST, Conflict, Domain, halves, saturated
from ._graph import POSITIVE_OR_NEGATIVE, Formula, Graph, Leaf, Linear, lower
from ._language import Code, Program, evaluate, parse, parse_term
from ._propagate import Box, narrow, narrow_formula, narrow_remainders

#: Maximum number of visits per condition, on average, before a variable is bisected, as bounds may converge slowly
_ROUNDS = 40

Exclusion = Mapping[str, int]


def solve(
    text: str, *, minimize: str | None = None, exclude: Sequence[Exclusion] = (), limit: int | None = 1
) -> list[dict[str, int]]:
    """Return the first ``limit`` solutions: integers for which all statements of ``text`` hold.

    Statements, as in ``A * B == 12; A <= B``, are separated by ``;`` or new lines. They are relations
    ``== != <= >= < >`` between terms with ``+ - * % ^`` and brackets, ``x in [8, 16..32]`` or ``x == [8, 16]``, joined
    by ``and`` and ``or``; a ``#`` begins a comment. :ref:`tune` has the grammar.

    Parameters
    ----------
    text : str
        The statements. The names in them are the variables, each of which must have finite bounds, stated or implied.
    minimize : str, optional
        A term. The solutions are then sorted by increasing value of this term, and the first one has the minimum value.
        Solutions for which it has no value (x % 0) are omitted.
    exclude : sequence of dict
        Solutions, or parts of solutions, to exclude: no returned solution agrees with all entries of any of the dicts.
    limit : int or None
        The maximum number of solutions to return; None for all.

    Returns
    -------
    list of dict
        Distinct solutions, each with all variables in the order of their first appearance in ``text``. Without
        ``minimize``, and for equal values of it, solutions are in lexicographic order. An empty list if there are none.

    Raises
    ------
    TypeError, ValueError
        For a text that does not follow the grammar, with line and column; for a variable without finite bounds below
        2^2048 in magnitude, by name; for arguments of other types.

    See Also
    --------
    rnn_plan : A function that uses this solver.

    Notes
    -----
    No solution is missed or wrong: each step of the search removes only values that cannot hold, and each solution is
    checked in exact arithmetic on the text itself. The time has no bound, as for every such problem. Bounds, divisors,
    remainders and the values that all-different variables leave to each other are used without search.

    Examples
    --------
    >>> from fastiter import tune
    >>> tune.solve("(A + 1) * 2 == 10")
    [{'A': 4}]
    >>> tune.solve("rows * columns == 60; 4 < rows; rows < columns", limit=None)
    [{'rows': 5, 'columns': 12}, {'rows': 6, 'columns': 10}]
    >>> tune.solve("rows * columns >= 60; rows in 1..64; columns in [8, 16, 32]", minimize="rows + columns")
    [{'rows': 8, 'columns': 8}]
    """
    for name, value in (("text", text), ("minimize", minimize)):
        if not isinstance(value, str) and (name == "text" or value is not None):
            raise TypeError(f"solve: {name} must be a str, got {type(value).__name__}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise TypeError(f"solve: limit must be an int or None, got {type(limit).__name__}")
    if limit is not None and limit < 1:
        raise ValueError(f"solve: limit must be at least 1, got {limit}")
    program = parse(text)
    cost = None if minimize is None else parse_term(minimize, program.names)
    search = _Search(program, _excluded(program, exclude), cost)
    results = search.cheapest(limit) if cost else search.first(limit)
    return [dict(zip(program.names, values, strict=True)) for values in results]


def _excluded(program: Program, exclude: Sequence[Exclusion]) -> list[dict[int, int]]:
    """Return the exclusions with variables replaced by their numbers."""
    numbers = {name: number for number, name in enumerate(program.names)}
    if isinstance(exclude, str | Mapping) or not isinstance(exclude, Sequence):
        raise TypeError(f"solve: exclude must be a sequence of dicts, got {type(exclude).__name__}")
    results = []
    for part in exclude:
        if not isinstance(part, Mapping):
            raise TypeError(f"solve: exclude must be a sequence of dicts, got one of {type(part).__name__}")
        for name, value in part.items():
            if name not in numbers:
                raise ValueError(f"solve: exclude must name variables of text, got {name!r}")
            if not isinstance(value, int):
                raise TypeError(f"solve: exclude must have integers as values, got {type(value).__name__} for {name!r}")
        results.append({numbers[name]: operator.index(value) for name, value in part.items()})
    return results


def _is_news(old: Domain, new: Domain) -> bool:
    """Return whether a change is large enough to be worth propagating."""
    return old.size - new.size >= max(1, old.size >> 3) or new.size == 1 < old.size


class _Search:
    """The conditions of a problem, the variables of each, and the traversal of the remaining domains."""

    def __init__(self, program: Program, excluded: list[dict[int, int]], cost: Code | None) -> None:
        self.program, self.cost, self.excluded = program, cost, excluded
        self.graph = Graph(len(program.names))
        conditions = [formula for code in program.statements for formula in lower(self.graph, code)]
        conditions += [self._differs(part) for part in excluded]
        self.bound: Leaf | None = None
        if cost:
            term = lower(self.graph, cost)
            conditions += term.needs
            self.cost_constant, term.constant = term.constant, 0
            self.cost_root = self.graph.atom(term)
            self.set_bound(None)
        self.conditions = [list(formula) for formula in dict.fromkeys(map(tuple, conditions))]
        self.groups = groups(self.graph, self.conditions)
        self.variables = [self._variables(formula) for formula in self.conditions]
        self.variables += [sorted(variable for variable, _ in group) for group in self.groups]
        self.about: list[list[int]] = [[] for _ in program.names]
        for number, variables in enumerate(self.variables):
            for variable in variables:
                self.about[variable].append(number)

    def _differs(self, part: dict[int, int]) -> Formula:
        """Return the condition that a solution differs from an excluded one."""
        if not part:
            return self.graph.leaf(Linear(), ())  # an empty exclusion agrees with each solution
        formula: Formula = []
        for variable, value in part.items():
            formula += self.graph.leaf(Linear(-value, {variable: 1}), POSITIVE_OR_NEGATIVE)
        return [*formula, ("or", len(part))] if len(part) > 1 else formula

    def _variables(self, formula: Formula) -> list[int]:
        results = set()
        for name, leaf in formula:
            if name == "leaf":
                results.add(leaf.root)
                results.update(*(self.graph.children(number) for number in leaf.order))
        return sorted(number for number in results if number < self.graph.variables)

    def set_bound(self, highest: int | None) -> None:
        """Limit the cost to at most ``most`` from now on."""
        high = INFINITE if highest is None else highest - self.cost_constant
        self.bound = Leaf(self.cost_root, saturated([(-INFINITE, high)]), self.graph.order(self.cost_root))

    def first(self, limit: int | None) -> list[tuple[int, ...]]:
        """Return the first solutions in lexicographic order."""
        results: list[tuple[int, ...]] = []
        for values in self.walk():
            results.append(values)
            if len(results) == limit:
                break
        return results

    def cheapest(self, limit: int | None) -> list[tuple[int, ...]]:
        """Return the solutions of minimum cost; later ones must be cheaper, as ties come in lexicographic order."""
        assert self.cost is not None
        results: list[tuple[int, int, tuple[int, ...]]] = []
        for number, values in enumerate(self.walk()):
            value = evaluate(self.cost, values)
            if value is None:
                continue
            insort(results, (value, number, values))
            if limit is not None and len(results) > limit:
                results.pop()
            if limit is not None and len(results) == limit:
                self.set_bound(results[-1][0] - 1)
        return [values for _, _, values in results]

    def walk(self) -> Iterator[tuple[int, ...]]:
        """Yield all solutions in lexicographic order, except those beyond the bound on the cost."""
        count = self.graph.variables
        root: Box = [ANYTHING] * count + [None] * (len(self.graph.nodes) - count)
        waiting: list[tuple[Box, int | None]] = [(root, None)]
        while waiting:
            box, changed = waiting.pop()
            try:
                self._narrow(box, changed)
            except Conflict:
                continue
            if changed is None:
                self._check_bounds(box)
            branch = next((v for v in range(count) if box[v][0] != box[v][1]), None)
            if branch is None:
                values = tuple(box[v][0] for v in range(count))
                if self._holds(values):
                    yield values
                continue
            lower_half, upper_half = halves(box[branch])
            upper = list(box)
            box[branch], upper[branch] = lower_half, upper_half
            waiting += [(upper, branch), (box, branch)]

    def _narrow(self, box: Box, changed: int | None) -> None:
        """Propagate through the conditions of changed variables until nothing changes, or bounds change only slowly."""
        queue = deque(range(len(self.variables)) if changed is None else self.about[changed])
        queued = set(queue)
        if self.bound:
            narrow(self.graph, self.bound, box)
        if changed is None:
            for (_, leaf), *others in self.conditions:
                if not others:
                    narrow_remainders(self.graph, leaf, box)
        for _ in range(_ROUNDS * (len(self.variables) + 1)):
            if not queue:
                break
            number = queue.popleft()
            queued.discard(number)
            variables = self.variables[number]
            before = [box[variable] for variable in variables]
            self._inspect(number, box)
            for variable, old in zip(variables, before, strict=True):
                if box[variable] is not old and _is_news(old, box[variable]):
                    fixed = box[variable].lo == box[variable].hi  # a second visit is then short, and often the last
                    for other in self.about[variable]:
                        if other not in queued and (other != number or fixed):
                            queued.add(other)
                            queue.append(other)
        if self.bound:
            narrow(self.graph, self.bound, box)

    def _inspect(self, number: int, box: Box) -> None:
        """Narrow the variables of one condition, or of one all-different group."""
        if number >= len(self.conditions):
            narrow_group(self.groups[number - len(self.conditions)], box)
        elif len(self.conditions[number]) == 1:
            narrow(self.graph, self.conditions[number][0][1], box)
        else:
            narrow_formula(self.graph, self.conditions[number], self.variables[number], box)

    def _check_bounds(self, box: Box) -> None:
        for variable, name in enumerate(self.program.names):
            lo, hi = box[variable].lo, box[variable].hi
            if max(-lo, hi) >= LIMIT:
                beyond = lo >= LIMIT or hi <= LOWEST
                got = f"{name!r} beyond 2^2048" if beyond else f"none for {name!r}"
                raise ValueError(
                    "solve: text must give each variable finite bounds, of magnitudes below 2^2048, "
                    f"as in 1 <= x <= 64, got {got}"
                )

    def _holds(self, values: tuple[int, ...]) -> bool:
        """Check a solution against the text itself, in exact arithmetic."""
        if any(all(values[v] == value for v, value in part.items()) for part in self.excluded):
            return False
        return all(evaluate(code, values) for code in self.program.statements)
