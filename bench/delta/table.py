"""The family delta's numbers as Markdown, with the goals."""

from __future__ import annotations

from bench.delta import CHUNKED, STEPS
from bench.harness import tables
from bench.harness.contest import REUSED, Record

GOALS = {CHUNKED: {REUSED: 3.0}, STEPS: {REUSED: 30.0}}  # as in a user's loop: results are in reused memory
BACKWARD_GOAL = 2.5


def markdown(results: Record) -> str:
    return tables.document(
        results,
        {
            "peers": lambda records: tables.peers_markdown(records, GOALS),
            "backward": lambda records: tables.backward_markdown(records, BACKWARD_GOAL),
        },
    )
