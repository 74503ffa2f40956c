"""The language of constraints: parsing text to postfix code, and evaluating code exactly, both without recursion."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

#: Instructions for a stack machine, each a name and an argument; a statement is a list of them.
Code = list[tuple[str, Any]]
#: Sorted, disjoint ranges of integers, both ends included.
Ranges = tuple[tuple[int, int], ...]

_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\f]+|\#[^\n]*)|(?P<int>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<op>==|!=|<=|>=|\.\.|[-+*^%()\[\],;|<>\n])"
)
_RELATIONS = ("==", "!=", "<=", ">=", "<", ">", "in")
_BINDING = {
    "or": 1,
    "and": 2,
    "also": 3,
    **dict.fromkeys(_RELATIONS, 4),
    "+": 5,
    "-": 5,
    "*": 6,
    "%": 6,
    "neg": 7,
    "^": 8,
}
_HINTS = {
    "/": ": there is no division, write a * b == c",
    "=": ": equality is ==",
    "&": ": write and",
    "!": ": unequal is !=",
    "not": ": what is in no list is x != [8, 16]",
}
#: Values with more bits than this are refused, as they would exhaust the memory.
MAX_BITS = 1_000_000
_MAX_DIGITS = 600


@dataclass
class Program:
    """A parsed text: one code per statement, and the variables in the order of their first appearance."""

    names: list[str] = field(default_factory=list)
    statements: list[Code] = field(default_factory=list)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int


def _tokens(what: str, text: str) -> list[_Token]:
    """Split ``text`` into tokens; newlines end statements, except inside brackets or next to a binary operator."""
    tokens: list[_Token] = []
    position = depth = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            _refuse(what, text, position, f"got {text[position]!r}{_HINTS.get(text[position], '')}")
        kind, word = str(match.lastgroup), match.group()
        if kind == "name" and word in ("and", "or", "in"):
            kind = "op"
        if word == "|":
            word = "or"
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(word, 0)
        joins = kind == "op" and word in (*_RELATIONS, "and", "or", "*", "%", "^", "..", ",")
        if joins and tokens and tokens[-1].text == "\n":
            tokens.pop()
        after = tokens[-1] if tokens else None
        unfinished = after is None or (after.kind == "op" and after.text not in (")", "]"))
        if kind != "blank" and not (word == "\n" and (depth > 0 or unfinished)):
            tokens.append(_Token(kind, word, position))
        position = match.end()
    return tokens


def _refuse(what: str, text: str, position: int, problem: str) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise ValueError(
        f"solve: {what} must follow the grammar of docs/tune/index.md, at line {line}, column {column} {problem}"
    )


class _Parser:
    """Operator-precedence parser with two stacks: pending operators, and the kinds of the operands emitted so far."""

    def __init__(self, what: str, text: str, program: Program) -> None:
        self.what, self.text, self.program = what, text, program
        self.tokens = _tokens(what, text)
        self.numbers = {name: index for index, name in enumerate(program.names)}
        self.at = 0
        self._begin()

    def _begin(self) -> None:
        self.code: Code = []
        self.closed = -1  # the length of the code when a bracket was last closed
        self.waiting: list[tuple[str, int]] = []
        self.kinds: list[str] = []
        self.right = "term"  # the kind of the right side of the relation emitted last

    def refuse(self, position: int, problem: str) -> NoReturn:
        _refuse(self.what, self.text, position, problem)

    def run(self) -> None:
        """Parse statements up to the end of the text."""
        while self.at < len(self.tokens):
            if self.tokens[self.at].text in (";", "\n"):
                self.at += 1
                continue
            self.statement("condition")

    def statement(self, kind: str) -> None:
        """Parse one statement or one term."""
        self._begin()
        start = self.tokens[self.at].start
        self._operand()
        while self.at < len(self.tokens) and self.tokens[self.at].text not in (";", "\n"):
            token = self.tokens[self.at]
            self.at += 1
            if token.text == ")":
                self._close(token.start)
            elif token.kind == "op" and token.text in _BINDING:
                self._binary(token)
                self._operand()
            else:
                self.refuse(token.start, f"expected an operator, got {token.text!r}{_HINTS.get(token.text, '')}")
        self._reduce(0)
        if self.waiting:
            self.refuse(self.waiting[-1][1], "a bracket is never closed")
        if self.kinds != [kind]:
            self.refuse(start, f"expected a {kind}, got a {self.kinds[0]}")
        self.program.statements.append(self.code)

    def _operand(self) -> None:
        """Parse one operand: signs and opening brackets, then a number, a name or a list."""
        while True:
            if self.at == len(self.tokens):
                self.refuse(len(self.text), "expected a number, a name or a bracket, got the end")
            token = self.tokens[self.at]
            ahead = [t.text for t in self.tokens[self.at : self.at + 3]]
            if token.text == "[" or ".." in ahead[1 : 3 if token.text == "-" else 2]:
                self._list()
                return
            self.at += 1
            if token.kind == "int":
                self._emit("int", self._integer(token), "term")
                return
            if token.kind == "name":
                self._emit("var", self._variable(token.text), "term")
                return
            if token.text in ("-", "("):
                self.waiting.append(("neg" if token.text == "-" else "(", token.start))
            elif token.text != "+":
                self.refuse(token.start, f"expected a number, a name or a bracket, got {token.text!r}")

    def _variable(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = len(self.program.names)
            self.program.names.append(name)
        return self.numbers[name]

    def _integer(self, token: _Token) -> int:
        if len(token.text) > _MAX_DIGITS:
            self.refuse(token.start, f"a number has {len(token.text)} digits, more than {_MAX_DIGITS}")
        return int(token.text)

    def _list(self) -> None:
        """Parse ``[1, 4..8]`` or a range without brackets, ``4..8``."""
        start = self.tokens[self.at].start
        bracket = self.tokens[self.at].text == "["
        self.at += bracket
        ranges = [self._range()]
        while bracket and self._next_is(","):
            ranges.append(self._range())
        if bracket and not self._next_is("]"):
            self.refuse(start, "a list must be of integers and ranges, as in [8, 16..32]")
        self._emit("set", merged(ranges), "list")

    def _range(self) -> tuple[int, int]:
        low = self._signed()
        high = self._signed() if self._next_is("..") else low
        return low, high

    def _signed(self) -> int:
        negative = self._next_is("-")
        token = self.tokens[self.at] if self.at < len(self.tokens) else _Token("op", "the end", len(self.text))
        if token.kind != "int":
            self.refuse(token.start, f"a list must be of integers and ranges, as in [8, 16..32], got {token.text!r}")
        self.at += 1
        return -self._integer(token) if negative else self._integer(token)

    def _next_is(self, word: str) -> bool:
        matches = self.at < len(self.tokens) and self.tokens[self.at].text == word
        self.at += matches
        return matches

    def _binary(self, token: _Token) -> None:
        binding = _BINDING[token.text]
        self._reduce(binding + (token.text == "^"))  # only ^ is right-associative
        if self.code and self.code[-1][0] == "relation" and binding == _BINDING["=="] and self.kinds[-1] == "condition":
            self._chain(token)
        self.waiting.append((token.text, token.start))

    def _chain(self, token: _Token) -> None:
        """Handle a <= b <= c: the first relation leaves b, a term or a list, on the stack for the second."""
        relation, is_shared = self.code[-1][1]
        if is_shared or self.closed == len(self.code):
            self.refuse(token.start, "a condition in brackets cannot be compared")
        self.code[-1] = ("relation", (relation, True))
        self.kinds.append(self.right)
        self.waiting.append(("also", token.start))

    def _close(self, position: int) -> None:
        self._reduce(0)
        if not self.waiting:
            self.refuse(position, "a bracket is closed that was never opened")
        self.waiting.pop()
        self.closed = len(self.code)

    def _reduce(self, binding: int) -> None:
        """Emit the pending operators that bind at least this tightly, up to an open bracket."""
        while self.waiting and self.waiting[-1][0] != "(" and _BINDING[self.waiting[-1][0]] >= binding:
            word, position = self.waiting.pop()
            if word == "neg":
                self._expect(word, position, "term")
                self._emit("neg", None, "term")
            elif word in ("and", "or", "also"):
                self._expect(word, position, "condition", "condition")
                self._emit("or" if word == "or" else "and", None, "condition")
            elif word in _RELATIONS:
                self._relation(word, position)
            else:
                self._expect(word, position, "term", "term")
                self._emit(word, None, "term")

    def _relation(self, word: str, position: int) -> None:
        right, left = self.kinds.pop(), self.kinds.pop()
        lists = (left == "list") + (right == "list")
        if "condition" in (left, right) or lists > 1 or (lists and word not in ("==", "!=", "in")):
            self.refuse(position, f"{word!r} cannot stand between a {left} and a {right}")
        if word == "in" and right != "list":
            self.refuse(position, f"'in' must be followed by a list or a range, got a {right}")
        self.right = right
        self._emit("relation", ("==" if word == "in" else word, False), "condition")

    def _expect(self, word: str, position: int, *kinds: str) -> None:
        popped = [self.kinds.pop() for _ in kinds]
        wrong = [kind for kind in popped if kind != kinds[0]]
        if wrong:
            sign = "-" if word == "neg" else word
            self.refuse(position, f"expected a {kinds[0]} on each side of {sign!r}, got a {wrong[0]}")

    def _emit(self, name: str, argument: Any, kind: str) -> None:
        self.code.append((name, argument))
        self.kinds.append(kind)


def merged(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Return the union of ranges, sorted and disjoint, without empty ones."""
    union: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if low > high:
            continue
        if union and low <= union[-1][1] + 1:
            union[-1] = union[-1][0], max(high, union[-1][1])
        else:
            union.append((low, high))
    return tuple(union)


