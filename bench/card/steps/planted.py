"""Items that fail on purpose: a dry run begins with them, and shows that the runner survives each with its reason.

Among them are items that succeed, whose records have to be there.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.card.worker import Item
from bench.harness.record import Record


def well() -> Record:
    return {"value": 1.5}


def wrong() -> Record:
    """Find a wrong result."""
    raise ArithmeticError("off by 3")


def crashing() -> Record:
    """End as by an access to memory that is not there."""
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def exiting() -> Record:
    """End as a library that calls exit."""
    os._exit(11)


def hanging() -> Record:
    """Wait for a child, in a group of its own, that never returns."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    subprocess.run([sys.executable, "-c", program], preexec_fn=os.setpgrp, check=True)
    return {}


def missing() -> Record:
    """Import a package whose wheel could not be installed."""
    importlib.import_module("no_such_package")
    return {}


def breaking() -> Record:
    """Raise as after an error of the card, which then answers no longer in this process."""
    worker: Any = sys.modules["__main__"]
    worker.is_alive = lambda: False
    raise RuntimeError("an illegal memory access")


def growing() -> Iterator[Record]:
    """Yield what is known so far, and crash before all of it is."""
    yield {"passed": 1}
    yield {"passed": 2}
    os._exit(7)


CALLS = (well, wrong, crashing, well, hanging, well, breaking, exiting, missing, well, growing, breaking)
#: The failures that the record of all items has, in the order of the items: name and reason
FAILURES = (
    ("1 wrong", r"ArithmeticError: off by 3$"),
    ("2 crashing", r"was killed by SIGSEGV; the last words$"),
    ("4 hanging", r"took more than 2 s$"),
    ("6 breaking", r"RuntimeError: an illegal memory access$"),
    ("7 exiting", r"ended with exit code 11$"),
    ("8 missing", r"ModuleNotFoundError: No module named 'no_such_package'$"),
    ("10 growing", r"ended with exit code 7$"),
    ("11 breaking", r"RuntimeError: an illegal memory access$"),
)


def items(dry: bool) -> list[Item]:
    return [Item(f"{number} {call.__name__}", call, 1, 2) for number, call in enumerate(CALLS)]


def check(records: list[Record], failures: list[Record]) -> None:
    """Raise unless the records have all items that succeed, what is known of one that does not, and every failure."""
    expected = [f"{number} {call.__name__}" for number, call in enumerate(CALLS) if call in (well, growing)]
    names = [record["name"] for record in records]
    if names != expected or records[-1]["passed"] != 2:
        raise SystemExit(f"bench: card has records of {names}, but planted {expected}")
    told = [(failure["item"], failure["error"]) for failure in failures]
    for (name, reason), found in zip(FAILURES, told, strict=False):
        if name != found[0] or not re.match(reason, found[1]):
            raise SystemExit(f"bench: card has recorded {found}, but planted {name}: {reason}")
    if len(told) != len(FAILURES):
        raise SystemExit(f"bench: card has recorded {len(told)} failures, but planted {len(FAILURES)}")


def broken(dry: bool) -> list[Item]:
    raise ImportError("no such package")


def slow(dry: bool) -> list[Item]:
    return [Item(str(number), hanging, 1, 300) for number in range(3)]
