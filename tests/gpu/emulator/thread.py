"""Executes one thread of a kernel and times its warp, which issues in order.

An instruction issues once the previous one allows it (its stall count) and the scoreboards that it waits for are free;
a scoreboard is free when the results that were assigned to it are available. Fixed latencies are in the stall counts.
Other warps are not simulated: they share the issue slots, which `Step.issue` in recurrence.py counts, as a bound.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from .arithmetic import RUN
from .latencies import Latencies
from .sass import Instruction, Program
from .values import State, Truth, Value

#: Stores and synchronisation, which write no register
NO_RESULT = {
    "STS", "STG", "ST", "BAR", "NOP", "BSSY", "BSYNC", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL", "WARPSYNC", "DEPBAR",
    "RED", "YIELD", "FENCE", "LDGSTS", "LDGDEPBAR", "UCGABAR_ARV", "UCGABAR_WAIT", "UTMASTG", "PREFETCH",
    "STAS", "SYNCS",
}  # fmt: skip
#: Maximum number of executed instructions
MOST = 2_000_000


class EmulatorError(Exception):
    """The emulator cannot follow the kernel."""


@dataclass
class Visit:
    """The time and the counts when the thread reached the target of a backward branch."""

    cycle: float
    counts: Counter[str]
    waits: dict[str, float]


@dataclass
class Trace:
    """A thread's history: the visits to each loop's head, its stores, and the emulator's assumptions."""

    visits: dict[int, list[Visit]] = field(default_factory=dict)
    stores: list[tuple[Value, Value]] = field(default_factory=list)  # addresses and values in memory of the card
    assumed: set[str] = field(default_factory=set)
    executed: int = 0


def words_of(it: Instruction) -> int:
    """Return the number of registers that a load or store moves."""
    return 4 if "128" in it.suffixes else 2 if "64" in it.suffixes else 1


def address_of(state: State, operand: str) -> Value:
    """Return the address in an operand such as desc[UR4][R2.64+0x8]."""
    found = re.search(r"\[(U?R\d+|RZ)(\.\w+)?(?:\+(UR\d+))?(?:\+(-?0x[0-9a-f]+))?\]$", operand)
    if found is None:
        return None
    base = state.get(found[1], 2 if found[2] == ".64" else 1)
    more = state.get(found[3], 2) if found[3] else 0
    return None if base is None or more is None else base + more + int(found[4] or "0", 16)


