"""Valid and damaged texts of formats and of the constraint solver, and the required meaning of each."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from fastiter import tune
from fastiter.quant import Format, parse
from tests.public.pick import Pick
from tests.quant.cases import FLOAT_ROUNDINGS, KINDS, NAMED_FLOATS, ROUNDINGS
from tests.tune.test_random import random_problem

ROUNDS = (*ROUNDINGS, *FLOAT_ROUNDINGS, "STOCHASTIC")
#: Words of all kinds that damage may insert anywhere
WORDS = (
    *ROUNDS,
    *NAMED_FLOATS,
    "SAT",
    "WRAP",
    "fixed",
    "ap_int",
    "ac_fixed",
    "true",
    "<",
    ">",
    ",",
    " ",
    "-1",
    "2**70",
)
LETTERS = "<>,;.:|^%*+-=!()[]#_ \n\t\\\0\x7f0123456789aeftx\u0660\u00e9\U0001f600"


class Accepted(AssertionError):
    """An invalid input that was accepted, or a valid one with another meaning."""


def format_text(pick: Pick) -> str:
    """Return a text of the grammar, which may name a format with inconsistent fields."""
    kind = pick.integer(0, 8)
    if kind == 0:
        return pick.one_of(tuple(KINDS))
    if kind == 1:
        return pick.one_of(NAMED_FLOATS) + pick.one_of(("", f"<{pick.one_of(ROUNDS)}>"))
    if kind == 2:
        head = pick.one_of(("fixed", "ufixed", "ap_fixed", "ap_ufixed"))
        more = pick.one_of(("", f",{pick.one_of(ROUNDS)}", f",{pick.one_of(ROUNDS)},{pick.one_of(('SAT', 'WRAP'))}"))
        return f"{head}<{pick.integer(1, 70)},{pick.integer(-9, 40)}{more}>"
    if kind == 3:
        return pick.one_of(
            (f"int{pick.integer(0, 70)}", f"uint{pick.integer(0, 70)}", f"ap_int<{pick.integer(0, 70)}>")
        )
    if kind == 4:
        return f"float<{pick.integer(0, 12)},{pick.integer(0, 53)},{pick.one_of(('ieee', 'fn', 'fnuz', 'finite'))}>"
    if kind == 5:
        return f"posit<{pick.integer(0, 40)},{pick.integer(0, 6)}>"
    if kind == 6:
        return f"mx<{pick.one_of(NAMED_FLOATS)},{pick.integer(0, 70)}>"
    if kind == 7:
        values = " ".join(str(pick.integer(-40, 40) / 8) for _ in range(pick.integer(0, 5)))
        return f"table<{values}>"
    name = pick.one_of(("pow2", "log2", "upow2", "khot", "bfp", "nvfp4"))
    return f"{name}<{','.join(str(pick.integer(-9, 20)) for _ in range(pick.integer(0, 4)))}>"


def damaged(pick: Pick, text: str, words: tuple[str, ...] = WORDS) -> str:
    """Return the text with one to three changes: letters deleted, doubled or exchanged, and words inserted."""
    for _ in range(pick.integer(1, 3)):
        at, to = sorted(pick.integer(0, len(text)) for _ in range(2))
        to = min(to, at + pick.integer(0, 4))
        put = pick.one_of(("", pick.one_of(LETTERS), pick.one_of(words), text[at:to] * 2))
        text = text[:at] + put + text[to:]
    return text


# ---- Formats --------------------------------------------------------------------------------------------------------


def read_format(text: str) -> bool:
    """Parse a text; return whether it is refused, in one sentence. An accepted one accounts for each of its words."""
    try:
        fmt = parse(text)
    except ValueError as error:
        message = str(error)
        if not re.match(r"parse: text ", message) or "\n" in message:
            raise Accepted(f"{text!r} is refused by {message!r}") from None
        return True
    check_means(text, fmt)
    return False


def check_means(text: str, fmt: Format) -> None:
    """Check that the format is the one that its own text names, and that no word of ``text`` was ignored."""
    if parse(str(fmt)) != fmt or hash(parse(str(fmt))) != hash(fmt):
        raise Accepted(f"{text!r} gives {fmt}, which is not what its own text gives")
    inside = re.search(r"<(.*)>", text, re.DOTALL)
    fields = {str(value).lower() for value in vars(fmt).values()} | {str(fmt).lower()}
    said = re.findall(r"[a-z0-9_]+", " ".join([*fields, str(fmt).lower()]))
    for word in re.findall(r"[^\s,<>]+", inside[1] if inside else ""):
        plain = re.sub(r"^(ap|ac)_", "", word.lower())
        if not (plain in said or plain in SYNONYMS or _is_number_of(plain, fmt) or _is_element_of(plain, fmt)):
            raise Accepted(f"{text!r} gives {fmt!r}, which has no {word!r}")


#: Words that are converted to others: names of roundings in HLS, processors and frameworks, and the sign of an ac_ type
OTHER_WORDS = ("NEAREST", "RTNE", "RTZ", "RTN", "RDN", "RTP", "RUP", "SR", "SATURATE")
SYNONYMS = {"true", "false", *(word.lower() for word in (*ROUNDS, *OTHER_WORDS))}


def _is_number_of(word: str, fmt: Format) -> bool:
    """Return whether the word is a number, and a field, or one of the values, of the format or of its element."""
    try:
        value = float(word)
    except ValueError:
        return False
    known = [*vars(fmt).values(), *getattr(fmt, "values", ()), *vars(getattr(fmt, "element", fmt)).values()]
    return any(not isinstance(x, (bool, str)) and x == value for x in known)


def _is_element_of(word: str, fmt: Format) -> bool:
    """Return whether the word is an alias of the element of a block format."""
    try:
        return bool(parse(word) == getattr(fmt, "element", None))
    except ValueError:
        return False


# ---- The constraint solver ------------------------------------------------------------------------------------------


class Number:
    """An integer of the solver's language, or None: a term without a value, with which no relation holds."""

    def __init__(self, value: int | None) -> None:
        self.value = value


