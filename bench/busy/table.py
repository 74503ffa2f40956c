"""Calls beside busy processes as Markdown, with the goal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import Record

GOAL = 1.5  # relative to the time on one thread, while every core is kept busy


def cells(side: Record | None, has_goal: bool) -> list[str]:
    if side is None:
        return ["-", "-", "-"]
    ratio = f"{side['ratio']:.2f}"
    if has_goal:
        ratio = tables.at_most(ratio, f"{GOAL:g}", side["ratio"] <= GOAL)
    return [f"{side['one_ms']:.2f}", f"{side['all_ms']:.2f}", ratio]


def section(records: Sequence[Record]) -> list[str]:
    header = ["", "busy processes"]
    header += [f"{who}, {what}" for who in ("fastiter", "torch") for what in ("1 thread, ms", "default, ms", "ratio")]
    rows = [[r["work"], str(r["busy"]), *cells(r["ours"], r["busy"] > 0), *cells(r["torch"], False)] for r in records]
    note = "Means over the calls of several seconds. Without busy processes the ratio is the gain from a second thread."
    return [
        "### The default number of threads against one, beside busy processes",
        note,
        tables.markdown_table(header, rows),
    ]


def markdown(results: Record) -> str:
    return tables.document(results, {"busy": section})
