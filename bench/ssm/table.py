"""The family ssm's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import REUSED, Record
from bench.ssm.peers import EAGER, LOOP, PSCAN

INFERENCE_GOALS = {LOOP: {REUSED: 60.0}, PSCAN: {REUSED: 70.0}}  # as in a user's loop: memory is reused
GRADIENT_GOALS = {LOOP: {REUSED: 500.0}, PSCAN: {REUSED: 60.0}}
STEP_GOALS = {EAGER: {REUSED: 8.0}}
FLOOR_GOALS = {"forward": 0.85, "backward": 0.7}


def floor_markdown(records: Sequence[Record]) -> list[str]:
    columns: dict[str, tables.Entry] = {
        "share of the floor": lambda r: tables.against(
            f"{r['share']:.0%}", f"{r['goal']:.0%}", r["share"] >= r["goal"]
        ),
        "ms": lambda r: f"{r['ms']:.2f}",
        "floor, ms": lambda r: f"{r['floor_ms']:.2f}",
    }
    note = "The floor: the multiply-adds of the equations and of their exponentials at the rate of a matrix product."
    return ["### One thread against the floor", note, tables.pivot(records, columns)]


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "inference": lambda records: tables.peers_markdown(records, INFERENCE_GOALS, "forward"),
            "peers": lambda records: tables.peers_markdown(records, GRADIENT_GOALS),
            "step": lambda records: tables.peers_markdown(records, STEP_GOALS, "one step"),
            "floor": floor_markdown,
        },
    )
