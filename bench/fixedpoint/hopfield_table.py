"""The numbers of Hopfield networks as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import Record

TORCH_GOAL, RECORDED_GOAL = 1.3, 30.0

HEADERS = {
    "updates": f"{'a further update':56}{'threads':>8}{'ms':>9}{'torch':>9}{'ratio':>7}{'load':>6}",
    "stops": f"{'until all have converged':56}{'threads':>8}{'ms':>9}{'torch':>9}{'ratio':>7}{'load':>6}",
}


def row(r: Record) -> str:
    return f"{r['work']:56}{r['threads']:8}{r['ms']:9.2f}{r['peer_ms']:9.2f}{r['ratio']:7.1f}{r['load']:6.1f}"


ROWS = {"updates": row, "stops": row}


def recorded(r: Record) -> str:
    if r["recorded_ms"] is None or r["threads"] != 2:
        return ""
    ratio = r["recorded_ms"] / r["ms"]
    return tables.against(f"{ratio:.0f}", f"{RECORDED_GOAL:g}", ratio >= RECORDED_GOAL)


def updates_markdown(records: Sequence[Record]) -> list[str]:
    header = ["a further update", "threads", "ms", "torch, ms", "times as fast", "as hopfield-layers, recorded"]
    rows = [
        [
            r["work"],
            str(r["threads"]),
            f"{r['ms']:.2f}",
            f"{r['peer_ms']:.2f}",
            tables.against(f"{r['ratio']:.1f}", f"{TORCH_GOAL:g}", r["ratio"] >= TORCH_GOAL),
            recorded(r),
        ]
        for r in records
    ]
    note = (
        "Half of the difference between three updates and one. hopfield-layers is not on PyPI: its times were recorded "
        "earlier, with two threads of an AMD Zen 4."
    )
    return ["### Updates", note, tables.markdown_table(header, rows)]


def stops_markdown(records: Sequence[Record]) -> list[str]:
    header = ["until all have converged", "threads", "ms", "torch, ms", "times as fast", "updates: mean, most"]
    rows = [
        [
            r["work"],
            str(r["threads"]),
            f"{r['ms']:.2f}",
            f"{r['peer_ms']:.2f}",
            f"{r['ratio']:.1f}",
            f"{r['mean_steps']:.1f}, {r['most_steps']}",
        ]
        for r in records
    ]
    note = "torch updates all queries until the last one has converged; here each stops on its own."
    return ["### Stops", note, tables.markdown_table(header, rows)]


def markdown(results: Record) -> str:
    return tables.document(results, {"updates": updates_markdown, "stops": stops_markdown})
