"""The family relax's numbers as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Sequence

from bench.harness import tables
from bench.harness.contest import Record

SHARE_GOAL = 0.8


def ratio(r: Record) -> str:
    value = f"{r['ratio']:.1f}"
    return value if r["goal"] is None else tables.against(value, f"{r['goal']:g}", r["ratio"] >= r["goal"])


def share(r: Record) -> str:
    if r["share"] is None:
        return ""
    return tables.against(f"{r['share']:.0%}", f"{SHARE_GOAL:.0%}", r["share"] >= SHARE_GOAL)


def sweeps_markdown(records: Sequence[Record]) -> list[str]:
    peers = {r["work"]: r["peer"] for r in records}
    named = [{**r, "work": f"{r['work']} against {peers[r['work']]}"} for r in records]
    columns: dict[str, tables.Entry] = {
        "times as fast": ratio,
        "ms a sweep (of the peer)": lambda r: f"{r['ms']:.2f} ({r['peer_ms']:.2f})",
        "order": lambda r: r["how"],
        "share of copy bandwidth": share,
    }
    note = "The share counts 12 bytes for each entry of the matrix, and b, x and the new x once each."
    return ["### One sweep", note, tables.pivot(named, columns)]


def markdown(results: Record) -> str:
    return tables.document(results, {"sweeps": sweeps_markdown})
