"""The step `sanitizer`: NVIDIA's compute-sanitizer over a small call of every kernel, all of its tools at once.

A tool runs the calls in one process, as its start takes longer than a call. If a call crashes or hangs, another process
continues after it. Reports that a tool prints during a call are about this call, which waits for the card before its
end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.card.calls import CALLS
from bench.card.runner import ROOT, end, environment, how_ended
from bench.card.steps.about import SANITIZER, sanitizer
from bench.card.worker import Item
from bench.harness.record import Record

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
#: Seconds that the start of a process, and one call, may take under a tool
START, EACH = 60.0, 40.0


@dataclass
class Checked:
    """The reports of a tool so far, by call."""

    calls: list[str]
    done: list[str] = field(default_factory=list)
    found: dict[str, list[str]] = field(default_factory=dict)
    is_open: bool = False  #: the first of the calls that are left has begun
    process: subprocess.Popen[Any] | None = None
    began: float = 0.0
    read: int = 0

    def add(self, line: str) -> None:
        """Read a line of the tool or of the program under it."""
        word, _, rest = line.partition(" ")
        if word in ("begin", "end"):
            self.is_open, self.began = word == "begin", time.monotonic()
            if word == "end":
                self.done.append(self.calls.pop(0))
        elif self.is_open and (word == "failed" or is_finding(line)):
            self.found.setdefault(self.calls[0], []).append(rest.strip()[:200])

    def give_up(self, why: str) -> None:
        """Record why the open call, or without one all of those that are left, have not been checked."""
        left, self.is_open = (self.calls[:1] if self.is_open else list(self.calls)), False
        self.calls = self.calls[len(left) :]
        for name in left:
            self.found.setdefault(name, []).append(why)


def is_finding(line: str) -> bool:
    """Return whether a line of the tool begins a report: those that follow it are indented."""
    if not line.startswith("========= ") or line.startswith("=========  "):
        return False
    text = line[len("========= ") :]
    return not text.startswith(
        ("COMPUTE-SANITIZER", "ERROR SUMMARY: 0", "RACECHECK SUMMARY: 0", "LEAK SUMMARY", "Target")
    )


def begin(checked: Checked, command: Sequence[str], log: Path, dry: bool) -> None:
    """Start a process for the calls that are left, in a group of its own."""
    checked.began, checked.read, checked.is_open = time.monotonic(), 0, False
    variables = {**environment(dry), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # each tensor has its own bounds
    with log.open("w") as output:
        checked.process = subprocess.Popen(
            [*command, *checked.calls], cwd=ROOT, env=variables, stdout=output, stderr=output, preexec_fn=os.setpgrp
        )


def follow(checked: Checked, log: Path) -> None:
    """Read what a process has written; end it if it takes too long, and record why it ended before its last call."""
    process = checked.process
    assert process is not None
    code = process.poll()
    lines = [line for line in log.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
    for line in lines[checked.read :]:
        checked.add(line.rstrip("\n"))
    checked.read = len(lines)
    limit = EACH if checked.is_open else START
    if code is None and time.monotonic() > checked.began + limit:
        end(process)
        checked.give_up(f"took more than {limit:.0f} s")
        checked.process = None
    elif code is not None:
        checked.process = None
        if checked.calls:
            begins = [number for number, line in enumerate(lines) if line.startswith("begin ")]
            own = lines[begins[-1] + 1 if begins else 0 :][-2:]
            checked.give_up("; ".join([how_ended(code), *(line.strip() for line in own)]))


def run(commands: dict[str, list[str]], names: Sequence[str], limit: float, dry: bool = False) -> Iterator[Record]:
    """Run the calls under all tools at once, and yield what they have found whenever one has ended a call."""
    all_checked, ends = {tool: Checked(list(names)) for tool in commands}, time.monotonic() + limit
    told: Record = {}
    with tempfile.TemporaryDirectory(prefix="sanitizer-") as folder:
        while any(checked.calls or checked.process for checked in all_checked.values()) and time.monotonic() < ends:
            for tool, checked in all_checked.items():
                if checked.process is None and checked.calls:
                    begin(checked, commands[tool], Path(folder) / tool, dry)
                elif checked.process is not None:
                    follow(checked, Path(folder) / tool)
            if told != (told := record_of(all_checked)):
                yield told
            time.sleep(0.1)
        for checked in all_checked.values():
            if checked.process is not None:
                end(checked.process)
            checked.give_up("out of time")
    yield record_of(all_checked)
    bad = {tool: list(checked.found) for tool, checked in all_checked.items() if checked.found}
    if bad:
        raise RuntimeError(f"reports by tool: {bad}")


def record_of(all_checked: dict[str, Checked]) -> Record:
    return {
        tool: {"checked": len(each.done), "found": {name: list(lines) for name, lines in each.found.items()}}
        for tool, each in all_checked.items()
    }


def skipped() -> Record:
    return {"skipped": f"compute-sanitizer is neither on the path nor in the package {SANITIZER}"}


def items(dry: bool) -> list[Item]:
    target = [sys.executable, "-m", "bench.card.calls"]
    if dry:  # the program alone, without a tool
        command = [*target, "--dry-run", "--calls"]
        return [Item("none", partial(run, {"none": command}, ["linear_scan", "quantize"], 100, True), 10, 110)]
    tool = sanitizer()
    if tool is None:
        return [Item("compute-sanitizer", skipped)]
    commands = {name: [tool, "--tool", name, "--target-processes", "all", *target, "--calls"] for name in TOOLS}
    return [Item(", ".join(TOOLS), partial(run, commands, list(CALLS), 180), 120, 190)]
