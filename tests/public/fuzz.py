"""Millions of invalid inputs at the entries that take text, matrices and lists of integers: ``make fuzz``.

    python -m tests.public.fuzz --seconds 60           in two processes, with a report
    python -m tests.public.fuzz --replay formats 17    one batch in this process, each input printed before its call

A batch of inputs depends only on its kind and number. Child processes make the calls, so that a crash or a hang is
reported with its batch.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import IO

from tests.public import texts
from tests.public.calls import entries
from tests.public.pick import Pick, seeded

BATCH = 250
#: A problem takes as long as ten other inputs.
FEWER = {"problems": 25}
#: A child process hangs if it does not begin another batch within this many seconds.
PATIENCE = 120.0


def formats(pick: Pick) -> bool:
    """Parse the text of a format, in most cases a damaged one; return whether it is refused."""
    text = texts.format_text(pick)
    return texts.read_format(texts.damaged(pick, text) if pick.integer(0, 3) else text)


def problems(pick: Pick) -> bool:
    """Solve a text of constraints, in most cases a damaged one; return whether it is refused."""
    text = texts.problem_text(pick)
    return texts.solve_text(texts.damaged(pick, text, texts.SOLVER_WORDS) if pick.integer(0, 3) else text)


KINDS: dict[str, Callable[[Pick], bool]] = {
    "formats": formats,
    "problems": problems,
    **{
        call.__name__: call
        for call in (
            *(entries.bounds, entries.lengths, entries.rows_of_states),
            *(entries.permutations, entries.points, entries.colours, entries.matrices),
        )
    },
}


def batch(kind: str, number: int, count: int) -> int:
    """Make the first calls of a batch; return the number of refusals."""
    pick = seeded(1000 * number + list(KINDS).index(kind))
    return sum(KINDS[kind](pick) for _ in range(count))


# ---- Children -------------------------------------------------------------------------------------------------------


def work(first: int, step: int, until: float) -> None:
    """Run the batches first, first + step, ... until a time; print each number before, and the counts after."""
    faulthandler.enable()
    made, wrong = Counter[str](), Counter[str]()
    for number in itertools.count(first, step):
        for kind in KINDS:
            if time.monotonic() > until:
                print(json.dumps({"inputs": made, "refused": wrong}), flush=True)
                return
            print(f"batch {kind} {number}", flush=True)
            count = FEWER.get(kind, BATCH)
            wrong[kind] += batch(kind, number, count)
            made[kind] += count


def replay(kind: str, number: int) -> None:
    """Make the calls of one batch, and print the numbers from which each was generated."""
    pick = seeded(1000 * number + list(KINDS).index(kind))

    def integer(low: int, high: int) -> int:
        found = pick.integer(low, high)
        print(found, end=" ", flush=True)
        return found

    faulthandler.enable()
    for index in range(BATCH):
        print(f"\n{kind} {number}, input {index}:", end=" ", flush=True)
        KINDS[kind](Pick(integer))


# ---- The parent -----------------------------------------------------------------------------------------------------


class Child:
    """A process that runs batches, and the last batch that it began."""

    def __init__(self, first: int, step: int, seconds: float) -> None:
        command = [sys.executable, "-m", "tests.public.fuzz", "--child", str(first), str(step), str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        self.last, self.heard, self.found = "none", time.monotonic(), {}  # type: str, float, dict[str, Any]
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self.reader.start()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self.heard = time.monotonic()
                if line.startswith("batch "):
                    self.last = line.removeprefix("batch ").strip()
                else:
                    self.found = json.loads(line)

    def failure(self) -> str | None:
        """Wait for the end; return the failure, if any."""
        silent = False
        while self.process.poll() is None:
            if time.monotonic() - self.heard > PATIENCE:
                silent = True
                self.process.kill()
            time.sleep(0.05)
        self.reader.join()
        if silent:
            return f"no answer for {PATIENCE:.0f} s"
        return None if self.process.returncode == 0 and self.found else f"exit status {self.process.returncode}"


def main(seconds: float, processes: int) -> int:
    """Run the children; print the number of inputs per minute; return 1 if there was a failure."""
    begin = time.monotonic()
    children = [Child(first, processes, seconds) for first in range(processes)]
    failures = [(child, child.failure()) for child in children]
    minutes = (time.monotonic() - begin) / 60
    inputs, wrong = Counter[str](), Counter[str]()
    for child, failure in failures:
        if failure is not None:
            print(f"{failure} in: python -m tests.public.fuzz --replay {child.last}", file=sys.stderr)
        inputs.update(child.found.get("inputs", {}))
        wrong.update(child.found.get("refused", {}))
    for kind in KINDS:
        print(f"{kind:16}{inputs[kind]:10} inputs, {wrong[kind]:10} refused")
    rate = inputs.total() / minutes
    print(f"{inputs.total()} inputs, {wrong.total()} of them refused, in {minutes:.1f} minutes: {rate:.0f} a minute")
    return int(any(failure is not None for _, failure in failures))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "BATCH"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.child:
        work(int(given.child[0]), int(given.child[1]), time.monotonic() + float(given.child[2]))
    elif given.replay:
        replay(given.replay[0], int(given.replay[1]))
    else:
        sys.exit(main(given.seconds, given.processes))
