"""The step `tests`: `pytest -m gpu` in several parallel processes, since each compiles kernels for seconds.

The results are parsed from pytest's output, which is available even if the time runs out before the last test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial

from bench.card.runner import ROOT, end, environment
from bench.card.worker import Item
from bench.harness.record import Record

#: Seconds for the tests, within the step's limit
LIMIT = 280.0
#: A dry run uses a small file that needs no card.
DRY = ("tests/tune/test_plan.py", "-k", "text or unknown")
_OUTCOME = "(PASSED|FAILED|ERROR|SKIPPED)"
#: With parallel processes the result precedes the name, else it follows.
RESULT = re.compile(rf"{_OUTCOME}\s+(?:\[[^\]]*\]\s+)?(tests/\S+)|^(tests/\S+)\s+{_OUTCOME}")


def read(text: str) -> dict[str, list[str]]:
    """Return the tests, grouped by result."""
    results: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := RESULT.search(line):
            result, name = (match[1], match[2]) if match[1] else (match[4], match[3])
            if name not in results.setdefault(result, []):
                results[result].append(name)
    return results


def run(selected: tuple[str, ...], processes: int, limit: float) -> Record:
    """Run the tests, and return how many passed and which did not."""
    options = ["-v", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "--tb=line"]
    options += ["-n", str(processes)] if processes > 1 else []
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *selected, *options],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    late = False
    try:
        text, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        late = True
        end(process)
        text, _ = process.communicate()
    results = read(text)
    if not results:
        raise RuntimeError(f"no test has run: {text.strip().splitlines()[-3:]}")
    bad = results.get("FAILED", []) + results.get("ERROR", [])
    return {"passed": len(results.get("PASSED", [])), "failed": bad, "is_late": late, "last": text.splitlines()[-1]}


def items(dry: bool) -> list[Item]:
    if dry:
        return [Item("pytest", partial(run, DRY, 1, 60))]
    processes = max(2, min(12, (os.cpu_count() or 2) - 2))
    return [Item("pytest -m gpu", partial(run, ("-m", "gpu", "tests"), processes, LIMIT), LIMIT + 15)]
