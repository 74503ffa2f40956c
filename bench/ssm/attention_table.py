"""The numbers of matrix memories as Markdown, with the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.harness import tables
from bench.harness.contest import REUSED, Record
from bench.ssm.attention_cases import CHUNKS, NAIVE, NATIVE

#: Speedup over the peer, by the beginning of the task's name
FORWARD_GOALS = {
    "simple GLA": {NAIVE: 5.0},
    "GLA": {NAIVE: 25.0},
    "RWKV-6": {NAIVE: 25.0},
    "RWKV-7": {NAIVE: 25.0},
    "gated delta rule": {NAIVE: 10.0},
    "KDA": {NAIVE: 25.0},
    "mLSTM": {NATIVE: 5.0},
    "SSD": {CHUNKS: 20.0},
}
GRADIENT_GOALS = {"mLSTM": {NATIVE: 3.0}, "SSD": {CHUNKS: 8.0}}
SHARE_GOALS = {"(1, 2048, 8, 64, 64)": 0.55, "(1, 2048, 4, 128, 128)": 0.6}


def against_goals(records: Sequence[Record], goals: Mapping[str, Mapping[str, float]], what: str) -> list[str]:
    parts = []
    for start in dict.fromkeys(r["work"].partition(" (")[0] for r in records):
        own = [r for r in records if r["work"].startswith(f"{start} (")]
        reused = {peer: {REUSED: goal} for peer, goal in goals.get(start, {}).items()}
        parts += tables.peers_markdown(own, reused, what)
    return parts


def floor_markdown(records: Sequence[Record]) -> list[str]:
    def share(r: Record) -> str:
        goal = next((goal for end, goal in SHARE_GOALS.items() if r["work"] == f"GLA {end}"), None)
        value = f"{r['share']:.0%}"
        return value if goal is None else tables.against(value, f"{goal:.0%}", r["share"] >= goal)

    columns: dict[str, tables.Entry] = {
        "share of the floor": share,
        "ms": lambda r: f"{r['ms']:.2f}",
        "floor, ms": lambda r: f"{r['floor_ms']:.2f}",
    }
    note = "The floor: 2 K V multiply-adds per step and head, 3 K V with a correction, at the rate of a matrix product."
    return ["### One thread against the floor", note, tables.pivot(records, columns)]


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "inference": lambda records: against_goals(records, FORWARD_GOALS, "forward"),
            "peers": lambda records: against_goals(records, GRADIENT_GOALS, "forward+backward"),
            "floor": floor_markdown,
        },
    )