class Thread:
    """One thread with the clock of its warp."""

    def __init__(self, program: Program, state: State, latencies: Latencies) -> None:
        self.program, self.state, self.latencies = program, state, latencies
        self.now = 0.0
        self.free, self.source = [0.0] * 6, [""] * 6
        self.products: dict[str, float] = {}  # time when a tensor-core product's sums are ready, by first register
        self.copies: list[float] = []  # asynchronous copies since the last group
        self.groups: list[float] = []  # time when each group of copies has arrived
        self.sent = 0.0  # time when the last store to another block of the cluster has arrived
        self.counts: Counter[str] = Counter()
        self.waits: dict[str, float] = {}
        self.trace = Trace()

    def run(self) -> Trace:
        """Execute until the thread ends, and return its history."""
        at: int | None = 0
        heads = self._heads()
        while at is not None:
            if at in heads:
                visit = Visit(self.now, self.counts.copy(), self.waits.copy())
                self.trace.visits.setdefault(at, []).append(visit)
            if at >= len(self.program.instructions) or self.trace.executed >= MOST:
                raise EmulatorError(f"no end after {self.trace.executed} instructions")
            at = self._step(at)
        return self.trace

    def _heads(self) -> set[int]:
        """Return the targets of backward branches."""
        targets = [(i, each.target) for i, each in enumerate(self.program.instructions) if each.name == "BRA"]
        found = {self.program.labels[label] for i, label in targets if label and self.program.labels[label] <= i}
        return found

    def _step(self, at: int) -> int | None:
        """Execute the instruction and return the next one's index, None at the end."""
        it = self.program.instructions[at]
        guard: Truth = self.state.truth(it.guard) if it.guard else True
        issue = self._issue(it, guard is not False)
        self.trace.executed += 1
        self.counts.update([it.name, "all"])
        active = guard is not False
        if active:
            self._time(it, issue)
        self.now = issue + max(1, it.control.stall)
        if active and (stop := self._stop(it, issue)):
            self.now = max(self.now, issue + stop)
            self._wait(it.name, stop)
        if not active:
            return at + 1
        if it.name == "EXIT":
            return None if guard else at + 1
        if it.name == "BRA":
            return self._branch(at, it, guard)
        if it.name in ("CALL", "RET"):
            self.trace.assumed.add(f"{it.name} at {it.address:#x} returned at once")
            return at + 1
        self._execute(it, guard is None)
        return at + 1

    def _issue(self, it: Instruction, active: bool) -> float:
        """Return the cycle of issue, after the scoreboards and after the sums that a product is added to."""
        issue = self.now
        for board in range(6):
            if it.control.wait >> board & 1 and self.free[board] > issue:
                self._wait(self.source[board], self.free[board] - issue)
                issue = self.free[board]
        if it.name == "HMMA" and active:
            for operand in it.operands[1:]:
                ready = self.products.get(operand, 0.0)
                if ready > issue:
                    self._wait("HMMA", ready - issue)
                    issue = ready
        return issue

    def _wait(self, name: str, cycles: float) -> None:
        self.waits[name] = self.waits.get(name, 0.0) + cycles

    def _time(self, it: Instruction, issue: float) -> None:
        """Record when the result is available, and when the operands have been read."""
        control = it.control
        done = issue + self.latencies.of(it.name, it.suffixes)
        if control.write != 7 and done > self.free[control.write]:
            self.free[control.write], self.source[control.write] = done, it.name
        read = issue + self.latencies.operands
        if control.read != 7 and read > self.free[control.read]:
            self.free[control.read], self.source[control.read] = read, f"{it.name} operands"
        if it.name == "HMMA":
            self.products[it.operands[0]] = done
        if it.name == "LDGSTS":
            self.copies.append(done)
        if it.name == "STAS":
            self.sent = issue + self.latencies.remote
        if it.name == "LDGDEPBAR":
            self.groups.append(max(self.copies, default=issue))
            self.copies = []

    def _stop(self, it: Instruction, issue: float) -> float:
        """Return the cycles for which the warp stalls."""
        if it.name == "DEPBAR" and self.groups:  # waits until at most this many groups of copies are pending
            left = int(it.operands[1], 16)
            waited = self.groups[: len(self.groups) - left]
            return max(max(waited, default=0.0) - issue, 0.0)
        if it.name == "SYNCS" and "PHASECHK" in it.suffixes:  # assumes that the other blocks send when this one does
            return max(self.sent - issue, 0.0)
        return 0 if it.name == "BAR" and "ARV" in it.suffixes else self.latencies.stop(it.name)

    def _branch(self, at: int, it: Instruction, guard: Truth) -> int:
        """Return the target of a branch; one that depends on memory leaves loops and skips slow paths."""
        label = it.target
        if label is None:
            raise EmulatorError(f"a branch at {it.address:#x} has no label: {it.text}")
        target = self.program.labels[label]
        taken = guard
        if uniform := [x for x in it.operands if re.match(r"^!?U?P[T\d]$", x)]:
            taken = self.state.truth(uniform[0]) if guard else guard
        if taken is None:
            slow = any(each.name == "CALL" for each in self.program.instructions[at + 1 : min(target, at + 12)])
            taken = target > at and slow
            if not slow:
                self.trace.assumed.add(f"{it.text} at {it.address:#x} not taken")
        return target if taken else at + 1

    def _execute(self, it: Instruction, unknown: bool) -> None:
        """Compute the result where it is known; with an unknown guard it is unknown."""
        run = RUN.get(it.name)
        if it.name == "STG":
            value = self.state.get(it.operands[1], words_of(it))
            self.trace.stores.append((None, None) if unknown else (address_of(self.state, it.operands[0]), value))
        if "PHASECHK" in it.suffixes:
            self.state.decide(it.operands[0], True)  # `_stop` has waited for it
        if run is not None and not unknown:
            run(self.state, it)
        elif it.name not in NO_RESULT:
            words = 4 if it.name == "HMMA" else words_of(it)
            for operand in it.operands[:1] if run is None else it.operands[:2]:
                if re.match(r"^U?P\d$", operand):
                    self.state.decide(operand, None)
                else:
                    self.state.put(operand, None, words)
