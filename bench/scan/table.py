"""The family scan's numbers as Markdown, with the goals."""

from __future__ import annotations

from bench.harness import tables
from bench.harness.contest import FRESH, REUSED, Record
from bench.scan.peers import ASSOCIATIVE, JAX_ASSOCIATIVE, JAX_SCAN, LOOP, MAMBAPY, SCAN

SHARE_GOALS = {"linear_scan": 0.80}
GOALS = {
    MAMBAPY: {FRESH: 5.0, REUSED: 7.0},
    SCAN: {FRESH: 8.0, REUSED: 12.0},
    ASSOCIATIVE: {FRESH: 8.0, REUSED: 12.0},
    JAX_SCAN: {FRESH: 4.0, REUSED: 6.0},
    JAX_ASSOCIATIVE: {FRESH: 4.0, REUSED: 6.0},
    LOOP: {FRESH: 8.0, REUSED: 10.0},
}
BACKWARD_GOAL = 2.5


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "share": lambda records: tables.share_markdown(records, SHARE_GOALS),
            "peers": lambda records: tables.peers_markdown(records, GOALS),
            "backward": lambda records: tables.backward_markdown(records, BACKWARD_GOAL),
        },
    )
