"""The results of a card so far: one JSON file per card, rewritten after each record."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.record import Record

RESULTS = Path(__file__).parents[1] / "results"


def as_lines(results: Record) -> str:
    """JSON with one record per line, so that a new measurement makes a short diff."""
    parts = []
    for name, value in results.items():
        rows = [json.dumps(record) for record in value] if isinstance(value, list) else []
        text = "[\n  " + ",\n  ".join(rows) + "\n ]" if rows else json.dumps(value)
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def file_name(card: str) -> str:
    """Return the name of a card's file: "NVIDIA H100 80GB HBM3" is in h100-80gb-hbm3.json."""
    words = re.findall(r"[a-z0-9]+", card.lower())
    return "-".join(word for word in words if word not in ("nvidia", "geforce")) + ".json"


@dataclass
class Results:
    """The records of all steps. Rerunning a step replaces its own records and failures only."""

    path: Path
    content: Record = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, **about: Any) -> Results:
        """Return the results in a file, or new ones, with what is known about the card and the machine."""
        content = json.loads(path.read_text()) if path.exists() else {"family": "card", "failed": []}
        results = cls(path, {**content, **about})
        results.save()
        return results

    def begin(self, step: str) -> None:
        """Drop the results of an earlier run of the step."""
        self.content[step] = []
        self.content["failed"] = [each for each in self.content["failed"] if each["step"] != step]
        self.save()

    def add(self, step: str, record: Record, replaces: bool = False) -> None:
        """Keep a record, instead of the last one if it ``replaces`` that."""
        if replaces:
            self.content[step].pop()
        self.content[step].append(record)
        self.save()

    def fail(self, step: str, item: str, error: str) -> None:
        """Record that an item of a step has failed, and why; the run continues."""
        self.content["failed"].append({"step": step, "item": item, "error": error[:600]})
        self.save()

    def failures(self, steps: Iterable[str]) -> list[Record]:
        """Return the failures in these steps."""
        wanted = set(steps)
        return [each for each in self.content["failed"] if each["step"] in wanted]

    def save(self) -> None:
        """Write the file at once and atomically: a run may be interrupted at any time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(as_lines(self.content))
        os.replace(part, self.path)
