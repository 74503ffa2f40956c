"""The step `tests`: `pytest -m gpu` in several parallel processes, since each compiles kernels for seconds.

The results are parsed from pytest's output as it is written, and recorded after each test: a part may end at any time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from bench.card.parts import BUDGET, START, STEPS
from bench.card.runner import ROOT, environment
from bench.card.worker import Item
from bench.harness.record import Record

#: A dry run uses a small file that needs no card.
DRY = ("tests/tune/test_plan.py", "-k", "text or unknown")
#: A test for a card is marked, or has the fixture `device`, which marks it.
FOR_CARDS = re.compile(r"pytest\.mark\.gpu\b|\bdevice: str\b")
_OUTCOME = "(PASSED|FAILED|ERROR|SKIPPED)"
#: With parallel processes the result precedes the name, else it follows.
RESULT = re.compile(rf"{_OUTCOME}\s+(?:\[[^\]]*\]\s+)?(tests/\S+)|^(tests/\S+)\s+{_OUTCOME}")


def read(line: str, results: dict[str, list[str]]) -> bool:
    """Add the test of a line to the tests grouped by result; return whether there is a new one."""
    match = RESULT.search(line)
    if match is None:
        return False
    result, name = (match[1], match[2]) if match[1] else (match[4], match[3])
    is_new = name not in results.setdefault(result, [])
    if is_new:
        results[result].append(name)
    return is_new


def run(selected: tuple[str, ...], processes: int) -> Iterator[Record]:
    """Run the tests, and yield after each how many have passed and which have not.

    The processes belong to the worker's group and end with it.
    """
    options = ["-v", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "--tb=line"]
    options += ["-n", str(processes)] if processes > 1 else []
    results: dict[str, list[str]] = {}
    last = ""
    command = [sys.executable, "-m", "pytest", *selected, *options]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip() or last
            if read(line, results):
                yield record_of(results, False, last)
    if not results:
        raise RuntimeError(f"no test has run: {last}")
    yield record_of(results, True, last)


def record_of(results: dict[str, list[str]], is_complete: bool, last: str) -> Record:
    """Return a record: how many tests have passed, which have not, and whether pytest has ended; and its last line."""
    failed = results.get("FAILED", []) + results.get("ERROR", [])
    return {"passed": len(results.get("PASSED", [])), "failed": failed, "is_complete": is_complete, "last": last}


def files() -> list[str]:
    """Return the files with tests for a card, as each process would take a minute to import all of them."""
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    return [str(path.relative_to(ROOT)) for path, text in texts.items() if FOR_CARDS.search(text)]


def items(dry: bool) -> list[Item]:
    if dry:
        return [Item("pytest", partial(run, DRY, 1))]
    processes = max(2, min(12, (os.cpu_count() or 2) - 2))
    expected = STEPS["tests"].expected - START
    return [Item("pytest -m gpu", partial(run, ("-m", "gpu", *files()), processes), expected, BUDGET)]
