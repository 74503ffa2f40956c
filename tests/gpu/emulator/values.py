"""The registers, predicates and constants of one thread. None is an unknown value, as from memory."""

from __future__ import annotations

import re
import struct
from typing import TypeAlias

Value: TypeAlias = int | None
Truth: TypeAlias = bool | None

MASK = 0xFFFFFFFF
#: Offset of a kernel's arguments in constant bank 0, for sm_90
ARGUMENTS = 0x210

_CONSTANT = re.compile(r"^c\[(0x[0-9a-f]+)\]\[(0x[0-9a-f]+)\]$")
_INTEGER = re.compile(r"^-?0x[0-9a-f]+$")
_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?(e[-+]?\d+)?|INF|QNAN)$")


def signed(x: int, bits: int = 32) -> int:
    """Return the low bits of ``x`` as a number in two's complement."""
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def bits_of(x: float) -> int:
    """Return the bits of a float32."""
    return int.from_bytes(struct.pack("<f", x), "little")


def float_of(x: int) -> float:
    """Return the float32 of these bits."""
    return float(struct.unpack("<f", (x & MASK).to_bytes(4, "little"))[0])


class State:
    """One thread's registers and predicates, and the constant bank: launch sizes, then the kernel's arguments."""

    def __init__(self, arguments: bytes, constants: dict[int, int], special: dict[str, int]) -> None:
        self.arguments, self.constants, self.special = arguments, constants, special
        self.registers: dict[str, Value] = {"RZ": 0, "URZ": 0, "SRZ": 0}
        self.predicates: dict[str, Truth] = {"PT": True, "UPT": True}

    def constant(self, offset: int, words: int = 1) -> Value:
        """Return words of constant bank 0; launch sizes that are not given are 0."""
        at = offset - ARGUMENTS
        if at < 0:
            return sum(self.constants.get(offset + 4 * i, 0) << 32 * i for i in range(words))
        if at + 4 * words > len(self.arguments):
            return None
        return int.from_bytes(self.arguments[at : at + 4 * words], "little")

    def _plain(self, name: str, words: int) -> Value:
        if found := re.match(r"^(U?R)(\d+)(?:\.\w+)*$", name):
            parts = [self.registers.get(f"{found[1]}{int(found[2]) + i}") for i in range(words)]
            return None if None in parts else sum(part << 32 * i for i, part in enumerate(parts) if part is not None)
        if name in self.registers:
            return self.registers[name]
        if found := _CONSTANT.match(name):
            return self.constant(int(found[2], 16), words) if int(found[1], 16) == 0 else None
        if _INTEGER.match(name):
            return int(name, 16) & ((1 << 32 * words) - 1)
        if _FLOAT.match(name):
            return bits_of(float(name.replace("QNAN", "nan"))) if re.search(r"[.eIQ]", name) else int(name) & MASK
        return None

    def get(self, operand: str, words: int = 1) -> Value:
        """Return the value of an operand of some 32-bit words, with its sign, absolute value and complement applied."""
        minus = operand.startswith("-") and operand[1:2] in ("R", "U", "c", "|")
        name = operand[1:] if minus else operand
        complement, bars = name.startswith("~"), name.startswith("|")
        value = self._plain(name.strip("~|"), words)
        if value is None:
            return None
        mask = (1 << 32 * words) - 1
        value = value & 0x7FFFFFFF if bars else value
        value = ~value & mask if complement else value
        return -value & mask if minus else value

    def truth(self, operand: str) -> Truth:
        """Return the value of a predicate, negated after an exclamation mark."""
        value = self.predicates.get(operand.lstrip("!"))
        return None if value is None else value != operand.startswith("!")

    def put(self, operand: str, value: Value, words: int = 1) -> None:
        """Set a register, or several consecutive ones to the words of a value."""
        found = re.match(r"^(U?R)(\d+)", operand)
        if found is None:
            return
        for i in range(words):
            part = None if value is None else value >> 32 * i & MASK
            self.registers[f"{found[1]}{int(found[2]) + i}"] = part

    def decide(self, operand: str, value: Truth) -> None:
        """Set a predicate."""
        if operand not in ("PT", "UPT"):
            self.predicates[operand] = value
