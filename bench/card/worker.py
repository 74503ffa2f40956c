"""Runs the items of a step in a separate process, which may crash or hang.

Each item is a call that returns a record, or yields what it knows so far, again and again. A line is written when an
item begins, one with each record, and one when the item ends, with its last record or its error.
After an error of the card, which makes all later calls of the process fail, it ends, and the next process continues.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.record import Record

#: The exit code after an error of the card
BROKEN = 3
#: Begins the line of output before that of an item
MARK = "--- "


@dataclass(frozen=True)
class Item:
    """A named call that returns a record, or yields records of which each replaces the previous one.

    It is expected to take some seconds on an H100, and is ended after the limit.
    """

    name: str
    call: Callable[[], Record | Iterator[Record]]
    expected: float = 1
    limit: float = 60


def is_alive() -> bool:
    """Return whether the card still responds; without torch it has not been used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def attempt(item: Item, tell: Callable[[Record], None]) -> Record:
    """Return the item's record, or its error; pass on the records that it yields before."""
    started = time.perf_counter()
    record: Record = {}
    try:
        found = item.call()
        if isinstance(found, Iterator):
            for record in found:
                tell({"name": item.name, **record})
        else:
            record = found
    except Exception as error:  # any failure of an item is recorded, and the other items run
        traceback.print_exc(limit=6)
        record = {"error": f"{type(error).__name__}: {error}".strip()[:600]}
    return {"name": item.name, **record, "seconds": round(time.perf_counter() - started, 2)}


def run(items: list[Item], skip: int, report: Callable[[Record], None]) -> int:
    """Run the items from index `skip` on, and return the exit code."""
    for number, item in enumerate(items):
        if number < skip:
            continue
        print(MARK + item.name, flush=True)
        report({"begin": number, "of": len(items), "name": item.name, "limit": item.limit})
        record = attempt(item, lambda record: report({"so_far": record}))
        alive = "error" not in record or is_alive()
        report({"end": number, "record": record})
        if not alive:
            return BROKEN
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", help="module:function, a function of a bool (whether this is a dry run)")
    parser.add_argument("--lines", type=Path, required=True, help="where to write")
    parser.add_argument("--skip", type=int, default=0, help="number of items already done")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    module, _, function = options.where.partition(":")
    items: list[Item] = getattr(importlib.import_module(module), function)(options.dry_run)
    with options.lines.open("a") as file:

        def record(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        raise SystemExit(run(items, options.skip, record))


if __name__ == "__main__":
    main()
