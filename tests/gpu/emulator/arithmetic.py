"""The integer instructions, which compute addresses, bounds and branches. Values from memory stay unknown.

Each function computes one instruction on a State. An instruction without a function here leaves its result unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .sass import Instruction
from .values import MASK, State, Truth, Value, bits_of, float_of, signed

Run = Callable[[State, Instruction], None]
RUN: dict[str, Run] = {}


def _names(*names: str) -> Callable[[Run], Run]:
    def add(run: Run) -> Run:
        RUN.update(dict.fromkeys(names, run))
        return run

    return add


def _is_predicate(operand: str) -> bool:
    return re.match(r"^!?U?P[T\d]$", operand) is not None


def _leading(operands: tuple[str, ...]) -> int:
    """Return how many predicates follow the first operand, which are carries out."""
    count = 0
    while count + 1 < len(operands) and _is_predicate(operands[count + 1]):
        count += 1
    return count


@_names("S2R", "S2UR")
def special(state: State, it: Instruction) -> None:
    state.put(it.operands[0], state.special.get(it.operands[1]))


@_names("LDC", "ULDC", "LDCU")
def constant(state: State, it: Instruction) -> None:
    words = 4 if "128" in it.suffixes else 2 if "64" in it.suffixes else 1
    state.put(it.operands[0], state.get(it.operands[1], words), words)


@_names("MOV", "UMOV", "R2UR")
def move(state: State, it: Instruction) -> None:
    source = it.operands[-1] if it.name != "MOV" else it.operands[1]
    words = 2 if "64" in it.suffixes else 1
    state.put(next(x for x in it.operands if not _is_predicate(x)), state.get(source, words), words)


@_names("CS2R")
def clear(state: State, it: Instruction) -> None:
    words = 1 if "32" in it.suffixes else 2
    state.put(it.operands[0], 0 if it.operands[1] == "SRZ" else None, words)


@_names("VIADD")
def add_two(state: State, it: Instruction) -> None:
    x, y = (state.get(each) for each in it.operands[1:3])
    state.put(it.operands[0], None if x is None or y is None else x + y)


def _carry_in(state: State, it: Instruction, operands: tuple[str, ...]) -> Value:
    """Return the sum of the carries, which instructions with the suffix .X add."""
    if "X" not in it.suffixes:
        return 0
    carries = [state.truth(each) for each in operands if _is_predicate(each)]
    return None if None in carries else sum(map(bool, carries))


@_names("IADD3", "UIADD3")
def add_three(state: State, it: Instruction) -> None:
    carries = _leading(it.operands)
    operands = it.operands[1 + carries :]
    terms: list[Value] = []
    for each in operands[:3]:
        if re.match(r"^-(U?R|c\[)", each):  # a difference has a carry where it does not borrow
            value = state.get(each[1:])
            terms.append(None if value is None else (~value & MASK) + 1)
        else:
            terms.append(state.get(each))
    carry = _carry_in(state, it, operands[3:])
    total = None if None in terms or carry is None else sum(x for x in terms if x is not None) + carry
    state.put(it.operands[0], total)
    for number in range(carries):
        state.decide(it.operands[1 + number], None if total is None else total >> 32 > number)


@_names("IMAD", "UIMAD")
def multiply_add(state: State, it: Instruction) -> None:
    carries = _leading(it.operands)
    x_name, y_name, z_name, *rest = it.operands[1 + carries :]
    x, y = state.get(x_name), state.get(y_name)
    wide, high = "WIDE" in it.suffixes, "HI" in it.suffixes
    z = state.get(z_name, 2 if wide or high else 1)  # the upper word of 64 bits, with a pair of registers added
    if (wide or high) and "U32" not in it.suffixes and x is not None and y is not None:
        x, y = signed(x), signed(y)
    carry = _carry_in(state, it, tuple(rest))
    product = 0 if x == 0 or y == 0 else None if x is None or y is None else x * y
    total: Value = None
    if product is not None and z is not None and carry is not None:
        total = product + z + carry >> (32 if high else 0)
    state.put(it.operands[0], total, 2 if wide else 1)
    if carries:
        state.decide(it.operands[1], None if total is None else total >> 64 > 0)


@_names("LEA", "ULEA")
def shifted_add(state: State, it: Instruction) -> None:
    carries = _leading(it.operands)
    low, base, *rest = it.operands[1 + carries :]
    x, b = state.get(low), state.get(base)
    total: Value = None
    if "HI" not in it.suffixes:
        if x is not None and b is not None:
            total = (x << int(rest[0], 16) & MASK) + b
    else:
        upper = None if x is None else MASK * (x >> 31) if "SX32" in it.suffixes else state.get(rest[0])
        shift = int(rest[0 if "SX32" in it.suffixes else 1], 16)
        carry = _carry_in(state, it, tuple(rest))
        if x is not None and b is not None and upper is not None and carry is not None:
            total = ((upper << 32 | x) << shift >> 32 & MASK) + b + carry
    state.put(it.operands[0], total)
    if carries:
        state.decide(it.operands[1], None if total is None else total >> 32 > 0)


@_names("SHF", "USHF")
def shift(state: State, it: Instruction) -> None:
    low, by, high = (state.get(each) for each in it.operands[1:4])
    value: Value = None
    if by is not None:
        upper, wide = "HI" in it.suffixes, {"U64", "S64"} & it.suffixes
        if "L" in it.suffixes:
            by = min(by, 63 if wide else 32)
            if upper:
                value = None if low is None or high is None else (high << 32 | low) << by >> 32
            else:
                value = None if low is None else low << by
        elif upper:
            by = min(by, 63 if wide else 32)
            value = None if high is None else (signed(high) if {"S32", "S64"} & it.suffixes else high) >> by
        else:
            value = None if low is None or high is None else (high << 32 | low) >> min(by, 63)
    state.put(it.operands[0], None if value is None else value & MASK)


def table(lookup: int, values: list[Value], mask: int) -> Value:
    """Return the bits from a lookup table of three inputs; unknown inputs may have no effect."""
    for k, value in enumerate(values):
        if value is None:
            if any((lookup >> i & 1) != (lookup >> (i ^ 4 >> k) & 1) for i in range(8)):
                known = [x for x in values if x is not None]
                return 0 if lookup == 0xC0 and 0 in known else None
            values[k] = 0
    result = 0
    for i in range(8):
        if lookup >> i & 1:
            bits = mask
            for k, value in enumerate(values):
                assert value is not None
                bits &= value if i >> (2 - k) & 1 else ~value & mask
            result |= bits
    return result


@_names("LOP3", "ULOP3")
def logic(state: State, it: Instruction) -> None:
    first = 1 if _is_predicate(it.operands[0]) else 0
    values = [state.get(each) for each in it.operands[first + 1 : first + 4]]
    value = table(int(it.operands[first + 4], 16), values, MASK)
    state.put(it.operands[first], value)
    if first:
        state.decide(it.operands[0], None if value is None else value != 0)


@_names("PLOP3", "UPLOP3")
def logic_of_predicates(state: State, it: Instruction) -> None:
    values: list[Value] = [None if x is None else int(x) for x in map(state.truth, it.operands[2:5])]
    for to, lookup in zip(it.operands[:2], it.operands[5:7], strict=False):
        value = table(int(lookup, 16), list(values), 1)
        state.decide(to, None if value is None else bool(value))


def _compared(name: str, x: int, y: int) -> bool:
    return {"EQ": x == y, "NE": x != y, "LT": x < y, "LE": x <= y, "GT": x > y, "GE": x >= y}[name]


def both(x: Truth, y: Truth, suffixes: frozenset[str]) -> Truth:
    """Return x and y, x or y, or x xor y, where one may be unknown."""
    if "AND" in suffixes:
        return False if x is False or y is False else None if x is None or y is None else True
    if "OR" in suffixes:
        return True if x or y else None if x is None or y is None else False
    return None if x is None or y is None else x != y


@_names("ISETP", "UISETP")
def compare(state: State, it: Instruction) -> None:
    x, y, with_other = state.get(it.operands[2]), state.get(it.operands[3]), state.truth(it.operands[4])
    kind = next(each for each in ("EQ", "NE", "LT", "LE", "GT", "GE") if each in it.suffixes)
    found: Truth = None
    if x is not None and y is not None:
        if "U32" not in it.suffixes:
            x, y = signed(x), signed(y)
        is_open = "EX" in it.suffixes and x == y  # equal upper words: the lower ones decide
        found = state.truth(it.operands[5]) if is_open else _compared(kind, x, y)
    state.decide(it.operands[0], both(found, with_other, it.suffixes))
    state.decide(it.operands[1], both(None if found is None else not found, with_other, it.suffixes))


@_names("SEL", "USEL")
def select(state: State, it: Instruction) -> None:
    chosen = state.truth(it.operands[3])
    state.put(it.operands[0], None if chosen is None else state.get(it.operands[1 if chosen else 2]))


@_names("IABS")
def absolute(state: State, it: Instruction) -> None:
    x = state.get(it.operands[1])
    state.put(it.operands[0], None if x is None else abs(signed(x)))


@_names("VIADDMNMX", "VIMNMX", "IMNMX", "UIMNMX")
def least(state: State, it: Instruction) -> None:
    *numbers, which = it.operands[1:]
    values, is_min = [state.get(each) for each in numbers], state.truth(which)
    if None in values or is_min is None:
        return state.put(it.operands[0], None)
    known = [x for x in values if x is not None]
    pair = [known[0] + known[1] & MASK, known[2]] if it.name == "VIADDMNMX" else known
    pair = pair if "U32" in it.suffixes else [signed(x) for x in pair]
    state.put(it.operands[0], (min if is_min else max)(pair) & MASK)


@_names("I2F", "I2FP")
def to_float(state: State, it: Instruction) -> None:
    x = state.get(it.operands[1])
    state.put(it.operands[0], None if x is None else bits_of(float(x if "U32" in it.suffixes else signed(x))))


@_names("F2I")
def to_integer(state: State, it: Instruction) -> None:
    x = state.get(it.operands[1])
    state.put(it.operands[0], None if x is None or abs(float_of(x)) >= 2**32 else int(float_of(x)))


@_names("MUFU")
def reciprocal(state: State, it: Instruction) -> None:
    x = state.get(it.operands[1]) if "RCP" in it.suffixes else None
    state.put(it.operands[0], None if x is None or float_of(x) == 0 else bits_of(1 / float_of(x)))


@_names("PRMT", "UPRMT")
def permute(state: State, it: Instruction) -> None:
    x, how, y = (state.get(each) for each in it.operands[1:4])
    if x is None or how is None or y is None:
        return state.put(it.operands[0], None)
    both_words = y << 32 | x
    state.put(it.operands[0], sum((both_words >> 8 * (how >> 4 * k & 7) & 255) << 8 * k for k in range(4)))


@_names("P2R")
def predicates_to_register(state: State, it: Instruction) -> None:
    known = [state.predicates.get(f"P{k}", False) for k in range(7)]
    source, mask, byte = state.get(it.operands[2]), int(it.operands[3], 16), _byte(it.operands[0], it.suffixes)
    needed = [known[k] for k in range(7) if mask >> k & 1]
    if source is None or None in needed:
        return state.put(it.operands[0], None)
    bits = sum(bool(x) << k for k, x in enumerate(known)) & mask
    state.put(it.operands[0], source & ~(mask << byte) | bits << byte)


@_names("R2P")
def register_to_predicates(state: State, it: Instruction) -> None:
    name = it.operands[1].split(".")[0]
    value, mask, byte = state.get(name), int(it.operands[2], 16), _byte(it.operands[1], it.suffixes)
    for k in range(7):
        if mask >> k & 1:
            state.decide(f"P{k}", None if value is None else bool(value >> (byte + k) & 1))


def _byte(operand: str, suffixes: frozenset[str]) -> int:
    found = re.search(r"\.B(\d)", operand) or re.search(r"B(\d)", " ".join(sorted(suffixes)))
    return 8 * int(found[1]) if found else 0