def _term(operate: Callable[[int, int], int | None]) -> Callable[[Any, Any], Number]:
    def method(self: Number, other: Number) -> Number:
        known = self.value is not None and other.value is not None
        return Number(operate(self.value, other.value) if known else None)  # type: ignore[arg-type]

    return method


def _relation(related: Callable[[int, int], bool]) -> Callable[[Any, Any], bool]:
    def method(self: Number, other: Any) -> bool:
        if isinstance(other, Listed):
            return bool(related(int(self.value in other.values), 1)) if self.value is not None else False
        return self.value is not None and other.value is not None and related(self.value, other.value)

    return method


for _name, _operate in (("add", operator.add), ("sub", operator.sub), ("mul", operator.mul)):
    setattr(Number, f"__{_name}__", _term(_operate))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Number, f"__{_name}__", _relation(getattr(operator, _name)))
Number.__mod__ = _term(lambda x, y: x % y if y else None)  # type: ignore[attr-defined]
Number.__pow__ = _term(lambda x, y: x**y if y >= 0 else None)  # type: ignore[attr-defined]
Number.__neg__ = lambda self: Number(None if self.value is None else -self.value)  # type: ignore[attr-defined]


class Listed:
    """A list of the language: ``x in [...]``, ``x == [...]`` and ``x != [...]``, on either side."""

    def __init__(self, *ranges: Any) -> None:
        self.values = {value for low, high in ranges for value in range(low, high + 1)}

    def __contains__(self, x: Number) -> bool:
        return x.value is not None and x.value in self.values

    def __eq__(self, x: object) -> bool:
        return isinstance(x, Number) and x == self

    def __ne__(self, x: object) -> bool:
        return isinstance(x, Number) and x != self

    __hash__ = None  # type: ignore[assignment]


_RANGE = r"(-?\s*\d+)(?:\s*\.\.\s*(-?\s*\d+))?"


def _listed(match: re.Match[str]) -> str:
    def pair(one: re.Match[str]) -> str:
        low, high = (int(re.sub(r"\s", "", end)) for end in (one[1], one[2] or one[1]))
        return f"({low}, {high})"

    return f"Listed({', '.join(pair(one) for one in re.finditer(_RANGE, match[0]))})"


def holds(text: str, known: dict[str, int]) -> bool:
    """Return whether Python, with its own grammar and precedence, finds every statement true."""
    names = {name: Number(value) for name, value in known.items()}
    for statement in filter(None, (part.strip() for part in text.split(";"))):
        lists: list[str] = []

        def kept(match: re.Match[str], lists: list[str] = lists) -> str:
            lists.append(_listed(match))
            return f"@{len(lists) - 1}@"

        python = re.sub(r"\[[^\]]*\]|-?\s*\b\d+\s*\.\.\s*-?\s*\d+", kept, statement)
        python = re.sub(r"(?<![\w@])(\d+)(?![\w@])", lambda m: f"Number({int(m[1])})", python)
        python = python.replace("|", " or ").replace("^", "**")
        for index, listed in enumerate(lists):
            python = python.replace(f"@{index}@", f" {listed} ")
        if not eval(python, {"Number": Number, "Listed": Listed, **names}):
            return False
    return True


def problem_text(pick: Pick) -> str:
    """Return a problem with at most three variables of a few values each."""
    return random_problem(pick.integer(0, 2**31))[0]


SOLVER_WORDS = ("and", "or", "in", "not", "==", "<=", "..", "[1, 2]", "x", "a", "^", "%", "(", ")", "-", "1")


def solve_text(text: str) -> bool:
    """Solve a problem; return whether it is refused, in one sentence. A solution of an accepted one holds in Python."""
    try:
        found = tune.solve(text, limit=1)
    except ValueError as error:
        if not str(error).startswith("solve: ") or "\n" in str(error):
            raise Accepted(f"{text!r} is refused by {error!s}") from None
        return True
    if "\n" in text or "#" in text:  # a new line may continue a statement, unlike in Python
        return False
    for known in found:
        if not holds(text, known):
            raise Accepted(f"{text!r} gives {known}, with which it does not hold")
    return False
