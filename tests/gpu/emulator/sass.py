"""Reads machine code: instructions, operands and control words, from the listing of nvdisasm."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LINE = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(.*?);\s+/\* 0x([0-9a-f]{16}) \*/")
_SECOND = re.compile(r"/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"^(\.L_\w+):")
_GUARD = re.compile(r"^@(!?U?P[T\d])\s+(.*)$")
_REGISTER = re.compile(r"^(U?R)(\d+|Z)$")


@dataclass(frozen=True)
class Control:
    """The control word of an instruction.

    ``stall``: the cycles until the warp's next instruction may issue. ``write``, ``read``: the scoreboard (0 to 5)
    that is released once the result is available, or once the operands have been read; 7: none. ``wait``: a bit mask of
    the scoreboards that must be free before this instruction issues.
    """

    stall: int
    write: int
    read: int
    wait: int


@dataclass(frozen=True)
class Instruction:
    """An instruction: address, guard ("", "P0", "!UP1"), name with suffixes, operands, and control word."""

    address: int
    guard: str
    name: str
    suffixes: frozenset[str]
    operands: tuple[str, ...]
    control: Control
    text: str

    @property
    def target(self) -> str | None:
        """The label of a branch or call."""
        found = re.search(r"`\((\.L_\w+)\)", self.text)
        return found[1] if found else None


@dataclass(frozen=True)
class Program:
    """The instructions of a kernel in order, and the index of the first one after each label."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def count(self, name: str) -> int:
        """Return the number of instructions with this name in the listing."""
        return sum(each.name == name for each in self.instructions)


def split(text: str) -> tuple[str, ...]:
    """Split operands at the commas outside of brackets."""
    return tuple(part.strip().replace(".reuse", "") for part in re.split(r",(?![^\[]*\])", text)) if text else ()


@lru_cache(maxsize=1 << 16)
def decode(body: str) -> tuple[str, str, frozenset[str], tuple[str, ...]]:
    """Return the guard, the name, its suffixes and the operands from the text of an instruction."""
    guard = ""
    if found := _GUARD.match(body):
        guard, body = found[1], found[2]
    full, _, rest = body.partition(" ")
    name, *suffixes = full.split(".")
    return guard, name, frozenset(suffixes), split(rest.strip())


def control_of(word: int) -> Control:
    """Return the control word in the upper half of an instruction's 128 bits."""
    bits = word >> 41
    return Control(stall=bits & 15, write=bits >> 5 & 7, read=bits >> 8 & 7, wait=bits >> 11 & 63)


def parse(listing: str) -> Program:
    """Return the program of a listing by ``nvdisasm -c -hex``: two lines for an instruction, 64 bits each."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    lines = listing.splitlines()
    for number, line in enumerate(lines):
        if found := _LABEL.match(line):
            labels[found[1]] = len(instructions)
        if not (found := _LINE.match(line)):
            continue
        second = _SECOND.search(lines[number + 1])
        assert second is not None, f"line {number + 2} has no second half of the instruction: {lines[number + 1]!r}"
        body = found[2].strip()
        instructions.append(Instruction(int(found[1], 16), *decode(body), control_of(int(second[1], 16)), body))
    return Program(tuple(instructions), labels)


def tool(name: str) -> Path:
    """Return the path of an NVIDIA program that is included in Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def disassemble(cubin: bytes) -> str:
    """Return the listing of a cubin with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool("nvdisasm")), "-c", "-hex", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def is_register(operand: str) -> bool:
    """Return whether the operand is a plain register, of a thread or uniform."""
    return _REGISTER.match(operand) is not None
