"""Items for the test of the runner: they succeed, raise, crash, or take too long."""

from __future__ import annotations

import os
import time

from bench.card.worker import Item
from bench.harness.record import Record


def well() -> Record:
    return {"value": 1.5}


def raising() -> Record:
    raise ArithmeticError("off by 3")


def crashing() -> Record:
    print("the last words", flush=True)
    os._exit(11)


def hanging() -> Record:
    time.sleep(600)
    return {}


def items(dry: bool) -> list[Item]:
    calls = (well, raising, crashing, well, hanging, well)
    return [Item(f"{number} {call.__name__}", call, 1.0) for number, call in enumerate(calls)]


def broken(dry: bool) -> list[Item]:
    raise ImportError("no such package")


def slow(dry: bool) -> list[Item]:
    return [Item(str(number), hanging, 300.0) for number in range(3)]
