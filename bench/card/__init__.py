"""Everything on a card, in three parts of less than ten minutes each: python -m bench card --part 1

part 1  every kernel against the CPU, and its time; every head size and dtype; four tools of NVIDIA's sanitizer
part 2  every family against its peers; the profiler
part 3  pytest -m gpu; hazards; many launch plans, and the tuner's model fitted to them; latencies and barriers

Each item of a step runs in a process that may crash or hang: failures are recorded, and the run continues.
The record, bench/results/<card>.json, is written after each item. A part can be run again: it replaces its own steps.
--dry-run runs everything on the host emulation and interpreted Triton, at small sizes, after items that fail on
purpose. `make card` installs what is needed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.card.emulated import SHARED
from bench.card.parts import BUDGET, PARTS, PLANTED, STEPS, Step
from bench.card.record import RESULTS, Results, file_name
from bench.card.runner import ROOT, Runner
from bench.harness.record import Record

PAGE = ROOT / "docs" / "gpu.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", type=int, choices=sorted(PARTS), action="append", help="default: all three")
    parser.add_argument("--steps", type=lambda text: text.split(","), help=f"only these of {', '.join(STEPS)}")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds per part")
    parser.add_argument("--began", type=float, help="seconds since 1970 at which part 1 began, before its build")
    parser.add_argument("--dry-run", action="store_true", help="without a card, at small sizes")
    parser.add_argument("--page", action="store_true", help="only write the records of all cards into docs/gpu.md")


def chosen(part: int, names: Iterable[str] | None) -> list[Step]:
    """Return the steps of a part, or only the named ones."""
    return [step for step in PARTS[part] if names is None or step.name in names]


def about_the_card(dry: bool) -> dict[str, Any]:
    """Return the card's name and CUDA's version."""
    if dry:
        return {"name": "dry run", "multiprocessors": 0, "cuda": "none"}
    from bench import cuda

    return cuda.card()


def run_part(part: int, options: argparse.Namespace, results: Results, began: float) -> None:
    """Run the requested steps of a part, until its budget is spent."""
    deadline = began + options.budget

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    if part == 1 and not options.dry_run and options.steps is None:
        from bench.card import flashrnn_build

        tell(f"flashrnn in the background: {flashrnn_build.start()}")
    runner = Runner(results, options.dry_run, deadline, tell)
    steps = chosen(part, options.steps)
    for number, step in enumerate(steps):
        if time.monotonic() >= deadline:
            results.begin(step.name)
            results.fail(step.name, "all", "out of time before it began")
            continue
        tell(f"--- part {part}: {step.name}, expected to take {step.expected:.0f} s")
        runner.run(step, sum(other.expected for other in steps[number + 1 :]))
    bad = results.failures(step.name for step in steps)
    tell(f"--- part {part} ends: {len(bad)} failures; {results.path}")


def prove(folder: Path) -> None:
    """Run the items that fail on purpose, with a record of their own, and raise unless it tells about each."""
    from bench.card.steps import planted

    results = Results.open(folder / "planted.json")
    Runner(results, True, time.monotonic() + PLANTED.expected, lambda text: None).run(PLANTED)
    planted.check(results.content[PLANTED.name], results.failures([PLANTED.name]))
    print(f"{len(planted.FAILURES)} planted failures are recorded, and the items between them", flush=True)


def write_page() -> Record:
    """Write the records of all cards to the documentation page about GPUs."""
    from json import loads

    from bench.card import table

    every = [loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    cards = [record for record in every if record.get("family") == "card"]
    PAGE.write_text(table.page(PAGE.read_text(), cards))
    print(f"{PAGE}: {len(cards)} cards")
    return {"family": "card", "cards": len(cards)}


def main(options: argparse.Namespace) -> Record:
    """Run the parts, and return the record, which has already been written to its file."""
    if options.page:
        return write_page()
    if not options.dry_run:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("bench: card needs a CUDA device, and torch finds none; --dry-run needs none")
    unknown = sorted(set(options.steps or ()) - set(STEPS))
    if unknown:
        raise SystemExit(f"bench: card --steps must be of {', '.join(STEPS)}, got {', '.join(unknown)}")
    card = about_the_card(options.dry_run)
    folder = RESULTS
    if options.dry_run:
        folder = Path(tempfile.mkdtemp(prefix="card-dry-"))
        os.environ.setdefault(SHARED, str(folder))
        prove(folder)
    results = Results.open(folder / file_name(card["name"]), card=card)
    for part in options.part or sorted(PARTS):
        began = time.monotonic()
        if part == 1 and options.began is not None:  # includes the time of the build
            began -= max(0.0, time.time() - options.began)
        run_part(part, options, results, began)
    return results.content
