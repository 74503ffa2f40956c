"""Items for the test of the runner: they succeed, raise, crash, break the card, or take too long."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.card.worker import Item
from bench.harness.record import Record


def well() -> Record:
    return {"value": 1.5}


def raising() -> Record:
    raise ArithmeticError("off by 3")


def crashing() -> Record:
    print("the last words", flush=True)
    os._exit(11)


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


def hanging() -> Record:
    time.sleep(600)
    return {}


def items(dry: bool) -> list[Item]:
    calls = (well, raising, crashing, well, hanging, well, breaking, well, growing, breaking)
    return [Item(f"{number} {call.__name__}", call, 1.0) for number, call in enumerate(calls)]


def broken(dry: bool) -> list[Item]:
    raise ImportError("no such package")


def slow(dry: bool) -> list[Item]:
    return [Item(str(number), hanging, 300.0) for number in range(3)]