def parse(text: str) -> Program:
    """Parse the statements of ``text``."""
    program = Program()
    _Parser("text", text, program).run()
    return program


def parse_term(text: str, names: Sequence[str]) -> Code:
    """Parse one term over known variables."""
    program = Program(list(names))
    parser = _Parser("minimize", text, program)
    if not parser.tokens:
        parser.refuse(0, "expected a term, got nothing")
    parser.statement("term")
    if parser.at < len(parser.tokens) and any(token.text not in (";", "\n") for token in parser.tokens[parser.at :]):
        parser.refuse(parser.tokens[parser.at].start, "expected one term")
    if len(program.names) > len(names):
        raise ValueError(f"solve: minimize must be a term of the variables of text, got {program.names[-1]!r}")
    return program.statements[0]


def evaluate(code: Code, values: Sequence[int]) -> Any:
    """Return the exact value of a term, None if it has no value, or whether a condition holds."""
    stack: list[Any] = []
    for name, argument in code:
        if name in ("int", "set"):
            stack.append(argument)
        elif name == "var":
            stack.append(values[argument])
        elif name == "neg":
            value = stack.pop()
            stack.append(None if value is None else -value)
        else:
            right, left = stack.pop(), stack.pop()
            if name == "relation":
                stack.append(left is not None and right is not None and _compare(argument[0], left, right))
                if argument[1]:
                    stack.append(right)
            else:
                stack.append(_apply(name, left, right))
    return stack[0]


def _apply(name: str, left: Any, right: Any) -> Any:
    if name == "and":
        return left and right
    if name == "or":
        return left or right
    if left is None or right is None or (name == "%" and right == 0) or (name == "^" and right < 0):
        return None
    return arithmetic(name, left, right)


def arithmetic(name: str, left: int, right: int) -> int:
    """Return left + - * % ^ right, if it has a value: % has the sign of its right side, as in Python."""
    if name == "+":
        return left + right
    if name == "-":
        return left - right
    if name == "%":
        return left % right
    bits = left.bit_length() * right if name == "^" and abs(left) > 1 else left.bit_length() + right.bit_length()
    if bits > MAX_BITS and name in "*^":
        raise ValueError(f"solve: numbers must have at most {MAX_BITS} bits, got one of about {bits}")
    if name == "*":
        return left * right
    return int(left**right) if abs(left) > 1 else left ** min(right, 2 + right % 2)


def _compare(name: str, left: Any, right: Any) -> bool:
    if isinstance(left, tuple):
        left, right = right, left
    if isinstance(right, tuple):
        return any(low <= left <= high for low, high in right) == (name == "==")
    return bool(_COMPARISONS[name](left, right))


_COMPARISONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
