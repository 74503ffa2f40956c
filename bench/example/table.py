"""The family example's numbers as Markdown."""

from __future__ import annotations

from bench.example import TORCH
from bench.harness import tables
from bench.harness.contest import REUSED, Record

GOALS = {TORCH: {REUSED: 1.0}}


def markdown(results: Record) -> str:
    return tables.document(results, {"peers": lambda records: tables.peers_markdown(records, GOALS)})
