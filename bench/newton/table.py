"""The family newton's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import MODES, REUSED, Record
from bench.newton.peers import PARARNN

GOALS = {PARARNN: {REUSED: 20.0}}  # as in a user's loop: our results are in reused memory
BACKWARD_GOAL = 2.5


def methods_markdown(records: Sequence[Record]) -> list[str]:
    parts = ["### The recurrence alone: Newton's method, times as long as the fused sequential kernel"]
    for mode in MODES:
        own = [r for r in records if r["mode"] == mode]
        columns: dict[str, tables.Entry] = {
            f"{mode}: newton / sequential": lambda r: f"{r['ratio']:.1f}",
            "sequential, ms": lambda r: f"{r['sequential']['ms']:.3f}",
            "newton, ms": lambda r: f"{r['newton']['ms']:.3f}",
        }
        parts += [tables.pivot(own, columns)] if own else []
    return parts


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "peers": lambda records: tables.peers_markdown(records, GOALS),
            "backward": lambda records: tables.backward_markdown(records, BACKWARD_GOAL),
            "methods": methods_markdown,
        },
    )
